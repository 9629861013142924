#[flip::main(ready = manual)]
const fn main() {}
