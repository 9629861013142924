//! Connections that are part of a state stay the same ones, moments stay the same moments, and content may be long.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::sys::signal::Signal;

/// How far a moment may be off after a handoff, in nanoseconds: much more than its clock is read wrongly by.
const SLACK: u128 = 1_000_000;
/// How long a freeze takes where it must take long; a moment that had to wait would be off by that.
const LONG: Duration = Duration::from_millis(20);

/// The other ends of the service's connections.
struct Peers {
    listener: TcpListener,
    streams: Vec<BufReader<TcpStream>>,
}

impl Peers {
    fn connect(service: &Chain, count: usize) -> Peers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accept = |name| {
            assert_eq!(service.tell(&format!("connect {name} {address}")), "connected");
            let stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        };
        let streams = (0..count).map(accept).collect();
        // Whoever comes later is not waited for.
        listener.set_nonblocking(true).unwrap();
        Peers { listener, streams }
    }

    /// Each of them talks to the service, both ways, and none has come anew.
    fn talk(&mut self, service: &Chain, word: &str) {
        for (name, stream) in self.streams.iter_mut().enumerate() {
            stream.get_mut().write_all(format!("{word}-{name}\n").as_bytes()).unwrap();
            assert_eq!(service.tell(&format!("receive {name}")), format!("{word}-{name}"));
            assert_eq!(service.tell(&format!("send {name} {name}-{word}")), "sent");
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{name}-{word}\n"));
        }
        assert_eq!(self.listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    /// Says something that nobody reads yet.
    fn say(&mut self, word: &str) {
        for stream in &mut self.streams {
            stream.get_mut().write_all(format!("{word}\n").as_bytes()).unwrap();
        }
    }

    fn is_heard(&self, service: &Chain, word: &str) {
        for name in 0..self.streams.len() {
            assert_eq!(service.tell(&format!("receive {name}")), word);
        }
    }
}

fn upgrade(service: &mut Chain) {
    let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.exit(&old), Exit::Status(0));
}

#[test]
fn peer_talks_over_the_same_connection() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_wires")).start();
    let mut peers = Peers::connect(&service, 3);
    peers.talk(&service, "first");
    let descriptors = service.owner().descriptor_kinds();
    for word in ["second", "third"] {
        peers.say("meanwhile");
        upgrade(&mut service);
        peers.is_heard(&service, "meanwhile");
        peers.talk(&service, word);
        service.until("it has as many descriptors", || service.owner().descriptor_kinds() == descriptors);
    }
    service.stop();
    // It was open until then, and nobody has kept it.
    for mut stream in peers.streams {
        assert_eq!(stream.read_line(&mut String::new()).unwrap(), 0);
    }
}

#[test]
fn more_than_one_message_holds_travel() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_wires")).start();
    // The kernel takes 253 with one message, unix(7).
    let mut peers = Peers::connect(&service, 300);
    let descriptors = service.owner().descriptor_kinds();
    for word in ["second", "third"] {
        upgrade(&mut service);
        peers.talk(&service, word);
        service.until("it has as many descriptors", || service.owner().descriptor_kinds() == descriptors);
    }
    service.stop();
}

#[test]
fn old_process_goes_on_with_them_after_a_roll_back() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_wires")).start();
    let mut peers = Peers::connect(&service, 3);
    peers.talk(&service, "first");
    let descriptors = service.owner().descriptors();
    service.at_start("late");
    for word in ["second", "third"] {
        let mark = service.log().mark();
        let report = service.upgrade().unwrap_err();
        assert!(report.contains("the new one fails when it has the content"), "{report}");
        // It had them, and its end closed its own.
        service.line_after(mark, "has 3 wires");
        service.only(&[service.owner()]);
        peers.talk(&service, word);
        service.until("no descriptor is left open", || service.owner().descriptors() == descriptors);
    }
    service.at_start("");
    upgrade(&mut service);
    peers.talk(&service, "fourth");
    service.stop();
}

#[test]
fn moment_stays_the_same_moment() {
    let placed = |service: &Chain| {
        let answer = service.tell("since");
        let (from, to) = answer.split_once(' ').unwrap();
        (from.parse::<u128>().unwrap(), to.parse::<u128>().unwrap())
    };
    let mut service = Start::new(env!("CARGO_BIN_EXE_wires")).env("FLIP_FREEZE_TIMEOUT", "25s").start();
    let (from, to) = placed(&service);
    let born = service.tell("born");
    for _ in 0..4 {
        // It is written, and not read for a while.
        let mut gate = service.gate("save");
        let (mark, begin) = (service.log().mark(), Instant::now());
        service.owner().signal(Signal::SIGHUP);
        service.line_after(mark, "is at the gate save");
        service.until("the clock has gone on", || begin.elapsed() > LONG);
        gate.open();
        let old = service.upgraded(mark).unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
        let again = placed(&service);
        assert!(again.0 <= to + SLACK && from <= again.1 + SLACK, "{from} to {to} has become {again:?}");
        assert_eq!(service.tell("born"), born);
    }
    service.stop();
}

#[test]
fn long_text_travels_in_many_frames() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_wires")).start();
    let mut peers = Peers::connect(&service, 1);
    // Nine megabytes, and a length that no frame is a divisor of.
    assert_eq!(service.tell("text flip·äöü·0123456789 400009"), "written");
    let text = service.tell("text");
    assert!(text.starts_with("9600216 bytes"), "{text}");
    for word in ["second", "third"] {
        upgrade(&mut service);
        assert_eq!(service.tell("text"), text);
        peers.talk(&service, word);
    }
    service.stop();
}
