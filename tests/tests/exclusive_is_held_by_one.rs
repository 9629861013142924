//! What only one process may hold is held by the one that serves: whoever fails when, no acknowledged write is lost, and
//! whoever cannot have it says so. The store is a real one, whose file is locked as long as it is open.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use flip_tests::client::{Http, Load, Shared};
use flip_tests::{Chain, Exit, Start};
use nix::sys::signal::Signal;
use redb::Database;

const RESTARTS: usize = 100;
const ROLLBACKS: usize = 20;
/// At least so many writes between two of them.
const AMONG: u64 = 20;

/// With as much time for everything as a slow disk needs.
fn start() -> (Chain, SocketAddr) {
    let start = Start::new(env!("CARGO_BIN_EXE_numbers"));
    started(start.env("FLIP_QUIESCE_TIMEOUT", "10s").env("FLIP_FREEZE_TIMEOUT", "20s"))
}

fn started(start: Start) -> (Chain, SocketAddr) {
    let service = start.start();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    (service, address)
}

/// The next new process does this when it has used the store.
fn spoil(service: &Chain, what: &str) {
    fs::write(service.dir().join("use-first"), "").unwrap();
    service.at_start(what);
}

fn heal(service: &Chain) {
    fs::remove_file(service.dir().join("use-first")).unwrap();
    service.at_start("");
}

fn get(address: SocketAddr, path: &str) -> String {
    Http::open(address).and_then(|mut http| http.exchange("GET", path)).unwrap().body
}

fn write(address: SocketAddr, number: u64) -> String {
    Http::open(address).and_then(|mut http| http.exchange("POST", &format!("/write/{number}"))).unwrap().body
}

fn numbers(address: SocketAddr) -> HashSet<u64> {
    get(address, "/numbers").split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn restarts_and_rollbacks_lose_no_acknowledged_write() {
    let (mut service, address) = start();
    let (shared, acknowledged) = (Shared::default(), Mutex::new(HashSet::new()));
    let (begin, tally) = (Instant::now(), {
        std::thread::scope(|scope| {
            let mut load = Load::new(&shared);
            for client in 1..=8_u64 {
                let mut kept: Option<Http> = None;
                let acknowledged = &acknowledged;
                load.client(scope, move |_, round| {
                    let number = client << 32 | round;
                    let mut http = match kept.take() {
                        Some(http) => http,
                        None => Http::open(address)?,
                    };
                    let answer = http.exchange("POST", &format!("/write/{number}"))?;
                    acknowledged.lock().unwrap().insert(number);
                    // Half of them connect anew each time.
                    kept = Some(http).filter(|_| client % 2 == 0 && !answer.last);
                    Ok(())
                });
            }
            for round in 0..RESTARTS {
                if round % (RESTARTS / ROLLBACKS) == 0 {
                    // It has the store, has written to it, and closes it as it ends, or leaves it as it is.
                    spoil(&service, ["error", "abort"][round / (RESTARTS / ROLLBACKS) % 2]);
                    let (before, owner) = (shared.answered(), service.owner().pid);
                    let report = service.upgrade().unwrap_err();
                    assert!(report.contains("ended before it served"), "{report}");
                    assert!(report.contains(&format!("(pid {owner}) goes on")), "{report}");
                    service.until("it writes again", || shared.answered() > before + AMONG);
                    heal(&service);
                }
                let before = shared.answered();
                service.upgrade().unwrap();
                service.until("the new one writes", || shared.answered() > before + AMONG);
            }
            load.stop()
        })
    });
    println!("{RESTARTS} restarts and {ROLLBACKS} roll-backs in {:.1?}: {tally}", begin.elapsed());
    assert!(!tally.has_lost(), "{tally}");
    let (found, acknowledged) = (numbers(address), acknowledged.into_inner().unwrap());
    assert_eq!(acknowledged.len() as u64, tally.answered);
    assert_eq!(acknowledged.difference(&found).count(), 0, "lost: {:?}", acknowledged.difference(&found));
    // The new processes that failed wrote one each, under their own number.
    assert_eq!(found.difference(&acknowledged).filter(|number| **number < 1 << 32).count(), ROLLBACKS);
    assert_eq!(found.len() - acknowledged.len(), ROLLBACKS);
    // The state beside the store was handed over in the same cut.
    assert_eq!(get(address, "/count"), acknowledged.len().to_string());
    service.stop();
}

#[test]
fn new_process_that_cannot_open_it_is_rolled_back() {
    let (mut service, address) = start();
    assert_eq!(write(address, 1), service.owner().pid.to_string());
    fs::write(service.dir().join("cannot-open"), "").unwrap();
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("the exclusive `store` cannot be opened: there is a file `cannot-open`"), "{report}");
    service.line("the exclusive `store` is open again");
    assert_eq!(write(address, 2), service.owner().pid.to_string());
    fs::remove_file(service.dir().join("cannot-open")).unwrap();
    service.upgrade().unwrap();
    assert_eq!(write(address, 3), service.owner().pid.to_string());
    assert_eq!(numbers(address), HashSet::from([1, 2, 3]));
    service.stop();
}

