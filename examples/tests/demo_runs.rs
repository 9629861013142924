//! The demo, on a small scale: it finds nothing wrong, its figures agree with each other, and it leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::time::Instant;

use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// It ends its service by itself, if it is asked to.
struct Demo(Chain);

impl Drop for Demo {
    fn drop(&mut self) {
        let (demo, asked) = (self.0.owner(), Instant::now());
        if !demo.has_ended() {
            demo.signal(Signal::SIGTERM);
        }
        while !demo.has_ended() && asked.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

#[test]
fn nothing_is_lost_and_the_figures_agree() {
    let start = Start::new(env!("CARGO_BIN_EXE_demo")).arg("--server").arg(env!("CARGO_BIN_EXE_counter")).arg("--json");
    let directory = start.dir().to_str().unwrap().to_owned();
    let scale = ["--restarts", "4", "--seconds", "1", "--clients", "4"];
    let start = scale.into_iter().fold(start.env("TMPDIR", &directory), Start::arg);
    let mut demo = Demo(start.spawn());
    let exit = demo.0.exit(demo.0.owner());
    demo.0.gone();
    let said = demo.0.log().text();
    assert_eq!(exit, Exit::Status(0), "{said}");

    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    for (figure, value) in [
        ("/kept", json!(true)),
        ("/lost", json!(false)),
        ("/trouble", json!(null)),
        ("/clients", json!(4)),
        ("/restarts/asked", json!(4)),
        ("/restarts/done", json!(3)),
        ("/restarts/rolled_back", json!(1)),
        ("/failed", json!(0)),
        ("/failures", json!({})),
        ("/count/repeated", json!(0)),
        ("/first/generation", json!(1)),
        ("/last/generation", json!(4)),
        ("/left_badly", json!([])),
    ] {
        assert_eq!(report.pointer(figure), Some(&value), "{figure}: {said}");
    }
    let figure = |name: &str| report.pointer(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{name}: {said}"));
    assert!(figure("/requests") > 0.0, "{said}");
    // It begins with none, and every answer was counted.
    assert_eq!(figure("/count/expected"), figure("/requests"), "{said}");
    assert_eq!(figure("/count/found"), figure("/requests"), "{said}");
    assert_ne!(figure("/last/pid"), figure("/first/pid"), "{said}");
    for ordered in
        [&["/restarts/median_ms", "/restarts/longest_ms"][..], &["/wait/median_ms", "/wait/p99_ms", "/wait/longest_ms"]]
    {
        assert!(ordered.iter().map(|name| figure(name)).is_sorted(), "{ordered:?}: {said}");
    }
    // Nothing is left behind.
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
}
