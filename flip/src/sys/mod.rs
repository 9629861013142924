//! What the operating system is asked for: descriptors and shared memory, the successor, what the process was given at
//! its start, and signals; and what only the compiler has to be told (`alone.rs`, `spare.rs`, `text.rs`).
//!
//! The only place with unsafe code. Each function takes and gives owned or borrowed descriptors and typed values, so
//! nothing outside can close a descriptor twice, leak one into another child, or read a message that was cut short.
#![allow(
    unsafe_code,
    reason = "system calls that no safe crate covers, one impl, memory that is not zeroed before it is filled, and one conversion; each block does one thing and says why it may"
)]

pub(crate) mod alone;
pub(crate) mod env;
pub(crate) mod fd;
pub(crate) mod map;
pub(crate) mod oom;
pub(crate) mod signal;
pub(crate) mod spare;
pub(crate) mod spawn;
pub(crate) mod text;
