//! Some restarts of the examples that count, under clients at full speed. A thousand are the benchmark's:
//! `cargo bench -p flip-tests --bench restart -- --scenario connections`.

use std::path::Path;

use flip_tests::steady::{EXAMPLES, restarts};

const RESTARTS: usize = 25;

/// Nothing fails, no connection is closed, and the total is the number of answers.
fn loses_nothing(name: &str, executable: &str) {
    let example = EXAMPLES.into_iter().find(|example| example.name == name).expect("it is among them");
    let steady = restarts(example, Path::new(executable), RESTARTS, |_| {});
    println!("{name}: {}", steady.tally);
    assert_eq!(steady.complaint(), None);
    assert_eq!(steady.pauses.len(), RESTARTS);
}

#[test]
fn counter() {
    loses_nothing("counter", env!("CARGO_BIN_EXE_counter"));
}

#[test]
fn hello() {
    loses_nothing("hello", env!("CARGO_BIN_EXE_hello"));
}
