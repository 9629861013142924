use flip::Exclusive;

#[flip::main(ready = manual)]
async fn main(#[exclusive(close = drop)] _store: Exclusive<String>, _lease: Exclusive<String>) {}
