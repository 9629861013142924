//! What [`flip::serve`] costs while nothing happens, against `axum::serve` with the same router.
//!
//! `cargo bench -p flip-tests --bench serve -- [options]`
//!
//! ```text
//! --pairs N              slices of each, in turns (500)
//! --slice-ms N           how long one is (40)
//! --requests N           how many requests the instructions are counted over, under valgrind; 0 for none (5000)
//! --only kept|fresh      one kind of connections (both)
//! ```
//!
//! Four clients in closed loops. A ratio is taken between two neighbouring slices, the first of which is flip's in every
//! second pair, and given as the median with an interval of 95 %. Slices are short, so that what disturbs one disturbs its
//! neighbour too, and many, so that the interval is narrow. Requests per second contain what the clients and others on the
//! machine take; the time of the processor is the server's alone, and instructions are nearly the same each time.

#[path = "../restart/http.rs"]
#[allow(dead_code, reason = "the benchmark of restarts asks for more")]
mod http;
#[path = "../restart/stats.rs"]
#[allow(dead_code, reason = "the benchmark of restarts asks for more")]
mod stats;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::http::{Connection, Loss, ROOT};
use crate::stats::Sample;

const CLIENTS: usize = 4;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serve benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    pairs: usize,
    slice: Duration,
    requests: usize,
    kinds: Vec<Kind>,
}

/// What the clients do with their connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kept,
    /// One for each request.
    Fresh,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Kept => "kept",
            Kind::Fresh => "fresh",
        }
    }
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, Failure> {
        let mut options = Options {
            pairs: 500,
            slice: Duration::from_millis(40),
            requests: 5000,
            kinds: vec![Kind::Kept, Kind::Fresh],
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                // What `cargo bench` says to every benchmark.
                "--bench" => {}
                "--pairs" => options.pairs = value()?.parse()?,
                "--slice-ms" => options.slice = Duration::from_millis(value()?.parse()?),
                "--requests" => options.requests = value()?.parse()?,
                "--only" => {
                    let name = value()?;
                    options.kinds.retain(|kind| kind.name() == name);
                }
                _ => {
                    return Err(format!("{argument} is no option; they are at the top of benches/serve/main.rs").into());
                }
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let [flip, axum] = [Server::start("flip")?, Server::start("axum")?];
    for &kind in &options.kinds {
        let (mut rates, mut times, mut flips, mut axums) = (vec![], vec![], vec![], vec![]);
        let bar = progress(kind, options.pairs);
        // The first pair warms both up, and is not counted.
        for pair in 0..=options.pairs {
            let (own, other) = if pair % 2 == 0 {
                let own = flip.slice(kind, options.slice)?;
                (own, axum.slice(kind, options.slice)?)
            } else {
                let other = axum.slice(kind, options.slice)?;
                (flip.slice(kind, options.slice)?, other)
            };
            if pair > 0 {
                rates.push(own.rate / other.rate);
                times.push(own.time / other.time);
                flips.push(own);
                axums.push(other);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        println!("== {} connections, {} pairs of {:?}", kind.name(), options.pairs, options.slice);
        for (name, slices) in [("flip", &flips), ("axum", &axums)] {
            let rate = Sample::new(slices.iter().map(|slice| slice.rate)).median().unwrap_or(f64::NAN);
            let time = Sample::new(slices.iter().map(|slice| slice.time)).median().unwrap_or(f64::NAN);
            println!("{name}: {rate:.0} requests/s, {:.2} us of the processor for each", time * 1e6);
        }
        println!("requests/s, flip by axum: {}", ratio(rates));
        println!("time of the processor, flip by axum: {}", ratio(times));
        if options.requests > 0 {
            let own = instructions("flip-alone", kind, options)?;
            println!("instructions a request: flip {own:.0}");
            for (name, by) in [("axum", "axum-alone"), ("axum whose handlers can ask for the peer", "axum-peers-alone")]
            {
                let other = instructions(by, kind, options)?;
                println!("{name}: {other:.0}, ratio {:.3}", own / other);
            }
        }
        println!();
    }
    Ok(())
}

fn ratio(values: Vec<f64>) -> String {
    let sample = Sample::new(values);
    let (low, high) = sample.median_interval().unwrap_or((f64::NAN, f64::NAN));
    format!("{:.3} ({low:.3} to {high:.3})", sample.median().unwrap_or(f64::NAN))
}

fn progress(kind: Kind, pairs: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<5} {bar:40} {pos}/{len} pairs, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(pairs as u64), ProgressDrawTarget::stderr_with_hz(2));
    bar.set_style(style.expect("the template is valid"));
    bar.set_prefix(kind.name());
    bar
}

/// A server that is killed when this is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

/// What came of one slice.
struct Slice {
    /// Requests per second.
    rate: f64,
    /// Seconds of the processor that the server took for one.
    time: f64,
}

impl Server {
    fn start(by: &str) -> Result<Server, Failure> {
        Server::spawn(Command::new(env!("CARGO_BIN_EXE_bench_serve")).arg(by).stderr(Stdio::inherit()))
    }

    fn spawn(command: &mut Command) -> Result<Server, Failure> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(|_| format!("{command:?} does not serve"))?;
        Ok(Server { child, address })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until a server on one thread has nothing left to do. What reaches it before that, it may find without waking up
    /// for it: by chance, then, and the end of a connection and the next one's begin would take a sixth less.
    fn sleeps(&self) -> Result<(), Failure> {
        loop {
            // "pid (name) state", proc_pid_stat(5); it is the main thread's.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
            match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
                Some('S') => return Ok(()),
                Some('Z' | 'X') | None => return Err("the server has ended".into()),
                _ => std::thread::yield_now(),
            }
        }
    }

    fn slice(&self, kind: Kind, length: Duration) -> Result<Slice, Failure> {
        let clock = clock_getcpuclockid(self.pid())?;
        let done = AtomicBool::new(false);
        let (since, before) = (Instant::now(), taken(clock)?);
        let answers = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Client { address: self.address, kind, kept: None };
                        let mut answers = 0;
                        while !done.load(Ordering::Relaxed) {
                            client.ask()?;
                            answers += 1;
                        }
                        Ok(answers)
                    })
                })
                .collect();
            std::thread::sleep(length);
            done.store(true, Ordering::Relaxed);
            let answers = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
            answers.sum::<Result<u64, Loss>>()
        });
        let answers = answers.map_err(|loss| format!("a request was lost: {}", loss.name()))? as f64;
        let (elapsed, taken) = (since.elapsed().as_secs_f64(), taken(clock)? - before);
        Ok(Slice { rate: answers / elapsed, time: taken / answers })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended already, that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The seconds that a clock shows.
