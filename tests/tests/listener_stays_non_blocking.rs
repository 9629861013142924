//! A listener that blocks would stall the one thread of these services at its second accept.

use std::fs::File;
use std::io::{BufRead, BufReader};

use flip_tests::places::{address_of, start, who_answers};
use flip_tests::{Chain, Exit, Mark, Process};

/// O_NONBLOCK, as fdinfo writes it; see proc_pid_fdinfo(5).
const NON_BLOCKING: u32 = 0o4000;

/// How many listening sockets of these ports a process has, each non-blocking.
fn assert_non_blocking(process: &Process, port: u16) {
    // Those that listen come first; behind them is whatever other tests have left in TIME_WAIT, which takes seconds to read.
    let table = BufReader::new(File::open("/proc/net/tcp").unwrap()).lines().map(Result::unwrap);
    let inodes: Vec<_> = table
        .skip(1)
        .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .take_while(|fields| fields[3] == "0A")
        .filter(|fields| fields[1].ends_with(&format!(":{port:04X}")))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    let mut seen = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap().flatten() {
        let Ok(target) = entry.path().read_link() else { continue };
        if inodes.iter().any(|inode| *inode == target.to_string_lossy()) {
            let info = process.proc(&format!("fdinfo/{}", entry.file_name().to_string_lossy()));
            let info = String::from_utf8(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            assert_ne!(u32::from_str_radix(flags, 8).unwrap() & NON_BLOCKING, 0, "{info}");
            seen += 1;
        }
    }
    assert_eq!(seen, 1);
}

/// Two connections, and the thread that accepts them does something else in between.
fn assert_accepts_twice(service: &Chain, port: u16) {
    let address = ([127, 0, 0, 1], port).into();
    for _ in 0..2 {
        assert_eq!(who_answers(address).unwrap().0, service.owner().pid);
        assert_eq!(service.tell("echo lives"), "lives");
    }
}

#[test]
fn both_processes_accept_again_and_again() {
    let mut service = start(env!("CARGO_BIN_EXE_sockets"), "tcp 127.0.0.1:0");
    let port = address_of(&service, Mark::START, "tcp").port();
    for _ in 0..3 {
        assert_non_blocking(service.owner(), port);
        assert_accepts_twice(&service, port);
        // The new process has the socket, and goes again.
        service.at_start("error");
        service.upgrade().unwrap_err();
        service.at_start("");
        assert_non_blocking(service.owner(), port);
        assert_accepts_twice(&service, port);
        // Both have it now.
        let mut gate = service.gate("start");
        let mark = service.log().mark();
        service.owner().signal(nix::sys::signal::Signal::SIGHUP);
        let new = service.started_after(mark);
        service.line_after(mark, "is at the gate start");
        assert_non_blocking(service.owner(), port);
        assert_non_blocking(&new, port);
        assert_accepts_twice(&service, port);
        gate.open();
        let old = service.upgraded(mark).unwrap();
        assert_accepts_twice(&service, port);
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    service.stop();
}
