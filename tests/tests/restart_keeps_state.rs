//! An upgrade hands the content over, however often, and no acknowledged write is lost on the way.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use flip_tests::{Exit, Process, Start};

#[test]
fn five_generations_count_on() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).start();
    for generation in 1..=5_u64 {
        assert_eq!(service.tell("generation"), generation.to_string());
        assert_eq!(service.tell("add"), generation.to_string());
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    assert_eq!(service.tell("get"), "5");
    service.stop();
}

#[test]
fn every_acknowledged_write_is_counted() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).start();
    let (done, owner) = (AtomicBool::new(false), AtomicI32::new(service.owner().pid));
    let (acknowledged, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
    let ask = service.asker();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    match ask.try_ask(owner.load(Ordering::SeqCst), "add") {
                        Ok(answer) if answer.starts_with("error: ") => {
                            assert!(answer.contains("handed over"), "{answer}");
                        }
                        Ok(_) => _ = acknowledged.fetch_add(1, Ordering::SeqCst),
                        // The process ended before it answered: it may or may not have counted.
                        Err(_) => _ = unknown.fetch_add(1, Ordering::SeqCst),
                    }
                }
            });
        }
        for _ in 0..5 {
            let old = service.upgrade().unwrap();
            owner.store(service.owner().pid, Ordering::SeqCst);
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        done.store(true, Ordering::SeqCst);
    });
    let (acknowledged, unknown) = (acknowledged.into_inner(), unknown.into_inner());
    let total: u64 = service.tell("get").parse().unwrap();
    assert!(acknowledged > 0);
    assert!((acknowledged..=acknowledged + unknown).contains(&total), "{acknowledged} {unknown} {total}");
    service.stop();
}

/// What a process that has handed over says of the content.
#[test]
fn old_process_says_that_it_has_handed_over() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_service")).start();
    service.tell("hold a connection");
    let old: Process = service.upgrade().unwrap();
    assert_eq!(service.ask(&old, "get"), "error: the state has been handed over to a newer process");
    assert_eq!(service.ask(&old, "add"), "error: the state has been handed over to a newer process");
    assert_eq!(service.ask(&old, "upgrade"), "error: a newer process owns the service; ask that one");
    assert_eq!(service.tell("get"), "0");
    service.release(&old);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}
