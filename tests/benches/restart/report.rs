//! What was measured, as tables or as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::contender::{FLOOR, OTHER, PIPED, REGION, STATELESS, VECTORS};
use crate::http::Loss;
use crate::options::{Options, Scenario};
use crate::stats::Sample;
use crate::turn::Turn;
use crate::{Outcome, Series};

/// Where the figures come from.
pub fn header() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let pages = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let pages = pages.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("?", |(setting, _)| setting);
    let gigabytes = memory_available().unwrap_or(0) >> 30;
    format!(
        "Linux {}, {cores} cores ({model}), load {load}, {gigabytes} GB available, transparent huge pages: {pages}",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The share of the processors' time that somebody uses while this program does nothing, in percent.
pub fn busy() -> f64 {
    let ticks = || -> Option<(f64, f64)> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
        Some((ticks.iter().take(8).sum(), ticks.get(3)? + ticks.get(4)?))
    };
    let Some((before, idle_before)) = ticks() else { return f64::NAN };
    std::thread::sleep(Duration::from_millis(300));
    let Some((after, idle_after)) = ticks() else { return f64::NAN };
    100.0 * (1.0 - (idle_after - idle_before) / (after - before))
}

/// In bytes.
pub fn memory_available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Everything about one scenario.
pub fn tables(outcome: &Outcome, options: &Options) -> String {
    let mut text = match outcome.scenario {
        Scenario::Idle => "== idle: nobody but the prober connects\n".to_owned(),
        Scenario::Load => "== load: 4 fresh and 4 kept closed-loop clients at full speed\n".to_owned(),
        Scenario::Streams => "== streams: 4 event streams of half a second, begun before the signal\n".to_owned(),
        Scenario::Memory => format!("== memory: {} GB resident in the old process\n", options.memory >> 30),
        Scenario::Connections => String::new(),
        Scenario::State => format!("== state: {} MiB of it\n", options.state >> 20),
    };
    let (before, after) = outcome.busy;
    let _ = writeln!(text, "others kept the processors {before:.0} % busy before it and {after:.0} % after it\n");
    text += &restarts(outcome);
    if outcome.scenario == Scenario::Load {
        text += &clients(outcome);
    }
    text += &if outcome.scenario == Scenario::State { state(outcome, options) } else { compared(outcome) };
    for series in &outcome.series {
        for failure in &series.failures {
            let _ = writeln!(text, "{} FAILED in {failure}", series.contender.name);
        }
    }
    text
}

fn restarts(outcome: &Outcome) -> String {
    let mut table = Table::new(&[
        "from the signal, ms",
        "n",
        "answer p50",
        "p90",
        "max",
        "gone p50",
        "p90",
        "worst probe p50",
        "freeze p50",
        "p90",
        "lost",
    ]);
    for series in &outcome.series {
        let answer = series.sample(|turn| Some(turn.answer));
        let gone = series.sample(|turn| Some(turn.gone));
        let probe = series.sample(|turn| Some(turn.worst_probe));
        let freeze = series.sample(|turn| turn.freeze);
        table.row([
            series.contender.name.to_owned(),
            answer.len().to_string(),
            millis(answer.median()),
            millis(answer.quantile(0.9)),
            millis(answer.max()),
            millis(gone.median()),
            millis(gone.quantile(0.9)),
            millis(probe.median()),
            millis(freeze.median()),
            millis(freeze.quantile(0.9)),
            losses(series.turns().flat_map(|turn| &turn.lost)),
        ]);
    }
    let mut text = table.to_string();
    if outcome.scenario == Scenario::Streams {
        for series in &outcome.series {
            let streams: Vec<_> = series.turns().flat_map(|turn| &turn.streams).collect();
            let lost = losses(streams.iter().filter_map(|stream| stream.as_ref().err()));
            let _ = writeln!(text, "{}: {} streams, lost {lost}", series.contender.name, streams.len());
        }
        text.push('\n');
    }
    if outcome.scenario == Scenario::Memory {
        for series in &outcome.series {
            let resident = series.resident.unwrap_or(0) >> 20;
            let _ = writeln!(text, "{}: {resident} MB resident before the signal", series.contender.name);
        }
        text.push('\n');
    }
    text
}

