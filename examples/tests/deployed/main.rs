//! The files of `deploy` do what they say, under the real ones: as they lie there, but for the path of the program and a port that
//! the kernel chooses.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

mod container;
mod others;
mod systemd;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use flip_tests::PATIENCE;
use flip_tests::client::{Http, Lost};
use serde_json::Value;

const COUNTER: &str = env!("CARGO_BIN_EXE_counter");

/// As a file has it, for the program of this build.
fn deployed(text: &str, program: &str) -> String {
    let of_a_user = "%h/.local/bin/counter";
    assert!(
        text.contains("/usr/local/bin/counter --listen ") || text.contains(of_a_user),
        "it starts the program: {text}"
    );
    text.replace("/usr/local/bin/counter", program).replace(of_a_user, program).replace("127.0.0.1:8080", "127.0.0.1:0")
}

/// Where the first process that was started last says that it serves.
fn served_at(log: &str) -> Option<SocketAddr> {
    let (_, after) = log.rsplit_once(" serves at ")?;
    after.split_once('\n').map_or(after, |(line, _)| line).trim().parse().ok()
}

fn hit(address: SocketAddr) -> u64 {
    Http::open(address).unwrap().exchange("POST", "/hit").unwrap().body.trim().parse().unwrap()
}

/// Who answers, and its generation.
fn whoami(address: SocketAddr) -> Result<(i32, u64), Lost> {
    let answer = Http::open(address)?.exchange("GET", "/whoami")?.body;
    let who: Value = serde_json::from_str(&answer).unwrap();
    Ok((i32::try_from(who["pid"].as_i64().unwrap()).unwrap(), who["generation"].as_u64().unwrap()))
}

/// What is named so, in seconds.
fn seconds(text: &str, name: &str) -> u64 {
    let (_, after) = text.split_once(name).unwrap_or_else(|| panic!("it has {name}"));
    after.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty()).unwrap().parse().unwrap()
}

/// The pause before the stop, what drains after it, and the second in which the rest is cut.
#[test]
fn pod_has_the_time_to_drain() {
    let deployment = include_str!("../../deploy/kubernetes.yaml");
    let grace = seconds(deployment, "terminationGracePeriodSeconds: ");
    let (pause, drains) =
        (seconds(deployment, "sleep: { seconds: "), seconds(deployment, "FLIP_DRAIN_TIMEOUT, value: "));
    assert!(grace > pause + drains + 1, "{grace} s for {pause} s and {drains} s");
}

fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = there() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}
