use std::sync::Mutex;

#[derive(flip::Handoff)]
struct Visits {
    by_page: Vec<Mutex<u64>>,
}

fn main() {}
