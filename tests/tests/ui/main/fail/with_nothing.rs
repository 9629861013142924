#[flip::main(ready = manual)]
async fn main(#[with] _number: u64) {}
