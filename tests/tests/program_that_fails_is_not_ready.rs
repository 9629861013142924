//! A new process that fails drops all the listeners that it has, and that does not make it ready.

use flip_tests::Mark;
use flip_tests::client::{Load, Shared};
use flip_tests::places::{address_of, start, who_answers};

#[test]
fn program_that_fails_when_some_of_its_listeners_are_in_use() {
    let mut service = start(env!("CARGO_BIN_EXE_sockets"), "tcp 127.0.0.1:0\nunix unix:app.sock\nudp 127.0.0.1:0");
    let address = address_of(&service, Mark::START, "tcp");
    let first = service.owner().pid;
    let shared = Shared::default();
    // So much goes on that the new process may be interrupted anywhere.
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..4 {
            load.client(scope, |_, _| who_answers(address).map(drop));
        }
        service.at_start("halfway");
        for _ in 0..100 {
            let report = service.upgrade().unwrap_err();
            assert!(report.contains(&format!("generation 1 (pid {first}) goes on")), "{report}");
        }
        load.stop()
    });
    assert!(!tally.has_lost(), "{tally}");
    service.at_start("");
    service.upgrade().unwrap();
    service.stop();
}
