#[derive(serde::Serialize, serde::Deserialize)]
struct Config;

#[derive(flip::Handoff)]
struct Cached<T> {
    value: T,
}

#[derive(flip::Handoff)]
struct State {
    config: Cached<Config>,
}

fn main() {}
