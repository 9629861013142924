//! The old process is killed or stopped at each step of a handoff: somebody serves on, exactly one.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use flip_tests::{Chain, Exit, Gate, Log, Mark, Process, Start};
use nix::sys::signal::Signal;

fn start(supervised: &str) -> Start {
    Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_SUPERVISED", supervised).env("FLIP_FREEZE_TIMEOUT", "25s")
}

/// Asks for an upgrade, and gives the new process once somebody is at the gate.
fn until_gate(service: &Chain, name: &str) -> (Gate, Process, Mark) {
    let gate = service.gate(name);
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, &format!("is at the gate {name}"));
    (gate, new, mark)
}

fn touch(service: &Chain) {
    std::fs::write(service.dir().join("touch"), "").unwrap();
}

fn kill_owner(service: &mut Chain, new: Process) {
    service.owner().signal(Signal::SIGKILL);
    let old = service.owned_by(new);
    assert_eq!(service.exit(&old), Exit::Signal(Signal::SIGKILL));
}

/// The new process serves, and can be upgraded in its turn.
fn serves_on(mut service: Chain, mark: Mark, count: u64) -> Arc<Log> {
    service.line_after(mark, &format!("(pid {}) serves", service.owner().pid));
    // Not by its line: a program that is started over may have said that before.
    let ask = service.asker();
    service.until("it answers", || ask.try_ask(service.owner().pid, "get").is_ok());
    assert_eq!(service.tell("get"), count.to_string());
    assert_eq!(service.tell("add"), (count + 1).to_string());
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), (count + 2).to_string());
    service.stop()
}

fn leaves(mut service: Chain, mark: Mark) {
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    service.line_after(mark, "leaves without having served: the old process died, and the supervisor starts another");
    service.gone();
}

// ---- before the new process has said a word

