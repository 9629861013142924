type Locked = std::sync::Mutex<u64>;

#[derive(flip::Handoff)]
struct Visits {
    total: Locked,
}

fn main() {}
