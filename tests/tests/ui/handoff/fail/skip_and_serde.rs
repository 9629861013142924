#[derive(flip::Handoff)]
struct Visits {
    #[handoff(skip, serde)]
    total: u64,
}

fn main() {}
