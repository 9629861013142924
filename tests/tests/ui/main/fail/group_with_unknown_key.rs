#[derive(flip::Params)]
#[params(suffix = "admin")]
struct App {
    _shutdown: flip::Shutdown,
}

fn main() {}
