//! A process that has no old one to ask goes on from the state that lies in its supervisor's store.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use flip_tests::supervisor::Supervisor;
use flip_tests::{Chain, Exit, Process, Start, number_after};
use nix::sys::signal::Signal;

const SERVICE: &str = env!("CARGO_BIN_EXE_service");
const SHAPES: &str = env!("CARGO_BIN_EXE_shapes");
/// None is made by the clock alone.
const NEVER: &str = "1h";

/// The store, and what is in it by which name.
struct Store {
    supervisor: Supervisor,
    kept: Vec<(String, File)>,
}

impl Store {
    fn new(name: &str) -> Store {
        Store { supervisor: Supervisor::new(name), kept: vec![] }
    }

    fn starting(&self, checkpoint: &str) -> Start {
        let names: Vec<_> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        let fds: Vec<OwnedFd> = self.kept.iter().map(|(_, file)| file.try_clone().unwrap().into()).collect();
        let variables = format!("LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}", fds.len(), names.join(":"));
        Start::new(SERVICE)
            .passing(fds, &variables)
            .env("NOTIFY_SOCKET", &self.supervisor.name)
            .env("FDSTORE", "16")
            .env("FLIP_STORE", "state")
            .env("FLIP_CHECKPOINT", checkpoint)
    }

    fn start(&self, checkpoint: &str) -> Chain {
        self.starting(checkpoint).start()
    }

