//! A program that the service starts gets the standard streams and a clean slate, whenever it is started.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use flip_tests::{Chain, Process, Start};
use nix::sys::signal::Signal;

/// What a child of this process sees of flip.
fn assert_clean(service: &Chain, process: &Process) {
    // `ls` opens the directory that it lists.
    assert_eq!(service.ask(process, "run exec ls /proc/self/fd"), "0;1;2;3");
    assert_eq!(service.ask(process, "run env | grep -c ^FLIP_; true"), "0");
    let signals = "run exec grep -E ^Sig(Blk|Cgt) /proc/self/status".replace('(', "'(").replace(')', ")'");
    let signals = service.ask(process, &signals);
    assert!(signals.starts_with("SigBlk:\t0000000000000000;"), "{signals}");
    for signal in ["TERM", "HUP", "INT"] {
        assert_eq!(service.ask(process, &format!("run kill -{signal} $$; echo survived")), "", "{signal}");
    }
}

#[test]
fn child_of_any_generation_is_clean() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).start();
    assert_clean(&service, service.owner());
    service.tell("hold a connection");
    let old = service.upgrade().unwrap();
    assert_clean(&service, service.owner());
    assert_clean(&service, &old);
    service.release(&old);
    service.upgrade().unwrap();
    assert_clean(&service, service.owner());
    service.stop();
}

#[test]
fn child_started_during_an_upgrade_is_clean() {
    for gate in ["ready", "save", "restore"] {
        let mut service = Start::new(env!("CARGO_BIN_EXE_service")).env("FLIP_FREEZE_TIMEOUT", "25s").start();
        // Counting the variables of flip's is left to the environment that the test gives.
        let mut shut = service.gate(gate);
        let mark = service.log().mark();
        service.owner().signal(Signal::SIGHUP);
        let new = service.started_after(mark);
        service.line_after(mark, &format!("is at the gate {gate}"));
        for process in [service.owner(), &new] {
            assert_eq!(service.ask(process, "run exec ls /proc/self/fd"), "0;1;2;3", "{gate}");
            assert_eq!(service.ask(process, "run env | grep -c FLIP_CHANNEL; true"), "0", "{gate}");
        }
        shut.open();
        service.upgraded(mark).unwrap();
        service.stop();
    }
}

#[test]
fn children_started_all_the_time_get_nothing_of_an_upgrade() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).start();
    let ask = service.asker();
    for _ in 0..3 {
        let pid = service.owner().pid;
        service.tell("hold a connection");
        let seen = std::thread::scope(|scope| {
            let runner = {
                let ask = ask.clone();
                scope.spawn(move || {
                    let all = "for i in 1 2 3 4 5 6 7 8 9 10; do ls /proc/self/fd; done";
                    ask.try_ask(pid, &format!("run {all} | sort -u")).unwrap()
                })
            };
            // Each of the ten from the shell; the shell itself from the service, right now.
            let mut seen = vec![];
            let old = service.upgrade().unwrap();
            for _ in 0..3 {
                seen.push(ask.try_ask(old.pid, "run exec ls /proc/self/fd").unwrap());
            }
            seen.push(runner.join().unwrap());
            service.release(&old);
            seen
        });
        assert!(seen.iter().all(|seen| seen == "0;1;2;3"), "{seen:?}");
    }
    service.stop();
}

#[test]
fn child_that_outlives_the_service_is_not_the_service() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).start();
    // Without the standard streams, so that nobody waits for it.
    let child = service.tell("run sleep 1000 > /dev/null 2>&1 & echo $!").parse().unwrap();
    let child = Process::open(child);
    for _ in 0..2 {
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), flip_tests::Exit::Status(0));
        assert!(!child.has_ended());
    }
    service.owner().signal(Signal::SIGTERM);
    assert_eq!(service.exit(service.owner()), flip_tests::Exit::Status(0));
    assert!(!child.has_ended());
    child.signal(Signal::SIGTERM);
    assert_eq!(service.exit(&child), flip_tests::Exit::Signal(Signal::SIGTERM));
    service.gone();
}
