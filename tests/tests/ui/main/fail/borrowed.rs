#[flip::main(ready = manual)]
async fn main(_shutdown: &flip::Shutdown) {}
