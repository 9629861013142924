//! Restarts `counter` again and again while clients use it, once with a binary that crashes while starting, and says
//! what the clients noticed.
//!
//! ```console
//! $ cargo run --release -p flip-examples --bin demo
//! ```
//!
//! Exit status: 0 if nothing was lost, 1 if something was or a restart failed, 130 if it was interrupted.

mod family;
mod load;
mod report;
mod service;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use family::Family;
use load::Load;
use report::Report;
use service::{Service, Who};

/// What ends the demo before its time, as a sentence.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Restart a service again and again while clients use it, and count what they lose.
#[derive(Parser)]
struct Cli {
    /// How many clients ask at the same time; every other one opens a new connection for each request
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// How many restarts to ask for; the middle one starts a binary that crashes
    #[arg(long, default_value_t = 20)]
    restarts: u32,
    /// How long it all takes: the restarts are spread evenly over this many seconds
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// How long a client waits between an answer and its next request, in milliseconds
    #[arg(long, default_value_t = 1)]
    think: u64,
    /// How many seconds a restart may take before the demo gives up and prints the service's log
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    patience: f64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Another service to try, with the paths and the command line of `counter`
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
}

fn seconds(given: &str) -> Result<f64, String> {
    match given.parse() {
        Ok(value) if (0.1..=1e6).contains(&value) => Ok(value),
        Ok(_) => Err("must lie between 0.1 and 1000000".into()),
        Err(error) => Err(format!("{error}")),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Dropped last, so that no generation outlives the demo, however it ends.
    let family = match Family::adopt() {
        Ok(family) => family,
        Err(error) => {
            eprintln!("demo: cannot become the parent of orphans: {error}");
            return ExitCode::FAILURE;
        }
    };
    tokio::select! {
        biased;
        code = demonstrate(&cli, &family) => code,
        name = interrupted() => {
            eprintln!("\ndemo: {name}, stopping");
            ExitCode::from(130)
        }
    }
}

/// Resolves when somebody wants the demo to end.
async fn interrupted() -> &'static str {
    let watch = |kind| signal(kind).expect("the kernel lets every process handle this signal");
    let (mut int, mut term, mut hup) =
        (watch(SignalKind::interrupt()), watch(SignalKind::terminate()), watch(SignalKind::hangup()));
    tokio::select! {
        _ = int.recv() => "interrupted",
        _ = term.recv() => "terminated",
        _ = hup.recv() => "hung up",
    }
}

async fn demonstrate(cli: &Cli, family: &Family) -> ExitCode {
    let binary = match &cli.server {
        Some(path) => Ok(path.clone()),
        None => service::find_counter().await,
    };
    let started = async { Service::start(&binary?, Duration::from_secs_f64(cli.patience), family).await };
    let service = match started.await {
        Ok(service) => service,
        Err(trouble) => {
            eprintln!("demo: {trouble}");
            return ExitCode::FAILURE;
        }
    };

    let load = Load::start(service.url(), cli.clients, Duration::from_millis(cli.think));
    let bar = progress_bar(cli, &load);
    let mut report = Report::new(cli.clients, cli.restarts);
    let outcome = restarts(cli, &service, &load, &bar, &mut report).await;
    bar.set_message("stopping the clients");
    load.stop(&mut report).await;
    // The count can be told even where the restarts went wrong, if anybody is left who has it.
    report.total = service.total().await.ok();
    let outcome = match outcome {
        Ok(last) => settle(&service, family, last, &bar, &mut report).await,
        Err(trouble) => Err(trouble),
    };
    bar.finish_and_clear();
    if let Err(trouble) = outcome {
        report.trouble = Some(trouble.to_string());
    }

    if cli.json {
        println!("{:#}", report.json());
    } else {
        report.print(std::io::stdout().is_terminal());
    }
    if !report.kept() {
        eprintln!("\n{}", service.log_tail());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The restarts, spread evenly over the time given, and one more pause after the last. Returns who serves then.
async fn restarts(
    cli: &Cli,
    service: &Service<'_>,
    load: &Load,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<Who, Trouble> {
    let start = Instant::now();
    let pace = Duration::from_secs_f64(cli.seconds) / (cli.restarts + 1);
    let crashing = if cli.restarts >= 2 { cli.restarts.div_ceil(2) } else { 0 };

    let mut now = service.whoami().await?;
    report.first.who = Some(now);
    report.first.descriptors = service.idle_descriptors(now.pid).await;
    report.base = service.total().await?;
    load.go();
    for round in 1..=cli.restarts {
        bar.set_message(format!("generation {}, pid {}", now.generation, now.pid));
        sleep_until(start + pace * round).await;
        if round == 1 {
            report.first.memory = service::resident(now.pid);
        }
        if round == crashing {
            let message = service.crash(now).await.map_err(|trouble| format!("restart {round}: {trouble}"))?;
            report.rolled_back += 1;
            say(cli, bar, &format!("restart {round} with a broken binary: \"{message}\""));
            say(cli, bar, &format!("  rolled back, pid {} goes on", now.pid));
        } else {
            let asked = Instant::now();
            now = service.restart(now).await.map_err(|trouble| format!("restart {round}: {trouble}"))?;
            report.restarts.push(asked.elapsed());
        }
        bar.inc(1);
    }
    sleep_until(start + pace * (cli.restarts + 1)).await;
    if cli.restarts == 0 {
        report.first.memory = service::resident(now.pid);
    }
    report.last.who = Some(now);
    report.last.memory = service::resident(now.pid);
    Ok(now)
}

/// What can be seen only when nobody asks any more: the descriptors, and that everybody leaves.
async fn settle(
    service: &Service<'_>,
    family: &Family,
    last: Who,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Trouble> {
    let last = last.pid;
    bar.set_message("waiting for old generations to leave");
    service.alone(last).await?;
    report.last.descriptors = service.idle_descriptors(last).await;
    bar.set_message("stopping the service");
    service.stop(last).await?;
    report.left_badly = family.left_badly();
    Ok(())
}

fn progress_bar(cli: &Cli, load: &Load) -> ProgressBar {
    let template = "{spinner:.green} {bar:20.green/240} {pos}/{len} restarts · {msg} · {requests} requests, {failed}";
    let (requests, failed) = (load.tally(), load.tally());
    let style = ProgressStyle::with_template(template)
        .expect("the template is well-formed")
        .progress_chars("━╸─")
        .with_key("requests", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            out.write_fmt(format_args!("{}", HumanCount(requests.requests()))).ok();
        })
        .with_key("failed", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            out.write_fmt(format_args!("{} failed", HumanCount(failed.failed()))).ok();
        });
    let bar = ProgressBar::with_draw_target(Some(u64::from(cli.restarts)), ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(80));
    bar
}

/// A line above the bar, or by itself where there is no terminal to draw a bar on.
fn say(cli: &Cli, bar: &ProgressBar, line: &str) {
    if !bar.is_hidden() {
        bar.println(line);
    } else if !cli.json {
        eprintln!("{line}");
    }
}
