use std::collections::HashMap;

struct Plain;

#[derive(flip::Handoff)]
struct Visits {
    by_name: HashMap<String, Option<Plain>>,
}

fn main() {}
