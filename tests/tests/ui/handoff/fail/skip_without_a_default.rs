struct Connection;

#[derive(flip::Handoff)]
struct Visits {
    #[handoff(skip)]
    connection: Connection,
}

fn main() {}
