#[derive(flip::Handoff)]
struct Visits {
    #[handoff(alias = "count")]
    total: u64,
    count: u64,
}

fn main() {}
