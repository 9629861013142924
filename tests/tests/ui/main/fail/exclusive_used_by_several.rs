use flip::Exclusive;
use std::cell::Cell;

// What several threads cannot use at once is for `with_mut`.
fn main() {
    let _ = Exclusive::new(Cell::new(3)).with(|n| n.get());
}
