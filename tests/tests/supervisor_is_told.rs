//! What a supervisor hears on `NOTIFY_SOCKET`, from whom and in which order; and what becomes of a service that nobody hears.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};

use flip_tests::places::{put, who};
use flip_tests::supervisor::Supervisor;
use flip_tests::{Chain, Exit, Process, Start};
use nix::sys::signal::Signal;

const SERVICE: &str = env!("CARGO_BIN_EXE_service");

#[test]
fn each_word_comes_from_the_process_that_serves() {
    let supervisor = Supervisor::new("words");
    let mut service = Start::new(SERVICE).env("NOTIFY_SOCKET", &supervisor.name).start();
    let first = service.owner().pid;
    supervisor.hears_from(first, &["EXTEND_TIMEOUT_USEC=62000000", "STATUS=starting"]);
    let text = supervisor.hears_from(first, &["READY=1", "STATUS=generation 1 serves; "]);
    assert!(!text.contains("MAINPID"), "{text}");

    service.at_start("error");
    service.upgrade().unwrap_err();
    supervisor.hears_from(first, &["RELOADING=1", "MONOTONIC_USEC=", "EXTEND_TIMEOUT_USEC="]);
    let text = supervisor.hears_from(first, &["READY=1", "STATUS="]);
    assert!(text.contains("upgrade rolled back: ") && text.contains("the new one fails on purpose"), "{text}");

    service.at_start("");
    let old = service.upgrade().unwrap();
    let second = service.owner().pid;
    supervisor.hears_from(first, &["RELOADING=1", "MONOTONIC_USEC="]);
    let id = service.owner().identity().map(|id| format!("MAINPIDFDID={id}"));
    let text = supervisor.hears_from(first, &[&format!("MAINPID={second}"), "READY=1", "STATUS=generation 2 serves; "]);
    match id {
        Some(id) => assert!(text.lines().any(|line| line == id), "{id} in {text}"),
        None => flip_tests::say_skipped("this kernel has no number of a process that lasts"),
    }
    let barrier = supervisor.hears_from(first, &[]);
    assert_eq!(barrier, "BARRIER=1");
    assert_eq!(service.exit(&old), Exit::Status(0));

    service.owner().signal(Signal::SIGTERM);
    supervisor.hears_from(second, &["STOPPING=1", "EXTEND_TIMEOUT_USEC=33000000", "STATUS=generation 2 stops; "]);
    service.stopped();
}

#[test]
fn every_reload_that_fails_is_over() {
    let supervisor = Supervisor::new("fails");
    let mut service = Start::new(SERVICE)
        .env("NOTIFY_SOCKET", &supervisor.name)
        .env("FLIP_READY_TIMEOUT", "700ms")
        .env("FLIP_FREEZE_TIMEOUT", "300ms")
        .linked_as("service")
        .start();
    let pid = service.owner().pid;
    supervisor.hears_from(pid, &["STATUS=starting"]);
    supervisor.hears_from(pid, &["READY=1"]);
    let fails = |service: &mut Chain, why: &str| {
        let report = service.upgrade().unwrap_err();
        assert!(report.contains(why), "{report}");
        supervisor.hears_from(pid, &["RELOADING=1"]);
        let text = supervisor.hears_from(pid, &["READY=1", "STATUS=generation 1 serves; "]);
        assert!(text.contains(why), "{text}");
    };
    for (how, why) in
        [("panic", "panics on purpose"), ("abort", "without a word: SIGABRT"), ("hang", "was not ready within 700ms")]
    {
        service.at_start(how);
        fails(&mut service, why);
    }
    // After the freeze.
    std::fs::write(service.dir().join("touch"), "").unwrap();
    fails(&mut service, "within 300ms of the freeze");
    std::fs::remove_file(service.dir().join("touch")).unwrap();
    // Nothing can be started.
    service.at_start("");
    service.install("service", |path| symlink("nowhere", path).unwrap());
    fails(&mut service, "no new process could be started");
    service.install("service", |path| symlink(SERVICE, path).unwrap());
    // The stop that ends it, too.
    let _gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line(&format!("pid {} is at the gate start", new.pid));
    service.owner().signal(Signal::SIGTERM);
    supervisor.hears_from(pid, &["RELOADING=1"]);
    supervisor.hears_from(pid, &["READY=1"]);
    supervisor.hears_from(pid, &["STOPPING=1"]);
    service.stopped();
}

