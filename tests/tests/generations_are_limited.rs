//! Old processes that cannot drain do not pile up.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use flip_tests::{Exit, Start};

#[test]
fn oldest_is_cut_when_there_are_too_many() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_GENERATIONS", "2").start();
    service.tell("hold an upload");
    let first = service.upgrade().unwrap();
    service.tell("hold another upload");
    assert!(!first.has_ended());
    let second = service.upgrade().unwrap();
    service.line(&format!("generation 1 (pid {}) is cut: there are too many that drain", first.pid));
    service.line("cut: an upload, ");
    assert_eq!(service.exit(&first), Exit::Status(0));
    assert!(!second.has_ended());
    service.release(&second);
    assert_eq!(service.exit(&second), Exit::Status(0));
    let log = service.stop();
    assert_eq!(log.count("cut: another upload"), 0, "{}", log.text());
}

#[test]
fn as_many_as_allowed_drain_side_by_side() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_GENERATIONS", "4").start();
    let mut draining = vec![];
    for _ in 0..3 {
        service.tell("hold an upload");
        draining.push(service.upgrade().unwrap());
    }
    assert!(draining.iter().all(|process| !process.has_ended()));
    for process in &draining {
        service.release(process);
        assert_eq!(service.exit(process), Exit::Status(0));
    }
    let log = service.stop();
    assert_eq!(log.count("is cut"), 0, "{}", log.text());
}

#[test]
fn old_process_is_cut_at_its_deadline() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_DRAIN_TIMEOUT", "300ms").start();
    service.tell("hold an upload");
    let old = service.upgrade().unwrap();
    service.line("cut: an upload, ");
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), "1");
    service.stop();
}
