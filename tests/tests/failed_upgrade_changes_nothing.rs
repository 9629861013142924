//! Whatever the new process does before it serves, the old one goes on as if nobody had asked, says why, and the next
//! upgrade works.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::Arc;

use flip_tests::{Chain, Exit, Log, Process, Start};
use nix::sys::signal::Signal;

const COUNTER: &str = env!("CARGO_BIN_EXE_service");

/// Lets an upgrade fail and sees that nothing else has happened.
fn fails_saying(mut service: Chain, because: &[&str], heal: impl FnOnce(&Chain)) -> Arc<Log> {
    assert_eq!(service.tell("add"), "1");
    let before = service.owner().descriptors();

    let report = service.upgrade().unwrap_err();
    assert_goes_on(&service, &report, because);
    service.only(&[service.owner()]);
    service.until("no descriptor is left open", || service.owner().descriptors() == before);
    assert_eq!(service.tell("add"), "2");

    // Whoever asks in the program itself hears the same.
    let report = service.tell("upgrade");
    assert_goes_on(&service, &report, because);
    service.until("the line is there, too", || service.log().count("upgrade rolled back: ") == 2);
    service.only(&[service.owner()]);
    service.until("no descriptor is left open", || service.owner().descriptors() == before);
    assert_eq!(service.tell("add"), "3");

    heal(&service);
    let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), "4");
    service.stop()
}

fn assert_goes_on(service: &Chain, report: &str, because: &[&str]) {
    for text in because.iter().copied().chain([&*format!("generation 1 (pid {}) goes on", service.owner().pid)]) {
        if !report.contains(text) {
            service.fail(&format!("the report does not say {text:?}: {report}"));
        }
    }
}

fn starting(what: &str, because: &[&str]) -> Arc<Log> {
    let service = Start::new(COUNTER).env("FLIP_READY_TIMEOUT", "700ms").env("FLIP_FREEZE_TIMEOUT", "300ms").start();
    service.at_start(what);
    fails_saying(service, because, |service| service.at_start(""))
}

#[test]
fn new_process_panics() {
    starting("panic", &["ended before it served", "the new one panics on purpose", "inside.rs"]);
}

#[test]
fn new_process_returns_an_error() {
    let service = Start::new(COUNTER).start();
    service.at_start("error");
    let because = ["ended before it served: main returned an error: \"the new one fails on purpose\""];
    let log = fails_saying(service, &because, |service| service.at_start(""));
    assert_eq!(log.count("Error: \"the new one fails on purpose\""), 2, "{}", log.text());
}

#[test]
fn new_process_exits() {
    starting("exit", &["ended before it served, without a word: exit status 3"]);
}

#[test]
fn new_process_aborts() {
    starting("abort", &["ended before it served, without a word: SIGABRT"]);
}

#[test]
fn new_process_hangs() {
    starting("hang", &["was not ready within 700ms (ready_timeout)"]);
}

#[test]
fn new_process_hangs_during_the_freeze() {
    let service = Start::new(COUNTER).env("FLIP_FREEZE_TIMEOUT", "300ms").start();
    service.at_start("hang");
    std::fs::write(service.dir().join("touch"), "").unwrap();
    let because =
        &["did not get ready within 300ms of the freeze (freeze_timeout)", "touched first: count at", "service.rs:"];
    fails_saying(service, because, |service| {
        service.at_start("");
        std::fs::remove_file(service.dir().join("touch")).unwrap();
    });
}

#[test]
fn new_process_is_killed() {
    let mut service = Start::new(COUNTER).start();
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line(&format!("pid {} is at the gate start", new.pid));
    new.signal(Signal::SIGKILL);
    let report = service.upgraded(mark).unwrap_err();
    let because = format!("the new process (pid {}) ended before it served, without a word: SIGKILL", new.pid);
    assert_goes_on(&service, &report, &[&because]);
    service.only(&[service.owner()]);
    gate.open();
    service.upgrade().unwrap();
    service.stop();
}

fn installed(put: impl Fn(&std::path::Path), because: &[&str]) {
    let service = Start::new(COUNTER).env("FLIP_READY_TIMEOUT", "700ms").linked_as("service").start();
    service.install("service", put);
    fails_saying(service, because, |service| service.install("service", |path| symlink(COUNTER, path).unwrap()));
}

#[test]
fn executable_is_missing() {
    let absent = |path: &std::path::Path| symlink("nowhere", path).unwrap();
    installed(absent, &["no new process could be started", "service cannot be executed", "No such file"]);
}

#[test]
fn executable_is_not_executable() {
    let text = |path: &std::path::Path| std::fs::write(path, "not a program").unwrap();
    installed(text, &["no new process could be started", "service cannot be executed", "Permission denied"]);
}

#[test]
fn executable_is_of_no_known_format() {
    let text = |path: &std::path::Path| script(path, "not a program");
    installed(text, &["no new process could be started", "service cannot be executed", "Exec format error"]);
}

#[test]
fn executable_is_another_program() {
    installed(|path| symlink("/bin/true", path).unwrap(), &["ended before it served, without a word"]);
}

#[test]
fn executable_is_a_script_that_fails() {
    installed(|path| script(path, "#!/bin/sh\nexit 7\n"), &["ended before it served, without a word: exit status 7"]);
}

#[test]
fn executable_is_a_script_that_never_speaks() {
    installed(|path| script(path, "#!/bin/sh\nexec sleep 1000\n"), &["was not ready within 700ms"]);
}

#[test]
fn executable_is_a_script_whose_child_stays() {
    // The channel is with the child, too: its death is not seen by an end-of-file.
    let text = |path: &std::path::Path| script(path, "#!/bin/sh\nsleep 1000 & echo $! > child\nexit 7\n");
    let service = Start::new(COUNTER).linked_as("service").start();
    service.install("service", text);
    let mut service = service;
    let report = service.upgrade().unwrap_err();
    assert_goes_on(&service, &report, &["ended before it served, without a word: exit status 7"]);
    assert_eq!(service.tell("add"), "1");
}

fn script(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// A job that may run in one process only runs in the owner, also while another one fails.
#[test]
fn job_of_a_process_that_fails_is_not_run() {
    let log = starting("error", &["ended before it served"]);
    // The first generation, and the one after the failures.
    assert_eq!(log.count("runs the job"), 2);
}

/// prlimit(1): how many descriptors a process may have from now on.
fn limit(process: &Process, descriptors: usize) {
    let (pid, limit) = (process.pid.to_string(), format!("--nofile={descriptors}:"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.unwrap().success());
}

#[test]
fn no_descriptor_is_left_for_an_upgrade() {
    let mut service = Start::new(COUNTER).start();
    assert_eq!(service.tell("add"), "1");
    // Those from 0 on are all in use: the next one is over the limit.
    let used = service.owner().descriptors().len();
    limit(service.owner(), used);
    let report = service.upgrade().unwrap_err();
    limit(service.owner(), 1024);
    assert_goes_on(&service, &report, &["no new process could be started", "open files"]);
    assert_eq!(service.tell("add"), "2");
    let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), "3");
    service.stop();
}
