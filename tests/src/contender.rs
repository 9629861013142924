//! What every contender of the restart benchmark serves: the same routes, so that only the hand-over differs.

use std::convert::Infallible;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream::{self, Stream};

/// Where the contender listens, when it binds for itself.
pub const ADDRESS: &str = "BENCH_ADDR";
/// The descriptor of a socket that is already listening, for contenders that do not pass theirs on.
pub const LISTENER: &str = "BENCH_LISTENER";
/// Which generation of its chain a process is.
pub const GENERATION: &str = "BENCH_GENERATION";
/// How many bytes `/touch` allocates and writes to, or `/fill` puts into the state.
pub const RESIDENT: &str = "BENCH_RESIDENT";
/// What kind of a large state `/fill` makes: `none`, `vectors` or `region`.
pub const STATE: &str = "BENCH_STATE";

/// Everything but `/`, which counts in whatever way the contender keeps its count.
pub fn routes<S: Clone + Send + Sync + 'static>(generation: u64) -> Router<S> {
    Router::new()
        .route("/whoami", get(move || whoami(generation)))
        .route("/events", get(events))
        .route("/touch", get(touch))
}

/// The answer of `/`.
pub fn answer(count: u64) -> String {
    format!("visit {count}, served by {}\n", std::process::id())
}

/// The count of the contenders that have nothing better than an atomic.
#[derive(Default)]
pub struct Visits(AtomicU64);

impl Visits {
    pub fn starting_at(count: u64) -> Visits {
        Visits(AtomicU64::new(count))
    }

    pub fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number from the environment; the driver sets them, so a malformed one is a bug worth a panic.
pub fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("the driver sets numbers"))
}

async fn whoami(generation: u64) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "pid": std::process::id(), "generation": generation }))
}

/// Ten events in half a second: long enough to live through a restart, short enough that no process waits for it for ever.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(0, |n| async move {
        if n == 10 {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok(Event::default().data(n.to_string())), n + 1))
    }))
}

/// Makes the process as large as the driver wants it. On request and not at start, so that the time from signal to answer
/// does not contain it, and so that only the contender whose turn it is takes the memory.
async fn touch() -> String {
    static RESIDENT_MEMORY: OnceLock<Vec<u8>> = OnceLock::new();
    let memory = tokio::task::spawn_blocking(|| RESIDENT_MEMORY.get_or_init(allocate)).await;
    format!("{}\n", memory.expect("allocating does not panic").len())
}

fn allocate() -> Vec<u8> {
    const PAGE: usize = 4096;
    let mut memory = vec![0_u8; number(RESIDENT).unwrap_or(0) as usize];
    // vec! of zeros only reserves; a page is resident once it has been written to.
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    memory
}
