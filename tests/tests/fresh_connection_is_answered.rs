//! A connection that was accepted and not yet read from is never closed unanswered.

use std::net::SocketAddr;
use std::time::Duration;

use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use flip_tests::{Exit, Start};

const RESTARTS: usize = 300;

/// Chance enough to spread the first byte over a restart.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn clients_that_think_before_they_ask_are_answered() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_web")).start();
    let address: SocketAddr = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for client in 0..8_u64 {
            let mut state = 0x9e37_79b9_7f4a_7c15 ^ (client + 1);
            load.client(scope, move |_, _| {
                let mut http = Http::open(address)?;
                // What a client does before it speaks; up to about a restart.
                std::thread::sleep(Duration::from_micros(random(&mut state) % 15_000));
                let answer = http.exchange("GET", "/pid")?;
                if answer.last {
                    return Err(Lost(Loss::Wrong, "its connection was not kept".to_owned()));
                }
                // And once more, after another while.
                std::thread::sleep(Duration::from_micros(random(&mut state) % 15_000));
                http.exchange("GET", "/pid").map(drop)
            });
        }
        for _ in 0..RESTARTS {
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    service.stop();
}