    /// Takes so many words of this process.
    fn hears(&mut self, process: &Process, words: usize) {
        for _ in 0..words {
            let (name, fd) = self.supervisor.keeps(process.pid);
            self.kept.retain(|(known, _)| *known != name);
            self.kept.extend(fd.map(|fd| (name, File::from(fd))));
        }
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// The number of the newest checkpoint; see flip's `checkpoint/file.rs`.
    fn newest(&self) -> u64 {
        let sequence = |file: &File| {
            let mut head = [0; 64];
            file.read_exact_at(&mut head, 0).map_or(0, |()| u64::from_le_bytes(head[24..32].try_into().unwrap()))
        };
        self.kept.iter().map(|(_, file)| sequence(file)).max().unwrap_or_default()
    }
}

fn dies(service: &Chain) {
    service.owner().signal(Signal::SIGKILL);
    assert_eq!(service.exit(service.owner()), Exit::Signal(Signal::SIGKILL));
}

#[test]
fn a_crash_goes_back_by_one_checkpoint_at_most() {
    let mut store = Store::new("crash");
    let mut total = 0;
    // The first process, one that came by an upgrade, and one that went on from a checkpoint itself.
    for round in 0..3 {
        let mut service = store.start("5ms");
        let mut acknowledged: u64 = service.tell("get").parse().unwrap();
        assert!(acknowledged >= total);
        let first = service.owner();
        store.hears(first, 2);
        if round == 1 {
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        // What was acknowledged when this one was the newest.
        let (mut seen, many) = (vec![], store.newest() + 20);
        while store.newest() < many {
            seen.push((store.newest(), acknowledged));
            acknowledged = service.tell("add 1").parse().unwrap();
        }
        dies(&service);
        service.gone();
        // One that is two ahead began after that.
        let newest = store.newest();
        total = seen.iter().filter(|(then, _)| then + 2 <= newest).map(|(_, total)| *total).max().unwrap();
        assert!(total > 0);
        let next = store.start(NEVER);
        next.line("the state goes on from the checkpoint of ");
        let restored: u64 = next.tell("get").parse().unwrap();
        assert!((total..=acknowledged).contains(&restored), "{total} to {acknowledged}: {restored}");
        store.hears(next.owner(), 2);
        total = restored;
        next.stop();
    }
}

#[test]
fn a_stop_loses_nothing() {
    let mut store = Store::new("stop");
    for round in 0..3 {
        let mut service = store.start(NEVER);
        assert_eq!(service.tell("get"), (round * 7).to_string());
        store.hears(service.owner(), 2);
        service.tell("add 3");
        if round == 1 {
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        assert_eq!(service.tell("add 4"), (round * 7 + 7).to_string());
        let log = service.stop();
        assert_eq!(log.count("the state goes on from the checkpoint of"), usize::from(round > 0), "{}", log.text());
    }
}

#[test]
fn what_a_freeze_has_sent_is_a_checkpoint() {
    let mut store = Store::new("freeze");
    let mut service = store.start(NEVER);
    store.hears(service.owner(), 2);
    service.tell("add 5");
    // One that is rolled back leaves none, or one of what it was; and the old process goes on.
    service.at_start("error");
    service.upgrade().unwrap_err();
    service.at_start("");
    assert_eq!(service.tell("add 5"), "10");
    let old = service.upgrade().unwrap();
    service.tell("add 100");
    dies(&service);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.gone();
    let next = store.start(NEVER);
    // The new process may have made one of its own.
    assert!(["10", "110"].contains(&next.tell("get").as_str()));
    next.stop();
}

#[test]
fn checkpoint_that_kills_twice_is_set_aside_loudly() {
    let mut store = Store::new("kills");
    let service = store.start(NEVER);
    store.hears(service.owner(), 2);
    service.tell("add 5");
    service.stop();
    for _ in 0..2 {
        let start = store.starting(NEVER);
        let _gate = start.gate("restore-stored");
        let service = start.spawn();
        service.line(&format!("pid {} is at the gate restore-stored", service.owner().pid));
        dies(&service);
    }
    let mut service = store.start(NEVER);
    service.line("has ended 2 processes that restored it, and is set aside: the state begins anew");
    assert_eq!(service.tell("get"), "0");
    // It stays where it is, beside what is to come; the one before it goes.
    store.hears(service.owner(), 3);
    assert_eq!(store.names().len(), 3, "{:?}", store.names());
    assert!(store.names().ends_with(&["flip-state.2", "flip-state.3"]));
    service.tell("add 1");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();

    let next = store.start(NEVER);
    next.line(" ago that was set aside lies in the store of descriptors (`flip-state.");
    assert_eq!(next.tell("get"), "1");
    store.hears(next.owner(), 2);
    next.stop();
    for _ in 0..2 {
        let again = store.starting(NEVER).env("FLIP_ASIDE", "restore").start();
        assert_eq!(again.tell("get"), "5");
        let descriptors = again.tell("run ls -l /proc/self/fd");
        assert!(descriptors.contains("->") && !descriptors.contains("flip-state"), "{descriptors}");
        again.stop();
    }
}

/// Nothing goes on from it, and nothing says so.
#[test]
fn checkpoint_that_cannot_become_the_state_is_refused_in_its_own_words() {
    let mut store = Store::new("schema");
    let start = |store: &Store, program: &str| {
        let start = store.starting(NEVER);
        let path = start.dir().canonicalize().unwrap().join(program);
        std::fs::hard_link(SHAPES, &path).or_else(|_| std::fs::copy(SHAPES, &path).map(drop)).unwrap();
        start.called(path.to_str().unwrap())
    };
    let first = start(&store, "first").start();
    store.hears(first.owner(), 2);
    assert_eq!(first.tell("note as it was"), "noted");
    first.stop();
    let next = start(&store, "another_field").spawn();
    next.line(
        "the state `note` of the checkpoint cannot become what it is here: `Note.author` is String without a default here and \
         absent in the checkpoint: give it a default",
    );
    assert_eq!(next.exit(next.owner()), Exit::Status(1));
    assert_eq!(next.log().count("the state goes on"), 0, "{}", next.log().text());
    let first = start(&store, "first").start();
    first.line("the state goes on from the checkpoint of ");
    assert_eq!(first.tell("note"), "as it was");
    first.stop();
}

#[test]
fn state_of_a_process_that_lives_is_not_taken() {
    let mut store = Store::new("lives");
    let mut service = store.start("5ms");
    store.hears(service.owner(), 2);
    for _ in 0..2 {
        service.tell("add 1");
        let before = store.newest();
        service.tell("add 1");
        service.until("a checkpoint is made", || store.newest() > before);
        let second = store.starting(NEVER).spawn();
        let pid = service.owner().pid;
        second.line(&format!("pid {pid} lives and owns the state that lies in the store of descriptors"));
        assert_eq!(second.exit(second.owner()), Exit::Status(1));
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    service.stop();
}

#[test]
fn what_is_no_whole_checkpoint_is_named() {
    let mut store = Store::new("whole");
    let mut service = store.start(NEVER);
    store.hears(service.owner(), 2);
    service.tell("add 5");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.tell("add 1");
    service.stop();
    // The newest is cut short, and the one before counts.
    store.kept.sort_by_key(|(_, file)| {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0).unwrap();
        u64::from_le_bytes(head[24..32].try_into().unwrap())
    });
    let (name, newest) = store.kept.last().unwrap();
    newest.set_len(newest.metadata().unwrap().len() - 1).unwrap();
    let said = format!("`{name}` from the store of descriptors is no checkpoint: it is not whole: it is cut short");
    let next = store.start(NEVER);
    next.line(&said);
    assert_eq!(next.tell("get"), "5");
    store.hears(next.owner(), 2);
    dies(&next);
    // None is.
    for (_, file) in &mut store.kept {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"#!/bin/sh\n").unwrap();
    }
    let next = store.start(NEVER);
    next.line("is no checkpoint: it is none of flip's");
    assert_eq!(next.tell("get"), "0");
    next.stop();
}

#[test]
fn checkpoint_of_another_program_is_said_to_be_one() {
    let mut store = Store::new("other");
    let start = store.starting(NEVER);
    std::fs::write(start.dir().join("address"), "127.0.0.1:0").unwrap();
    let other = start.called(env!("CARGO_BIN_EXE_supervised")).spawn();
    store.hears(other.owner(), 3);
    other.stop();
    store.kept.retain(|(name, _)| name.starts_with("flip-state"));
    let service = store.start(NEVER);
    service.line("the state `visits` of the checkpoint has no successor here and is dropped");
    assert_eq!(service.tell("get"), "0");
    store.hears(service.owner(), 2);
    service.stop();
    // And one that keeps none says that there is one.
    let none = store.starting(NEVER).env("FLIP_STORE", "listeners").start();
    none.line("a checkpoint of the state lies in the store of descriptors, and this program keeps none: it is dropped");
    let mut removed = vec![store.supervisor.keeps(none.owner().pid), store.supervisor.keeps(none.owner().pid)];
    removed.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(removed.iter().all(|(name, fd)| name.starts_with("flip-state") && fd.is_none()), "{removed:?}");
    none.stop();
}

#[test]
fn launcher_is_such_a_store() {
    let service =
        Start::new(SERVICE).env("FLIP_LAUNCHER", "on").env("FLIP_STORE", "state").env("FLIP_CHECKPOINT", NEVER).spawn();
    let first = Process::open(number_after(&service.line(" is ready"), "pid ").unwrap());
    service.ask(&first, "add 5");
    service.owner().signal(Signal::SIGHUP);
    let handed_over = service.line("handed over to generation 2");
    let second = Process::open(number_after(&handed_over, "(pid ").unwrap());
    service.line(&format!("pid {} is ready", second.pid));
    assert_eq!(service.ask(&second, "add 100"), "105");
    let mark = service.log().mark();
    second.signal(Signal::SIGKILL);
    let third = Process::open(number_after(&service.line_after(mark, " is ready"), "pid ").unwrap());
    // The second may have made one of its own.
    assert!(["5", "105"].contains(&service.ask(&third, "get").as_str()));
    service.stop();
}

#[test]
fn without_a_store_nothing_is_kept_and_that_is_said() {
    let service = Start::new(SERVICE).env("FLIP_STORE", "state").start();
    service.line("no checkpoint is made: nobody who could keep it has started this service");
    let descriptors = service.owner().descriptors();
    assert!(descriptors.values().all(|to| !to.contains("flip-state")), "{descriptors:?}");
    service.stop();
}
