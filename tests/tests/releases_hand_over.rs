//! Two releases of flip with different versions of the protocol, built from the same sources, hand over to each other in
//! both directions, as a deploy and its taking back do: content, kept connections and calls lose nothing.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use flip_tests::{Chain, Start};

const EARLIER: &str = env!("CARGO_BIN_EXE_web");
const LATER: &str = env!("CARGO_BIN_EXE_web_next");

fn install(service: &Chain, program: &str) {
    service.install("service", |path| symlink(program, path).unwrap());
}

fn address(service: &Chain) -> SocketAddr {
    service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Starts with `first` and goes to the other and back, within a release and between releases, under load.
fn hand_over(first: &str, second: &str) {
    let mut service = Start::new(first).env("FLIP_GENERATIONS", "4").linked_as("service").start();
    let address = address(&service);
    let (shared, seen) = (Shared::default(), Mutex::new(HashSet::new()));
    let count = |http: &mut Http, path: &'static str| {
        let answer = http.exchange("POST", path)?;
        let total: u64 = answer.body.parse().map_err(|_| Lost(Loss::Wrong, answer.body.clone()))?;
        match seen.lock().unwrap().insert((path, total)) {
            true => Ok(answer.last),
            false => Err(Lost(Loss::Wrong, format!("{total} of {path} again"))),
        }
    };
    let tally = std::thread::scope(|scope| {
        let (mut load, count) = (Load::new(&shared), &count);
        for path in ["/visit", "/hit"] {
            load.client(scope, move |_, _| count(&mut Http::open(address)?, path).map(drop));
            let mut kept: Option<Http> = None;
            load.client(scope, move |tally, _| {
                let mut http = kept.take().map_or_else(|| Http::open(address), Ok)?;
                if count(&mut http, path)? {
                    tally.closed += 1;
                } else {
                    kept = Some(http);
                }
                Ok(())
            });
        }
        for program in [second, second, first, first].repeat(3) {
            // Four more from each generation, so that none is idle.
            let answered = shared.answered();
            service.until("the clients go on", || shared.answered() > answered + 4);
            install(&service, program);
            service.upgrade().unwrap_or_else(|report| panic!("to {program}: {report}"));
        }
        load.stop()
    });
    assert!(!tally.has_lost() && tally.closed == 0, "{tally}");
    let totals = Http::open(address).and_then(|mut http| http.exchange("GET", "/total")).unwrap().body;
    let counted = |path| seen.lock().unwrap().iter().filter(|(seen, _)| *seen == path).count();
    assert_eq!(totals, format!("{} {}", counted("/visit"), counted("/hit")), "{tally}");
    let log = service.stop_all();
    assert_eq!(log.count("panicked"), 0, "{}", log.text());
}

#[test]
fn an_earlier_release_to_a_later_one_and_back() {
    hand_over(EARLIER, LATER);
}

#[test]
fn a_later_release_to_an_earlier_one_and_back() {
    hand_over(LATER, EARLIER);
}
