#[derive(flip::Handoff)]
struct Visits {
    log: Vec<Box<dyn std::fmt::Debug>>,
}

fn main() {}
