//! Each example does what its page says: it answers, is replaced with what it knows, and stops.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use flip_tests::client::{Http, Loss, ask_line, read_line};
use flip_tests::places::{free_address, listening, spawn};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use serde_json::{Value, json};

/// An example that listens at one address, and where that is.
fn start(executable: &str) -> (Chain, SocketAddr) {
    spawn(Start::new(executable).arg("--listen").arg("127.0.0.1:0"))
}

fn get(address: SocketAddr, path: &str) -> String {
    Http::open(address).unwrap().exchange("GET", path).unwrap().body
}

/// Who answers `/whoami`.
fn whoami(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/whoami")).unwrap()
}

/// A connection whose lines are answered one by one.
struct Lines(TcpStream);

impl Lines {
    fn open(address: SocketAddr) -> Lines {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Lines(stream)
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
        read_line(&mut self.0).unwrap()
    }
}

#[test]
fn hello() {
    let (mut service, address) = start(env!("CARGO_BIN_EXE_hello"));
    let first = service.owner().pid;
    service.line(&format!("generation 1 (pid {first}) serves at {address}"));
    let mut kept = Http::open(address).unwrap();
    assert_eq!(kept.exchange("GET", "/").unwrap().body, format!("visit 1, served by {first}\n"));
    assert_eq!(whoami(address), json!({ "pid": first, "generation": 1 }));
    let old = service.upgrade().unwrap();
    let second = service.owner().pid;
    assert_eq!(kept.exchange("GET", "/").unwrap().body, format!("visit 2, served by {second}\n"));
    assert_eq!(get(address, "/"), format!("visit 3, served by {second}\n"));
    assert_eq!(whoami(address), json!({ "pid": second, "generation": 2 }));
    assert_eq!(service.exit(&old), Exit::Status(0));
    drop(kept);
    service.stop();
}

#[test]
fn counter() {
    let (mut service, address) = start(env!("CARGO_BIN_EXE_counter"));
    let mut kept = Http::open(address).unwrap();
    for total in 1..=3 {
        assert_eq!(kept.exchange("POST", "/hit").unwrap().body, format!("{total}\n"));
    }
    let mut events = Http::open(address).unwrap();
    events.send("GET /events HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(events.head().unwrap().0, 200);
    assert_eq!(events.chunk().unwrap().unwrap(), "data: 3\n\n");
    assert_eq!(whoami(address), json!({ "pid": service.owner().pid, "generation": 1 }));

    let old = service.upgrade().unwrap();
    assert_eq!(kept.exchange("POST", "/hit").unwrap().body, "4\n");
    assert_eq!(get(address, "/total"), "4\n");
    assert_eq!(whoami(address), json!({ "pid": service.owner().pid, "generation": 2 }));
    // The total is another process's now, which ends the events in good order, and then the process.
    while events.chunk().unwrap().is_some() {}
    drop(events);
    assert_eq!(service.exit(&old), Exit::Status(0));
    drop(kept);
    service.stop();
}

#[test]
fn echo() {
    let (mut service, address) = start(env!("CARGO_BIN_EXE_echo"));
    let first = service.owner().pid;
    let mut kept = Lines::open(address);
    assert_eq!(kept.ask("one"), format!("{first}: one"));
    let old = service.upgrade().unwrap();
    assert_eq!(ask_line(address, "two").unwrap(), format!("{}: two", service.owner().pid));
    assert_eq!(kept.ask("three"), format!("{first}: three"));
    drop(kept);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn talk() {
    let (mut service, address) = start(env!("CARGO_BIN_EXE_talk"));
    let mut kept = Lines::open(address);
    assert_eq!(kept.ask("one"), format!("{}: line 1: one", service.owner().pid));
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(kept.ask("two"), format!("{}: line 2: two", service.owner().pid));
    service.stop();
}

#[test]
fn threads() {
    let (mut service, address) = start(env!("CARGO_BIN_EXE_threads"));
    let first = service.owner().pid;
    let mut kept = Lines::open(address);
    assert_eq!(kept.ask("one"), format!("{first}: line 1: one"));
    let old = service.upgrade().unwrap();
    assert_eq!(ask_line(address, "two").unwrap(), format!("{}: line 2: two", service.owner().pid));
    assert_eq!(kept.ask("three"), format!("{first}: the state has been handed over to a newer process"));
    assert_eq!(read_line(&mut kept.0).unwrap_err().0, Loss::Unanswered);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn store() {
    let (mut service, address) = start(env!("CARGO_BIN_EXE_store"));
    let visit = || Http::open(address).unwrap().exchange("POST", "/visit").unwrap().body;
    assert_eq!(visit(), format!("visit 1, served by {}\n", service.owner().pid));
    let old = service.upgrade().unwrap();
    assert_eq!(visit(), format!("visit 2, served by {}\n", service.owner().pid));
    assert_eq!(service.exit(&old), Exit::Status(0));

    // The database is this process's alone: the same program, started beside it, cannot have it.
    let file = service.dir().join("visits.redb");
    let beside = Start::new(env!("CARGO_BIN_EXE_store"));
    let beside = beside.arg("--listen").arg("127.0.0.1:0").arg("--store").arg(file.to_str().unwrap()).spawn();
    assert_eq!(beside.exit(beside.owner()), Exit::Status(1));
    beside.line("the parameter `store` cannot be opened: Database already open. Cannot acquire lock.");
    assert_eq!(visit(), format!("visit 3, served by {}\n", service.owner().pid));
    service.stop();
}

// ---- config

/// What the operators' socket answers.
fn get_inside(socket: &Path, path: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn config() {
    let start = Start::new(env!("CARGO_BIN_EXE_config")).arg("--config").arg("config.toml");
    let (file, socket) = (start.dir().join("config.toml"), start.dir().join("admin.sock"));
    let (http, metrics) = ([free_address(), free_address()], free_address());
    let configure = |greeting: &str, more: &str| {
        let [a, b] = http;
        let text =
            format!("{greeting}\nhttp = ['{a}', '{b}']\nadmin = '{}'\njob_seconds = 3600\n{more}", socket.display());
        std::fs::write(&file, text).unwrap();
    };
    configure("greeting = 'good morning'", &format!("metrics = '{metrics}'"));
    let mut service = start.spawn();
    // The job runs where everything is there.
    service.line("the job ran generation=1");
    for address in http {
        assert_eq!(get(address, "/"), "good morning\n");
        assert_eq!(whoami(address), json!({ "pid": service.owner().pid, "generation": 1 }));
    }
    assert_eq!(get(metrics, "/metrics"), "generation 1\n");
    let inside = get_inside(&socket, "/config");
    assert_eq!(inside["http"], json!(http));
    assert_eq!(inside["metrics"], json!(metrics));

    configure("greeting = 'good evening'", "");
    let old = service.upgrade().unwrap();
    for address in http {
        assert_eq!(get(address, "/"), "good evening\n");
        assert_eq!(whoami(address), json!({ "pid": service.owner().pid, "generation": 2 }));
    }
    assert_eq!(get_inside(&socket, "/config")["greeting"], "good evening");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.line("the job ran generation=2");
    assert_eq!(listening(service.owner()), BTreeSet::from(http));

    configure("greting = 'good night'", "");
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("the parameter `config` cannot be made: config.toml: TOML parse error"), "{report}");
    service.line("unknown field `greting`");
    service.only(&[service.owner()]);
    assert_eq!(get(http[0], "/"), "good evening\n");
    let log = service.stop();
    assert_eq!(log.count("the job ran"), 2, "{}", log.text());
    assert!(!socket.exists());
}
