//! What an upgrade costs the clients of a service that is served by another stack than flip's own: what the page "Your
//! framework" says, and no more.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::SocketAddr;

use flip_tests::client::{Answer, Http};
use flip_tests::http::{Load, Tally};
use flip_tests::{Chain, Exit, Start};

const UPGRADES: usize = 20;

fn start(executable: &str) -> (Chain, SocketAddr) {
    // actix-web looks once a second whether its connections are done, and nothing here waits for that but the end.
    let start = Start::new(executable).env("FLIP_GENERATIONS", "30");
    let service = start.arg("--listen").arg("127.0.0.1:0").spawn();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    // Whoever is upgraded before it serves remembers that for later.
    assert_eq!(get(address).body, by(service.owner().pid, ""));
    (service, address)
}

fn by(pid: i32, sent: &str) -> String {
    format!("{pid} {sent}\n")
}

fn get(address: SocketAddr) -> Answer {
    Http::open(address).unwrap().exchange("GET", "/").unwrap()
}

/// A request whose handler runs, and waits for the other half of the body.
fn half(address: SocketAddr) -> Http {
    let mut http = Http::open(address).unwrap();
    http.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(http.head().unwrap().0, 100, "nobody wants the body");
    http.send("half").unwrap();
    http
}

/// A connection that is accepted, because another one behind it was answered, and that has said nothing yet.
fn silent(address: SocketAddr) -> Http {
    let silent = Http::open(address).unwrap();
    get(address);
    silent
}

/// Upgrades under clients that make a connection for each request. Gives what these saw.
fn upgrade_under_load(executable: &str) -> Tally {
    let (mut service, address) = start(executable);
    let load = Load::start(address, 0, 4);
    let mut left = vec![];
    for _ in 0..UPGRADES {
        load.go_on_for(20);
        let mut kept = Http::open(address).unwrap();
        assert_eq!(kept.exchange("GET", "/").unwrap().body, by(service.owner().pid, ""));
        let mut running = half(address);
        let old = service.upgrade().unwrap();
        kept.ended().unwrap();
        assert!(!old.has_ended());
        running.send("half").unwrap();
        assert_eq!(running.good_answer().unwrap().body, by(old.pid, "halfhalf"));
        running.ended().unwrap();
        left.push(old);
    }
    load.go_on_for(20);
    let tally = load.stop();
    println!("{tally:?}");
    for old in left {
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    service.stop();
    // Nobody was turned away, and what was answered was answered whole.
    assert_eq!((tally.refused, tally.failed, tally.cut, tally.silent), (0, 0, 0, 0), "{tally:?}");
    tally
}

/// Upgrades, and gives the connection that said nothing until then, and the process that has accepted it.
fn upgrade_before_the_first_word(executable: &str) -> (Chain, Http, flip_tests::Process) {
    let (mut service, address) = start(executable);
    let silent = silent(address);
    let old = service.upgrade().unwrap();
    (service, silent, old)
}

#[test]
fn axum_answers_what_it_has_begun() {
    upgrade_under_load(env!("CARGO_BIN_EXE_axum_serve"));
}

#[test]
fn axum_closes_a_connection_that_has_not_asked_yet() {
    let (service, mut silent, old) = upgrade_before_the_first_word(env!("CARGO_BIN_EXE_axum_serve"));
    silent.ended().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn hyper_answers_whoever_it_has_accepted() {
    let tally = upgrade_under_load(env!("CARGO_BIN_EXE_bare_hyper"));
    assert_eq!(tally.wrong(), 0, "{tally:?}");
}

#[test]
fn hyper_answers_a_connection_that_has_not_asked_yet() {
    let (service, mut silent, old) = upgrade_before_the_first_word(env!("CARGO_BIN_EXE_bare_hyper"));
    assert_eq!(silent.exchange("GET", "/").unwrap().body, by(old.pid, ""));
    silent.ended().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn actix_answers_what_it_has_begun() {
    upgrade_under_load(env!("CARGO_BIN_EXE_actix"));
}

#[test]
fn actix_closes_a_connection_that_has_not_asked_yet() {
    let (service, mut silent, old) = upgrade_before_the_first_word(env!("CARGO_BIN_EXE_actix"));
    silent.ended().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}
