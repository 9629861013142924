//! Shared by the examples.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Writes what flip does to standard error: one line a transition, more with `RUST_LOG=flip=debug`.
pub fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
}
