#[flip::main(ready = manual, upgrade = SIGHPU)]
async fn main() {}
