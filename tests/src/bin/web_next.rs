//! The service `web`, built with what stands for a later flip.

extern crate flip_next as flip;

#[path = "web.rs"]
mod service;

fn main() -> std::process::ExitCode {
    std::process::Termination::report(service::main())
}
