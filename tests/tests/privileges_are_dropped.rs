//! A service that gives up root, or system calls, after it has its listener is upgraded as what it has become, or says at its start why
//! it cannot be.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flip_tests::client::ask_line;
use flip_tests::{Exit, Start};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

const DROPS: &str = env!("CARGO_BIN_EXE_drops");
const FILTERED: &str = env!("CARGO_BIN_EXE_filtered");

#[test]
fn service_that_dropped_root_is_upgraded_once_it_may_see_its_program() {
    if !geteuid().is_root() {
        return flip_tests::skip("only root can become nobody");
    }
    let start = Start::new(DROPS);
    // Where it is built may be closed to others.
    let program = start.dir().join("drops");
    std::fs::copy(DROPS, &program).unwrap();
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(start.dir(), mode(0o700)).unwrap();
    let mut service = start.called(program.to_str().unwrap()).start();
    let line = service.line(" has tcp at ");
    let address = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    service.line("an upgrade will fail: user 65534 cannot execute ");
    service.line("an upgrade will fail: user 65534 cannot enter ");
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("cannot be entered") && report.contains("Permission denied"), "{report}");

    std::fs::set_permissions(service.dir(), mode(0o755)).unwrap();
    for _ in 0..3 {
        let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(service.exit(&old), Exit::Status(0));
        let answer = ask_line(address, "who").unwrap();
        assert_eq!(answer, format!("{} as 65534", service.owner().pid));
        assert_eq!(service.owner().status("Uid"), "65534\t65534\t65534\t65534");
        // It was the first to go where memory runs out, and is no longer.
        let score = || String::from_utf8(service.owner().proc("oom_score_adj")).unwrap();
        service.until("it is like any other", || score().trim() == "0");
    }
    service.stop();
}

/// Its directory is root's, and so is the file: what can be kept is the lock, and is.
#[test]
fn pid_file_of_root_s_stays_locked_by_a_service_that_is_nobody() {
    if !geteuid().is_root() {
        return flip_tests::skip("only root can become nobody");
    }
    let start = Start::new(DROPS);
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(start.dir(), mode(0o755)).unwrap();
    let program = start.dir().join("drops");
    std::fs::copy(DROPS, &program).unwrap();
    let file = start.dir().join("drops.pid");
    let program = program.to_str().unwrap();
    let mut service = start.called(program).env("FLIP_PID_FILE", file.to_str().unwrap()).start();
    service.line("an upgrade will leave the number of the process before in the pid file ");
    let first = service.owner().pid;
    for _ in 0..2 {
        let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(service.exit(&old), Exit::Status(0));
        service.line("still names the process before");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{first}\n"));
        service.until("the new process has the lock", || is_locked(&file));
    }
    let second = Start::new(DROPS).env("FLIP_PID_FILE", file.to_str().unwrap()).spawn();
    second.line("is locked by a service that runs");
    assert_eq!(second.exit(second.owner()), Exit::Status(1));
    service.stop();
}

fn is_locked(file: &Path) -> bool {
    Flock::lock(File::open(file).unwrap(), FlockArg::LockExclusiveNonblock).is_err()
}

#[test]
fn service_whose_threads_may_not_execute_is_upgraded_by_flip_s() {
    let mut service = Start::new(FILTERED).start();
    let line = service.line(" has tcp at ");
    let address = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    for total in 1..5 {
        let answer = ask_line(address, "").unwrap();
        assert_eq!(answer, format!("{} {total} PermissionDenied", service.owner().pid));
        assert_eq!(service.owner().status("Seccomp_filters"), "1", "those before have left it none");
        let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    let log = service.stop();
    assert_eq!(log.count("filter of system calls"), 0, "{}", log.text());
}

#[test]
fn filter_for_all_threads_is_said_at_the_start() {
    let start = Start::new(FILTERED);
    std::fs::write(start.dir().join("all"), "").unwrap();
    let mut service = start.start();
    let address = service.line(" has tcp at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    service.line("a filter of system calls (seccomp) was set for flip's threads as well");
    let report = service.upgrade().unwrap_err();
    assert!(report.contains("cannot be executed (a seccomp filter forbids execve(2)"), "{report}");
    assert_eq!(ask_line(address, "").unwrap(), format!("{} 1 PermissionDenied", service.owner().pid));
    service.stop();
}
