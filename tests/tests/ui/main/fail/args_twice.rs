struct One;
struct Two;

#[flip::main(ready = manual)]
async fn main(#[args] _one: One, #[args] _two: Two) {}
