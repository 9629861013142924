//! Release 3 of the desk, whose author has forgotten that there is a state already: it is refused.

use axum::Router;
use axum::routing::get;
use flip::{Handoff, Live, TcpListener};

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
}

#[derive(Default, Handoff)]
struct Desk {
    taken: u64,
    /// New, and release 1 and 2 have nothing that it could be made of.
    waiters: Vec<String>,
}

async fn show(desk: Live<Desk>) -> String {
    desk.read(|desk| format!("{} orders, {:?}\n", desk.taken, desk.waiters)).unwrap_or_default()
}

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] http: TcpListener, desk: Live<Desk>) -> std::io::Result<()> {
    flip_examples::log();
    flip::serve(http, Router::new().route("/desk", get(show)).with_state(desk)).await
}
