#[flip::main(ready = manual)]
async fn main(#[with(second)] _first: u64, #[with(2)] second: u64) {
    let _ = second;
}
