#[derive(flip::Handoff)]
struct Visits {
    #[handoff(skpi)]
    total: u64,
}

fn main() {}