#[test]
fn new_process_that_hangs_as_it_opens_it_is_rolled_back() {
    let (mut service, address) = started(Start::new(env!("CARGO_BIN_EXE_numbers")).env("FLIP_FREEZE_TIMEOUT", "300ms"));
    let mut gate = service.gate("open");
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("within 300ms of the freeze (freeze_timeout)"), "{report}");
    assert!(report.contains("waiting for the exclusive `store` to be opened"), "{report}");
    gate.open();
    assert_eq!(write(address, 1), service.owner().pid.to_string());
    service.stop();
}

#[test]
fn new_process_that_has_it_and_lives_is_dead_before_it_is_open_again() {
    let (mut service, address) = started(Start::new(env!("CARGO_BIN_EXE_numbers")).env("FLIP_FREEZE_TIMEOUT", "300ms"));
    spoil(&service, "hang");
    let mark = service.log().mark();
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("the content was touched first: store at"), "{report}");
    assert!(report.contains("; not polled yet: http; generation"), "{report}");
    service.line_after(mark, "the exclusive `store` is open again");
    assert_eq!(write(address, 1), service.owner().pid.to_string());
    assert_eq!(numbers(address).len(), 2, "it has what the new process wrote, too");
    heal(&service);
    service.upgrade().unwrap();
    service.stop();
}

#[test]
fn first_process_that_cannot_open_it_says_so() {
    let start = Start::new(env!("CARGO_BIN_EXE_numbers"));
    let _mine = Database::create(start.dir().join("numbers.redb")).unwrap();
    let service = start.spawn();
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    service.line("error: the parameter `store` cannot be opened: Database already open. Cannot acquire lock.");
}

#[test]
fn process_that_fails_while_it_is_used_says_why() {
    let why = "the parameter `_inside` cannot be made: it fails while the store is used";
    let start = Start::new(env!("CARGO_BIN_EXE_numbers"));
    fs::write(start.dir().join("fails-inside"), "").unwrap();
    let service = start.spawn();
    service.line(&format!("error: {why}"));
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    drop(service);

    let (mut service, address) = self::start();
    fs::write(service.dir().join("fails-inside"), "").unwrap();
    let report = service.upgrade().unwrap_err();
    assert!(report.contains(why), "{report}");
    assert_eq!(write(address, 1), service.owner().pid.to_string());
    service.stop();
}

#[test]
fn old_process_that_cannot_close_it_is_rolled_back() {
    let (mut service, address) = start();
    assert_eq!(write(address, 1), service.owner().pid.to_string());
    fs::write(service.dir().join("cannot-close"), "").unwrap();
    let report = service.upgrade().unwrap_err();
    let why = "could not be handed over: the exclusive `store` cannot be closed: there is a file `cannot-close`";
    assert!(report.contains(why), "{report}");
    fs::remove_file(service.dir().join("cannot-close")).unwrap();
    assert_eq!(write(address, 2), service.owner().pid.to_string());
    service.upgrade().unwrap();
    assert_eq!(numbers(address), HashSet::from([1, 2]));
    service.stop();
}

/// Somebody else is quicker each time: neither the new process nor the old one can have it.
#[test]
fn old_process_that_cannot_open_it_again_serves_the_rest() {
    let (mut service, address) = start();
    assert_eq!(write(address, 1), service.owner().pid.to_string());
    let mut gate = service.gate("close");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    service.line_after(mark, "is at the gate close");
    let mine = Database::create(service.dir().join("numbers.redb")).unwrap();
    gate.open();
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains("the exclusive `store` cannot be opened: Database already open."), "{report}");
    let line = service.line_after(mark, "the exclusive `store` cannot be opened again: Database already open.");
    assert!(line.contains("whatever needs `store` fails from now on, the rest serves"), "{line}");
    assert!(line.contains("when it can be opened, upgrade"), "{line}");

    for path in ["/numbers", "/slow"] {
        let mut http = Http::open(address).unwrap();
        http.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).unwrap();
        let answer = http.answer().unwrap();
        assert_eq!((answer.status, &*answer.body), (503, "it could not be opened again"));
    }
    assert_eq!(get(address, "/pid"), service.owner().pid.to_string());
    assert_eq!(get(address, "/count"), "1");

    // An upgrade closes nothing that is not open, and what the line promised is so.
    service.upgrade().unwrap_err();
    assert_eq!(get(address, "/pid"), service.owner().pid.to_string());
    drop(mine);
    let closed = service.log().count("has closed the store");
    service.upgrade().unwrap();
    assert_eq!(service.log().count("has closed the store"), closed);
    assert_eq!(write(address, 2), service.owner().pid.to_string());
    assert_eq!(numbers(address), HashSet::from([1, 2]));
    service.stop();
}

