//! The file names the process that serves, whichever that is, and belongs to it.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::path::{Path, PathBuf};

use flip_tests::{Chain, Exit, Start};
use nix::sys::signal::Signal;

const SERVICE: &str = env!("CARGO_BIN_EXE_service");

fn start() -> (Chain, PathBuf) {
    let service = Start::new(SERVICE).env("FLIP_PID_FILE", "service.pid").start();
    let path = service.dir().join("service.pid");
    (service, path)
}

fn named(path: &Path) -> i32 {
    std::fs::read_to_string(path).unwrap().strip_suffix('\n').unwrap().parse().unwrap()
}

/// What a second service with this file says before it ends.
fn second(path: &Path) -> String {
    let second = Start::new(SERVICE).env("FLIP_PID_FILE", path.to_str().unwrap()).spawn();
    let line = second.line("flip: error: ");
    assert_eq!(second.exit(second.owner()), Exit::Status(1));
    line
}

#[test]
fn file_follows_the_service_and_goes_with_it() {
    let (mut service, path) = start();
    assert_eq!(named(&path), service.owner().pid);
    for _ in 0..3 {
        let refused = second(&path);
        let pid = service.owner().pid;
        assert!(refused.contains(&format!("locked by a service that runs, pid {pid}")), "{refused}");
        // One that fails changes nothing.
        service.at_start("error");
        service.upgrade().unwrap_err();
        assert_eq!(named(&path), pid);
        service.at_start("");
        let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(named(&path), service.owner().pid);
        assert_eq!(service.exit(&old), Exit::Status(0));
        assert_eq!(named(&path), service.owner().pid, "whoever leaves leaves the file");
    }
    service.owner().signal(Signal::SIGTERM);
    service.stopped();
    assert!(!path.exists());
}

#[test]
fn file_of_a_killed_service_is_the_next_one_s() {
    let (mut service, path) = start();
    let old = service.owner().pid;
    service.owner().signal(Signal::SIGKILL);
    assert_eq!(service.exit(service.owner()), Exit::Signal(Signal::SIGKILL));
    assert_eq!(named(&path), old);
    let next = Start::new(SERVICE).env("FLIP_PID_FILE", path.to_str().unwrap()).start();
    assert_eq!(named(&path), next.owner().pid);
    next.stop();
    assert!(!path.exists());
    service.gone();
}

#[test]
fn what_cannot_be_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let line = second(&link);
    assert!(line.contains("link cannot be used: it is a symbolic link"), "{line}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    let line = second(&dir.path().join("nowhere/service.pid"));
    assert!(line.contains("nowhere/service.pid cannot be written: No such file"), "{line}");
}
