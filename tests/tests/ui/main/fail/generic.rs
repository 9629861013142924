#[flip::main(ready = manual)]
async fn main<T>() {}
