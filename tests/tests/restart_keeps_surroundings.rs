//! The fifth generation finds itself where the first was: same descriptors, environment, arguments, directory, limits
//! and signals.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use flip_tests::{Chain, Exit, Process, Start};
use nix::sys::signal::Signal;

/// What a process is given by whoever starts it.
struct Surroundings {
    descriptors: BTreeMap<String, usize>,
    environment: BTreeMap<String, String>,
    seen_environment: String,
    arguments: Vec<u8>,
    seen_arguments: String,
    directory: std::path::PathBuf,
    umask: String,
    limits: String,
    /// Of each thread.
    nice: BTreeSet<String>,
    cgroup: Vec<u8>,
    blocked: String,
    ignored: String,
    caught: String,
}

fn surroundings(service: &Chain, process: &Process) -> Surroundings {
    let mut environment = process.environment();
    // The kernel shows what the process was started with; what it still has is asked of it.
    environment.remove("FLIP_CHANNEL");
    Surroundings {
        descriptors: process.descriptor_kinds(),
        environment,
        seen_environment: service.ask(process, "env"),
        arguments: process.proc("cmdline"),
        seen_arguments: service.ask(process, "args"),
        directory: std::fs::read_link(format!("/proc/{}/cwd", process.pid)).unwrap(),
        umask: process.status("Umask"),
        limits: String::from_utf8(process.proc("limits")).unwrap(),
        nice: nice(process),
        cgroup: process.proc("cgroup"),
        blocked: process.status("SigBlk"),
        ignored: process.status("SigIgn"),
        caught: process.status("SigCgt"),
    }
}

fn nice(process: &Process) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid)).unwrap().flatten();
    // One that has ended meanwhile has none.
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.map(|stat| stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned()).collect()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

/// A set of signals as the kernel prints it, without the two that the C library keeps for itself.
fn signals(set: &str) -> u64 {
    u64::from_str_radix(set, 16).unwrap() & !(0b11 << 31)
}

fn service() -> Chain {
    Start::new(env!("CARGO_BIN_EXE_service"))
        .through(&[
            "sh",
            "-c",
            "umask 027; ulimit -Sn 777; ulimit -Sc 0; exec nice -n 5 env --block-signal=USR2 --ignore-signal=QUIT -- \"$0\" \"$@\"",
        ])
        .arg("two words")
        .arg("")
        .arg("--flag=ä'\"$x\n")
        .env("NOISE", " a=b\nc ")
        .env("EMPTY", "")
        .start()
}

#[test]
fn fifth_generation_is_surrounded_as_the_first() {
    let mut service = service();
    let first = surroundings(&service, service.owner());
    assert_eq!(signals(&first.blocked), bit(Signal::SIGUSR2), "nothing of flip's is blocked");
    assert!(signals(&first.ignored) & bit(Signal::SIGQUIT) != 0);
    assert_eq!(first.nice.len(), 1, "{:?}", first.nice);
    assert!(!first.nice.contains("0"));
    assert!(!first.seen_environment.contains("FLIP_CHANNEL"));
    for _ in 0..4 {
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    assert_eq!(service.tell("generation"), "5");
    // What belonged to the one before is closed by several threads, in their time.
    service.until("its descriptors are those of the first", || service.owner().descriptor_kinds() == first.descriptors);
    let fifth = surroundings(&service, service.owner());
    assert_eq!(fifth.environment, first.environment);
    assert_eq!(fifth.seen_environment, first.seen_environment);
    assert_eq!(fifth.arguments, first.arguments);
    assert_eq!(fifth.seen_arguments, first.seen_arguments);
    assert_eq!(fifth.directory, first.directory);
    assert_eq!(fifth.umask, first.umask);
    assert_eq!(fifth.limits, first.limits);
    assert_eq!(fifth.nice, first.nice);
    assert_eq!(fifth.cgroup, first.cgroup);
    assert_eq!(signals(&fifth.blocked), signals(&first.blocked));
    assert_eq!(signals(&fifth.ignored), signals(&first.ignored));
    assert_eq!(signals(&fifth.caught), signals(&first.caught));
    service.stop();
}

#[test]
fn signal_that_only_the_old_program_handles_is_not_blocked_in_the_new_one() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).linked_as("service").start();
    let blocked = service.owner().status("SigBlk");
    service.install("service", |path| {
        let script = format!("#!/bin/sh\nFLIP_UPGRADE=SIGUSR1 exec {} \"$@\"\n", env!("CARGO_BIN_EXE_service"));
        std::fs::write(path, script).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.owner().status("SigBlk"), blocked);
    assert_eq!(signals(&service.owner().status("SigCgt")) & bit(Signal::SIGHUP), 0, "it handles another one");
    service.stop();
}

/// While an old process drains, its successor holds descriptors to it: always as many.
#[test]
fn descriptors_do_not_grow_while_old_processes_drain() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_GENERATIONS", "3").start();
    let alone = service.owner().descriptor_kinds();
    // Its channel, and its sockets for calls and for connections, which a thread of their own has, too; its handle; and
    // what ends that thread.
    let mut one_drains = alone.clone();
    for (kind, more) in [("socket", 5), ("anon_inode", 2)] {
        *one_drains.entry(kind.to_owned()).or_default() += more;
    }
    for _ in 0..4 {
        service.tell("hold a connection");
        let old = service.upgrade().unwrap();
        service.until("one more process costs what it must", || service.owner().descriptor_kinds() == one_drains);
        service.release(&old);
        assert_eq!(service.exit(&old), Exit::Status(0));
        service.until("the descriptors are those of the first", || service.owner().descriptor_kinds() == alone);
    }
    service.stop();
}
