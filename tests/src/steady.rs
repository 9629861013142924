//! What the examples promise: clients in closed loops at full speed, half of them with a connection for each request, notice
//! nothing of any number of restarts, and everything that they were told is counted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Http, Load, Loss, Lost, Shared, Tally};
use crate::{Chain, Exit, Start, places};

const FRESH: usize = 4;
const KEPT: usize = 4;

/// An example that counts, and how it is asked to.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    pub name: &'static str,
    /// Method and path of what counts.
    counts: (&'static str, &'static str),
    /// Path of what tells how often, and what that adds to it itself.
    total: (&'static str, u64),
}

/// `counter` and `hello`.
pub const EXAMPLES: [Example; 2] = [
    Example { name: "counter", counts: ("POST", "/hit"), total: ("/total", 0) },
    Example { name: "hello", counts: ("GET", "/"), total: ("/", 1) },
];

/// What came of it.
#[derive(Debug)]
pub struct Steady {
    pub restarts: usize,
    pub elapsed: Duration,
    pub tally: Tally,
    /// What the last generation has counted.
    pub total: u64,
    /// How long the service was nobody's in each restart, in microseconds.
    pub pauses: Vec<u64>,
}

impl Steady {
    /// What is not as it must be.
    pub fn complaint(&self) -> Option<String> {
        let Steady { tally, total, .. } = self;
        (tally.has_lost() || tally.closed > 0 || *total != tally.answered)
            .then(|| format!("a total of {total}; {tally}"))
    }
}

/// Restarts an example so often under its clients. Says after each how many are done.
pub fn restarts(example: Example, executable: &Path, restarts: usize, mut done: impl FnMut(usize)) -> Steady {
    let executable = executable.to_str().expect("a path in the target directory is text");
    let (mut service, address) = places::spawn(Start::new(executable).arg("--listen").arg("127.0.0.1:0"));
    let shared = Shared::default();
    let (tally, elapsed) = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for number in 0..FRESH + KEPT {
            let mut client = Client { example, address, keeps: number < KEPT, kept: None };
            load.client(scope, move |tally, _| client.ask(tally));
        }
        let since = Instant::now();
        for number in 1..=restarts {
            let before = shared.answered();
            service.until("clients are answered", || shared.answered() > before || shared.first_loss().is_some());
            restart(&mut service);
            done(number);
        }
        (load.stop(), since.elapsed())
    });
    let body = Http::open(address).and_then(|mut http| http.exchange("GET", example.total.0));
    let body = body.unwrap_or_else(|lost| service.fail(&format!("{lost:?}"))).body;
    let total = number_in(&body).unwrap_or_else(|| service.fail(&body)) - example.total.1;
    let log = service.stop();
    let pauses = log.text().lines().filter_map(pause).collect();
    Steady { restarts, elapsed, tally, total, pauses }
}

/// One after which nothing is left of the old process.
fn restart(service: &mut Chain) {
    let old = service.upgrade().unwrap_or_else(|report| service.fail(&report));
    let exit = service.exit(&old);
    if exit != Exit::Status(0) {
        service.fail(&format!("the old process ended with {exit:?}"));
    }
}

struct Client {
    example: Example,
    address: SocketAddr,
    keeps: bool,
    kept: Option<Http>,
}

impl Client {
    fn ask(&mut self, tally: &mut Tally) -> Result<(), Lost> {
        let mut http = match self.kept.take() {
            Some(http) => http,
            None => Http::open(self.address)?,
        };
        let (method, path) = self.example.counts;
        let answer = http.exchange(method, path)?;
        number_in(&answer.body).ok_or_else(|| Lost(Loss::Wrong, answer.body.clone()))?;
        if answer.last {
            tally.closed += 1;
        } else if self.keeps {
            self.kept = Some(http);
        }
        Ok(())
    }
}

/// The first number in an answer.
fn number_in(body: &str) -> Option<u64> {
    body.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// Reads `… freeze to commit 123 us …`.
fn pause(line: &str) -> Option<u64> {
    line.split_once("; freeze to commit ")?.1.split_once(" us")?.0.parse().ok()
}
