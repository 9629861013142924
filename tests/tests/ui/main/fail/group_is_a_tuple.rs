#[derive(flip::Params)]
struct App(flip::Shutdown);

fn main() {}
