use flip::Live;

#[flip::main(ready = manual)]
async fn main(#[live(3)] _number: Live<u64>) {}
