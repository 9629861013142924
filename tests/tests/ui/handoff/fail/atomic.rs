#[derive(flip::Handoff)]
struct Visits {
    total: std::sync::atomic::AtomicU64,
}

fn main() {}
