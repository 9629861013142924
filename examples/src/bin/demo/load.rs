//! The clients: each asks, waits for the answer, and asks again.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::report::Report;

/// A client that has no answer after this long counts the request as failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub struct Load {
    tally: Arc<Tally>,
    go: watch::Sender<bool>,
    clients: JoinSet<Seen>,
}

/// What the clients count together, for the progress bar.
#[derive(Default)]
pub struct Tally {
    requests: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

impl Tally {
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    waits: Vec<Duration>,
    numbers: Vec<u64>,
    failures: BTreeMap<String, u64>,
}

impl Load {
    /// The clients exist from now on; they ask after [`Load::go`].
    pub fn start(url: &str, clients: u32, think: Duration) -> Self {
        let tally = Arc::new(Tally::default());
        let (go, gone) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for index in 0..clients {
            let (url, tally, mut gone) = (format!("{url}/hit"), tally.clone(), gone.clone());
            let http = http_client(index % 2 == 0);
            tasks.spawn(async move {
                // An error is a demo that ended before the clients began.
                if gone.wait_for(|go| *go).await.is_err() {
                    return Seen::default();
                }
                client(&http, &url, think, &tally).await
            });
        }
        Self { tally, go, clients: tasks }
    }

    pub fn go(&self) {
        self.go.send_replace(true);
    }

    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// Lets every client have its last answer, and adds up what they saw.
    pub async fn stop(mut self, report: &mut Report) {
        self.tally.over.store(true, Relaxed);
        drop(self.go);
        while let Some(seen) = self.clients.join_next().await {
            let seen = seen.expect("a client does not panic");
            report.waits.extend(seen.waits);
            report.numbers.extend(seen.numbers);
            for (why, times) in seen.failures {
                *report.failures.entry(why).or_default() += times;
            }
        }
        report.waits.sort_unstable();
        report.numbers.sort_unstable();
    }
}

async fn client(http: &reqwest::Client, url: &str, think: Duration, tally: &Tally) -> Seen {
    let mut seen = Seen::default();
    while !tally.over.load(Relaxed) {
        let asked = Instant::now();
        let answer = hit(http, url).await;
        seen.waits.push(asked.elapsed());
        tally.requests.fetch_add(1, Relaxed);
        match answer {
            Ok(number) => seen.numbers.push(number),
            Err(why) => {
                tally.failed.fetch_add(1, Relaxed);
                *seen.failures.entry(why).or_default() += 1;
            }
        }
        tokio::time::sleep(think).await;
    }
    seen
}

/// One request, tried once; the answer is the new total.
async fn hit(http: &reqwest::Client, url: &str) -> Result<u64, String> {
    let answer = http.post(url).send().await.map_err(|error| root_cause(&error))?;
    if !answer.status().is_success() {
        return Err(format!("answered {}", answer.status()));
    }
    let body = answer.text().await.map_err(|error| root_cause(&error))?;
    body.trim().parse().map_err(|_| format!("answered {body:?}, not a number"))
}

/// A client with a connection of its own, kept from one request to the next or made anew for each.
pub fn http_client(kept: bool) -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never())
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(usize::from(kept))
        .build()
        .expect("no option of this client can fail")
}

/// The innermost reason: "connection refused" says more than "error sending request".
pub fn root_cause(mut error: &(dyn Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
