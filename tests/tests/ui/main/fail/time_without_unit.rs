#[flip::main(ready = manual, drain_timeout = 30)]
async fn main() {}
