//! A counter that may not lose count: `demo` restarts it under load.
//!
//! A request that is still being answered by the old process when the new one has taken over is counted all the same:
//! its call is forwarded to the new process, and its answer comes from there. Where it is started by systemd with a store, in a container or
//! from a terminal, it goes on from a checkpoint after a crash.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use flip::{Apply, CallError, HandedOff, Handle, Handoff, Live, TcpListener};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::time::interval;

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: flip::Address,
}

#[derive(Default, Handoff)]
#[handoff(calls(Hit))]
struct Totals {
    hits: u64,
}

/// One more, please. The answer is the new total.
#[derive(Handoff)]
struct Hit;

impl Apply<Hit> for Totals {
    type Answer = u64;

    fn apply(&mut self, _: Hit) -> u64 {
        self.hits += 1;
        self.hits
    }
}

async fn hit(totals: Live<Totals>) -> Result<String, (StatusCode, String)> {
    // The outcome of a call that failed is unknown. Whether to ask again is for the client to say.
    let unknown = |error: CallError| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
    let total = totals.call(Hit).await.map_err(unknown)?;
    Ok(format!("{total}\n"))
}

async fn total(totals: Live<Totals>) -> Result<String, HandedOff> {
    Ok(format!("{}\n", totals.read(|totals| totals.hits)?))
}

/// The total each second. It ends when the total has been handed over; a browser's `EventSource` then connects anew,
/// which brings it to the new process.
async fn events(totals: Live<Totals>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(unfold((interval(Duration::from_secs(1)), totals), async |(mut second, totals)| {
        second.tick().await;
        let hits = totals.read(|totals| totals.hits).ok()?;
        Some((Ok(Event::default().data(hits.to_string())), (second, totals)))
    }))
}

#[flip::main(store = state)]
async fn main(
    #[args] args: Cli,
    #[listen(args.listen)] http: TcpListener,
    totals: Live<Totals>,
    flip: Handle,
) -> std::io::Result<()> {
    flip_examples::log();
    let whoami = async move || Json(serde_json::json!({ "pid": std::process::id(), "generation": flip.generation() }));
    let router = Router::new()
        .route("/hit", post(hit))
        .route("/total", get(total))
        .route("/events", get(events))
        .route("/whoami", get(whoami))
        .with_state(totals);
    flip::serve(http, router).await
}
