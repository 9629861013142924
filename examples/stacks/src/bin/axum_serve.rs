//! axum by its own `serve`, for what `flip::serve` does not do.

use std::io;

use axum::Router;
use axum::body::Bytes;
use axum::routing::any;
use flip::{Shutdown, TcpListener};
use flip_stacks::{Cli, answer};

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] http: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    eprintln!("listens at {}", http.local_addr()?);
    let router = Router::new().route("/", any(async |sent: Bytes| answer(&sent)));
    axum::serve(http, router).with_graceful_shutdown(async { _ = shutdown.await }).await
}
