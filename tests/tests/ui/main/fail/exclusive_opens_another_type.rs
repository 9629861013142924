use flip::Exclusive;

#[flip::main(ready = manual)]
async fn main(#[exclusive(open = || std::fs::File::create("lock"))] _lock: Exclusive<String>) {}
