#[flip::main(ready = manual, worker_threads = 4)]
fn main() {}
