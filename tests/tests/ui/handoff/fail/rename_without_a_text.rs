#[derive(flip::Handoff)]
struct Visits {
    #[handoff(rename = total)]
    count: u64,
}

fn main() {}
