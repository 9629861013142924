#[flip::main(ready = manual, upgrade)]
async fn main() {}
