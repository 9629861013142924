#[flip::main(ready = manual)]
async fn main(#[with(3)] _number: impl Copy) {}
