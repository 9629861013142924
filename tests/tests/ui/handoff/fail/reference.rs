#[derive(flip::Handoff)]
struct Visits {
    name: &'static str,
}

fn main() {}
