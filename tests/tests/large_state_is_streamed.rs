//! Content far larger than any socket's buffer is handed over whole, and decoded while it arrives.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use flip_tests::inside::digest;
use flip_tests::{Chain, Exit, Process, Start};

const MEGABYTE: usize = 1 << 20;
const MUCH: usize = 32 * MEGABYTE;

fn upgrade(service: &mut Chain) -> Process {
    service.upgrade().unwrap_or_else(|report| panic!("{report}"))
}

/// The most memory that a process ever had at once.
fn peak(process: &Process) -> usize {
    process.status("VmHWM").trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn large_content_is_held_once_by_each_process() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_bytes")).start();
    assert_eq!(service.tell("append 1 1"), "written");
    let mut expected: Vec<u8> = (0..MUCH).map(|at| at as u8).collect();
    assert_eq!(service.tell(&format!("copied {MUCH}")), digest(&expected));
    for turn in 1..3 {
        if turn == 2 {
            service.at_start("late");
            let report = service.upgrade().unwrap_err();
            assert!(report.contains("the new one fails when it has the content"), "{report}");
            service.only(&[service.owner()]);
            service.at_start("");
        }
        let old = upgrade(&mut service);
        assert_eq!(service.exit(&old), Exit::Status(0));
        assert_eq!(service.tell("copied"), digest(&expected));
        // A buffer of the whole, on either side of the socket, would make it twice as much.
        let peak = peak(service.owner());
        assert!((MUCH..MUCH * 3 / 2).contains(&peak), "{peak} bytes at once");
        expected.push(expected.len() as u8);
        assert_eq!(service.tell("copied 1"), digest(&expected));
    }
    service.stop();
}

#[test]
fn more_than_the_limit_rolls_back() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_bytes")).env("FLIP_STATE_LIMIT", "1MiB").start();
    let large = service.tell(&format!("copied {}", 2 * MEGABYTE));
    let report = service.upgrade().unwrap_err();
    let why = format!("there are more than {MEGABYTE} bytes, which is the `state_limit` here");
    assert!(report.contains("copied: ") && report.contains(&why), "{report}");
    assert_eq!(service.tell("copied"), large);
    service.stop();
}
