//! A new process that speaks nonsense, or only half of what it should: the old one goes on and says what was wrong.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use flip_tests::peer::{framed, packet};
use flip_tests::{Chain, Exit, Mark, PATIENCE, Process, Start};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SERVICE: &str = env!("CARGO_BIN_EXE_service");
/// The same with what stands for a later flip, which speaks two versions of the protocol.
const NEXT: &str = env!("CARGO_BIN_EXE_service_next");

/// The new process, which does what it is told.
struct Stranger {
    stream: BufReader<UnixStream>,
    process: Process,
}

impl Stranger {
    fn tell(&mut self, line: &str) -> String {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.stream.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn send(&mut self, bytes: &[u8], descriptors: usize) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let answer = self.tell(&format!("send {hex} {descriptors}"));
        // It may be killed for it before it can answer.
        assert!(["Ok(())", ""].contains(&&*answer), "{answer}");
    }

    fn say(&mut self, message: &Value) {
        self.send(&packet(message, 0), 0);
    }

    /// Up to the offer.
    fn hello(&mut self) {
        self.say(&hello(1, 1));
        let offer = self.tell("hear");
        assert!(offer.starts_with("5 {\"Offer\":"), "{offer}");
    }

    fn prepared(&mut self) {
        self.hello();
        self.say(&json!({ "Prepared": { "touched": null, "unpolled": [] } }));
    }
}

fn hello(oldest: u32, newest: u32) -> Value {
    json!({ "Hello": { "oldest": oldest, "newest": newest, "flip": "0.1.0" } })
}

fn start(program: &str) -> (Chain, Stranger, Mark, std::collections::BTreeMap<i32, String>) {
    let service = Start::new(program)
        .env("FLIP_READY_TIMEOUT", "500ms")
        .env("FLIP_FREEZE_TIMEOUT", "300ms")
        .env("FLIP_QUIESCE_TIMEOUT", "0ms")
        .linked_as("service")
        .start();
    assert_eq!(service.tell("add"), "1");
    let descriptors = service.owner().descriptors();
    let (stranger, mark) = come(&service);
    (service, stranger, mark, descriptors)
}

/// An upgrade to a stranger begins.
fn come(service: &Chain) -> (Stranger, Mark) {
    service.install("service", |path| symlink(env!("CARGO_BIN_EXE_stranger"), path).unwrap());
    let listener = UnixListener::bind(service.dir().join("stranger.tell")).unwrap();
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let process = service.started_after(mark);
    (Stranger { stream: BufReader::new(stream), process }, mark)
}

/// The old process takes the handoff back, says this, and all is as before.
fn refused(act: impl FnOnce(&mut Stranger), why: &str) {
    refused_by(SERVICE, act, why);
}

fn refused_by(program: &str, act: impl FnOnce(&mut Stranger), why: &str) {
    let (mut service, mut stranger, mark, descriptors) = start(program);
    act(&mut stranger);
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains(why), "{report}");
    assert_eq!(service.exit(&stranger.process), Exit::Signal(Signal::SIGKILL));
    service.only(&[service.owner()]);
    service.until("no descriptor is left open", || service.owner().descriptors() == descriptors);
    assert_eq!(service.tell("add"), "2");
    service.install("service", |path| symlink(program, path).unwrap());
    let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.tell("add"), "3");
    let log = service.stop();
    assert_eq!(log.count("panicked"), 0, "{}", log.text());
}

// ---- instead of a hello

#[test]
fn garbage() {
    refused(|new| new.send(b"GET / HTTP/1.1", 0), "sent what cannot be understood");
    refused(|new| new.send(b"x", 0), "a packet of 1 bytes is too short");
}

#[test]
fn message_that_claims_to_be_huge() {
    refused(
        |new| new.send(&framed(b"x", 1 << 30, 0), 0),
        "a message of 1073741824 bytes and 0 descriptors is too large",
    );
}

#[test]
fn message_that_nobody_knows() {
    refused(|new| new.say(&json!({ "Frobnicate": 1 })), "does not decode");
}

#[test]
fn descriptors_that_nobody_asked_for() {
    refused(|new| new.send(&framed(b"x", 1, 0), 100), "a message of 1 bytes and 0 descriptors has 1 and 100");
    // Half of a message, and then nothing: they are closed with the channel.
    refused(|new| new.send(&framed(b"x", 100, 200), 100), "was not ready within 500ms");
    // With a message that is in order but for them.
    refused(|new| new.send(&packet(&hello(1, 1), 10), 10), "was not ready within 500ms");
}

#[test]
fn versions_that_the_old_process_does_not_speak() {
    refused(|new| new.say(&hello(2, 9)), "speaks versions 2 to 9 of the protocol, this one 1 to 1");
    refused(|new| new.say(&hello(0, 0)), "speaks versions 0 to 0 of the protocol, this one 1 to 1");
}

#[test]
fn version_of_a_later_flip_that_still_speaks_this_one() {
    is_offered(SERVICE, (1, 9), 1);
}

#[test]
fn newest_version_that_both_speak_is_offered() {
    is_offered(NEXT, (1, 1), 1);
    is_offered(NEXT, (1, 2), 2);
    is_offered(NEXT, (2, 9), 2);
    refused_by(NEXT, |new| new.say(&hello(3, 9)), "speaks versions 3 to 9 of the protocol, this one 1 to 2");
}

