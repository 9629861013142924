#[flip::main(ready = manual)]
#[tokio::main]
async fn main() {}
