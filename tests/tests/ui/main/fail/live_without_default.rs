use flip::{Handoff, Live};

#[derive(Handoff)]
struct Rates {
    _euro: u64,
}

#[flip::main(ready = manual)]
async fn main(_rates: Live<Rates>) {}