fn clients(outcome: &Outcome) -> String {
    let mut table = Table::new(&[
        "clients, ms",
        "answers",
        "p50",
        "p99",
        "p99.9",
        "max",
        "calm p50",
        "p99",
        "lost fresh",
        "lost kept",
        "kept closed",
        "uncounted",
    ]);
    for series in &outcome.series {
        let during =
            Sample::new(series.turns().flat_map(|turn| turn.tally.during.iter().map(|&micros| f64::from(micros))));
        let calm = Sample::new(series.turns().flat_map(|turn| turn.tally.calm.iter().map(|&micros| f64::from(micros))));
        let uncounted: Vec<u64> = series.turns().filter_map(|turn| turn.uncounted).collect();
        table.row([
            series.contender.name.to_owned(),
            during.len().to_string(),
            millis(during.quantile(0.5)),
            millis(during.quantile(0.99)),
            millis(during.quantile(0.999)),
            millis(during.max()),
            millis(calm.quantile(0.5)),
            millis(calm.quantile(0.99)),
            losses(series.turns().flat_map(|turn| &turn.tally.lost_fresh)),
            losses(series.turns().flat_map(|turn| &turn.tally.lost_kept)),
            series.turns().map(|turn| turn.tally.closed).sum::<u64>().to_string(),
            if uncounted.is_empty() { "-".to_owned() } else { uncounted.iter().sum::<u64>().to_string() },
        ]);
    }
    let legend = "answers: from the signal until 200 ms have passed and the old process is gone; calm: before it. kept closed: connections that the server ended between \
                  two requests.\nuncounted: answered visits missing from the count afterwards (at least).\n\n";
    table.to_string() + legend
}

/// What a large state costs, in ratios of what one round had.
fn state(outcome: &Outcome, options: &Options) -> String {
    let copies = Sample::new(outcome.copies.iter().copied());
    let mut text = format!("a plain copy of it into touched memory: {} ms\n\n", millis(copies.median()));
    let mut table = Table::new(&["", "n", "median", "95 %", "wanted"]);
    let mut row = |name: &str, wanted: &str, values: Vec<f64>| {
        let sample = Sample::new(values);
        let median = sample.median().map_or("-".to_owned(), |median| format!("{median:.2}"));
        table.row([name.to_owned(), sample.len().to_string(), median, interval(&sample, 1.0), wanted.to_owned()]);
    };
    let turns = |name: &str| {
        let series = outcome.series.iter().find(|series| series.contender.name == name);
        series.map_or(Vec::new(), |series| series.turns.iter().map(Option::as_ref).collect::<Vec<_>>())
    };
    let (stateless, vectors, region, piped) = (turns(STATELESS), turns(VECTORS), turns(REGION), turns(PIPED));
    let compare = |one: &[Option<&Turn>], other: &[Option<&Turn>], pick: &dyn Fn(&Turn, &Turn) -> Option<f64>| {
        one.iter().zip(other).filter_map(|(one, other)| pick((*one)?, (*other)?)).collect::<Vec<f64>>()
    };
    let copied = vectors.iter().zip(&outcome.copies);
    row(
        "vectors: freeze to commit / plain copy",
        "1.3",
        copied.filter_map(|(turn, copy)| Some((*turn)?.freeze? / copy)).collect(),
    );
    row(
        "vectors: freeze to commit / shellflip's pause",
        "0.5",
        compare(&vectors, &piped, &|own, peer| Some(own.freeze? / peer.freeze?)),
    );
    row(
        "vectors: signal to answer / shellflip's",
        "1",
        compare(&vectors, &piped, &|own, peer| Some(own.answer / peer.answer)),
    );
    let peak = |turns: &[Option<&Turn>]| {
        turns.iter().flatten().map(|turn| turn.peak as f64 / options.state as f64).collect::<Vec<_>>()
    };
    row("vectors: peak memory of both / state", "2.2", peak(&vectors));
    row("shellflip: peak memory of both / state", "", peak(&piped));
    row(
        "region: signal to answer, ms above stateless",
        "10",
        compare(&region, &stateless, &|own, without| Some((own.answer - without.answer) / 1e3)),
    );
    row(
        "region: freeze to commit, ms above stateless",
        "",
        compare(&region, &stateless, &|own, without| Some((own.freeze? - without.freeze?) / 1e3)),
    );
    text += &table.to_string();
    text += "medians of what one round has, with the order-statistic (sign test) interval of the median. Peak memory is the \
             sum of\nVmHWM of the old and of the new process, which counts the pages of a region twice.\n";
    text
}