fn taken(clock: ClockId) -> nix::Result<f64> {
    Ok(Duration::from(clock.now()?).as_secs_f64())
}

struct Client {
    address: SocketAddr,
    kind: Kind,
    kept: Option<Connection>,
}

impl Client {
    fn ask(&mut self) -> Result<(), Loss> {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => Connection::open(self.address)?,
        };
        connection.exchange(ROOT)?;
        match self.kind {
            Kind::Kept => self.kept = Some(connection),
            Kind::Fresh => connection.close_at_once(),
        }
        Ok(())
    }
}

/// How many instructions of the server's one request takes: what more of them take more, so that neither the start nor the
/// end is in it.
fn instructions(by: &str, kind: Kind, options: &Options) -> Result<f64, Failure> {
    let few = options.requests / 10;
    let more = count(by, kind, few + options.requests)? - count(by, kind, few)?;
    Ok(more / options.requests as f64)
}

fn count(by: &str, kind: Kind, requests: usize) -> Result<f64, Failure> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    valgrind.arg(env!("CARGO_BIN_EXE_bench_serve")).arg(by).stderr(Stdio::piped());
    let mut server = Server::spawn(&mut valgrind)?;
    let mut client = Client { address: server.address, kind, kept: None };
    let lost = |loss: Loss| format!("a request was lost: {}", loss.name());
    for _ in 0..requests {
        // A connection and its first request may meet in one wake-up, too.
        if client.kept.is_none() {
            client.kept = Some(Connection::open(client.address).map_err(lost)?);
            server.sleeps()?;
        }
        client.ask().map_err(lost)?;
        server.sleeps()?;
    }
    drop(client);
    kill(server.pid(), Signal::SIGTERM)?;
    let mut said = String::new();
    if let Some(stderr) = &mut server.child.stderr {
        stderr.read_to_string(&mut said)?;
    }
    let line =
        said.lines().find_map(|line| line.split_once("refs:")).ok_or(format!("valgrind counts nothing:\n{said}"))?;
    Ok(line.1.trim().replace(',', "").parse()?)
}
