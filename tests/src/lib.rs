//! Harness of the black-box tests: starts a service, watches every generation of it, and lets none survive the test.
//!
//! A service runs in a process group and a directory of its own. The test is the reaper of whatever it leaves behind, so
//! a zombie or a forgotten process is seen. Nothing here sleeps: tests wait for a line, an answer, an exit or an open
//! gate, each for at most [`PATIENCE`], after which everything that was said is printed.

mod chain;
pub mod client;
pub mod copy;
mod gate;
pub mod history;
pub mod http;
pub mod inside;
mod log;
pub mod peer;
pub mod places;
mod process;
pub mod steady;
pub mod supervisor;
pub mod systemd;
pub mod websocket;

use std::time::Duration;

pub use chain::{Asker, Chain, Start};
pub use gate::Gate;
pub use log::{Log, Mark, number_after};
pub use process::{Exit, Process};

#[cfg(feature = "peers")]
pub mod contender;

/// Says that a test, or a part of it, has nothing to run with here.
///
/// # Panics
/// Where everything has to be there: with `FLIP_CI` set.
pub fn skip(why: &str) {
    assert!(std::env::var_os("FLIP_CI").is_none(), "{why}");
    say_skipped(why);
}

/// The same of what may lack everywhere.
pub fn say_skipped(why: &str) {
    // Not by a macro, whose lines are seen of a test that fails only.
    let line = format!("SKIPPED: {why}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("somebody reads it");
}

/// Whether the kernel is of this release, or a later one.
pub fn is_linux(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel has it");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// How long a test waits for what must come; far more than it can take, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);
