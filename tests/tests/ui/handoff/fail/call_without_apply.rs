#[derive(flip::Handoff)]
#[handoff(calls(Hit))]
struct Visits {
    total: u64,
}

#[derive(flip::Handoff)]
struct Hit;

fn main() {}