/// The new process is held before it executes the program, until the old one is dead.
fn killed_before_hello(supervised: &str) -> (Chain, Mark) {
    let mut service = start(supervised).linked_as("service").start();
    service.tell("add");
    let mut gate = service.gate("exec");
    service.install("service", |path| {
        let wait = "echo at the gate exec >&2; head -c 1 exec.gate > held; exec";
        std::fs::write(path, format!("#!/bin/sh\n{wait} {} \"$@\"\n", env!("CARGO_BIN_EXE_service"))).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, "at the gate exec");
    kill_owner(&mut service, new);
    gate.open();
    (service, mark)
}

#[test]
fn killed_before_the_new_process_speaks() {
    let (service, mark) = killed_before_hello("no");
    serves_on(service, mark, 0);
}

#[test]
fn killed_before_the_new_process_speaks_under_a_supervisor() {
    let (service, mark) = killed_before_hello("yes");
    leaves(service, mark);
}

// ---- while the new process initialises: no content is there yet

#[test]
fn killed_while_the_new_process_initialises() {
    let mut service = start("no").start();
    service.tell("add");
    let (mut gate, new, mark) = until_gate(&service, "start");
    kill_owner(&mut service, new);
    service.line_after(mark, "starting over on its listeners");
    gate.open();
    serves_on(service, mark, 0);
}

#[test]
fn program_that_is_started_over_has_the_pid_file() {
    let mut service = start("no").env("FLIP_PID_FILE", "app.pid").start();
    let file = service.dir().join("app.pid");
    let (mut gate, new, mark) = until_gate(&service, "start");
    kill_owner(&mut service, new);
    service.line_after(mark, "starting over on its listeners");
    gate.open();
    service.line_after(mark, &format!("(pid {}) serves", service.owner().pid));
    let named = || std::fs::read_to_string(&file).unwrap().trim().parse::<i32>().unwrap();
    assert_eq!(named(), service.owner().pid);
    let serves = format!("(pid {}) serves", service.owner().pid);
    let log = serves_on(service, mark, 0);
    assert!(!file.exists());
    assert_eq!(log.count(&serves), 1, "{}", log.text());
}

#[test]
fn killed_before_the_new_process_has_its_parameters() {
    let mut service = start("no").start();
    service.tell("add");
    let (mut gate, new, mark) = until_gate(&service, "parameters");
    kill_owner(&mut service, new);
    service.line_after(mark, "this is a cold start on its listeners");
    gate.open();
    let log = serves_on(service, mark, 0);
    // Nothing was begun that would have to be begun again.
    assert_eq!(log.count("starting over"), 0, "{}", log.text());
}

#[test]
fn killed_while_the_new_process_initialises_under_a_supervisor() {
    let mut service = start("yes").start();
    let (_gate, new, mark) = until_gate(&service, "start");
    kill_owner(&mut service, new);
    leaves(service, mark);
}

// ---- while the content is on its way

#[test]
fn killed_while_it_sends_the_content() {
    let mut service = start("no").start();
    service.tell("add");
    let (mut gate, new, mark) = until_gate(&service, "save");
    kill_owner(&mut service, new);
    gate.open();
    service.line_after(mark, "starting over on its listeners");
    serves_on(service, mark, 0);
}

#[test]
fn killed_while_it_sends_the_content_under_a_supervisor() {
    let mut service = start("yes").start();
    let (_gate, new, mark) = until_gate(&service, "save");
    kill_owner(&mut service, new);
    leaves(service, mark);
}

#[test]
fn killed_while_the_new_process_decodes_the_content() {
    let mut service = start("no").start();
    service.tell("add");
    let (mut gate, new, mark) = until_gate(&service, "restore");
    service.until("all of it is sent", || !service.owner().threads().iter().any(|name| name == "flip-freeze"));
    kill_owner(&mut service, new);
    gate.open();
    serves_on(service, mark, 1);
}

// ---- when the content is there, and the new process is not ready yet

#[test]
fn killed_when_the_new_process_has_the_content() {
    let mut service = start("no").start();
    service.tell("add");
    touch(&service);
    let (mut gate, new, mark) = until_gate(&service, "start");
    service.until("all of it is sent", || !service.owner().threads().iter().any(|name| name == "flip-freeze"));
    kill_owner(&mut service, new);
    gate.open();
    serves_on(service, mark, 1);
}

#[test]
fn killed_when_the_new_process_has_the_content_under_a_supervisor() {
    let mut service = start("yes").start();
    touch(&service);
    let (_gate, new, mark) = until_gate(&service, "start");
    kill_owner(&mut service, new);
    leaves(service, mark);
}

// ---- after the commit

#[test]
fn killed_after_the_commit() {
    for supervised in ["no", "yes"] {
        let mut service = start(supervised).start();
        service.tell("add");
        service.tell("hold a connection");
        let mark = service.log().mark();
        let old = service.upgrade().unwrap();
        old.signal(Signal::SIGKILL);
        assert_eq!(service.exit(&old), Exit::Signal(Signal::SIGKILL));
        serves_on(service, mark, 1);
    }
}

// ---- silence

#[test]
fn stopped_old_process_is_not_waited_for_and_goes_on_later() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service"))
        .env("FLIP_FREEZE_TIMEOUT", "100ms")
        .env("FLIP_QUIESCE_TIMEOUT", "0ms");
    service = service.env("FLIP_READY_TIMEOUT", "25s");
    let mut service = service.start();
    service.tell("add");
    let (mut gate, new, mark) = until_gate(&service, "start");
    service.owner().signal(Signal::SIGSTOP);
    gate.open();
    service.line_after(mark, &format!("pid {} leaves without having served: the old process fell silent", new.pid));
    assert_eq!(service.exit(&new), Exit::Status(1));
    service.owner().signal(Signal::SIGCONT);
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains("the old process fell silent"), "{report}");
    assert_eq!(service.tell("add"), "2");
    service.upgrade().unwrap();
    assert_eq!(service.tell("add"), "3");
    service.stop();
}

#[test]
fn stopped_new_process_is_killed_at_the_deadline() {
    for (timeout, late) in [("FLIP_READY_TIMEOUT", false), ("FLIP_FREEZE_TIMEOUT", true)] {
        let mut service = Start::new(env!("CARGO_BIN_EXE_service")).env(timeout, "300ms").start();
        if late {
            touch(&service);
        }
        service.tell("add");
        let (mut gate, new, mark) = until_gate(&service, "start");
        new.signal(Signal::SIGSTOP);
        let report = service.upgraded(mark).unwrap_err();
        assert!(report.contains("within 300ms"), "{report}");
        assert_eq!(service.exit(&new), Exit::Signal(Signal::SIGKILL));
        assert_eq!(service.tell("add"), "2");
        gate.open();
        service.upgrade().unwrap();
        assert_eq!(service.tell("add"), "3");
        service.stop();
    }
}
