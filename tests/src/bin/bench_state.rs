//! The benchmark's service on flip with a large state, in vectors or in a region, as the driver wants it.

use std::io::Write;

use axum::extract::State;
use axum::routing::get;
use flip::{Handoff, Live, Region};
use flip_tests::contender::{self, ADDRESS, STATE};
use flip_tests::copy;

#[derive(Default, Handoff)]
struct Bulk {
    copied: Vec<Vec<u8>>,
    mapped: Region,
}

impl Bulk {
    fn len(&self) -> usize {
        self.copied.iter().map(Vec::len).sum::<usize>() + self.mapped.len()
    }

    fn fill(&mut self) -> std::io::Result<()> {
        let bytes = contender::number(contender::RESIDENT).unwrap_or(0) as usize;
        match std::env::var(STATE).as_deref() {
            Ok("vectors") => self.copied = copy::touched(bytes),
            Ok("region") => copy::touched(bytes).iter().try_for_each(|piece| self.mapped.write_all(piece))?,
            _ => {}
        }
        Ok(())
    }
}

/// On request and not at start, as with `/touch`; an upgrade finds it full.
async fn fill(State(bulk): State<Live<Bulk>>) -> Result<String, flip::HandedOff> {
    bulk.update(|bulk| match bulk.len() {
        0 => bulk.fill().map_or_else(|error| error.to_string(), |()| format!("{} bytes\n", bulk.len())),
        bytes => format!("{bytes} bytes\n"),
    })
}

#[flip::main]
async fn main(
    #[listen(std::env::var(ADDRESS).expect("the driver gives an address"))] http: flip::TcpListener,
    bulk: Live<Bulk>,
    flip: flip::Handle,
) -> std::io::Result<()> {
    let app = contender::routes(flip.generation()).route("/fill", get(fill)).with_state(bulk);
    flip::serve(http, app).await
}