fn compared(outcome: &Outcome) -> String {
    let legend =
        "medians of what one round's turns differ by, with the order-statistic (sign test) interval of the median.\n";
    let tables = [FLOOR, OTHER].map(|measure| against(outcome, measure));
    tables.into_iter().flatten().map(|table| format!("{table}\n")).collect::<String>() + legend
}

/// What the turns of each contender take more than those of one.
fn against(outcome: &Outcome, measure: &str) -> Option<String> {
    outcome.series.iter().find(|series| series.contender.name == measure)?;
    let name = format!("against {measure}");
    let mut table = Table::new(&[&name, "pairs", "answer, ms", "95 %", "ratio", "95 %", "gone, ms", "95 %"]);
    for series in outcome.series.iter().filter(|series| ![FLOOR, measure].contains(&series.contender.name)) {
        let Some(pairs) = outcome.pairs(series, measure) else { continue };
        let answer = Sample::new(pairs.iter().map(|(own, measure)| own.answer - measure.answer));
        let ratio = Sample::new(pairs.iter().map(|(own, measure)| own.answer / measure.answer));
        let gone = Sample::new(pairs.iter().map(|(own, measure)| own.gone - measure.gone));
        table.row([
            series.contender.name.to_owned(),
            pairs.len().to_string(),
            millis(answer.median()),
            interval(&answer, 1e3),
            ratio.median().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            interval(&ratio, 1.0),
            millis(gone.median()),
            interval(&gone, 1e3),
        ]);
    }
    Some(table.to_string())
}

