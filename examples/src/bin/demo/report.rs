//! What happened, for a person and for a program.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};

use crate::service::Who;

pub struct Report {
    clients: u32,
    asked: u32,
    /// How long each restart took, from the signal to the new process's first answer.
    pub restarts: Vec<Duration>,
    pub rolled_back: u32,
    /// How long each request took, in order of length.
    pub waits: Vec<Duration>,
    /// Why requests failed, and how many for each reason.
    pub failures: BTreeMap<String, u64>,
    /// The total before the first request, all totals that clients were told in order, and the total after the last.
    pub base: u64,
    pub numbers: Vec<u64>,
    pub total: Option<u64>,
    pub first: Sample,
    pub last: Sample,
    /// Generations that did not exit with status 0.
    pub left_badly: Vec<String>,
    /// What ended the demo early.
    pub trouble: Option<String>,
}

/// One generation, looked at from outside.
#[derive(Default)]
pub struct Sample {
    pub who: Option<Who>,
    pub descriptors: Option<usize>,
    pub memory: Option<u64>,
}

impl Report {
    pub fn new(clients: u32, asked: u32) -> Self {
        Self {
            clients,
            asked,
            restarts: Vec::new(),
            rolled_back: 0,
            waits: Vec::new(),
            failures: BTreeMap::new(),
            base: 0,
            numbers: Vec::new(),
            total: None,
            first: Sample::default(),
            last: Sample::default(),
            left_badly: Vec::new(),
            trouble: None,
        }
    }

    /// Whether everything went as promised.
    pub fn kept(&self) -> bool {
        !self.lost()
            && self.trouble.is_none()
            && self.left_badly.is_empty()
            && self.total.is_some()
            && self.restarts.len() == self.restarts_meant()
            && self.rolled_back == self.roll_backs_meant()
    }

    /// Whether a client lost a request, or the service lost count.
    fn lost(&self) -> bool {
        self.failed() > 0 || self.repeated() > 0 || self.total.is_some_and(|total| total != self.expected())
    }

    fn roll_backs_meant(&self) -> u32 {
        u32::from(self.asked >= 2)
    }

    fn restarts_meant(&self) -> usize {
        (self.asked - self.roll_backs_meant()) as usize
    }

    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// What the total must be: every client that was told a number was counted once.
    fn expected(&self) -> u64 {
        self.base + self.numbers.len() as u64
    }

    /// How many numbers were told to more than one client.
    fn repeated(&self) -> usize {
        self.numbers.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }

    fn wait_of(&self, share: f64) -> Duration {
        let index = (self.waits.len().saturating_sub(1)) as f64 * share;
        self.waits.get(index as usize).copied().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        let sample = |sample: &Sample| {
            json!({
                "pid": sample.who.map(|who| who.pid),
                "generation": sample.who.map(|who| who.generation),
                "descriptors": sample.descriptors,
                "resident_bytes": sample.memory,
            })
        };
        let mut restarts = self.restarts.clone();
        restarts.sort_unstable();
        json!({
            "kept": self.kept(),
            "lost": self.lost(),
            "trouble": self.trouble,
            "clients": self.clients,
            "restarts": {
                "asked": self.asked,
                "done": restarts.len(),
                "rolled_back": self.rolled_back,
                "median_ms": restarts.get(restarts.len() / 2).copied().map(millis),
                "longest_ms": restarts.last().copied().map(millis),
            },
            "requests": self.waits.len(),
            "failed": self.failed(),
            "failures": self.failures,
            "wait": {
                "median_ms": millis(self.wait_of(0.5)),
                "p99_ms": millis(self.wait_of(0.99)),
                "longest_ms": millis(self.wait_of(1.0)),
            },
            "count": { "expected": self.expected(), "found": self.total, "repeated": self.repeated() },
            "first": sample(&self.first),
            "last": sample(&self.last),
            "left_badly": self.left_badly,
        })
    }

