#[flip::main(ready = manual, stop = [SIGTERM, SIGKILL])]
async fn main() {}
