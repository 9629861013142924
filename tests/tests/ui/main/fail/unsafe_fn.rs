#[flip::main(ready = manual)]
async unsafe fn main() {}
