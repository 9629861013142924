//! The benchmark's service on shellflip. It does not pass listeners on, so it serves on a descriptor that was open before
//! it started, as with socket activation. The count goes through shellflip's pipe: as it was when the successor was
//! spawned, for there is no freeze.
//!
//! Its coordination socket is off, in its favour: with it on, shellflip spawns through `pre_exec`, which makes std fork.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use flip_tests::contender::{self, GENERATION, LISTENER, Visits};
use shellflip::RestartConfig;
use shellflip::lifecycle::{LifecycleHandler, PipeWriter, receive_from_old_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;

struct HandOver(Arc<Visits>);

// async_trait's expansion, written out: it is shellflip's dependency, not ours.
impl LifecycleHandler for HandOver {
    fn send_to_new_process<'this, 'out>(
        &'this mut self,
        mut pipe: PipeWriter,
    ) -> std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'out>>
    where
        'this: 'out,
        Self: 'out,
    {
        Box::pin(async move {
            pipe.write_u64(self.0.get()).await?;
            pipe.flush().await
        })
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let generation = contender::number(GENERATION).unwrap_or(1);
    let count = match receive_from_old_process() {
        Some(mut pipe) => pipe.read_u64().await?,
        None => 0,
    };
    let visits = Arc::new(Visits::starting_at(count));

    let number = contender::number(LISTENER).expect("the driver gives a listener");
    // SAFETY: the driver left this descriptor open for us alone, and it is asked for once. It stays inheritable, as
    // shellflip expects of sockets that came from systemd.
    let listener = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;

    let restarted = RestartConfig {
        environment: vec![(GENERATION.into(), (generation + 1).to_string().into())],
        lifecycle_handler: Box::new(HandOver(Arc::clone(&visits))),
        exit_on_error: false,
        restart_signal: SignalKind::hangup(),
        ..RestartConfig::default()
    }
    .try_into_restart_task()?;

    let app = contender::routes(generation)
        .route("/", get(|State(visits): State<Arc<Visits>>| async move { contender::answer(visits.add()) }))
        .with_state(visits);
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            if let Err(error) = restarted.await {
                eprintln!("shellflip gave up: {error}");
            }
        })
        .await
}
