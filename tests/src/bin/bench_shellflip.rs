//! The benchmark's service on shellflip. It does not pass listeners on, so it serves on a descriptor that was open before
//! it started, as with socket activation. The count goes through shellflip's pipe: as it was when the successor was
//! spawned, for there is no freeze.
//!
//! Its coordination socket is off, in its favour: with it on, shellflip spawns through `pre_exec`, which makes std fork.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::routing::get;
use flip_tests::contender::{self, GENERATION, LISTENER, RESIDENT, STATE, Visits};
use flip_tests::copy;
use shellflip::RestartConfig;
use shellflip::lifecycle::{LifecycleHandler, PipeReader, PipeWriter, receive_from_old_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::sync::{Mutex, RwLock};

struct HandOver {
    visits: Arc<Visits>,
    bulk: Arc<Bulk>,
}

/// Large, where the driver wants that.
#[derive(Default)]
struct Bulk {
    pieces: RwLock<Vec<Vec<u8>>>,
    /// When the first byte was sent.
    sent: Mutex<Option<Instant>>,
}

impl Bulk {
    async fn send(&self, pipe: &mut PipeWriter) -> io::Result<()> {
        *self.sent.lock().await = Some(Instant::now());
        let pieces = self.pieces.read().await;
        pipe.write_u64(pieces.len() as u64).await?;
        for piece in pieces.iter() {
            pipe.write_u64(piece.len() as u64).await?;
            pipe.write_all(piece).await?;
        }
        Ok(())
    }

    async fn receive(pipe: &mut PipeReader) -> io::Result<Bulk> {
        let mut pieces = Vec::new();
        for _ in 0..pipe.read_u64().await? {
            let mut piece = vec![0; pipe.read_u64().await? as usize];
            pipe.read_exact(&mut piece).await?;
            pieces.push(piece);
        }
        Ok(Bulk { pieces: RwLock::new(pieces), ..Bulk::default() })
    }

    async fn fill(&self) -> String {
        let mut pieces = self.pieces.write().await;
        if pieces.is_empty() && std::env::var(STATE).is_ok_and(|state| state == "vectors") {
            *pieces = copy::touched(contender::number(RESIDENT).unwrap_or(0) as usize);
        }
        format!("{} bytes\n", pieces.iter().map(Vec::len).sum::<usize>())
    }
}

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
            pipe.write_u64(self.visits.get()).await?;
            self.bulk.send(&mut pipe).await?;
            pipe.flush().await
        })
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let generation = contender::number(GENERATION).unwrap_or(1);
    let (count, bulk) = match receive_from_old_process() {
        Some(mut pipe) => (pipe.read_u64().await?, Bulk::receive(&mut pipe).await?),
        None => (0, Bulk::default()),
    };
    let (visits, bulk) = (Arc::new(Visits::starting_at(count)), Arc::new(bulk));

    let number = contender::number(LISTENER).expect("the driver gives a listener");
    // SAFETY: the driver left this descriptor open for us alone, and it is asked for once. It stays inheritable, as
    // shellflip expects of sockets that came from systemd.
    let listener = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;

    let restarted = RestartConfig {
        environment: vec![(GENERATION.into(), (generation + 1).to_string().into())],
        lifecycle_handler: Box::new(HandOver { visits: Arc::clone(&visits), bulk: Arc::clone(&bulk) }),
        exit_on_error: false,
        restart_signal: SignalKind::hangup(),
        ..RestartConfig::default()
    }
    .try_into_restart_task()?;

    let filled = Arc::clone(&bulk);
    let app = contender::routes(generation)
        .route("/fill", get(|| async move { filled.fill().await }))
        .route("/", get(|State(visits): State<Arc<Visits>>| async move { contender::answer(visits.add()) }))
        .with_state(visits);
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            if let Err(error) = restarted.await {
                eprintln!("shellflip gave up: {error}");
            }
            if let Some(sent) = *bulk.sent.lock().await {
                eprintln!("freeze to commit {} us: what a state must not change in", sent.elapsed().as_micros());
            }
        })
        .await
}
