#[derive(flip::Handoff)]
struct Visits {
    on_visit: Option<fn(u64)>,
}

fn main() {}
