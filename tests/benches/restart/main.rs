//! The restart benchmark: what a restart costs, in flip and in what people use today, taken in turns within one run.
//!
//! `cargo bench -p flip-tests --bench restart -- [options]`
//!
//! ```text
//! --restarts N           restarts of each contender, idle and under load (200)
//! --few-restarts N       restarts of each with streams open, with memory resident and with a large state (20)
//! --many-restarts N      restarts of each example in the scenario connections (1000)
//! --memory-gb N          how much memory that is (4)
//! --state-mb N           how large the state is in the scenario of that name (1024)
//! --scenario A,B         of idle, load, streams, memory, state, connections (all)
//! --other PATH           a `bench_flip` that was built from other sources, as one more contender
//! --only A,B             of the contenders; the floor is always among them (all)
//! --quick                five restarts of each, one with streams and memory, to see that it runs
//! --json                 results with every sample as JSON instead of tables
//! ```
//!
//! Nothing is asserted about times: it prints what it measured. Differences are taken between neighbours in a round and
//! given with an interval, because this machine's times drift more than the contenders differ.

mod connections;
mod contender;
mod http;
mod load;
mod options;
mod report;
mod stats;
mod turn;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use flip_tests::copy::{self, Way};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::contender::{CONTENDERS, Contender, Running};
use crate::options::{Options, Scenario};
use crate::turn::{Clients, Turn};

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("restart benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One contender's turns in a scenario, `None` where a restart failed.
pub struct Series {
    pub contender: &'static Contender,
    pub turns: Vec<Option<Turn>>,
    pub failures: Vec<String>,
    /// The largest resident size seen before a signal.
    pub resident: Option<u64>,
}

pub struct Outcome {
    pub scenario: Scenario,
    pub series: Vec<Series>,
    /// How long a plain copy of the state took in each round, in microseconds.
    pub copies: Vec<f64>,
    /// How busy others kept the machine, in percent, before and after.
    pub busy: (f64, f64),
}

fn run(options: &Options) -> Result<(), String> {
    // Successors lose their parent at each restart; they become children of this program, which takes their exit status.
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| format!("PR_SET_CHILD_SUBREAPER: {error}"))?;
    let contenders: Vec<_> = CONTENDERS.iter().filter(|contender| options.wants(contender)).collect();
    let mut executables = if contenders.is_empty() { HashMap::new() } else { contender::build(&contenders)? };
    executables.extend(options.other.clone().map(|path| (contender::OTHER.to_owned(), path)));
    let _copies =
        contender::copy(&mut executables).map_err(|error| format!("the programs cannot be copied: {error}"))?;

    let header = report::header();
    if !options.json {
        println!("{header}");
        for contender in &contenders {
            println!("{:<17} {}", contender.name, contender.note);
        }
        println!();
    }

    let (mut outcomes, mut connections) = (Vec::new(), None);
    for &scenario in &options.scenarios {
        if scenario == Scenario::Connections {
            connections = Some(connections::run(options)?);
            continue;
        }
        let own: Vec<_> = contenders.iter().copied().filter(|contender| contender.takes_part(scenario)).collect();
        let outcome = play(scenario, options, &own, &executables)?;
        if !options.json {
            println!("{}", report::tables(&outcome, options));
        }
        outcomes.push(outcome);
    }
    if options.json {
        println!("{:#}", report::json(&header, &outcomes, connections, options));
    }
    Ok(())
}

