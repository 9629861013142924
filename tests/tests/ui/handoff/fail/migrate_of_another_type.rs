use std::time::Duration;

#[derive(flip::Handoff)]
struct Visits {
    #[handoff(from = "String", migrate = Duration::from_millis)]
    wait: Duration,
}

fn main() {}
