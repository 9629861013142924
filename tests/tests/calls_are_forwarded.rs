//! A process that drains changes the content through its owner, and each call is applied once or reported as unknown.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flip_tests::{Exit, Start};
use nix::sys::signal::Signal;

fn start() -> Start {
    Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_FREEZE_TIMEOUT", "25s")
}

#[test]
fn owner_applies_it() {
    let mut service = start().start();
    assert_eq!(service.tell("call 2"), "2");
    service.tell("hold a connection");
    let old = service.upgrade().unwrap();
    assert_eq!(service.ask(&old, "call 3"), "5");
    assert_eq!(service.ask(&old, "add 3"), "error: the state has been handed over to a newer process");
    assert_eq!(service.tell("get"), "5");
    service.release(&old);
    service.stop();
}

#[test]
fn every_generation_of_a_chain_reaches_the_owner() {
    let mut service = start().start();
    let mut old = vec![];
    for _ in 0..3 {
        service.tell("hold a connection");
        old.push(service.upgrade().unwrap());
    }
    for (i, process) in old.iter().enumerate() {
        assert_eq!(service.ask(process, "call"), (i + 1).to_string());
    }
    assert_eq!(service.tell("get"), "3");
    for process in &old {
        service.release(process);
        assert_eq!(service.exit(process), Exit::Status(0));
    }
    service.stop();
}

#[test]
fn call_during_a_freeze_waits_for_the_next_owner() {
    let mut service = start().start();
    service.tell("hold a connection");
    let first = service.upgrade().unwrap();
    service.tell("hold a connection");
    let mut gate = service.gate("save");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    service.line_after(mark, "is at the gate save");
    let (ask, pid) = (service.asker(), first.pid);
    let answer = std::thread::spawn(move || ask.try_ask(pid, "call 4").unwrap());
    // Another one, in the owner itself.
    let (ask, pid) = (service.asker(), service.owner().pid);
    let other = std::thread::spawn(move || ask.try_ask(pid, "call 5").unwrap());
    assert!(!answer.is_finished());
    gate.open();
    let second = service.upgraded(mark).unwrap();
    let mut totals: Vec<u64> = [answer, other].map(|answer| answer.join().unwrap().parse().unwrap()).into();
    totals.sort_unstable();
    assert!(totals == [4, 9] || totals == [5, 9], "{totals:?}");
    assert_eq!(service.tell("get"), "9");
    service.release(&first);
    service.release(&second);
    service.stop();
}

#[test]
fn call_after_a_roll_back_is_applied() {
    let mut service = start().start();
    service.tell("hold a connection");
    let first = service.upgrade().unwrap();
    let mut gate = service.gate("restore");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, "is at the gate restore");
    let (ask, pid) = (service.asker(), first.pid);
    let answer = std::thread::spawn(move || ask.try_ask(pid, "call 4").unwrap());
    new.signal(Signal::SIGKILL);
    service.upgraded(mark).unwrap_err();
    assert_eq!(answer.join().unwrap(), "4");
    assert_eq!(service.tell("add"), "5");
    gate.open();
    service.release(&first);
    service.stop();
}

#[test]
fn death_of_the_owner_is_told_to_the_caller() {
    let mut service = start().start();
    service.tell("hold a connection");
    let old = service.upgrade().unwrap();
    service.owner().signal(Signal::SIGKILL);
    assert_eq!(service.exit(service.owner()), Exit::Signal(Signal::SIGKILL));
    let lost = "error: the owner of the state is gone; whether the call was applied is unknown";
    assert_eq!(service.ask(&old, "call"), lost);
    assert_eq!(service.ask(&old, "call"), lost);
    service.release(&old);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.gone();
}

#[test]
fn acknowledged_calls_are_counted_once_through_many_upgrades() {
    let mut service = start().start();
    service.tell("hold a connection");
    let first = service.upgrade().unwrap();
    let (done, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let ask = service.asker();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let answer = ask.try_ask(first.pid, "call").unwrap();
                    assert!(answer.parse::<u64>().is_ok(), "{answer}");
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..5 {
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(service.tell("get"), acknowledged.into_inner().to_string());
    service.release(&first);
    service.stop();
}
