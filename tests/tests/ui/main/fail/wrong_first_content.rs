use flip::Live;

#[flip::main(ready = manual)]
async fn main(#[live(init = "three")] _number: Live<u64>) {}
