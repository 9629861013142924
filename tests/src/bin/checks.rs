//! A service that drains under somebody's eyes: raw connections, and health checks that are answered until the end.

use std::io;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use flip::{Handle, Shutdown, TcpListener, TcpStream};
use flip_tests::inside::{say, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says when it is asked to end, and ends when the client does.
async fn talk(mut stream: TcpStream, shutdown: Shutdown) -> io::Result<()> {
    stream.write_all(b"hello\n").await?;
    let why = shutdown.await;
    stream.write_all(format!("asked: {why:?}\n").as_bytes()).await?;
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

async fn raw(lines: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    while let Some((stream, _)) = lines.accept().await? {
        tokio::spawn(talk(stream, shutdown.clone()));
    }
    Ok(())
}

async fn health(flip: Handle) -> (StatusCode, String) {
    match flip.draining() {
        None => (StatusCode::OK, std::process::id().to_string()),
        Some(drain) => (StatusCode::SERVICE_UNAVAILABLE, format!("{:?}: {drain}", drain.reason)),
    }
}

#[flip::main]
async fn main(
    #[listen("127.0.0.1:0")] lines: TcpListener,
    #[listen("127.0.0.1:0", keep_accepting = true)] checks: TcpListener,
    flip: Handle,
    shutdown: Shutdown,
) -> Result<(), flip::BoxError> {
    say(&format!("takes lines at {}", lines.local_addr()?));
    say(&format!("takes checks at {}", checks.local_addr()?));
    start()?;
    say("is ready");
    let checked = Router::new().route("/health", get(move || health(flip.clone())));
    tokio::try_join!(raw(lines, shutdown), flip::serve(checks, checked))?;
    Ok(())
}
