//! The benchmark's service on flip: the listener and the count are handed over.

use axum::extract::State;
use axum::routing::get;
use flip::{HandedOff, Handoff, Live};
use flip_tests::contender::{self, ADDRESS};

#[derive(Default, Handoff)]
struct Visits {
    total: u64,
}

async fn visit(State(visits): State<Live<Visits>>) -> Result<String, HandedOff> {
    let count = visits.update(|visits| {
        visits.total += 1;
        visits.total
    })?;
    Ok(contender::answer(count))
}

#[flip::main]
async fn main(
    #[listen(std::env::var(ADDRESS).expect("the driver gives an address"))] http: flip::TcpListener,
    visits: Live<Visits>,
    flip: flip::Handle,
) -> std::io::Result<()> {
    let app = contender::routes(flip.generation()).route("/", get(visit)).with_state(visits);
    flip::serve(http, app).await
}
