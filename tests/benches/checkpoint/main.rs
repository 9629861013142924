//! How long a checkpoint holds writers back, next to the snapshot itself: the same state, encoded into memory that is there.
//!
//! `cargo bench -p flip-tests --bench checkpoint -- [--rounds N] [--megabytes N]`
//!
//! The service is this program again, with a store that this one keeps. One thread writes without pause; what it waits at most in a time
//! in which one checkpoint is made is compared with a snapshot that was taken just before. Beside it the same without checkpoints, which
//! is what the machine and the clock do to such a writer; and what the process takes of the processor while nothing changes.

#[path = "../restart/stats.rs"]
#[allow(dead_code, reason = "the benchmark of restarts asks for more")]
mod stats;

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flip::{Builder, Handle, Handoff, Live, Ready, Setup, Store};
use nix::time::{ClockId, clock_gettime};

use crate::stats::Sample;

const PERIOD: Duration = Duration::from_millis(200);
const SERVICE: &str = "FLIP_BENCH_CHECKPOINT";

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(SERVICE) {
        return serve(&what);
    }
    let (mut rounds, mut megabytes) = (30, 50);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|number| number.parse().ok());
        match (arg.as_str(), &mut rounds, &mut megabytes) {
            ("--rounds", to, _) | ("--megabytes", _, to) => match number() {
                Some(number) => *to = number,
                None => return usage(),
            },
            ("--bench", ..) => {}
            _ => return usage(),
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    // What is stored is held by the service as well, so nobody has to keep it here.
    std::thread::spawn(move || while socket.recv(&mut [0; 8192]).is_ok() {});
    println!("{megabytes} MB, {rounds} checkpoints; medians, with intervals of 95 %");
    for kind in ["bytes", "map"] {
        let program = std::env::current_exe().expect("it runs");
        let status = Command::new(program)
            .env(SERVICE, format!("{kind} {rounds} {megabytes}"))
            .env("NOTIFY_SOCKET", &path)
            .env("FDSTORE", "16")
            .env("FLIP_LAUNCHER", "off")
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: checkpoint [--rounds N] [--megabytes N]");
    ExitCode::FAILURE
}

#[derive(Handoff)]
struct Entry {
    text: String,
    numbers: Vec<u32>,
    total: i64,
}

#[derive(Handoff)]
struct Held {
    writes: u64,
    bytes: Vec<u8>,
    map: HashMap<u64, Entry>,
}

fn held(kind: &str, size: usize) -> Held {
    let entry = |n: u64| (n, Entry { text: format!("entry number {n}"), numbers: vec![n as u32; 4], total: n as i64 });
    match kind {
        "bytes" => Held { writes: 0, bytes: vec![7; size], map: HashMap::new() },
        // Some 50 bytes each, as they are encoded.
        _ => Held { writes: 0, bytes: vec![], map: (0..size as u64 / 50).map(entry).collect() },
    }
}

fn serve(what: &str) -> ExitCode {
    let words: Vec<_> = what.split(' ').collect();
    let [kind, rounds, megabytes] = words[..] else { return ExitCode::FAILURE };
    let rounds: usize = rounds.parse().expect("a number");
    let size = megabytes.parse::<usize>().expect("a number") << 20;
    Builder::new().ready(Ready::Manual).store(Store::State).checkpoint(PERIOD).run_blocking(async |setup: &Setup| {
        let state: Live<Held> = setup.live_with("state", async { Ok(held(kind, size)) }).await?;
        let flip: Handle = setup.param("flip").await?;
        Ok(move || measure(kind, &state, &flip, rounds))
    });
    ExitCode::SUCCESS
}

fn measure(kind: &str, state: &Live<Held>, flip: &Handle, rounds: usize) {
    let mut buffer = Vec::new();
    let mut snapshot = || {
        buffer.clear();
        let began = Instant::now();
        state.read(|held| flip::__private::bench::save(held, &mut buffer)).expect("it is here").expect("it is bytes");
        began.elapsed()
    };
    // What the buffer takes is there from the second on.
    for _ in 0..3 {
        snapshot();
    }
    let quiet: Vec<_> = (0..rounds).map(|_| waits(state)).collect();
    flip.ready();
    // Both files grow to their sizes.
    for _ in 0..4 {
        waits(state);
    }
    let (mut snapshots, mut stalls, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        let (one, other) = (snapshot(), waits(state));
        snapshots.push(one.as_secs_f64() * 1e3);
        stalls.push(other.as_secs_f64() * 1e3);
        ratios.push(other.as_secs_f64() / one.as_secs_f64());
    }
    // The last change is stored, and then nothing is done any more.
    std::thread::sleep(PERIOD * 3);
    let cpu = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    let before = cpu();
    std::thread::sleep(PERIOD * 50);
    let idle = (cpu() - before) / 50;
    let quiet = quiet.into_iter().map(|wait| wait.as_secs_f64() * 1e3).collect();
    println!("\n{kind}");
    for (name, times) in [
        ("snapshot, ms", snapshots),
        ("longest wait, ms", stalls),
        ("… without checkpoints, ms", quiet),
        ("wait / snapshot", ratios),
    ] {
        let sample = Sample::new(times);
        let (least, most) = sample.median_interval().unwrap_or_default();
        println!("  {name:28} {:.2} ({least:.2} to {most:.2})", sample.median().unwrap_or_default());
    }
    println!("  {:28} {} us of the processor each", "turns without a change", idle.as_micros());
}

/// What a writer without pause waits at most, while one checkpoint is made.
fn waits(state: &Live<Held>) -> Duration {
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while began.elapsed() < PERIOD * 3 / 2 {
        let before = Instant::now();
        state.update(|held| held.writes += 1).expect("it is here");
        longest = longest.max(before.elapsed());
    }
    longest
}
