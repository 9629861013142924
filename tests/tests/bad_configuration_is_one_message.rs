//! What cannot work is refused at the start: one readable message, status 1, no panic.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use flip_tests::{Exit, Start};

const COUNTER: &str = env!("CARGO_BIN_EXE_service");

fn refused(start: Start, message: &str) {
    let mut service = start.spawn();
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    service.gone();
    let said = service.log().text();
    assert!(said.contains(message), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn values_that_cannot_be_read() {
    for (name, value, message) in [
        ("FLIP_READY_TIMEOUT", "60", "FLIP_READY_TIMEOUT=\"60\" is not a time: write 500ms, 30s, 5m or 1h"),
        ("FLIP_FREEZE_TIMEOUT", "soon", "FLIP_FREEZE_TIMEOUT=\"soon\" is not a time"),
        ("FLIP_QUIESCE_TIMEOUT", "-1s", "FLIP_QUIESCE_TIMEOUT=\"-1s\" is not a time"),
        ("FLIP_DRAIN_TIMEOUT", "", "FLIP_DRAIN_TIMEOUT=\"\" is not a time"),
        ("FLIP_UPGRADE", "HUP", "FLIP_UPGRADE: \"HUP\" is not a signal: write SIGHUP, SIGUSR2 and so on"),
        (
            "FLIP_UPGRADE",
            "SIGKILL",
            "FLIP_UPGRADE: SIGKILL is not for telling a process something; these are: SIGHUP, SIGINT, ",
        ),
        ("FLIP_UPGRADE", "SIGSEGV", "SIGSEGV is not for telling a process something"),
        ("FLIP_UPGRADE", "SIGTERM", "SIGTERM cannot mean both upgrade and stop"),
        ("FLIP_STOP", "SIGTERM,nonsense", "FLIP_STOP: \"nonsense\" is not a signal"),
        ("FLIP_STOP", "", "FLIP_STOP: \"\" is not a signal"),
        ("FLIP_READY", "yes", "FLIP_READY=\"yes\" is neither auto nor manual"),
        ("FLIP_GENERATIONS", "1", "generations must be at least 2"),
        ("FLIP_GENERATIONS", "many", "FLIP_GENERATIONS=\"many\" is not a number from 2 to 255"),
        ("FLIP_SUPERVISED", "maybe", "FLIP_SUPERVISED=\"maybe\" is neither yes nor no"),
    ] {
        refused(Start::new(COUNTER).env(name, value), message);
    }
}

#[test]
fn readiness_that_nothing_can_tell() {
    refused(Start::new(COUNTER).env("FLIP_READY", "auto"), "no listener to tell readiness by");
}

#[test]
fn second_flip_in_one_process() {
    refused(Start::new(env!("CARGO_BIN_EXE_twice")), "flip runs in this process already: a process is one service");
}

/// The same, where an old process serves on.
#[test]
fn values_that_cannot_be_read_by_a_new_process() {
    use std::os::unix::fs::PermissionsExt;
    let mut service = Start::new(COUNTER).linked_as("service").start();
    for (variable, message) in [
        ("FLIP_DRAIN_TIMEOUT=soon", "FLIP_DRAIN_TIMEOUT=\"soon\" is not a time"),
        ("FLIP_READY=auto", "no listener to tell readiness by"),
    ] {
        service.install("service", |path| {
            std::fs::write(path, format!("#!/bin/sh\nexec env {variable} {COUNTER}\n")).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        });
        let report = service.upgrade().unwrap_err();
        assert!(report.contains(message), "{report}");
        service.only(&[service.owner()]);
    }
    assert_eq!(service.tell("add"), "1");
    service.stop();
}
