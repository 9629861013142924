//! actix-web, which has threads and runtimes of its own and accepts by itself: it gets a bare socket.

use std::io;

use actix_web::web::{Bytes, to};
use actix_web::{App, HttpServer};
use flip::{Handle, Shutdown};
use flip_stacks::{Cli, answer};
use tokio::net::TcpListener;

#[flip::main(ready = manual)]
async fn main(
    #[args] args: Cli,
    // One of tokio's, which stays non-blocking: one of the standard library's is made to block when the new process serves,
    // and the old one may be accepting still.
    #[listen(args.listen)] http: TcpListener,
    flip: Handle,
    shutdown: Shutdown,
) -> io::Result<()> {
    eprintln!("listens at {}", http.local_addr()?);
    let app = || App::new().route("/", to(async |sent: Bytes| answer(&sent)));
    // Nothing holds back the accept of a bare socket: this process begins when the other one ends.
    flip.ready();
    flip.serving().await;
    let left = async { _ = shutdown.await };
    HttpServer::new(app).shutdown_signal(left).listen(http.into_std()?)?.run().await
}
