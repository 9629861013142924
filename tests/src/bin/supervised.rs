//! A web service for a supervisor: a count, a freeze that takes as long as the file `freeze` says, or as gates want, and requests that
//! hold a connection open or block every worker.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use flip::{HandedOff, Handle, Handoff, Live};
use flip_tests::inside::{Gates, is_called, start};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const WORKERS: usize = 2;

/// It takes its time to be written.
#[derive(Default)]
struct Slow;

impl Serialize for Slow {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let time = std::fs::read_to_string("freeze").ok().and_then(|text| text.trim().parse().ok());
        if let Some(time) = time.filter(|_| is_called("flip-freeze")) {
            std::thread::sleep(Duration::from_millis(time));
        }
        to.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from).map(|()| Slow)
    }
}

#[derive(Default, Handoff)]
struct Visits {
    total: u64,
    slow: Slow,
    gates: Gates,
}

/// The process, its parent, its generation and the count; and what its environment says about it.
async fn visit(State((visits, flip)): State<(Live<Visits>, Handle)>) -> Result<String, HandedOff> {
    let total = visits.update(|visits| {
        visits.total += 1;
        visits.total
    })?;
    let (pid, parent) = (std::process::id(), std::os::unix::process::parent_id());
    let watchdog = std::env::var("WATCHDOG_PID").unwrap_or_else(|_| "none".to_owned());
    Ok(format!("{pid} {parent} {} {total} {watchdog}\n", flip.generation()))
}

/// Answers never: the connection is open until its client closes it.
async fn hold() -> String {
    std::future::pending().await
}

/// Blocks every worker for good.
async fn hang() -> String {
    for _ in 0..WORKERS {
        tokio::spawn(async {
            loop {
                std::thread::park();
            }
        });
    }
    std::future::pending().await
}

#[flip::main(worker_threads = 2)]
async fn main(
    #[listen(std::fs::read_to_string("address").map_err(|error| format!("the file `address`: {error}"))?)]
    http: flip::TcpListener,
    visits: Live<Visits>,
    flip: Handle,
) -> Result<(), flip::BoxError> {
    start()?;
    // Whole or not at all.
    std::fs::write("bound.new", http.local_addr()?.to_string())?;
    std::fs::rename("bound.new", "bound")?;
    let app = Router::new().route("/", get(visit)).route("/hold", get(hold)).route("/hang", get(hang));
    Ok(flip::serve(http, app.with_state((visits, flip))).await?)
}
