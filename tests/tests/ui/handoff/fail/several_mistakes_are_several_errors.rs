use std::{cell::Cell, rc::Rc};

#[derive(flip::Handoff)]
#[handoff(rename = 3, cals(Hit))]
struct Visits {
    #[handoff(skpi)]
    a: Cell<u8>,
    b: Rc<str>,
    #[handoff(default(5))]
    c: *const u8,
    #[handoff(skip = true)]
    d: u8,
}

// The type is `Handoff` all the same, so that nothing else is wrong.
fn needs_it<T: flip::Handoff>() {}

fn main() {
    needs_it::<Visits>();
}
