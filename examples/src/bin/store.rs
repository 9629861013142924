//! A database that only one process may have open: each upgrade closes it here and opens it there.

use std::path::PathBuf;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use flip::{Exclusive, TcpListener};
use redb::{Database, ReadableTable, TableDefinition};

const TOTALS: TableDefinition<'static, &str, u64> = TableDefinition::new("totals");

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
    /// The database's file
    #[arg(long, default_value = "visits.redb")]
    store: PathBuf,
}

/// One more visit, written to the disk before it is answered.
fn count(store: &Database) -> Result<u64, flip::BoxError> {
    let write = store.begin_write()?;
    let total = {
        let mut totals = write.open_table(TOTALS)?;
        let total = totals.get("visits")?.map_or(0, |total| total.value()) + 1;
        totals.insert("visits", total)?;
        total
    };
    write.commit()?;
    Ok(total)
}

type Failure = (StatusCode, String);

async fn visit(State(store): State<Exclusive<Database>>) -> Result<String, Failure> {
    // A database waits for the disk, so this is no work for one of the runtime's threads.
    let counted = tokio::task::spawn_blocking(move || store.with(count)).await.map_err(internal)?;
    // It is elsewhere: the client's next connection finds it.
    let total = counted.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")))?;
    Ok(format!("visit {}, served by {}\n", total.map_err(internal)?, std::process::id()))
}

fn internal(error: impl std::fmt::Display) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
}

#[flip::main]
async fn main(
    #[args] args: Cli,
    #[listen(args.listen)] http: TcpListener,
    #[exclusive(open = { let path = args.store.clone(); move || Database::create(&path) })] store: Exclusive<Database>,
) -> std::io::Result<()> {
    flip_examples::log();
    let router = Router::new()
        .route("/visit", post(visit))
        .route("/pid", get(async || format!("{}\n", std::process::id())))
        .with_state(store);
    flip::serve(http, router).await
}
