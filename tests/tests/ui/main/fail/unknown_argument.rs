#[flip::main(ready = manual, drain_timout = 30s)]
async fn main() {}
