#[flip::main(ready = manual, upgrade = SIGTERM)]
async fn main() {}