fn is_offered(program: &str, (oldest, newest): (u32, u32), version: u32) {
    let speaks = |new: &mut Stranger| {
        new.say(&hello(oldest, newest));
        let offer = new.tell("hear");
        assert!(offer.contains(&format!("\"version\":{version}}}")), "{offer}");
    };
    refused_by(program, speaks, "was not ready within 500ms");
}

#[test]
fn silence() {
    refused(|_| {}, "was not ready within 500ms (ready_timeout)");
}

#[test]
fn end_of_the_channel_is_no_death() {
    refused(|new| drop(new.tell("shut")), "was not ready within 500ms (ready_timeout)");
}

// ---- later

#[test]
fn steps_in_the_wrong_order() {
    let prepared = json!({ "Prepared": { "touched": null, "unpolled": [] } });
    refused(|new| new.say(&prepared), "sent what cannot be understood");
    refused(|new| new.say(&json!("Ready")), "sent what cannot be understood");
    refused(
        |new| {
            new.hello();
            new.say(&json!("Ready"));
        },
        "sent what cannot be understood",
    );
    refused(
        |new| {
            new.hello();
            new.say(&hello(1, 1));
        },
        "sent what cannot be understood",
    );
    refused(
        |new| {
            new.prepared();
            new.say(&prepared);
        },
        "sent what cannot be understood",
    );
}

#[test]
fn claim_to_serve_that_the_word_does_not_bear_out() {
    refused(
        |new| {
            new.hello();
            new.say(&json!("Serving"));
        },
        "was not ready within 500ms",
    );
    refused(
        |new| {
            new.prepared();
            new.say(&json!("Serving"));
        },
        "did not get ready within 300ms of the freeze",
    );
}

#[test]
fn nothing_after_the_freeze() {
    refused(Stranger::prepared, "did not get ready within 300ms of the freeze (freeze_timeout)");
}

/// It takes no more than a few bytes at a time of a state that is much longer, and then no more.
#[test]
fn content_that_is_taken_slowly_is_waited_for_as_long_as_it_is_taken() {
    const SILENCE: Duration = Duration::from_secs(2);
    let bytes = env!("CARGO_BIN_EXE_bytes");
    let mut service = Start::new(bytes).env("FLIP_FREEZE_TIMEOUT", "2s").linked_as("service").start();
    let before = service.tell(&format!("copied {}", 64 << 20));
    let (mut stranger, mark) = come(&service);
    stranger.prepared();
    let (began, mut taken) = (Instant::now(), 0);
    while began.elapsed() < 2 * SILENCE {
        let answer = stranger.tell(&format!("take {}", 128 << 10));
        taken += answer.parse::<usize>().unwrap_or_else(|_| panic!("{answer:?} after {taken} bytes"));
        std::thread::sleep(SILENCE / 50);
    }
    assert!(!stranger.process.has_ended());
    let silent = Instant::now();
    let report = service.upgraded(mark).unwrap_err();
    let why = "did not get ready within 2s of the freeze (freeze_timeout)";
    assert!(report.contains(why), "{report}");
    assert!(silent.elapsed() >= SILENCE / 2, "what was taken last was not that long ago");
    assert_eq!(service.exit(&stranger.process), Exit::Signal(Signal::SIGKILL));
    assert_eq!(service.tell("copied"), before);
    service.stop();
}

#[test]
fn commit_that_is_not_taken_up() {
    refused(
        |new| {
            new.prepared();
            new.say(&json!("Ready"));
            assert_eq!(new.tell("hear"), "0 \"Commit\"");
        },
        "did not take over within 300ms of the commit",
    );
}

#[test]
fn garbage_after_the_commit() {
    refused(
        |new| {
            new.prepared();
            new.say(&json!("Ready"));
            assert_eq!(new.tell("hear"), "0 \"Commit\"");
            new.send(b"x", 0);
        },
        "a packet of 1 bytes is too short",
    );
}

#[test]
fn last_words_are_reported() {
    let (mut service, mut new, mark, _) = start(SERVICE);
    new.hello();
    new.say(&json!({ "Words": "the disk is on fire" }));
    new.stream.get_mut().write_all(b"exit 9\n").unwrap();
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains("ended before it served: the disk is on fire"), "{report}");
    assert_eq!(service.exit(&new.process), Exit::Status(9));
    assert_eq!(service.tell("add"), "2");
}

#[test]
fn last_words_are_heard_of_a_process_that_did_not_listen() {
    let (mut service, mut new, mark, _) = start(SERVICE);
    new.say(&hello(1, 1));
    // The kernel resets a socket that is closed with something unread.
    assert_eq!(new.tell("await"), "there");
    new.say(&json!({ "Words": "the disk is on fire" }));
    new.stream.get_mut().write_all(b"exit 9\n").unwrap();
    let report = service.upgraded(mark).unwrap_err();
    assert!(report.contains("ended before it served: the disk is on fire"), "{report}");
    assert_eq!(service.exit(&new.process), Exit::Status(9));
}

#[test]
fn death_after_the_commit() {
    let (mut service, mut new, mark, _) = start(SERVICE);
    new.prepared();
    new.say(&json!("Ready"));
    assert_eq!(new.tell("hear"), "0 \"Commit\"");
    new.stream.get_mut().write_all(b"exit 9\n").unwrap();
    let report = service.upgraded(mark).unwrap_err();
    // It asked for the commit before it had all of the content, which may still be on its way.
    assert!(report.contains("ended before it served, without a word") || report.contains("Broken pipe"), "{report}");
    assert_eq!(service.exit(&new.process), Exit::Status(9));
    assert_eq!(service.tell("add"), "2");
}
