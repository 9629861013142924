#[flip::main(ready = manual, drain_timeout = 30min)]
async fn main() {}
