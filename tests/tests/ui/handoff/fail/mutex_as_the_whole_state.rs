fn live<T: flip::Handoff>() {}

fn main() {
    live::<std::sync::Mutex<u64>>();
}
