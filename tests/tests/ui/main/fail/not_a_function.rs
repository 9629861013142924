#[flip::main]
struct Service;

fn main() {}
