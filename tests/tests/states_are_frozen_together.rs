//! A handoff is one cut through all states: what is changed together is found together, and nothing that was
//! acknowledged is missing.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::thread::JoinHandle;

use flip_tests::{Chain, Exit, Gate, Mark, Process, Start};
use nix::sys::signal::Signal;

const PAIR: &str = env!("CARGO_BIN_EXE_pair");

fn numbers(answer: &str) -> (i64, i64) {
    let split = answer.split_once(' ').and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)));
    split.unwrap_or_else(|| panic!("{answer:?} is not two numbers"))
}

/// What was moved, as both states say.
fn moved(service: &Chain) -> i64 {
    let (debit, credit) = numbers(&service.tell("get"));
    assert_eq!(debit, -credit, "{}", service.log().text());
    credit
}

/// Ends the load of a process, and lets it go. Gives what was acknowledged there: by updates, and by calls.
fn rested(service: &Chain, process: &Process) -> (i64, i64) {
    let acknowledged = numbers(&service.ask(process, "rest"));
    service.release(process);
    acknowledged
}

#[test]
fn what_is_changed_together_is_handed_over_together() {
    let start = Start::new(PAIR);
    std::fs::write(start.dir().join("load"), "").unwrap();
    let mut service = start.start();
    let (mut updates, mut calls) = (0, 0);
    let mut add = |(more_updates, more_calls)| {
        updates += more_updates;
        calls += more_calls;
    };
    // Its calls go on through the next upgrade.
    let mut before: Option<Process> = None;
    for _ in 0..30 {
        let had = moved(&service);
        service.until("more has been moved", || moved(&service) > had);
        let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        moved(&service);
        if let Some(before) = before.replace(old) {
            add(rested(&service, &before));
            assert_eq!(service.exit(&before), Exit::Status(0));
        }
    }
    for process in [&before.unwrap(), service.owner()] {
        add(rested(&service, process));
    }
    assert!(updates > 0 && calls > 0, "{updates} updates, {calls} calls");
    assert_eq!(moved(&service), updates + calls);
    service.stop();
}

/// A freeze that stands in the middle of the snapshot, and an update that came then.
fn updated_in_a_freeze() -> (Chain, Gate, Mark, JoinHandle<String>) {
    let service = Start::new(PAIR).env("FLIP_FREEZE_TIMEOUT", "25s").start();
    assert_eq!(service.tell("transfer"), "done");
    let gate = service.gate("save");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    service.line_after(mark, "is at the gate save");
    let (ask, pid) = (service.asker(), service.owner().pid);
    let update = std::thread::spawn(move || ask.try_ask(pid, "transfer").unwrap());
    service.line_after(mark, "is about to transfer");
    // Whoever reads is not held back, and sees that nobody has written.
    assert_eq!(moved(&service), 1);
    (service, gate, mark, update)
}

#[test]
fn update_during_a_freeze_is_told_of_the_handoff() {
    let (mut service, mut gate, mark, update) = updated_in_a_freeze();
    gate.open();
    let old = service.upgraded(mark).unwrap();
    assert_eq!(update.join().unwrap(), "error: the state has been handed over to a newer process");
    assert_eq!(moved(&service), 1);
    assert_eq!(service.tell("transfer"), "done");
    assert_eq!(moved(&service), 2);
    service.release(&old);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.release(service.owner());
    service.stop();
}

#[test]
fn update_during_a_freeze_is_applied_after_the_roll_back() {
    let (mut service, mut gate, mark, update) = updated_in_a_freeze();
    service.started_after(mark).signal(Signal::SIGKILL);
    service.upgraded(mark).unwrap_err();
    gate.open();
    assert_eq!(update.join().unwrap(), "done");
    assert_eq!(moved(&service), 2);
    service.release(service.owner());
    service.stop();
}
