#[flip::main(ready = manual)]
async fn main(#[with("three")] _number: u64) {}
