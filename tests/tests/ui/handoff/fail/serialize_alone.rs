#[derive(serde::Serialize)]
struct OneWay;

#[derive(flip::Handoff)]
struct Visits {
    last: OneWay,
}

fn main() {}
