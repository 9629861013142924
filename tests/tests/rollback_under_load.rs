//! Upgrades to a program that is broken, under load: nobody notices.

use std::net::SocketAddr;

use flip_tests::Start;
use flip_tests::client::{Http, Load, Shared};

#[test]
fn twenty_broken_programs_cost_no_request() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_web")).start();
    let address: SocketAddr = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let first = service.owner().pid;
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..2 {
            load.client(scope, |_, _| Http::open(address)?.exchange("POST", "/visit").map(drop));
            let mut kept: Option<Http> = None;
            load.client(scope, move |tally, _| {
                let mut http = match kept.take() {
                    Some(http) => http,
                    None => Http::open(address)?,
                };
                let answer = http.exchange("POST", "/visit")?;
                if answer.last {
                    tally.closed += 1;
                } else {
                    kept = Some(http);
                }
                Ok(())
            });
        }
        for round in 0..20 {
            // Some fail before the old process is frozen, some after it.
            service.at_start(["panic", "exit", "error", "late"][round % 4]);
            let before = shared.answered();
            let report = service.upgrade().unwrap_err();
            assert!(report.contains(&format!("generation 1 (pid {first}) goes on")), "{report}");
            service.until("it serves again", || shared.answered() > before);
        }
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    assert_eq!(tally.closed, 0, "{tally}");
    let total = Http::open(address).and_then(|mut http| http.exchange("GET", "/total")).unwrap().body;
    assert_eq!(total, format!("{} 0", tally.answered));
    service.at_start("");
    service.upgrade().unwrap();
    service.stop();
}
