mod vendored {
    pub use ::flip as ours;
}

#[derive(vendored::ours::Handoff)]
#[handoff(crate = crate::vendored::ours)]
struct Visits {
    total: u64,
}

fn main() {}