#[test]
fn signal_means_the_service_until_the_supervisor_knows_who_serves() {
    let supervisor = Supervisor::new("knows");
    let mut service = Start::new(SERVICE).env("NOTIFY_SOCKET", &supervisor.name).start();
    let first = service.owner().pid;
    service.tell("hold a connection");
    let old = service.upgrade().unwrap();
    let second = service.owner().pid;
    // The supervisor has not read yet who serves: it means the service, and that is upgraded once more.
    let mark = service.log().mark();
    old.signal(Signal::SIGHUP);
    service.upgraded(mark).unwrap();
    let third = service.owner().pid;
    assert_ne!(second, third);
    // It reads. Whatever it sends to the first from here on is meant for that one.
    supervisor.hears_from(first, &["STATUS=starting"]);
    supervisor.hears_from(first, &["READY=1"]);
    supervisor.hears_from(first, &["RELOADING=1"]);
    supervisor.hears_from(first, &[&format!("MAINPID={second}")]);
    assert_eq!(supervisor.hears_from(first, &[]), "BARRIER=1");
    let open = |process: &Process| process.descriptor_kinds().get("pipe").copied();
    service.until("it has seen that", || open(&old) == open(service.owner()));
    old.signal(Signal::SIGTERM);
    service.line(&format!("SIGTERM from pid {}: stop", std::process::id()));
    assert_eq!(service.tell("get"), "0");
    service.release(&old);
    assert_eq!(service.exit(&old), Exit::Status(0));

    // The same where the old process is done, and waits for nothing but that.
    let old = service.upgrade().unwrap();
    let fourth = service.owner().pid;
    old.signal(Signal::SIGTERM);
    // Where its queue was full, one comes before the other or behind it.
    let (mut is_asked, mut stops) = (false, false);
    while !is_asked || !stops {
        let (pid, text) = supervisor.hears();
        is_asked |= (pid, &*text) == (third, "BARRIER=1");
        stops |= pid == fourth && text.starts_with("STOPPING=1");
    }
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stopped();
}

#[test]
fn socket_that_leads_nowhere_is_one_warning() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for name in [
        "/nowhere/notify",
        "@flip-nobody",
        &format!("/{}", "n".repeat(200)),
        "vsock:2:1",
        file.path().to_str().unwrap(),
    ] {
        let mut service = Start::new(SERVICE).env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "40000").start();
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0), "{name}");
        let log = service.stop();
        // By each of the two.
        assert_eq!(log.count("systemd does not hear this service"), 2, "{name}: {}", log.text());
    }
}

#[test]
fn store_without_room_for_all_is_one_warning() {
    let supervisor = Supervisor::new("small");
    let start = Start::new(env!("CARGO_BIN_EXE_sockets")).env("NOTIFY_SOCKET", &supervisor.name).env("FDSTORE", "1");
    put(start.dir(), &format!("tcp 127.0.0.1:0\nunix unix:{}", start.dir().join("a.sock").display()));
    let service = start.start();
    service.line(
        "the store of descriptors has room for 1, and there are 2 descriptors to keep: write FileDescriptorStoreMax=2",
    );
    let log = service.stop();
    assert_eq!(log.count("the store of descriptors has room"), 1, "{}", log.text());
}

#[test]
fn supervisor_that_does_not_listen_holds_nothing_up() {
    let supervisor = Supervisor::new("full");
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    full.connect_addr(&UnixAddr::from_abstract_name(&supervisor.name[1..]).unwrap()).unwrap();
    while full.send(b"STATUS=").is_ok() {}
    let mut service = Start::new(SERVICE).env("NOTIFY_SOCKET", &supervisor.name).start();
    let first = service.owner().pid;
    service.upgrade().unwrap();
    let second = service.owner().pid;
    // What had to be heard is said once there is room.
    supervisor.hears_from(first, &["STATUS=starting"]);
    supervisor.hears_from(first, &["READY=1"]);
    supervisor.hears_from(first, &["RELOADING=1"]);
    supervisor.hears_from(first, &[&format!("MAINPID={second}")]);
    service.only(&[service.owner()]);
    service.stop();
}

