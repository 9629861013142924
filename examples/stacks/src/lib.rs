//! What the programs share.

use std::net::SocketAddr;

pub mod talk;

/// The command line of each.
#[derive(clap::Parser)]
pub struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// What each answers: the process, and what it was sent.
pub fn answer(sent: &[u8]) -> String {
    format!("{} {}\n", std::process::id(), String::from_utf8_lossy(sent))
}
