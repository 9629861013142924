//! What the benchmark `serve` compares: the same router, served by flip or by axum alone. The argument says by whom, whether
//! all of it is on one thread, and for axum whether handlers can ask who their peer is, as they always can with flip.

use std::future::ready;
use std::io::{self, Write};
use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tokio::runtime::Builder;

fn router() -> Router {
    Router::new().route("/", get(|| ready("hello\n")))
}

/// Tells the driver, which waits for it.
fn listens_at(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

#[flip::service]
async fn flip_serves(#[listen("127.0.0.1:0")] http: flip::TcpListener) -> io::Result<()> {
    listens_at(http.local_addr()?)?;
    flip::serve(http, router()).await
}

#[flip::service(flavor = "current_thread")]
async fn flip_serves_alone(#[listen("127.0.0.1:0")] http: flip::TcpListener) -> io::Result<()> {
    listens_at(http.local_addr()?)?;
    flip::serve(http, router()).await
}

async fn axum_serves(peers: bool) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    listens_at(listener.local_addr()?)?;
    if peers {
        axum::serve(listener, router().into_make_service_with_connect_info::<SocketAddr>()).await
    } else {
        axum::serve(listener, router()).await
    }
}

fn main() -> io::Result<()> {
    let by_axum = |mut runtime: Builder, peers| runtime.enable_all().build()?.block_on(axum_serves(peers));
    match std::env::args().nth(1).as_deref() {
        Some("flip") => flip::run(flip_serves()),
        Some("flip-alone") => flip::run(flip_serves_alone()),
        Some("axum") => by_axum(Builder::new_multi_thread(), false),
        Some("axum-alone") => by_axum(Builder::new_current_thread(), false),
        Some("axum-peers-alone") => by_axum(Builder::new_current_thread(), true),
        _ => Err(io::Error::other("the argument is flip or axum, or flip-alone, axum-alone or axum-peers-alone")),
    }
}
