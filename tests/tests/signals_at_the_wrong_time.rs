//! Signals that come before there is a handler, and those of a terminal.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use flip_tests::{Chain, Exit, Process, Start, number_after};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::Signal;

const COUNTER: &str = env!("CARGO_BIN_EXE_service");

/// A service whose next generation gets this signal before it has any handler.
fn signalled_before_its_start(signal: &str) -> Chain {
    let service = Start::new(COUNTER).linked_as("service").start();
    service.install("service", |path| {
        std::fs::write(path, format!("#!/bin/sh\nkill -{signal} $$\nexec {COUNTER} \"$@\"\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    service
}

#[test]
fn upgrade_signal_before_the_handlers_is_obeyed_later() {
    let mut service = signalled_before_its_start("HUP");
    let mark = service.log().mark();
    let first = service.upgrade().unwrap();
    assert_eq!(service.exit(&first), Exit::Status(0));
    // It upgrades itself as soon as it serves.
    service.line_after(mark, "generation 3 starts as pid ");
    service.line_after(mark, "generation 3 (pid ");
    service.line_after(mark, "generation 2 drains");
    service.settle();
    assert_eq!(service.tell("generation"), "3");
    service.stop();
}

#[test]
fn stop_signal_before_the_handlers_is_obeyed_later() {
    let mut service = signalled_before_its_start("TERM");
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("it was told to stop"), "{report}");
    assert_eq!(service.tell("add"), "1");
    service.stop();
}

#[test]
fn signals_all_the_way_through_the_start_kill_nobody() {
    let mut service = Start::new(COUNTER).start();
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    // From the moment at which its number is known: before, during and after the handlers are made.
    while service.log().count(&format!("generation 2 (pid {}) serves", new.pid)) == 0 {
        assert!(!new.has_ended(), "{}", service.log().text());
        new.signal(Signal::SIGHUP);
        std::thread::yield_now();
    }
    assert_eq!(service.settle(), "0");
    service.stop_all();
}

// ---- a terminal

fn terminal() -> OpenptyResult {
    openpty(None, None).unwrap()
}

/// Its number, proc_pid_stat(5); 0 where there is none.
fn terminal_of(process: &Process) -> String {
    let stat = String::from_utf8(process.proc("stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(4).unwrap().to_owned()
}

#[test]
fn hang_up_of_the_terminal_is_a_stop() {
    let OpenptyResult { master, slave } = terminal();
    let mut service = Start::new(COUNTER).terminal(slave).start();
    drop(master);
    service.line("SIGHUP from the kernel: stop");
    let log = service.stopped();
    assert_eq!(log.count("starts as pid"), 0, "{}", log.text());
}

#[test]
fn hang_up_that_a_shell_tells_of_is_a_stop() {
    // The job is in the background, where the kernel tells it nothing.
    let OpenptyResult { master, slave } = terminal();
    let script = "set -m; \"$0\" \"$@\" & trap 'kill -HUP $!' HUP; read wait; wait";
    let mut service = Start::new(COUNTER).terminal(slave).through(&["sh", "-c", script]).spawn();
    let ready = service.line(" is ready");
    let shell = service.owned_by(Process::open(number_after(&ready, "pid ").unwrap()));
    service.owner().signal(Signal::SIGHUP);
    service.line("; freeze to commit ");
    let new = number_after(&service.line("generation 2 (pid "), "(pid ").unwrap();
    let first = service.owned_by(Process::open(new));
    // It is the shell's to reap.
    service.until("it has left", || first.has_ended());
    drop(master);
    // A process that another test is just starting may have the other end as well, for a moment.
    service.until("the terminal is gone", || terminal_of(service.owner()) == "0");
    // By then the job that the shell knows is another process: somebody tells the one that serves.
    service.owner().signal(Signal::SIGHUP);
    service.line(&format!("SIGHUP from pid {}: stop", std::process::id()));
    assert_eq!(service.exit(service.owner()), Exit::Status(0));
    assert_eq!(service.log().count("generation 3 starts"), 0);
    service.exit(&shell);
    service.gone();
}

#[test]
fn interrupt_key_is_a_stop_and_never_an_upgrade() {
    let OpenptyResult { master, slave } = terminal();
    let mut service = Start::new(COUNTER).terminal(slave).start();
    std::fs::File::from(master.try_clone().unwrap()).write_all(b"\x03").unwrap();
    service.line("SIGINT from the kernel: stop");
    let log = service.stopped();
    assert_eq!(log.count("starts as pid"), 0, "{}", log.text());
}

#[test]
fn interrupt_key_stops_every_generation() {
    let OpenptyResult { master, slave } = terminal();
    let mut service = Start::new(COUNTER).terminal(slave).start();
    service.tell("hold an upload");
    let old = service.upgrade().unwrap();
    let mut keys = std::fs::File::from(master);
    keys.write_all(b"\x03").unwrap();
    service.until("both have seen it", || service.log().count("SIGINT from the kernel: stop") == 2);
    // The old one goes on with what is open, the new one waits for it.
    assert!(!old.has_ended() && !service.owner().has_ended());
    keys.write_all(b"\x03").unwrap();
    service.line("cut: an upload, ");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stopped();
}

#[test]
fn service_that_a_shell_started_is_upgraded_at_the_terminal() {
    // The shell leads the session and stays, as an interactive one does: a leader that ends hangs its terminal up.
    let OpenptyResult { master, slave } = terminal();
    let start = Start::new(COUNTER).terminal(slave).through(&["sh", "-c", "\"$0\" \"$@\"; read wait"]);
    let mut service = start.spawn();
    let ready = service.line(" is ready");
    let shell = service.owned_by(Process::open(number_after(&ready, "pid ").unwrap()));
    service.tell("add");
    for _ in 0..2 {
        // The first one is the shell's to reap.
        service.upgrade().unwrap();
        let second = service.line("and Ctrl-C does not reach it");
        assert!(second.ends_with(&format!("kill -TERM {}", number_after(&second, "flip: pid ").unwrap())), "{second}");
    }
    assert_eq!(service.log().count("stop it by: kill -TERM"), 1, "the second has nobody to tell");
    assert_eq!(service.tell("get"), "1");
    drop(master);
    service.line("SIGHUP from the kernel: stop");
    assert_eq!(service.exit(service.owner()), Exit::Status(0));
    service.exit(&shell);
    service.only(&[]);
    service.gone();
}

#[test]
fn terminal_has_its_prompt_back_when_the_service_ends() {
    let OpenptyResult { master, slave } = terminal();
    let script = "trap : INT; \"$0\" \"$@\"; echo the prompt";
    let start = Start::new(COUNTER).terminal(slave).env("FLIP_LAUNCHER", "auto").through(&["sh", "-c", script]);
    let mut service = start.spawn();
    let ready = service.line(" is ready");
    let shell = service.owned_by(Process::open(number_after(&ready, "pid ").unwrap()));
    for _ in 0..2 {
        service.upgrade().unwrap();
    }
    assert_eq!((service.log().count("the prompt"), service.log().count("Ctrl-C")), (0, 0), "{}", service.log().text());
    std::fs::File::from(master.try_clone().unwrap()).write_all(b"\x03").unwrap();
    service.line("SIGINT from the kernel: stop");
    service.line("the prompt");
    service.exit(&shell);
    service.gone();
}
