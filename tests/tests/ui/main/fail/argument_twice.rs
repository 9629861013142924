#[flip::main(ready = manual, ready = auto)]
async fn main() {}
