#[flip::main(ready = manual, generations = 1)]
async fn main() {}
