//! Requests to upgrade that come while one is under way: refused where somebody can be told, remembered once otherwise.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::thread;

use flip_tests::{Chain, Exit, Mark, Start};
use nix::sys::signal::Signal;

fn service() -> Chain {
    Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_READY_TIMEOUT", "25s").start()
}

/// Follows the service to the process that is the generation with this number.
fn follow_to(service: &mut Chain, generation: u64) {
    let starts = format!("generation {generation} starts as pid ");
    let new = flip_tests::number_after(&service.line(&starts), &starts).unwrap();
    service.line(&format!("handed over to generation {generation} (pid {new}); freeze"));
    service.owned_by(flip_tests::Process::open(new));
}

#[test]
fn second_signal_is_remembered_once() {
    let mut service = service();
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line(&format!("pid {} is at the gate start", new.pid));
    for seen in 2..=4 {
        service.owner().signal(Signal::SIGHUP);
        service.until("the signal is seen", || service.log().count("SIGHUP from") == seen);
    }
    gate.open();
    // The second one's request, whoever owned when it came.
    follow_to(&mut service, 3);
    service.only(&[service.owner()]);
    assert_eq!(service.tell("generation"), "3");
    let log = service.stop();
    assert_eq!(log.count("starts as pid"), 2, "{}", log.text());
}

#[test]
fn remembered_signal_survives_a_roll_back() {
    let mut service = service();
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line(&format!("pid {} is at the gate start", new.pid));
    service.owner().signal(Signal::SIGHUP);
    service.until("the signal is seen", || service.log().count("SIGHUP from") == 2);
    new.signal(Signal::SIGKILL);
    service.upgraded(mark).unwrap_err();
    let mark = service.log().mark();
    gate.open();
    let old = service.upgraded(mark).unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn request_that_can_be_answered_hears_that_one_is_under_way() {
    let mut service = service();
    // Until the answer is out.
    service.tell("hold a connection");
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    let ask = service.asker();
    let owner = service.owner().pid;
    let asked = thread::spawn(move || ask.try_ask(owner, "upgrade").unwrap());
    let new = service.started_after(mark);
    service.line(&format!("pid {} is at the gate start", new.pid));
    assert_eq!(service.tell("upgrade"), "error: another upgrade is in progress");
    gate.open();
    assert_eq!(asked.join().unwrap(), format!("pid {}", new.pid));
    let old = service.upgraded(mark).unwrap();
    service.release(&old);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn new_process_refuses_to_be_upgraded_before_it_serves() {
    let mut service = service();
    let mut gate = service.gate("ready");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line(&format!("pid {} is at the gate ready", new.pid));
    assert_eq!(service.ask(&new, "upgrade"), "error: this process is not ready yet; ask again when it serves");
    gate.open();
    service.upgraded(mark).unwrap();
    service.stop();
}

#[test]
fn two_signals_in_quick_succession_do_not_lose_both() {
    let mut service = service();
    service.owner().signal(Signal::SIGHUP);
    service.owner().signal(Signal::SIGHUP);
    service.upgraded(Mark::START).unwrap();
    service.settle();
    service.stop_all();
}

#[test]
fn storm_ends_with_one_process() {
    let mut service = service();
    service.tell("add 7");
    for _ in 0..50 {
        // To the whole group, since the owner changes under way.
        service.signal_all(Signal::SIGHUP);
        thread::yield_now();
    }
    assert_eq!(service.settle(), "7");
    service.stop_all();
}