/// All restarts of one scenario: each round gives every contender a turn, beginning with another one every second time, and going
/// the other way around in between: who comes after a like one finds the processor's caches full of what it needs.
fn play(
    scenario: Scenario,
    options: &Options,
    contenders: &[&'static Contender],
    executables: &HashMap<String, PathBuf>,
) -> Result<Outcome, String> {
    let resident = match scenario {
        Scenario::Memory => affordable(options.memory)?,
        // Each contender keeps its own, twice in its turn, and there are the two sides of the plain copy.
        Scenario::State => affordable(options.state * (contenders.len() as u64 + 3))? / (contenders.len() as u64 + 3),
        _ => 0,
    };
    let start = |contender: &'static Contender| {
        let executable = executables.get(contender.bin).ok_or_else(|| format!("cargo built no {}", contender.bin))?;
        Running::start(contender, executable, resident).map_err(|error| error.to_string())
    };
    let mut running = contenders.iter().map(|contender| start(contender)).collect::<Result<Vec<_>, _>>()?;
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series { contender, turns: Vec::new(), failures: Vec::new(), resident: None })
        .collect();

    let rounds = options.rounds(scenario);
    let busy_before = report::busy();
    let bar = progress(scenario, rounds * contenders.len());
    let mut plain = (scenario == Scenario::State).then(|| Plain::of(resident));
    for round in 0..rounds {
        if let Some(plain) = &mut plain {
            plain.copy().map_err(|error| format!("the plain copy: {error}"))?;
        }
        for place in 0..contenders.len() {
            let place = if round % 2 == 0 { place } else { contenders.len() - 1 - place };
            let n = (round / 2 + place) % contenders.len();
            bar.set_message(contenders[n].name);
            match take_turn(&mut running[n], scenario) {
                Ok((turn, resident)) => {
                    series[n].turns.push(Some(turn));
                    series[n].resident = series[n].resident.max(resident);
                }
                Err(error) => {
                    series[n].turns.push(None);
                    series[n].failures.push(format!("round {}: {error}\n{}", round + 1, running[n].last_lines()));
                    running[n] = start(contenders[n])?;
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let copies = plain.map_or(Vec::new(), |plain| plain.taken);
    Ok(Outcome { scenario, series, copies, busy: (busy_before, report::busy()) })
}

/// What the content of a large state is compared with: as many bytes through the same kind of socket, and nothing else.
struct Plain {
    from: Vec<Vec<u8>>,
    to: Vec<Vec<u8>>,
    taken: Vec<f64>,
}

impl Plain {
    fn of(bytes: u64) -> Plain {
        let bytes = bytes as usize;
        Plain { from: copy::touched(bytes), to: copy::touched(bytes), taken: Vec::new() }
    }

    fn copy(&mut self) -> std::io::Result<()> {
        let taken = copy::copy(Way::Stream, &self.from, &mut self.to)?;
        self.taken.push(taken.as_secs_f64() * 1e6);
        Ok(())
    }
}

fn take_turn(running: &mut Running, scenario: Scenario) -> Result<(Turn, Option<u64>), String> {
    let mut resident = None;
    if matches!(scenario, Scenario::Memory | Scenario::State) {
        // Now and not at start: the memory of one contender at a time, and none of it in the time of the successor.
        running.touch().map_err(|loss| format!("the memory was not touched: {}", loss.name()))?;
        resident = running.resident();
    }
    let clients = match scenario {
        Scenario::Load => Clients { fresh: 4, kept: 4, streams: 0 },
        Scenario::Streams => Clients { streams: 4, ..Clients::default() },
        Scenario::Idle | Scenario::Memory | Scenario::State | Scenario::Connections => Clients::default(),
    };
    Ok((turn::restart(running, clients)?, resident))
}

/// The memory asked for, if the machine has it and a quarter more.
fn affordable(bytes: u64) -> Result<u64, String> {
    let available = report::memory_available().unwrap_or(u64::MAX);
    if bytes + bytes / 4 > available {
        return Err(format!("--memory-gb asks for {bytes} bytes, but only {available} are available"));
    }
    Ok(bytes)
}

fn progress(scenario: Scenario, turns: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<11} {bar:40} {pos}/{len} restarts, {eta} left ({msg})");
    let bar = ProgressBar::with_draw_target(Some(turns as u64), ProgressDrawTarget::stderr_with_hz(2));
    bar.set_style(style.expect("the template is valid"));
    bar.set_prefix(scenario.name());
    bar
}
