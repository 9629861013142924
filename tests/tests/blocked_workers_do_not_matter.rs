//! An upgrade, its report and a stop need no thread of the program's: they come while each of them is blocked.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::SocketAddr;

use flip_tests::client::ask_line;
use flip_tests::{Chain, Exit, Start};
use nix::sys::signal::Signal;

fn start() -> Start {
    Start::new(env!("CARGO_BIN_EXE_blocked")).env("FLIP_DRAIN_TIMEOUT", "300ms")
}

/// Both threads of the runtime and that of `main` stand at the gate `block` from here on.
fn block(service: &Chain) {
    let (ask, pid) = (service.asker(), service.owner().pid);
    // Whoever was to answer may be blocked before it has.
    std::thread::spawn(move || ask.try_ask(pid, "block"));
    let standing = format!("pid {pid} is at the gate block");
    service.until("all three stand there", || service.log().count(&standing) == 3);
}

fn address(service: &Chain) -> SocketAddr {
    let line = service.line("listens at ");
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn service_is_upgraded_and_stopped_while_every_worker_is_blocked() {
    let mut service = start().start();
    let address = address(&service);
    let _shut = service.gate("block");
    for generation in 1..=2 {
        assert_eq!(service.tell("add"), generation.to_string());
        block(&service);
        // It waits in the queue, as nobody is there to accept it.
        let waiting = std::thread::spawn(move || ask_line(address, "").unwrap());
        let mark = service.log().mark();
        let old = service.upgrade().unwrap();
        assert_eq!(waiting.join().unwrap(), service.owner().pid.to_string());
        // Nobody can drop a `main` that blocks.
        service.line_after(mark, "main has not returned");
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    assert_eq!(service.tell("get"), "2");
    block(&service);
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGTERM);
    service.line_after(mark, "stops and drains 0 connections");
    service.line_after(mark, "main has not returned");
    service.stopped();
}

#[test]
fn old_process_that_is_let_go_leaves_by_itself() {
    let mut service = start().env("FLIP_DRAIN_TIMEOUT", "25s").start();
    let mut gate = service.gate("block");
    block(&service);
    let old = service.upgrade().unwrap();
    assert!(!old.has_ended());
    gate.open();
    assert_eq!(service.exit(&old), Exit::Status(0));
    let log = service.stop();
    assert_eq!(log.count("main has not returned"), 0, "{}", log.text());
}

#[test]
fn upgrade_that_fails_is_reported_while_every_thread_is_blocked() {
    let mut service = start().linked_as("service").start();
    assert_eq!(service.tell("add"), "1");
    let mut gate = service.gate("block");
    block(&service);
    service.install("service", |path| std::os::unix::fs::symlink("nothing", path).unwrap());
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("no new process could be started"), "{report}");
    gate.open();
    assert_eq!(service.tell("add"), "2");
    service.stop();
}

#[test]
fn update_that_does_not_end_is_a_roll_back() {
    let mut service = start().env("FLIP_FREEZE_TIMEOUT", "300ms").start();
    assert_eq!(service.tell("add"), "1");
    let mut gate = service.gate("inside");
    let (ask, pid) = (service.asker(), service.owner().pid);
    let update = std::thread::spawn(move || ask.try_ask(pid, "block inside").unwrap());
    service.line("is at the gate inside");
    let report = service.upgrade().unwrap_err();
    let why = "the freeze took longer than 300ms (freeze_timeout), waiting for the state `count` not to be used any more, \
               by a closure of this process; generation 1";
    assert!(report.contains(why), "{report}");
    gate.open();
    assert_eq!(update.join().unwrap(), "2");
    assert_eq!(service.tell("add"), "3");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("get"), "3");
    service.stop();
}

#[test]
fn second_stop_does_not_wait_for_the_deadline() {
    let mut service = start().env("FLIP_DRAIN_TIMEOUT", "1h").start();
    let _shut = service.gate("block");
    block(&service);
    service.owner().signal(Signal::SIGTERM);
    service.line("stops and drains 0 connections");
    service.owner().signal(Signal::SIGTERM);
    service.stopped();
}
