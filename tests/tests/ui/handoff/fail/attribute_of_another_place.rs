#[derive(flip::Handoff)]
#[handoff(skip)]
struct Visits {
    #[handoff(calls(Hit))]
    total: u64,
}

fn main() {}