    pub fn print(&self, colours: bool) {
        let paint = Paint { colours };
        let rule = paint.dim(&"─".repeat(76));
        println!("{rule}");
        for row in self.rows() {
            let mark = match row.good {
                Some(true) => paint.green("✔"),
                Some(false) => paint.red("✘"),
                None => " ".into(),
            };
            let line = format!("{:<17}{:>11}   {}", row.name, row.value, paint.dim(&row.remark));
            println!(" {mark} {}", line.trim_end());
        }
        println!("{rule}");
        println!("   {:<17}{:>11}   {:>11}", "", paint.dim_to("first", 11), paint.dim_to("last", 11));
        let pair = |name: &str, show: fn(&Sample) -> String| {
            println!("   {name:<17}{:>11}   {:>11}", show(&self.first), show(&self.last));
        };
        pair("generation", |sample| or_dash(sample.who.map(|who| who.generation)));
        pair("pid", |sample| or_dash(sample.who.map(|who| who.pid)));
        pair("descriptors", |sample| or_dash(sample.descriptors));
        pair("resident memory", |sample| or_dash(sample.memory.map(HumanBytes)));
        println!("{rule}");
        for (why, times) in &self.failures {
            println!("   {:>6} × {why}", HumanCount(*times).to_string());
        }
        for sentence in self.left_badly.iter().chain(&self.trouble) {
            println!("   {sentence}");
        }
        let verdict = match (self.kept(), self.lost()) {
            (true, _) => paint.green("✔ Nothing was lost."),
            (false, true) => paint.red("✘ Something was lost."),
            (false, false) => paint.red("✘ Nothing was lost, but not everything went as it should."),
        };
        println!(" {verdict}");
    }

    fn rows(&self) -> Vec<Row> {
        let mut restarts = self.restarts.clone();
        restarts.sort_unstable();
        let restarted = match (restarts.get(restarts.len() / 2), restarts.last()) {
            (Some(&median), Some(&longest)) => {
                format!("{} each, the longest {}, from signal to first answer", span(median), span(longest))
            }
            _ => String::new(),
        };
        let mut rows = vec![Row {
            name: "restarts",
            value: of(restarts.len(), self.restarts_meant()),
            good: Some(restarts.len() == self.restarts_meant()),
            remark: restarted,
        }];
        if self.roll_backs_meant() > 0 {
            rows.push(Row {
                name: "rolled back",
                value: of(self.rolled_back as usize, 1),
                good: Some(self.rolled_back == 1),
                remark: "as intended: that binary crashes while starting".into(),
            });
        }
        let failed = self.failed();
        let percent = 100.0 * failed as f64 / self.waits.len().max(1) as f64;
        rows.extend([
            Row {
                name: "requests",
                value: HumanCount(self.waits.len() as u64).to_string(),
                good: None,
                remark: match self.clients {
                    1 => "by 1 client, on a kept connection".into(),
                    clients => format!("by {clients} clients, half on kept, half on fresh connections"),
                },
            },
            Row {
                name: "failed",
                value: HumanCount(failed).to_string(),
                good: Some(failed == 0),
                remark: if failed == 0 { String::new() } else { format!("{percent:.2} %, listed below") },
            },
            Row {
                name: "longest wait",
                value: span(self.wait_of(1.0)),
                good: None,
                remark: format!("half under {}, 99 % under {}", span(self.wait_of(0.5)), span(self.wait_of(0.99))),
            },
            Row {
                name: "count expected",
                value: HumanCount(self.expected()).to_string(),
                good: None,
                remark: "one for each answer that a client got".into(),
            },
            Row {
                name: "count found",
                value: or_dash(self.total.map(HumanCount)),
                good: Some(self.total == Some(self.expected()) && self.repeated() == 0),
                remark: match self.repeated() {
                    0 => "no number given out twice".into(),
                    times => format!("{} numbers given out more than once", HumanCount(times as u64)),
                },
            },
        ]);
        rows
    }
}

struct Row {
    name: &'static str,
    value: String,
    /// Whether it is as promised; `None` where nothing is.
    good: Option<bool>,
    remark: String,
}

fn of(done: usize, meant: usize) -> String {
    format!("{done} of {meant}")
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".into(), |value| value.to_string())
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// A time as people read it: two or three digits that count.
fn span(span: Duration) -> String {
    match millis(span) {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

struct Paint {
    colours: bool,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    fn green(&self, text: &str) -> String {
        self.with("1;32", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }

    /// Right-aligned first, because the codes have no width.
    fn dim_to(&self, text: &str, width: usize) -> String {
        self.dim(&format!("{text:>width$}"))
    }
}