/// The same, with every sample.
pub fn json(header: &str, outcomes: &[Outcome], connections: Option<Value>, options: &Options) -> Value {
    let scenarios = outcomes.iter().map(|outcome| {
        let contenders = outcome.series.iter().map(|series| {
            let during = Sample::new(series.turns().flat_map(|turn| turn.tally.during.iter().map(|&us| f64::from(us))));
            let calm = Sample::new(series.turns().flat_map(|turn| turn.tally.calm.iter().map(|&us| f64::from(us))));
            let latency = |sample: &Sample| {
                json!({
                    "answers": sample.len(), "p50": sample.quantile(0.5), "p99": sample.quantile(0.99),
                    "p99.9": sample.quantile(0.999), "max": sample.max(),
                })
            };
            let lost = |pick: fn(&Turn) -> &Vec<Loss>| {
                let all: Vec<Loss> = series.turns().flat_map(|turn| pick(turn).iter().copied()).collect();
                Value::Object(
                    Loss::ALL.iter().map(|&kind| (kind.name().to_owned(), count(&all, kind).into())).collect(),
                )
            };
            let turns = series.turns.iter().map(|turn| {
                turn.as_ref().map(|turn| {
                    json!({
                        "answer_us": turn.answer, "gone_us": turn.gone, "worst_probe_us": turn.worst_probe,
                        "freeze_us": turn.freeze, "peak_bytes": turn.peak, "uncounted": turn.uncounted, "kept_closed": turn.tally.closed,
                        "streams": turn.streams.len(), "streams_lost": turn.streams.iter().filter(|s| s.is_err()).count(),
                        "lost": turn.lost.len() + turn.tally.lost_fresh.len() + turn.tally.lost_kept.len(),
                    })
                })
            });
            let differences = outcome.pairs(series, FLOOR).map(|pairs| {
                let summary = |pick: fn(&Turn) -> f64| {
                    let sample = Sample::new(pairs.iter().map(|(own, floor)| pick(own) - pick(floor)));
                    json!({ "median_us": sample.median(), "interval_us": sample.median_interval(), "pairs": sample.len() })
                };
                let ratio = Sample::new(pairs.iter().map(|(own, floor)| own.answer / floor.answer));
                json!({
                    "answer": summary(|turn| turn.answer), "gone": summary(|turn| turn.gone),
                    "answer_ratio": { "median": ratio.median(), "interval": ratio.median_interval() },
                })
            });
            json!({
                "name": series.contender.name,
                "note": series.contender.note,
                "turns": turns.collect::<Vec<_>>(),
                "failures": series.failures,
                "resident_bytes": series.resident,
                "latency_during_us": latency(&during),
                "latency_calm_us": latency(&calm),
                "lost_prober": lost(|turn| &turn.lost),
                "lost_fresh": lost(|turn| &turn.tally.lost_fresh),
                "lost_kept": lost(|turn| &turn.tally.lost_kept),
                "against_floor": differences,
            })
        });
        json!({
            "scenario": outcome.scenario.name(),
            "plain_copies_us": outcome.copies,
            "busy_percent": [outcome.busy.0, outcome.busy.1],
            "contenders": contenders.collect::<Vec<_>>(),
        })
    });
    json!({
        "machine": header,
        "memory_bytes": options.memory,
        "state_bytes": options.state,
        "scenarios": scenarios.collect::<Vec<_>>(),
        "connections": connections,
    })
}

impl Series {
    fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.iter().flatten()
    }

    fn sample(&self, pick: impl Fn(&Turn) -> Option<f64>) -> Sample {
        Sample::new(self.turns().filter_map(pick))
    }
}

impl Outcome {
    /// The turns of one contender with another's of the same round, where both came off.
    fn pairs<'a>(&'a self, series: &'a Series, measure: &str) -> Option<Vec<(&'a Turn, &'a Turn)>> {
        let measure = self.series.iter().find(|series| series.contender.name == measure)?;
        let pairs = series.turns.iter().zip(&measure.turns);
        Some(pairs.filter_map(|(own, measure)| Some((own.as_ref()?, measure.as_ref()?))).collect())
    }
}

fn millis(micros: Option<f64>) -> String {
    micros.map_or("-".to_owned(), |micros| format!("{:.2}", micros / 1e3))
}

fn interval(sample: &Sample, unit: f64) -> String {
    let interval = sample.median_interval();
    interval.map_or("-".to_owned(), |(low, high)| format!("{:.2} … {:.2}", low / unit, high / unit))
}

fn count(losses: &[Loss], kind: Loss) -> usize {
    losses.iter().filter(|&&loss| loss == kind).count()
}

/// `3 (2 cut, 1 reset)`
fn losses<'a>(losses: impl Iterator<Item = &'a Loss>) -> String {
    let all: Vec<Loss> = losses.copied().collect();
    let kinds = Loss::ALL.iter().filter_map(|&kind| match count(&all, kind) {
        0 => None,
        n => Some(format!("{n} {}", kind.name())),
    });
    let kinds: Vec<String> = kinds.collect();
    if all.is_empty() { "0".to_owned() } else { format!("{} ({})", all.len(), kinds.join(", ")) }
}

/// Columns as wide as their widest cell; names to the left, figures to the right.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(titles: &[&str; N]) -> Table<N> {
        Table { rows: vec![titles.map(str::to_owned)] }
    }

    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            write!(f, "{:<1$}", row[0], width(0))?;
            for (column, cell) in row.iter().enumerate().skip(1) {
                write!(f, "  {cell:>0$}", width(column))?;
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}
