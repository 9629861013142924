//! A service without a runtime is replaced, rolled back, drained and stopped as any other.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};

use flip_tests::client::{Load, Loss, Lost, Shared, ask_line, read_line};
use flip_tests::places::who;
use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::sys::signal::Signal;

fn start() -> Start {
    Start::new(env!("CARGO_BIN_EXE_blocking"))
}

fn address_of(service: &Chain) -> SocketAddr {
    service.line(" listens at ").rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The process that answers, and its answer.
fn ask(address: SocketAddr, question: &str) -> (i32, String) {
    answered(ask_line(address, question).unwrap())
}

fn answered(answer: String) -> (i32, String) {
    let (pid, answer) = answer.split_once(' ').unwrap();
    (pid.parse().unwrap(), answer.to_owned())
}

/// A connection that its client keeps.
struct Kept(TcpStream);

impl Kept {
    fn open(address: SocketAddr) -> Kept {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Kept(stream)
    }

    fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> (i32, String) {
        answered(read_line(&mut self.0).unwrap())
    }

    fn ask(&mut self, line: &str) -> (i32, String) {
        self.say(line);
        self.hear()
    }

    /// How the service's reports name it.
    fn name(&self) -> String {
        format!("lines from {}", self.0.local_addr().unwrap())
    }
}

#[test]
fn five_upgrades_keep_the_count_and_lose_no_message() {
    let mut service = start().start();
    let address = address_of(&service);
    let (shared, totals) = (Shared::default(), Mutex::new(BTreeSet::new()));
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..4 {
            load.client(scope, |_, _| {
                let (_, total) = who(&ask_line(address, "one more")?)?;
                let total: u64 = total.parse().map_err(|_| Lost(Loss::Wrong, total))?;
                let new = totals.lock().unwrap_or_else(PoisonError::into_inner).insert(total);
                if new { Ok(()) } else { Err(Lost(Loss::Wrong, format!("{total} was given out before"))) }
            });
        }
        for generation in 1..=5_u64 {
            let before = shared.answered();
            service.until("the clients are answered", || shared.answered() >= before + 20);
            assert_eq!(ask(address, "generation"), (service.owner().pid, generation.to_string()));
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    assert!(!tally.has_lost(), "{tally}");
    assert_eq!(totals.lock().unwrap().last(), Some(&tally.answered), "{tally}");
    assert_eq!(ask(address, "get"), (service.owner().pid, tally.answered.to_string()));
    let log = service.stop();
    assert_eq!(log.count("leaves: HandedOff"), 5, "{}", log.text());
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
}

#[test]
fn connection_stays_with_its_process_and_is_counted_by_the_next() {
    let mut service = start().start();
    let address = address_of(&service);
    let mut kept = Kept::open(address);
    assert_eq!(kept.ask("one"), (service.owner().pid, "1".to_owned()));
    let old = service.upgrade().unwrap();
    service.line(&format!("pid {} leaves: HandedOff", old.pid));
    assert_eq!(ask(address, "two"), (service.owner().pid, "2".to_owned()));
    assert_eq!(kept.ask("three"), (old.pid, "3".to_owned()));
    assert_eq!(kept.ask("get"), (old.pid, "error: the state has been handed over to a newer process".to_owned()));
    drop(kept);
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(ask(address, "get").1, "3");
    service.stop();
}

// ---- roll-back

/// Lets an upgrade fail and sees that the threads go on; then it is healed, and the next one works.
fn rolled_back<T>(start: Start, spoil: impl FnOnce(&Chain) -> T, because: &str, heal: impl FnOnce(&Chain, T)) {
    let mut service = start.start();
    let address = address_of(&service);
    let first = service.owner().pid;
    let mut kept = Kept::open(address);
    assert_eq!(kept.ask("one"), (first, "1".to_owned()));
    let spoilt = spoil(&service);

    let report = service.upgrade().unwrap_err();
    assert!(report.contains(because), "{report}");
    assert!(report.contains(&format!("generation 1 (pid {first}) goes on")), "{report}");
    service.only(&[service.owner()]);
    assert_eq!(kept.ask("two"), (first, "2".to_owned()));
    assert_eq!(ask(address, "three"), (first, "3".to_owned()));

    // Whoever asks on a thread hears the same.
    let (_, report) = ask(address, "upgrade");
    assert!(report.starts_with("error: ") && report.contains(because), "{report}");
    service.until("the line is there, too", || service.log().count("upgrade rolled back: ") == 2);
    service.only(&[service.owner()]);
    drop(kept);

    heal(&service, spoilt);
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(ask(address, "four"), (service.owner().pid, "4".to_owned()));
    for pid in [first, service.owner().pid] {
        service.line(&format!("pid {pid} runs the job"));
    }
    let log = service.stop();
    // Those that failed never served, and no wait for that has returned.
    assert_eq!((log.count(" is ready"), log.count(" runs the job")), (2, 2), "{}", log.text());
}

fn starting(what: &str, because: &str) {
    rolled_back(start(), |service| service.at_start(what), because, |service, ()| service.at_start(""));
}

#[test]
fn new_process_returns_an_error() {
    starting("error", "ended before it served: main returned an error: \"the new one fails on purpose\"");
}

#[test]
fn new_process_panics() {
    starting("panic", "the new one panics on purpose");
}

#[test]
fn new_process_never_accepts() {
    let start = start().env("FLIP_READY_TIMEOUT", "700ms");
    rolled_back(start, |service| service.gate("accept"), "was not ready within 700ms", |_, mut gate| gate.open());
}

// ---- threads that wait

/// Connections whose threads wait until the owner leaves.
fn waiting(service: &Chain, address: SocketAddr) -> Vec<Kept> {
    let mut waiting: Vec<_> = (0..3).map(|_| Kept::open(address)).collect();
    waiting.iter_mut().for_each(|kept| kept.say("until it leaves"));
    let said = format!("pid {} waits until it leaves", service.owner().pid);
    service.until("they wait", || service.log().count(&said) == 3);
    waiting
}

#[test]
fn every_thread_hears_why_the_process_leaves() {
    let mut service = start().start();
    let address = address_of(&service);
    let mut first = waiting(&service, address);
    let old = service.upgrade().unwrap();
    for kept in &mut first {
        assert_eq!(kept.hear(), (old.pid, "HandedOff".to_owned()));
        // Again and again.
        assert_eq!(kept.ask("until it leaves"), (old.pid, "HandedOff".to_owned()));
    }
    drop(first);
    assert_eq!(service.exit(&old), Exit::Status(0));

    let mut second = waiting(&service, address);
    service.owner().signal(Signal::SIGTERM);
    for kept in &mut second {
        assert_eq!(kept.hear(), (service.owner().pid, "Stopped".to_owned()));
    }
    drop(second);
    let log = service.stopped();
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
}

#[test]
fn thread_that_asks_for_an_upgrade_hears_of_its_end() {
    let mut service = start().start();
    let address = address_of(&service);
    let mut kept = Kept::open(address);
    assert_eq!(kept.ask("until it serves").1, "serves");
    let mark = service.log().mark();
    kept.say("upgrade");
    let old = service.upgraded(mark).unwrap();
    let new = service.owner().pid;
    assert_eq!(kept.hear(), (old.pid, format!("Upgraded {{ pid: {new}, generation: 2 }}")));
    // It has served, whatever became of it since.
    assert_eq!(kept.ask("until it serves"), (old.pid, "serves".to_owned()));
    assert_eq!(kept.ask("upgrade").1, "error: a newer process owns the service; ask that one");
    drop(kept);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

// ---- the end

#[test]
fn stop_ends_it() {
    let service = start().start();
    let address = address_of(&service);
    assert_eq!(ask(address, "one").1, "1");
    let log = service.stop();
    assert_eq!(log.count("leaves: Stopped"), 1, "{}", log.text());
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
}

#[test]
fn connection_that_stays_open_is_cut_at_the_deadline_and_named() {
    let mut service = start().env("FLIP_DRAIN_TIMEOUT", "300ms").start();
    let address = address_of(&service);
    // First in a process that has handed over, then in one that stops.
    let mut kept = Kept::open(address);
    assert_eq!(kept.ask("one").1, "1");
    let old = service.upgrade().unwrap();
    let line = service.line(&format!("cut: {}, ", kept.name()));
    assert!(line.ends_with(" s old"), "{line}");
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert!(read_line(&mut kept.0).is_err());

    let mut kept = Kept::open(address);
    assert_eq!(kept.ask("two"), (service.owner().pid, "2".to_owned()));
    service.owner().signal(Signal::SIGTERM);
    service.line(&format!("cut: {}, ", kept.name()));
    let log = service.stopped();
    assert!(read_line(&mut kept.0).is_err());
    assert_eq!(log.count("cut: "), 2, "{}", log.text());
    assert_eq!(log.count("leaves: "), 2, "{}", log.text());
}

/// Nobody can drop a `main` that runs on a thread: the process ends under it.
#[test]
fn main_that_does_not_return_is_cut() {
    let mut service = start().env("FLIP_DRAIN_TIMEOUT", "300ms").start();
    let _gate = service.gate("return");
    let old = service.upgrade().unwrap();
    service.line(&format!("pid {} is at the gate return", old.pid));
    service.line("cut: main, which has not returned");
    assert_eq!(service.exit(&old), Exit::Status(0));
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGTERM);
    service.line_after(mark, "cut: main, which has not returned");
    let log = service.stopped();
    assert_eq!(log.count("leaves: "), 0, "{}", log.text());
}
