//! Sockets that a service manager passes at the start are used by their names, go on through handoffs, and stay the manager's.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use flip_tests::places::{put, who, who_answers};
use flip_tests::{Chain, Exit, Start};

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");
const TWO: &str = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:admin.socket";

/// What a service manager keeps.
struct Manager {
    dir: tempfile::TempDir,
    web: TcpListener,
    admin: UnixListener,
}

impl Manager {
    fn new() -> Manager {
        let dir = tempfile::tempdir().unwrap();
        let web = TcpListener::bind("127.0.0.1:0").unwrap();
        Manager { web, admin: UnixListener::bind(dir.path().join("admin")).unwrap(), dir }
    }

    fn passing(&self, places: &str, variables: &str) -> Start {
        let sockets: [OwnedFd; 2] = [self.web.try_clone().unwrap().into(), self.admin.try_clone().unwrap().into()];
        let start = Start::new(SOCKETS).passing(sockets.into(), variables);
        put(start.dir(), places);
        start
    }

    fn address(&self) -> SocketAddr {
        self.web.local_addr().unwrap()
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("admin")
    }
}

fn unix_answers(path: &Path) -> (i32, String) {
    let mut stream = BufReader::new(UnixStream::connect(path).unwrap());
    stream.get_mut().write_all(b"who\n").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    who(&line).unwrap()
}

fn answers(service: &Chain, manager: &Manager) {
    let pid = service.owner().pid;
    assert_eq!(who_answers(manager.address()).unwrap(), (pid, "tcp".to_owned()));
    assert_eq!(unix_answers(&manager.path()), (pid, "unix".to_owned()));
}

#[test]
fn they_go_on_through_handoffs_and_a_restart_loses_nobody() {
    let manager = Manager::new();
    for _ in 0..2 {
        let mut service = manager.passing("tcp systemd:web\nunix systemd:admin", TWO).start();
        answers(&service, &manager);
        // With the connections that are not closed yet; one more in each generation would be seen in the third.
        let first = service.owner().descriptor_kinds()["socket"];
        for _ in 0..3 {
            let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(service.exit(&old), Exit::Status(0));
            answers(&service, &manager);
            // Nobody takes what was passed for its own.
            assert_eq!(service.tell("env | grep -c ^LISTEN_"), "0");
            service.until("they are not gathered", || service.owner().descriptor_kinds()["socket"] <= first);
        }
        service.stop();
        assert!(manager.path().exists(), "the path is the manager's");
        // Nobody serves now, and whoever comes waits for the next one.
    }
    let mut early = BufReader::new(TcpStream::connect(manager.address()).unwrap());
    early.get_mut().write_all(b"early\n").unwrap();
    let service = manager.passing("tcp systemd:web\nunix systemd:admin", TWO).start();
    let mut line = String::new();
    early.read_line(&mut line).unwrap();
    assert_eq!(who(&line).unwrap(), (service.owner().pid, "tcp".to_owned()));
    drop(early);
    service.stop();
}

#[test]
fn what_nobody_asks_for_is_said_once() {
    let manager = Manager::new();
    let mut service = manager.passing("tcp systemd:web", TWO).start();
    let line = service.line("was passed to this process, and no listener asks for it");
    assert!(line.contains(&format!("`admin.socket` (Unix {})", manager.path().display())), "{line}");
    for _ in 0..2 {
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    let log = service.stop();
    assert_eq!(log.count("was passed to this process"), 1);
}

#[test]
fn variables_that_lie_are_named() {
    let manager = Manager::new();
    for (variables, said) in [
        // Another process's: none of ours, as if they were not there.
        ("LISTEN_PID=1 LISTEN_FDS=2", "no socket was passed at the start (LISTEN_FDS)"),
        ("LISTEN_PID=$$ LISTEN_FDS=many", "sockets that were passed are not used: LISTEN_FDS=many is no number"),
        ("LISTEN_FDS=2", "sockets that were passed are not used: LISTEN_FDS=2 without LISTEN_PID"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b", "passed were `a` (TCP 127.0.0.1:"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:web", "`web` (Unix"),
    ] {
        let service = manager.passing("tcp systemd:web", variables).spawn();
        service.line(said);
        assert_eq!(service.exit(service.owner()), Exit::Status(1), "{variables}");
    }
    let service = manager.passing("tcp systemd:web", &TWO.replace("FDS=2", "FDS=5")).start();
    service.line("LISTEN_FDS=5, and descriptor 5 (`unknown`) is not open");
    assert_eq!(who_answers(manager.address()).unwrap(), (service.owner().pid, "tcp".to_owned()));
    service.stop();
}
