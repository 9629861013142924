//! A stop drains what is open, in every process of the service, and the owner leaves last.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use flip_tests::{Chain, Exit, Mark, Process, Start};
use nix::sys::signal::Signal;

fn start() -> Start {
    Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_READY_TIMEOUT", "25s").env("FLIP_FREEZE_TIMEOUT", "25s")
}

/// A service whose owner has a predecessor that drains.
fn with_one_that_drains(start: Start) -> (Chain, Process) {
    let mut service = start.start();
    service.tell("hold an upload");
    let old = service.upgrade().unwrap();
    (service, old)
}

#[test]
fn signals_stop_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut service = start().start();
        service.owner().signal(signal);
        let log = service.stopped();
        assert_eq!(log.count("leaves: Stopped"), 1, "{}", log.text());
        assert_eq!(log.count("starts as pid"), 0, "{}", log.text());
    }
}

#[test]
fn what_is_open_is_waited_for() {
    let mut service = start().start();
    service.tell("hold an upload");
    service.owner().signal(Signal::SIGTERM);
    service.line("stops and drains 1 connection");
    service.line("leaves: Stopped");
    assert!(!service.owner().has_ended());
    assert_eq!(service.tell("add"), "1");
    assert_eq!(service.tell("upgrade"), "error: the service stops");
    service.release(service.owner());
    let log = service.stopped();
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
}

#[test]
fn what_stays_open_is_cut_at_the_deadline_and_named() {
    let mut service = start().env("FLIP_DRAIN_TIMEOUT", "300ms").start();
    service.tell("hold an upload");
    service.owner().signal(Signal::SIGTERM);
    let line = service.line("cut: an upload, ");
    assert!(line.ends_with(" s old"), "{line}");
    service.stopped();
}

#[test]
fn second_stop_cuts_at_once() {
    let mut service = start().start();
    service.tell("hold an upload");
    service.owner().signal(Signal::SIGTERM);
    service.line("stops and drains 1 connection");
    service.owner().signal(Signal::SIGTERM);
    service.line("cut: an upload, ");
    service.stopped();
}

// ---- several generations

#[test]
fn owner_waits_for_those_that_drain() {
    let (mut service, old) = with_one_that_drains(start());
    service.owner().signal(Signal::SIGTERM);
    service.line(&format!("pid {} leaves: Stopped", service.owner().pid));
    assert!(!old.has_ended() && !service.owner().has_ended());
    service.release(&old);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stopped();
}

#[test]
fn owner_waits_for_three_generations() {
    let mut service = start().start();
    let mut old = vec![];
    for _ in 0..3 {
        service.tell("hold an upload");
        old.push(service.upgrade().unwrap());
    }
    service.owner().signal(Signal::SIGTERM);
    service.line(&format!("pid {} leaves: Stopped", service.owner().pid));
    // In another order than they came.
    for old in [&old[1], &old[2], &old[0]] {
        assert!(!old.has_ended() && !service.owner().has_ended());
        service.release(old);
        assert_eq!(service.exit(old), Exit::Status(0));
    }
    service.stopped();
}

#[test]
fn second_stop_cuts_every_generation() {
    let (mut service, old) = with_one_that_drains(start());
    service.tell("hold a download");
    service.owner().signal(Signal::SIGTERM);
    service.line("stops and drains 1 connection");
    service.owner().signal(Signal::SIGTERM);
    service.line("cut: an upload, ");
    service.line("cut: a download, ");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stopped();
}

#[test]
fn deadline_of_the_owner_cuts_every_generation() {
    let (mut service, old) = with_one_that_drains(start().env("FLIP_DRAIN_TIMEOUT", "400ms"));
    service.owner().signal(Signal::SIGTERM);
    service.line("cut: an upload, ");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stopped();
}

#[test]
fn stop_of_a_process_that_has_handed_over_changes_nothing_the_first_time() {
    let (service, old) = with_one_that_drains(start());
    old.signal(Signal::SIGTERM);
    service.line("SIGTERM from pid ");
    assert_eq!(service.ask(&old, "generation"), "1");
    assert_eq!(service.tell("add"), "1");
    let mark = service.log().mark();
    old.signal(Signal::SIGTERM);
    service.line_after(mark, "cut: an upload, ");
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), "2");
    service.stop();
}

#[test]
fn two_signals_to_everybody_end_everybody() {
    let mut service = start().start();
    for _ in 0..2 {
        service.tell("hold an upload");
        service.upgrade().unwrap();
    }
    service.signal_all(Signal::SIGTERM);
    service.line("stops and drains 0 connections");
    service.until("everybody has seen it", || service.log().count("SIGTERM from pid") == 3);
    service.signal_all(Signal::SIGTERM);
    service.only(&[]);
    service.gone();
}

// ---- while an upgrade is under way

fn stopped_at_gate(name: &str, touch: bool) {
    let mut service = start().start();
    if touch {
        std::fs::write(service.dir().join("touch"), "").unwrap();
    }
    let _gate = service.gate(name);
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, &format!("is at the gate {name}"));
    service.owner().signal(Signal::SIGTERM);
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains("the service was told to stop"), "{report}");
    assert_eq!(service.exit(&new), Exit::Signal(Signal::SIGKILL));
    service.stopped();
}

#[test]
fn stop_while_the_new_process_initialises() {
    stopped_at_gate("start", false);
}

#[test]
fn stop_while_the_content_is_written() {
    stopped_at_gate("save", false);
}

#[test]
fn stop_while_the_content_is_read() {
    stopped_at_gate("restore", false);
}

#[test]
fn stop_while_the_new_process_has_the_content_and_is_not_ready() {
    stopped_at_gate("start", true);
}

#[test]
fn stop_of_the_new_process_leaves_the_old_one() {
    let mut service = start().start();
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, "is at the gate start");
    new.signal(Signal::SIGTERM);
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains("ended before it served: it was told to stop"), "{report}");
    assert_eq!(service.exit(&new), Exit::Status(1));
    gate.open();
    assert_eq!(service.tell("add"), "1");
    service.upgrade().unwrap();
    service.stop();
}

#[test]
fn stop_soon_after_an_upgrade_has_begun_ends_everybody() {
    // Each round a little later; where exactly it hits does not matter. The tests above hit where they mean to.
    for round in 0..12 {
        let mut service = start().start();
        service.owner().signal(Signal::SIGHUP);
        if round > 0 {
            service.line("starts as pid");
        }
        for _ in 0..round * 50 {
            std::thread::yield_now();
        }
        service.signal_all(Signal::SIGTERM);
        service.only(&[]);
        service.gone();
        assert_eq!(service.log().count("panicked"), 0, "{}", service.log().text());
    }
}

#[test]
fn nothing_is_upgraded_where_that_is_off() {
    let mut service = start().env("FLIP_UPGRADE", "off").start();
    assert_eq!(service.tell("upgrade"), "error: upgrades are switched off (FLIP_UPGRADE=off)");
    service.owner().signal(Signal::SIGHUP);
    service.line_after(Mark::START, "leaves: Stopped");
    let log = service.stopped();
    assert_eq!(log.count("starts as pid"), 0, "{}", log.text());
}
