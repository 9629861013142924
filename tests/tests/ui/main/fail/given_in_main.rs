#[flip::main(ready = manual)]
async fn main(#[given] _number: u64) {}
