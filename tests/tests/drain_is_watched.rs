//! While a process drains, what it serves is asked to end, what is left is reported, and health checks are answered.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};

use flip_tests::client::{Answer, Http};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::sys::signal::Signal;

struct Watched {
    service: Chain,
    lines: SocketAddr,
    checks: SocketAddr,
}

fn start(settings: &[(&str, &str)]) -> Watched {
    let settings =
        settings.iter().fold(Start::new(env!("CARGO_BIN_EXE_checks")), |start, (name, value)| start.env(name, value));
    let service = settings.start();
    let address = |of: &str| service.line(of).rsplit_once(' ').unwrap().1.parse().unwrap();
    Watched { lines: address("takes lines at "), checks: address("takes checks at "), service }
}

/// A raw connection that is served.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(address: SocketAddr) -> Line {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Line(BufReader::new(stream));
        assert_eq!(line.next(), "hello\n");
        line
    }

    fn next(&mut self) -> String {
        let mut said = String::new();
        self.0.read_line(&mut said).unwrap();
        said
    }

    fn address(&self) -> SocketAddr {
        self.0.get_ref().local_addr().unwrap()
    }
}

fn check(http: &mut Http) -> Answer {
    http.send("GET /health HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    http.answer().unwrap()
}

#[test]
fn raw_connection_is_asked_and_then_cut() {
    let mut watched = start(&[("FLIP_DRAIN_TIMEOUT", "500ms")]);
    let mut line = Line::open(watched.lines);
    watched.service.owner().signal(Signal::SIGTERM);
    assert_eq!(line.next(), "asked: Stopped\n");
    let cut = watched.service.line(&format!("cut: lines from {}, ", line.address()));
    assert!(cut.ends_with(" s old"), "{cut}");
    assert_eq!(line.next(), "");
    watched.service.stopped();
}

#[test]
fn raw_connection_is_asked_at_a_handoff_too() {
    let mut watched = start(&[]);
    let mut line = Line::open(watched.lines);
    let old = watched.service.upgrade().unwrap();
    assert_eq!(line.next(), "asked: HandedOff\n");
    assert!(!old.has_ended());
    drop(line);
    assert_eq!(watched.service.exit(&old), Exit::Status(0));
    let log = watched.service.stop();
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
}

#[test]
fn what_is_left_is_reported_while_it_lasts() {
    let mut watched = start(&[]);
    let (first, second) = (Line::open(watched.lines), Line::open(watched.lines));
    let left = |count| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} connection{plural} (lines {count}), the oldest: lines from {}, ", first.address())
    };
    watched.service.owner().signal(Signal::SIGTERM);
    let begin = watched.service.line(&format!("stops and drains {}", left(2)));
    assert!(begin.ends_with(" s left (drain_timeout)"), "{begin}");
    drop(second);
    watched.service.line(&format!("drains for 1 s: {}", left(1)));
    let later = watched.service.line(&format!("drains for 2 s: {}", left(1)));
    assert!(later.contains(" s old; 2") && later.ends_with(" s left (drain_timeout)"), "{later}");
    drop(first);
    watched.service.stopped();
}

#[test]
fn owner_reports_the_generations_it_waits_for() {
    let mut watched = start(&[]);
    let line = Line::open(watched.lines);
    let old = watched.service.upgrade().unwrap();
    watched.service.line(&format!("(pid {}) drains for 1 s: 1 connection (lines 1)", old.pid));
    watched.service.owner().signal(Signal::SIGTERM);
    let owner = watched.service.owner().pid;
    watched.service.line(&format!("(pid {owner}) drains for 1 s: generation 1 (pid {}) drains", old.pid));
    // Nothing is open here, and the service is not at its end all the same.
    assert_eq!(check(&mut Http::open(watched.checks).unwrap()).status, 503);
    drop(line);
    assert_eq!(watched.service.exit(&old), Exit::Status(0));
    watched.service.stopped();
}

#[test]
fn checks_are_answered_until_all_else_is_done() {
    let mut watched = start(&[]);
    let line = Line::open(watched.lines);
    let mut kept = Http::open(watched.checks).unwrap();
    assert_eq!(check(&mut kept).status, 200);
    watched.service.owner().signal(Signal::SIGTERM);
    watched.service.line("stops and drains 1 connection (lines 1)");
    let left = format!("Stopped: 1 connection (lines 1), the oldest: lines from {}, ", line.address());
    for _ in 0..3 {
        let mut fresh = Http::open(watched.checks).unwrap();
        for http in [&mut kept, &mut fresh] {
            let answer = check(http);
            assert_eq!((answer.status, answer.last), (503, false));
            assert!(answer.body.starts_with(&left), "{}", answer.body);
        }
    }
    assert!(TcpStream::connect(watched.lines).is_err());
    // Neither one that rests nor one that never asks keeps the process.
    let silent = Http::open(watched.checks).unwrap();
    drop(line);
    let log = watched.service.stopped();
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
    assert!(TcpStream::connect(watched.checks).is_err());
    drop((kept, silent));
}

#[test]
fn checks_are_answered_until_the_deadline_at_most() {
    let mut watched = start(&[("FLIP_DRAIN_TIMEOUT", "1s")]);
    let line = Line::open(watched.lines);
    watched.service.owner().signal(Signal::SIGTERM);
    watched.service.line("stops and drains 1 connection");
    assert_eq!(check(&mut Http::open(watched.checks).unwrap()).status, 503);
    watched.service.line(&format!("cut: lines from {}, ", line.address()));
    watched.service.stopped();
}

#[test]
fn checks_go_to_the_new_process_at_a_handoff() {
    let mut watched = start(&[]);
    let line = Line::open(watched.lines);
    let mut kept = Http::open(watched.checks).unwrap();
    assert_eq!(check(&mut kept).body, watched.service.owner().pid.to_string());
    let old = watched.service.upgrade().unwrap();
    for http in [&mut kept, &mut Http::open(watched.checks).unwrap()] {
        let answer = check(http);
        assert_eq!((answer.status, answer.body), (200, watched.service.owner().pid.to_string()));
    }
    drop((line, kept));
    assert_eq!(watched.service.exit(&old), Exit::Status(0));
    watched.service.stop();
}
