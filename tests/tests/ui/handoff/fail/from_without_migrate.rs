#[derive(flip::Handoff)]
struct Visits {
    #[handoff(from = "u64")]
    total: String,
    #[handoff(migrate = String::from)]
    name: String,
}

fn main() {}
