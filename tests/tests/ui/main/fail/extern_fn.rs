#[flip::main(ready = manual)]
extern "C" fn main() {}
