//! HTTP from a server that begins late: after the process has said that it is ready, and behind a gate of its generation.

use axum::Router;
use axum::routing::get;
use flip::{Handle, TcpListener};
use flip_tests::inside::{pass_gate, say};

#[flip::main(ready = manual)]
async fn main(#[listen("127.0.0.1:0")] http: TcpListener, flip: Handle) -> std::io::Result<()> {
    say(&format!("is ready at {}", http.local_addr()?));
    flip.ready();
    flip.serving().await;
    let gate = format!("serve-{}", flip.generation());
    tokio::task::spawn_blocking(move || pass_gate(&gate)).await?;
    let pid = || async { std::process::id().to_string() };
    flip::serve(http, Router::new().route("/", get(pid))).await
}
