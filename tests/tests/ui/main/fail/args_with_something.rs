struct Cli;

#[flip::main(ready = manual)]
async fn main(#[args(Cli)] _cli: Cli) {}