/// The service as a supervisor with a store starts it: what it kept, by its names.
fn with_store(supervisor: &Supervisor, dir: &std::path::Path, kept: Vec<(String, OwnedFd)>) -> Start {
    let (names, fds): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
    let variables = format!("LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}", fds.len(), names.join(":"));
    let start = Start::new(env!("CARGO_BIN_EXE_sockets")).passing(fds, &variables);
    put(start.dir(), &std::fs::read_to_string(dir.join("places")).unwrap());
    start.env("NOTIFY_SOCKET", &supervisor.name).env("FDSTORE", "16")
}

#[test]
fn listeners_outlive_every_process_in_the_supervisor_s_store() {
    let supervisor = Supervisor::new("store");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    put(dir.path(), &format!("tcp 127.0.0.1:0\nunix unix:{}", path.display()));
    let mut service = with_store(&supervisor, dir.path(), vec![]).start();
    let first = service.owner().pid;
    let mut kept: Vec<_> = (0..2).map(|_| supervisor.keeps(first)).map(|(name, fd)| (name, fd.unwrap())).collect();
    kept.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(kept[0].0, "flip.tcp.0.0.tcp.127%2E0%2E0%2E1%3A0");
    assert!(kept[1].0.starts_with("flip.unix.0.0.unix.unix%3A"), "{}", kept[1].0);
    let line = service.line(" has tcp at ");
    let address: SocketAddr = line.rsplit_once(' ').unwrap().1.parse().unwrap();

    // The next generation has the same, and a listener more.
    put(service.dir(), &format!("tcp 127.0.0.1:0\nmore 127.0.0.1:0\nunix unix:{}", path.display()));
    service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    let (name, more) = supervisor.keeps(service.owner().pid);
    assert_eq!(name, "flip.more.0.0.tcp.127%2E0%2E0%2E1%3A0");
    kept.push((name, more.unwrap()));
    service.owner().signal(Signal::SIGKILL);
    service.until("it is dead", || service.owner().has_ended());

    // Nobody is there, and nobody is refused.
    let waiting = TcpStream::connect(address).unwrap();
    let beside = UnixStream::connect(&path).unwrap();
    kept.push(("flip.x.0.0.pipe.x".to_owned(), std::io::pipe().unwrap().0.into()));
    kept.push(("flip.y.0.0.tcp.localhost%3A1".to_owned(), std::io::pipe().unwrap().0.into()));
    let next = with_store(&supervisor, dir.path(), kept).start();
    let pid = next.owner().pid;
    assert_eq!(answer(&waiting), (pid, "tcp".to_owned()));
    assert_eq!(answer(&beside), (pid, "unix".to_owned()));
    for said in [
        "`flip.x.0.0.pipe.x` from the store of descriptors is not used: this release does not know what it is",
        "`flip.y.0.0.tcp.localhost%3A1` from the store of descriptors is not used: ",
        "the store of descriptors has the listener `more` at 127.0.0.1:0, and nobody asks for it any more",
    ] {
        next.line(said);
    }
    let mut removed: Vec<_> = (0..3).map(|_| supervisor.keeps(pid)).collect();
    removed.sort_by(|one, other| one.0.cmp(&other.0));
    let removed: Vec<_> = removed.iter().map(|(name, fd)| (name.as_str(), fd.is_some())).collect();
    assert_eq!(
        removed,
        [
            ("flip.more.0.0.tcp.127%2E0%2E0%2E1%3A0", false),
            ("flip.x.0.0.pipe.x", false),
            ("flip.y.0.0.tcp.localhost%3A1", false)
        ]
    );
    drop((waiting, beside));
    next.stop();
    assert!(path.exists(), "the next one finds its clients there");
    service.gone();
}

fn answer(stream: impl Read + Write) -> (i32, String) {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"who\n").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    who(&line).unwrap()
}
