//! What services over HTTP do: count by writing, count by calling, take their time, upload, stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use flip::{Apply, CallError, HandedOff, Handoff, Live, TcpListener};
use flip_tests::inside::{pass_gate, say, start};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use tokio::task::spawn_blocking;
use tokio::time::interval;

#[derive(Default, Handoff)]
#[handoff(calls(Hit))]
struct Totals {
    /// By `update`.
    visits: u64,
    /// By `call`.
    hits: u64,
}

#[derive(Handoff)]
struct Hit;

impl Apply<Hit> for Totals {
    type Answer = u64;
    fn apply(&mut self, _: Hit) -> u64 {
        self.hits += 1;
        self.hits
    }
}

async fn visit(totals: Live<Totals>) -> Result<String, HandedOff> {
    let visits = totals.update(|totals| {
        totals.visits += 1;
        totals.visits
    })?;
    Ok(visits.to_string())
}

async fn hit(totals: Live<Totals>) -> Result<String, (StatusCode, String)> {
    let unknown = |error: CallError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    Ok(totals.call(Hit).await.map_err(unknown)?.to_string())
}

async fn total(totals: Live<Totals>) -> Result<String, HandedOff> {
    totals.read(|totals| format!("{} {}", totals.visits, totals.hits))
}

/// For as long as the client listens, and whoever owns the totals.
async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(unfold(interval(Duration::from_millis(5)), |mut tick| async {
        tick.tick().await;
        Some((Ok(Event::default().data(std::process::id().to_string())), tick))
    }))
}

/// Waits at a gate, without a thread of the runtime's.
async fn gate(name: &'static str) {
    say(&format!("is in {name}"));
    spawn_blocking(move || pass_gate(name)).await.expect("a gate does not panic");
}

/// Is answered when the gate lets it.
async fn slow() -> String {
    gate("slow").await;
    std::process::id().to_string()
}

/// Its first half at once, the second when the gate lets it.
async fn stream() -> impl IntoResponse {
    Body::from_stream(unfold(0, |part| async move {
        if part == 1 {
            gate("stream").await;
        }
        (part < 2).then(|| (Ok::<_, Infallible>(format!("part {part} by {};", std::process::id())), part + 1))
    }))
}

/// Says how much came.
async fn upload(body: Body) -> String {
    say("begins an upload");
    let (mut length, mut data) = (0, body.into_data_stream());
    while let Some(Ok(bytes)) = data.next().await {
        length += bytes.len();
    }
    format!("{length} bytes to {}", std::process::id())
}

#[flip::main]
pub async fn main(#[listen("127.0.0.1:0")] http: TcpListener, totals: Live<Totals>) -> Result<(), flip::BoxError> {
    say(&format!("listens at {}", http.local_addr()?));
    if std::fs::read_to_string("start").is_ok_and(|what| what == "late") {
        totals.ready().await;
        return Err("the new one fails when it has the content".into());
    }
    start()?;
    say("is ready");
    let router = Router::new()
        .route("/visit", post(visit))
        .route("/hit", post(hit))
        .route("/total", get(total))
        .route("/events", get(events))
        .route("/slow", get(slow))
        .route("/stream", get(stream))
        .route("/upload", post(upload))
        .route("/pid", get(async || std::process::id().to_string()))
        .with_state(totals);
    flip::serve(http, router).await?;
    Ok(())
}
