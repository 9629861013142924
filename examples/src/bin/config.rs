//! A configuration file that every upgrade reads anew, and listeners of several kinds that come from it.
//!
//! A file with a mistake in it is a new process that does not start: the old one goes on with what it had, and says
//! what is wrong with the file.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use flip::{Handle, Shutdown, TcpListener, UnixListener};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

#[derive(clap::Parser)]
struct Cli {
    /// The file to read; without one, everything is as in the defaults
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where to listen, instead of the addresses under `http`
    #[arg(long)]
    listen: Option<SocketAddr>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    greeting: String,
    /// Any number of addresses for everybody.
    http: Vec<SocketAddr>,
    /// A Unix socket for the people who run it.
    admin: PathBuf,
    /// An address for figures, or nothing.
    metrics: Option<SocketAddr>,
    /// How often the background job runs.
    job_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            greeting: "hello".into(),
            http: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            admin: std::env::temp_dir().join("flip-config-example.sock"),
            metrics: None,
            job_seconds: 10,
        }
    }
}

impl Config {
    fn load(args: &Cli) -> io::Result<Self> {
        let mut config = args.config.as_deref().map_or_else(|| Ok(Self::default()), Self::read)?;
        if let Some(address) = args.listen {
            config.http = vec![address];
        }
        Ok(config)
    }

    fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        toml::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }
}

/// What only one process may do at a time, so it starts when this one serves and ends when it no longer does.
async fn job(every: Duration, flip: Handle, shutdown: Shutdown) {
    flip.serving().await;
    let work = async {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            tracing::info!(generation = flip.generation(), "the job ran");
        }
    };
    tokio::select! {
        () = work => {}
        _ = shutdown => {}
    }
}

#[flip::main]
async fn main(
    #[args] args: Cli,
    #[with(Config::load(&args)?)] config: Config,
    #[listen(config.http)] http: Vec<TcpListener>,
    #[listen(config.admin)] admin: UnixListener,
    #[listen(config.metrics)] metrics: Option<TcpListener>,
    flip: Handle,
    shutdown: Shutdown,
) -> io::Result<()> {
    flip_examples::log();
    tokio::spawn(job(Duration::from_secs(config.job_seconds.max(1)), flip.clone(), shutdown));

    let who = serde_json::json!({ "pid": std::process::id(), "generation": flip.generation() });
    let greeting = format!("{}\n", config.greeting);
    let public = Router::new().route("/", get(async move || greeting)).route("/whoami", get(async move || Json(who)));
    let inside = Router::new().route("/config", get(async move || Json(config)));
    let figures = Router::new().route("/metrics", get(async move || format!("generation {}\n", flip.generation())));

    let mut servers = JoinSet::new();
    for listener in http {
        servers.spawn(flip::serve(listener, public.clone()));
    }
    servers.spawn(flip::serve(admin, inside));
    if let Some(listener) = metrics {
        servers.spawn(flip::serve(listener, figures));
    }
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}
