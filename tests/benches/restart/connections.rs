//! The examples themselves, restarted again and again under clients at full speed. There is nobody to compare with: what is
//! printed is what was lost, which must be nothing.

use std::time::Duration;

use flip_tests::steady::{self, EXAMPLES, Steady};
use serde_json::{Value, json};

use crate::options::{Options, Scenario};
use crate::report::Table;
use crate::stats::Sample;
use crate::{contender, progress};

/// Gives the results, and an error where anything was lost.
pub fn run(options: &Options) -> Result<Value, String> {
    let names = EXAMPLES.map(|example| example.name);
    let executables = contender::cargo_build(&["-p", "flip-examples"], &names)?;
    let restarts = options.rounds(Scenario::Connections);
    let bar = progress(Scenario::Connections, restarts * EXAMPLES.len());
    let mut results = vec![];
    for example in EXAMPLES {
        bar.set_message(example.name);
        let executable = executables.get(example.name).ok_or_else(|| format!("cargo built no {}", example.name))?;
        results.push((example.name, steady::restarts(example, executable, restarts, |_| bar.inc(1))));
    }
    bar.finish_and_clear();
    if !options.json {
        println!("{}", table(&results));
    }
    match results.iter().find_map(|(name, steady)| Some((name, steady.complaint()?))) {
        Some((name, complaint)) => Err(format!("{name}: {complaint}")),
        None => Ok(results.iter().map(|(name, steady)| figures(name, steady)).collect()),
    }
}

fn table(results: &[(&str, Steady)]) -> String {
    let mut table = Table::new(&[
        "4 fresh, 4 kept",
        "restarts",
        "seconds",
        "answers",
        "failed",
        "closed",
        "total",
        "answer p50, ms",
        "p99.9",
        "max",
        "freeze p50, ms",
        "max",
    ]);
    let millis = |duration: Duration| format!("{:.2}", duration.as_secs_f64() * 1e3);
    for (name, steady) in results {
        let [middle, high, max] = steady.tally.quantiles([0.5, 0.999, 1.0]).map(millis);
        let pauses = Sample::new(steady.pauses.iter().map(|&pause| pause as f64 / 1e3));
        let pause = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        table.row([
            (*name).to_owned(),
            steady.restarts.to_string(),
            format!("{:.1}", steady.elapsed.as_secs_f64()),
            steady.tally.answered.to_string(),
            steady.tally.lost().to_string(),
            steady.tally.closed.to_string(),
            steady.total.to_string(),
            middle,
            high,
            max,
            pause(pauses.median()),
            pause(pauses.max()),
        ]);
    }
    format!("== connections: the examples, nothing of which may be lost\n\n{table}")
}

fn figures(name: &str, steady: &Steady) -> Value {
    json!({
        "example": name,
        "restarts": steady.restarts,
        "seconds": steady.elapsed.as_secs_f64(),
        "answers": steady.tally.answered,
        "lost": steady.tally.lost(),
        "closed": steady.tally.closed,
        "total": steady.total,
        "freeze_us": steady.pauses,
    })
}
