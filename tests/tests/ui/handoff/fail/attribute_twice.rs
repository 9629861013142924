#[derive(flip::Handoff)]
struct Visits {
    #[handoff(skip)]
    #[handoff(skip)]
    total: u64,
}

fn main() {}
