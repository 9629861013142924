struct Plain;

#[derive(flip::Handoff)]
struct Visits {
    total: u64,
    plain: Plain,
}

fn main() {}
