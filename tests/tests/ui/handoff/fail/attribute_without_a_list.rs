#[derive(flip::Handoff)]
struct Visits {
    #[handoff]
    total: u64,
}

fn main() {}
