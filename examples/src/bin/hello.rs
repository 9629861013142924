//! A page that counts its visits, and goes on counting when the program is replaced.

use axum::routing::get;
use axum::{Json, Router};
use flip::{HandedOff, Handle, Handoff, Live, TcpListener};

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
}

#[derive(Default, Handoff)]
struct Visits {
    total: u64,
}

async fn hello(visits: Live<Visits>) -> Result<String, HandedOff> {
    let n = visits.update(|v| {
        v.total += 1;
        v.total
    })?;
    Ok(format!("visit {n}, served by {}\n", std::process::id()))
}

#[flip::main]
async fn main(
    #[args] args: Cli,
    #[listen(args.listen)] http: TcpListener,
    visits: Live<Visits>,
    flip: Handle,
) -> std::io::Result<()> {
    flip_examples::log();
    let whoami = async move || Json(serde_json::json!({ "pid": std::process::id(), "generation": flip.generation() }));
    let router = Router::new().route("/", get(hello)).route("/whoami", get(whoami)).with_state(visits);
    flip::serve(http, router).await
}
