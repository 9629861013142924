//! A `FLIP_CHANNEL` that is not meant for the process: a warning, a cold start, and nothing of it left.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::File;
use std::os::fd::OwnedFd;

use flip_tests::{Exit, Start};

const COUNTER: &str = env!("CARGO_BIN_EXE_service");

/// It starts cold, says why, leaves the descriptor to whoever put it there, and can be upgraded.
fn ignored(start: Start, why: &str) {
    let mut service = start.start();
    let line = service.line("is not for this process");
    assert!(line.contains(why), "{line}");
    assert!(line.contains("this is a cold start"), "{line}");
    assert_eq!(service.tell("generation"), "1");
    assert_eq!(service.tell("run env | grep -c FLIP_CHANNEL; true"), "0");
    assert_eq!(service.tell("add"), "1");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), "2");
    let log = service.stop();
    assert_eq!(log.count("panicked"), 0, "{}", log.text());
}

fn with(channel: impl Into<OwnedFd>, variable: &str, why: &str) {
    ignored(Start::new(COUNTER).channel(channel.into(), variable), why);
}

fn socket() -> OwnedFd {
    // Its other end is dropped: whoever took this for a channel would find nobody.
    flip_tests::peer::channel().1
}

#[test]
fn garbage() {
    let almost = ["$$:$FD:$INODE:x", "$$:$FD:$INODE:-1", "$$:$FD:$INODE:7:7", "$$:-1:$INODE", "$$: $FD:$INODE"];
    for garbage in ["", "x", "1:2", "99999999999999:1:1"].into_iter().chain(almost) {
        ignored(Start::new(COUNTER).channel(socket(), garbage), "it is not pid:fd:inode");
    }
}

#[test]
fn another_process() {
    with(socket(), "1:$FD:$INODE", "it names process 1, and this is");
}

#[test]
fn closed_descriptor() {
    with(socket(), "$$:199:$INODE", "descriptor 199 is not open");
}

#[test]
fn standard_stream() {
    with(socket(), "$$:2:$INODE", "is a standard stream");
}

#[test]
fn another_socket_under_the_number() {
    with(socket(), "$$:$FD:1$INODE", " is inode ");
}

#[test]
fn file() {
    with(File::open("/dev/null").unwrap(), "$$:$FD:$INODE", "is not a socket");
}

#[test]
fn pipe() {
    with(std::io::pipe().unwrap().0, "$$:$FD:$INODE", "is not a socket");
}

#[test]
fn stream_socket() {
    with(std::os::unix::net::UnixStream::pair().unwrap().0, "$$:$FD:$INODE", "is another kind of socket");
}

#[test]
fn listener() {
    with(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), "$$:$FD:$INODE", "is another kind of socket");
}

/// What a program finds that a service started, and that uses flip itself.
#[test]
fn variable_of_the_parent() {
    let parent = format!("{}:200:4711", std::process::id());
    ignored(Start::new(COUNTER).env("FLIP_CHANNEL", &parent), "it names process");
}
