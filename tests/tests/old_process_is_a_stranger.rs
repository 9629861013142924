//! A new process whose old one speaks nonsense: it says what is wrong and leaves, and keeps nothing.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use flip_tests::peer::{Peer, channel, framed, packet};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How long the new process waits for content from a silent old one: the freeze's time and a second.
const SILENCE: Duration = Duration::from_millis(1300);

fn start(ready_timeout: &str) -> (Chain, Peer) {
    let (old, new) = channel();
    let start = Start::new(env!("CARGO_BIN_EXE_service"))
        .env("FLIP_READY_TIMEOUT", ready_timeout)
        .env("FLIP_FREEZE_TIMEOUT", "300ms")
        .env("FLIP_QUIESCE_TIMEOUT", "0ms")
        .channel(new, "$$:$FD:$INODE");
    let service = start.spawn();
    let hello = old.hear(PATIENCE).unwrap().expect("it says hello first");
    assert_eq!((&hello.value["Hello"]["oldest"], &hello.value["Hello"]["newest"]), (&json!(1), &json!(1)));
    assert!(hello.descriptors.is_empty());
    (service, old)
}

/// It leaves with status 1, and says this.
fn leaves(mut service: Chain, why: &str) {
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    service.gone();
    let said = service.log().text();
    assert!(said.contains("leaves without having served") && said.contains(why), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

fn after(bytes: &[u8], why: &str) {
    let (service, old) = start("25s");
    old.send(bytes, &[]).unwrap();
    leaves(service, why);
}

/// What an offer brings before its listeners.
struct Given {
    word: OwnedFd,
    pidfd: OwnedFd,
    content: (UnixStream, UnixStream),
    calls: (Peer, OwnedFd),
    passes: (Peer, OwnedFd),
}

impl Given {
    fn new() -> Given {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut word = File::from(memfd_create(c"word", flags).unwrap());
        word.write_all(&[0; 4]).unwrap();
        fcntl(&word, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        // SAFETY: takes integers.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
        // SAFETY: just opened.
        let pidfd = unsafe { std::os::fd::FromRawFd::from_raw_fd(pidfd as i32) };
        Given { word: word.into(), pidfd, content: UnixStream::pair().unwrap(), calls: channel(), passes: channel() }
    }

    fn descriptors(&self) -> [&dyn AsFd; 5] {
        [&self.word, &self.pidfd, &self.content.1, &self.calls.1, &self.passes.1]
    }

    /// A section of the content: a frame, and an empty frame behind it.
    fn section(&mut self, bytes: &[u8]) {
        let frames = [framed(bytes, bytes.len(), 0), framed(b"", 0, 0)].concat();
        self.content.0.write_all(&frames).unwrap();
    }

    fn sizes(&mut self, sizes: &Value) {
        self.section(&rmp_serde::to_vec_named(sizes).unwrap());
    }
}

fn offer() -> Value {
    json!({ "Offer": {
        "version": 1, "generation": 7, "pid": std::process::id(), "mask": [], "listeners": [], "states": [],
    } })
}

fn offer_with(field: &str, value: Value) -> Value {
    let mut offer = offer();
    offer["Offer"][field] = value;
    offer
}

// ---- instead of an offer

#[test]
fn packet_without_a_header() {
    after(b"hey", "a packet of 3 bytes is too short");
}

#[test]
fn message_that_claims_to_be_huge() {
    after(&framed(b"", u32::MAX as usize, 0), "a message of 4294967295 bytes and 0 descriptors is too large");
    after(&framed(b"", 1, 1 << 20), "a message of 1 bytes and 1048576 descriptors is too large");
}

#[test]
fn message_longer_than_it_claims() {
    after(&framed(b"abcdef", 3, 0), "a message of 3 bytes and 0 descriptors has 6 and 0");
}

#[test]
fn packets_that_bring_nothing() {
    after(&framed(b"", 100, 0), "a packet brings nothing");
}

#[test]
fn packet_of_another_message_in_between() {
    let (service, old) = start("25s");
    old.send(&framed(b"abc", 100, 0), &[]).unwrap();
    old.send(&framed(b"abc", 101, 0), &[]).unwrap();
    leaves(service, "a packet of another message came before the message was whole");
}

#[test]
fn message_that_is_no_message() {
    after(&framed(&[0xc1; 40], 40, 0), "a message of 40 bytes does not decode");
    after(&framed(&[0x91; 4096], 4096, 0), "does not decode");
    after(&framed(&[], 0, 0), "a message of 0 bytes does not decode");
}

#[test]
fn message_that_nobody_knows() {
    after(&packet(&json!({ "Frobnicate": { "how": 1 } }), 0), "does not decode");
    after(&packet(&json!("Hello"), 0), "does not decode");
}

#[test]
fn message_of_the_other_side() {
    for message in [json!("Ready"), json!("Done"), json!({ "Words": "hm" })] {
        after(&packet(&message, 0), "the old process sent what cannot be understood");
    }
}

#[test]
fn silence() {
    let (service, _old) = start("300ms");
    leaves(service, "the old process made no offer in time");
}

#[test]
fn half_a_message_and_silence() {
    let (service, old) = start("300ms");
    old.send(&framed(b"abc", 100, 0), &[]).unwrap();
    leaves(service, "the old process made no offer in time");
}

#[test]
fn half_a_message_and_the_end() {
    let (service, old) = start("300ms");
    old.send(&framed(b"abc", 100, 4), &[service.dir_fd().as_raw_fd()]).unwrap();
    drop(old);
    // An end means nothing as long as its process lives.
    leaves(service, "the old process made no offer in time");
}

#[test]
fn commit_of_what_was_never_offered() {
    let (service, old) = start("300ms");
    for message in ["Commit", "Again", "Stop"] {
        old.say(&json!(message), &[]).unwrap();
    }
    leaves(service, "the old process made no offer in time");
}

// ---- an offer that is none

fn offered(offer: &Value, descriptors: &[&dyn AsFd], why: &str) {
    let (service, old) = start("25s");
    old.say(offer, descriptors).unwrap();
    leaves(service, why);
}

#[test]
fn offer_of_another_version() {
    offered(&offer_with("version", json!(2)), &Given::new().descriptors(), "version 2");
}

#[test]
fn offer_with_too_few_or_too_many_descriptors() {
    let given = Given::new();
    let (given, null) = (given.descriptors(), File::open("/dev/null").unwrap());
    offered(&offer(), &[], "the offer names 0 listeners and 0 relays and brings 0 descriptors");
    offered(&offer(), &given[..4], "the offer names 0 listeners and 0 relays and brings 4 descriptors");
    let many = [&given[..], &[&null]].concat();
    offered(&offer(), &many, "the offer names 0 listeners and 0 relays and brings 6 descriptors");
}

#[test]
fn offer_whose_word_is_none() {
    let given = Given::new();
    let null = File::open("/dev/null").unwrap();
    let [_, rest @ ..] = given.descriptors();
    offered(&offer(), &[&[&null as &dyn AsFd], &rest[..]].concat(), "the owner word cannot be mapped");
    let loose = memfd_create(c"word", MFdFlags::MFD_CLOEXEC).unwrap();
    offered(&offer(), &[&[&loose as &dyn AsFd], &rest[..]].concat(), "the owner word is not sealed");
}

#[test]
fn offer_whose_process_is_none() {
    let given = Given::new();
    let null = File::open("/dev/null").unwrap();
    let [word, _, rest @ ..] = given.descriptors();
    offered(&offer(), &[&[word, &null], &rest[..]].concat(), "the old process's handle");
}

#[test]
fn offer_made_twice() {
    let (service, old) = start("25s");
    let gate = service.gate("start");
    let given = Given::new();
    old.say(&offer(), &given.descriptors()).unwrap();
    old.say(&offer(), &Given::new().descriptors()).unwrap();
    service.line("is at the gate start");
    // It goes by the first, and by nothing of the second: its word is another.
    service.owner().signal(Signal::SIGTERM);
    leaves(service, "it was told to stop");
    drop(gate);
}

// ---- an offer, and then nonsense

/// Makes a good offer of a state, and waits until the content is wanted.
fn until_prepared() -> (Chain, Peer, Given) {
    until_prepared_for(&json!({ "bulks": [] }))
}

fn until_prepared_for(sizes: &Value) -> (Chain, Peer, Given) {
    let (service, old) = start("25s");
    let mut given = Given::new();
    old.say(&offer(), &given.descriptors()).unwrap();
    given.sizes(sizes);
    let prepared = old.hear(PATIENCE).unwrap().expect("it asks for the content");
    assert!(prepared.value.get("Prepared").is_some(), "{}", prepared.value);
    (service, old, given)
}

#[test]
fn content_that_never_comes() {
    let (service, _old, _given) = until_prepared();
    leaves(service, "the old process fell silent");
}

#[test]
fn sizes_that_never_come() {
    let (service, old) = start("25s");
    let given = Given::new();
    old.say(&offer(), &given.descriptors()).unwrap();
    let prepared = old.hear(PATIENCE).unwrap().expect("it asks for the content all the same");
    assert!(prepared.value.get("Prepared").is_some(), "{}", prepared.value);
    leaves(service, "the old process fell silent");
}

#[test]
fn sizes_that_come_late() {
    let (service, old) = start("25s");
    let mut given = Given::new();
    old.say(&offer(), &given.descriptors()).unwrap();
    old.hear(PATIENCE).unwrap().expect("it asks for the content");
    given.sizes(&json!({ "bulks": [1 << 20] }));
    given.section(&rmp_serde::to_vec_named(&json!({ "draining": [], "states": [] })).unwrap());
    given.section(b"flip: whole");
    assert_eq!(old.hear(PATIENCE).unwrap().expect("it has all that it needs").value, json!("Ready"));
    leaves(service, "the old process fell silent");
}

#[test]
fn content_that_keeps_coming_is_waited_for_as_long_as_it_does() {
    let (service, old, mut given) = until_prepared();
    given.section(&rmp_serde::to_vec_named(&json!({ "draining": [], "states": ["unknown"] })).unwrap());
    // More than twice as long as it would wait for a silent one, and never that long without a byte.
    let begin = Instant::now();
    while begin.elapsed() < 2 * SILENCE {
        given.content.0.write_all(&framed(b"more", 4, 0)).unwrap();
        assert_eq!(old.wait(SILENCE / 20).unwrap_err().kind(), ErrorKind::TimedOut, "it says or does something");
    }
    given.content.0.write_all(&framed(b"", 0, 0)).unwrap();
    given.section(b"flip: whole");
    assert_eq!(old.hear(PATIENCE).unwrap().expect("it has all that it needs").value, json!("Ready"));
    leaves(service, "the old process fell silent");
}

#[test]
fn content_that_stops_coming_is_not_waited_for() {
    let (service, _old, mut given) = until_prepared();
    given.section(&rmp_serde::to_vec_named(&json!({ "draining": [], "states": ["unknown"] })).unwrap());
    given.content.0.write_all(&framed(b"more", 4, 0)).unwrap();
    leaves(service, "the old process fell silent");
}

#[test]
fn sizes_that_are_mad() {
    let sizes = json!({ "bulks": [u64::MAX, 1_u64 << 60, 1_u64 << 62] });
    let (service, _old, given) = until_prepared_for(&sizes);
    drop(given);
    leaves(service, "the old process fell silent");
}

#[test]
fn sizes_that_are_nonsense() {
    for nonsense in [&json!("nonsense"), &json!({ "bulks": [-1] })] {
        let (service, old) = start("25s");
        let mut given = Given::new();
        old.say(&offer(), &given.descriptors()).unwrap();
        given.sizes(nonsense);
        leaves(service, "content");
    }
}

#[test]
fn content_that_is_nonsense() {
    for nonsense in
        [&[0xff; 64][..], &[1, 0, 0, 0, 0, 0, 0, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0, 0], &[8, 0, 0, 0, 1, 0, 0, 0]]
    {
        let (service, _old, mut given) = until_prepared();
        given.content.0.write_all(nonsense).unwrap();
        leaves(service, "content");
    }
}

#[test]
fn content_without_an_end() {
    let (service, _old, given) = until_prepared();
    drop(given);
    // The one that lives would take the handoff back; this one only keeps silent.
    leaves(service, "the old process fell silent");
}

#[test]
fn commit_that_the_word_does_not_bear_out() {
    let (service, old, mut given) = until_prepared();
    let header = rmp_serde::to_vec_named(&json!({ "draining": [], "states": [] })).unwrap();
    given.section(&header);
    given.section(b"flip: whole");
    assert_eq!(old.hear(PATIENCE).unwrap().expect("it has all that it needs").value, json!("Ready"));
    old.say(&json!("Commit"), &[]).unwrap();
    leaves(service, "the old process fell silent");
}
