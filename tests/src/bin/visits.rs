//! A web service: a listener, a count, and handlers that take as long as a gate wants.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use flip::{HandedOff, Handle, Handoff, Live};
use flip_tests::inside::{answer, pass_gate, say, start};

#[derive(Default, Handoff)]
struct Visits {
    total: u64,
}

async fn visit(State(visits): State<Live<Visits>>) -> Result<String, HandedOff> {
    let total = visits.update(|visits| {
        visits.total += 1;
        visits.total
    })?;
    Ok(format!("{} {total}\n", std::process::id()))
}

/// Answers when the gate is open, and changes nothing.
async fn slow(Path(gate): Path<String>) -> String {
    // The thread is the gate's meanwhile.
    let passed = tokio::task::spawn_blocking(move || pass_gate(&gate)).await;
    passed.expect("a gate does not panic");
    format!("{} 0\n", std::process::id())
}

/// Takes as long to go as a gate wants.
struct Goes;

impl Drop for Goes {
    fn drop(&mut self) {
        pass_gate("end");
    }
}

/// Whoever fails here drops the listener first of all.
fn check(http: flip::TcpListener) -> Result<flip::TcpListener, flip::BoxError> {
    start()?;
    Ok(http)
}

#[flip::main]
async fn main(
    #[listen(std::fs::read_to_string("address").map_err(|error| format!("the file `address`: {error}"))?)]
    http: flip::TcpListener,
    visits: Live<Visits>,
    flip: Handle,
) -> Result<(), flip::BoxError> {
    let _goes = Goes;
    let http = check(http)?;
    say(&format!("listens on {}", http.local_addr()?));
    let (count, handle) = (visits.clone(), flip.clone());
    answer(move |question| {
        let (count, flip) = (count.clone(), handle.clone());
        async move {
            match &*question {
                "get" => count.read(|visits| visits.total).map_or_else(|error| error.to_string(), |n| n.to_string()),
                "generation" => flip.generation().to_string(),
                "open" => flip.open().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                other => format!("error: {other}?"),
            }
        }
    });
    let app = Router::new().route("/", get(visit)).route("/slow/{gate}", get(slow)).with_state(visits);
    let ready = flip.clone();
    tokio::spawn(async move {
        ready.serving().await;
        say("is ready");
    });
    flip::serve(http, app).await?;
    say("leaves");
    Ok(())
}
