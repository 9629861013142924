//! The WebSocket benchmark: how long it takes until all live WebSockets, each with a session and half a message, are in the new
//! process.
//!
//! `cargo bench -p flip-tests --bench websockets -- [--restarts N] [--sockets N]`
//!
//! The clients say nothing while they are measured. Before each restart each of them says half a message, after it the other half, and sees
//! that it is answered as the next one of its session. Nothing is asserted about times.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flip_tests::websocket::{CONTINUATION, Client, FINAL, TEXT, frame};
use flip_tests::{Start, number_after};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    let Some((restarts, sockets)) = options() else {
        eprintln!("usage: websockets [--restarts N] [--sockets N]");
        return ExitCode::FAILURE;
    };
    match run(restarts, sockets) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("WebSocket benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Option<(u64, u64)> {
    let (mut restarts, mut sockets) = (10, 8000);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number = match arg.as_str() {
            "--restarts" => &mut restarts,
            "--sockets" => &mut sockets,
            // cargo says it to every benchmark.
            "--bench" => continue,
            _ => return None,
        };
        *number = args.next()?.parse().ok().filter(|&number| number > 0)?;
    }
    Some((restarts, sockets))
}

/// One restart, in milliseconds.
struct Turn {
    commit: f64,
    taken: f64,
    signal: f64,
    client: f64,
}

fn run(restarts: u64, sockets: u64) -> io::Result<()> {
    // Of this process and of the service, which inherits it.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let start = Start::new(env!("CARGO_BIN_EXE_bench_ws")).env("SOCKETS", &sockets.to_string());
    let mut service = start.start();
    let address = service.line("listens at ").rsplit_once(' ').and_then(|(_, address)| address.parse().ok());
    let address = address.ok_or_else(|| io::Error::other("no address is said"))?;

    let bar = ProgressBar::new(sockets + restarts * sockets).with_style(
        ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message("opening");
    let mut clients = vec![];
    for _ in 0..sockets {
        clients.push(Client::open(address, "/")?);
        bar.inc(1);
    }
    let (first, second) = (frame(TEXT, b"half a "), frame(FINAL | CONTINUATION, b"message"));
    let cut = second.len() / 2;
    let mut turns = vec![];
    for restart in 1..=restarts {
        bar.set_message(format!("restart {restart}"));
        for client in &mut clients {
            client.send(&first)?;
            client.send(&second[..cut])?;
        }
        let (mark, used, began) = (service.log().mark(), used()?, Instant::now());
        service.owner().signal(Signal::SIGHUP);
        let line = service.line_after(mark, "has taken all ");
        let signal = began.elapsed();
        let client = self::used()? - used;
        let taken = number_after(&line, "has taken all ").unwrap_or(0);
        let line = service.line_after(mark, "; freeze to commit ");
        let commit = number_after(&line, "; freeze to commit ").unwrap_or(0);
        let old = service.upgraded(mark).map_err(io::Error::other)?;
        service.exit(&old);
        turns.push(Turn {
            commit: f64::from(commit) / 1e3,
            taken: f64::from(taken) / 1e3,
            signal: signal.as_secs_f64() * 1e3,
            client: client.as_secs_f64() * 1e3,
        });
        for client in &mut clients {
            client.send(&second[cut..])?;
            let answer = client.hear_text()?;
            if answer != restart.to_string() {
                return Err(io::Error::other(format!("{answer:?} is not the answer to message {restart}")));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    drop(clients);
    service.stop();

    println!("{sockets} WebSockets, each with a session and half a message; milliseconds\n");
    println!(
        "{:>8}{:>22}{:>26}{:>26}{:>26}",
        "restart", "freeze to commit", "freeze to last taken", "signal to last taken", "the client's processor"
    );
    for (at, turn) in turns.iter().enumerate() {
        row(&(at + 1).to_string(), turn);
    }
    let middle = |figure: fn(&Turn) -> f64| {
        let mut figures: Vec<_> = turns.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let most = |figure: fn(&Turn) -> f64| turns.iter().map(figure).fold(0.0, f64::max);
    let all = |of: &dyn Fn(fn(&Turn) -> f64) -> f64| Turn {
        commit: of(|turn| turn.commit),
        taken: of(|turn| turn.taken),
        signal: of(|turn| turn.signal),
        client: of(|turn| turn.client),
    };
    row("median", &all(&middle));
    row("most", &all(&most));
    Ok(())
}

fn row(name: &str, turn: &Turn) {
    println!("{name:>8}{:>22.2}{:>26.1}{:>26.1}{:>26.1}", turn.commit, turn.taken, turn.signal, turn.client);
}

/// How long this process has used a processor.
fn used() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time =
        |time: nix::sys::time::TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64);
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