#[test]
fn use_that_does_not_end_is_named_and_ends_later() {
    let (mut service, address) = started(
        Start::new(env!("CARGO_BIN_EXE_numbers"))
            .env("FLIP_FREEZE_TIMEOUT", "300ms")
            .env("FLIP_QUIESCE_TIMEOUT", "0ms"),
    );
    let mut gate = service.gate("slow");
    let owner = service.owner().pid.to_string();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| get(address, "/slow"));
        service.line("is at the gate slow");
        let report = service.upgrade().unwrap_err();
        let why =
            "the freeze took longer than 300ms (freeze_timeout), waiting for the exclusive `store` not to be used";
        assert!(report.contains(why), "{report}");
        assert_eq!(service.log().count("has closed the store"), 0);
        // It was not closed, so others use it meanwhile.
        assert_eq!(write(address, 1), owner);
        gate.open();
        assert_eq!(slow.join().unwrap(), owner);
    });
    service.upgrade().unwrap();
    assert_eq!(numbers(address), HashSet::from([1]));
    service.stop();
}

#[test]
fn handler_that_outlives_the_handoff_hears_so() {
    let (mut service, address) = started(Start::new(env!("CARGO_BIN_EXE_numbers")).env("FLIP_QUIESCE_TIMEOUT", "0ms"));
    let mut gate = service.gate("late");
    let mut http = Http::open(address).unwrap();
    http.send("GET /late HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is at the gate late");
    let old = service.upgrade().unwrap();
    gate.open();
    let answer = http.answer().unwrap();
    assert_eq!((answer.status, &*answer.body), (503, "it is held by a newer process now"));
    assert!(answer.headers.contains("retry-after: 1"), "{}", answer.headers);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

/// From a roll-back on until it is open again, which takes its time.
fn reopening(service: &mut Chain) -> flip_tests::Gate {
    let gate = service.gate("reopen");
    spoil(service, "error");
    let mark = service.log().mark();
    service.upgrade().unwrap_err();
    service.line_after(mark, &format!("pid {} is at the gate reopen", service.owner().pid));
    heal(service);
    gate
}

#[test]
fn upgrade_waits_until_it_is_open_again() {
    let (mut service, address) = start();
    let mut gate = reopening(&mut service);
    // Everything else goes on.
    assert_eq!(get(address, "/pid"), service.owner().pid.to_string());
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, &format!("pid {} is ready", new.pid));
    gate.open();
    service.upgraded(mark).unwrap();
    assert_eq!(write(address, 1), new.pid.to_string());
    service.stop();
}

#[test]
fn use_waits_until_it_is_open_again() {
    let (mut service, address) = start();
    let mut gate = reopening(&mut service);
    let owner = service.owner().pid.to_string();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| write(address, 1));
        assert_eq!(get(address, "/pid"), owner);
        gate.open();
        assert_eq!(waits.join().unwrap(), owner);
    });
    service.stop();
}

#[test]
fn stop_does_not_wait_until_it_is_open_again() {
    let (mut service, _) = start();
    let _shut = reopening(&mut service);
    service.stop();
}

#[test]
fn it_is_closed_when_the_process_stops() {
    let (service, address) = start();
    write(address, 1);
    let (store, owner) = (service.dir().join("numbers.redb"), service.owner().pid);
    let dir = service.dir().to_owned();
    // Kept beside, because the directory goes with the service.
    let copy = tempfile::tempdir().unwrap();
    fs::hard_link(store, copy.path().join("numbers.redb")).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let log = service.stop();
    assert_eq!(log.count(&format!("pid {owner} has closed the store")), 1, "{}", log.text());
    Database::open(copy.path().join("numbers.redb")).unwrap();
}

#[test]
fn old_process_dies_when_it_has_handed_over_all() {
    let (mut service, address) = start();
    write(address, 1);
    let mut gate = service.gate("open");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, &format!("pid {} is at the gate open", new.pid));
    let old = service.owned_by(new);
    old.signal(Signal::SIGKILL);
    service.exit(&old);
    gate.open();
    service.line_after(mark, &format!("(pid {}) serves", service.owner().pid));
    assert_eq!(write(address, 2), service.owner().pid.to_string());
    assert_eq!(get(address, "/count"), "2");
    assert_eq!(numbers(address), HashSet::from([1, 2]));
    service.stop();
}

#[test]
fn old_process_dies_before_it_has_closed_all() {
    let (mut service, address) = start();
    write(address, 1);
    let _shut = service.gate("close");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, &format!("pid {} is at the gate close", service.owner().pid));
    let old = service.owned_by(new);
    old.signal(Signal::SIGKILL);
    service.exit(&old);
    // The state died with it, the store did not.
    service.line_after(mark, "starting over on its listeners");
    service.line_after(mark, &format!("pid {} has the store", service.owner().pid));
    assert_eq!(write(address, 2), service.owner().pid.to_string());
    assert_eq!(get(address, "/count"), "1");
    assert_eq!(numbers(address), HashSet::from([1, 2]));
    drop(_shut);
    fs::remove_file(service.dir().join("close.gate")).unwrap();
    service.stop();
}
