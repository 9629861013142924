#[derive(flip::Handoff)]
struct Visits {
    total: u64,
    #[handoff(rename = "total")]
    count: u64,
}

fn main() {}
