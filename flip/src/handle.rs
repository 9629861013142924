//! What `main` can ask for besides listeners and state: the process itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use event_listener::EventListener;

use crate::drain::{Drain, Draining, Guard};
use crate::phase::Phase;
use crate::shared::{Note, Reply, Shared};

/// Why this process leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A newer process serves.
    HandedOff,
    /// The service stops.
    Stopped,
}

/// Resolves when this process leaves: at the commit of a handoff, or at a stop; never at a freeze, which may be rolled
/// back. Clones resolve each on their own.
///
/// ```no_run
/// # async fn job() {}
/// #[flip::main(ready = manual)]
/// async fn main(mut shutdown: flip::Shutdown, flip: flip::Handle) {
///     flip.ready();
///     flip.serving().await;
///     loop {
///         tokio::select! {
///             why = &mut shutdown => return println!("{why:?}"),
///             () = job() => {}
///         }
///     }
/// }
/// ```
///
/// A connection of one's own that should end early learns by a clone that it is asked to. What does not end is cut at
/// `drain_timeout`.
///
/// ```no_run
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
///
/// async fn talk(stream: flip::TcpStream, mut shutdown: flip::Shutdown) -> std::io::Result<()> {
///     let mut lines = BufReader::new(stream).lines();
///     loop {
///         tokio::select! {
///             line = lines.next_line() => match line? {
///                 Some(line) => lines.get_mut().write_all(line.as_bytes()).await?,
///                 None => return Ok(()),
///             },
///             _ = &mut shutdown => return lines.get_mut().write_all(b"bye\n").await,
///         }
///     }
/// }
///
/// # async fn example(listener: flip::TcpListener, shutdown: flip::Shutdown) -> std::io::Result<()> {
/// while let Some((stream, _peer)) = listener.accept().await? {
///     tokio::spawn(talk(stream, shutdown.clone()));
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// It can be polled by reference in `select!` and resolves again and again once it has.
pub struct Shutdown {
    shared: Arc<Shared>,
    changed: Option<EventListener>,
}

impl Shutdown {
    /// Blocks until this process leaves; for a `fn main` without a runtime.
    pub fn wait(&self) -> Reason {
        self.shared.thread_waits();
        self.shared.phase.wait(Phase::is_leaving);
        self.shared.phase.reason()
    }

    /// Why this process leaves, where it does already.
    pub fn reason(&self) -> Option<Reason> {
        self.shared.phase.get().is_leaving().then(|| self.shared.phase.reason())
    }
}

impl Clone for Shutdown {
    fn clone(&self) -> Self {
        Shutdown { shared: Arc::clone(&self.shared), changed: None }
    }
}

impl std::fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shutdown").field("reason", &self.reason()).finish_non_exhaustive()
    }
}

impl Future for Shutdown {
    type Output = Reason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reason> {
        let this = &mut *self;
        loop {
            // Made before the look, so that no change falls in between.
            let changed = this.changed.get_or_insert_with(|| this.shared.phase.listen());
            if this.shared.phase.get().is_leaving() {
                this.changed = None;
                return Poll::Ready(this.shared.phase.reason());
            }
            std::task::ready!(Pin::new(changed).poll(cx));
            this.changed = None;
        }
    }
}

/// The process, as its program sees it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

/// An upgrade that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// The process that serves now.
    pub pid: i32,
    /// Its generation.
    pub generation: u64,
}

/// Why an upgrade did not happen. The process that was asked goes on, unless the text says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// `FLIP_UPGRADE=off` is set.
    #[error("upgrades are switched off (FLIP_UPGRADE=off)")]
    Off,
    /// This process is not ready itself yet.
    #[error("this process is not ready yet; ask again when it serves")]
    Starting,
    /// Another upgrade is in progress.
    #[error("another upgrade is in progress")]
    Busy,
    /// The service stops.
    #[error("the service stops")]
    Stopping,
    /// Another process owns the service: ask that one.
    #[error("a newer process owns the service; ask that one")]
    HandedOff,
    /// It was tried and rolled back, for this reason.
    #[error("{0}")]
    RolledBack(String),
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

    /// A future that resolves when this process leaves.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown { shared: Arc::clone(&self.shared), changed: None }
    }

    /// How many processes this service has had, this one included: 1 after a cold start.
    pub fn generation(&self) -> u64 {
        self.shared.generation()
    }

    /// Resolves when this process owns the service; at once after a cold start. What must run in one process only
    /// (jobs, consumers, registrations) starts after this.
    ///
    /// In a process that leaves before it ever served, it never resolves.
    pub async fn serving(&self) {
        self.shared.phase.until(|phase| phase != Phase::Starting).await;
        if !self.shared.phase.has_served() {
            std::future::pending().await
        }
    }

    /// [`serving`](Self::serving) for a thread.
    pub fn wait_serving(&self) {
        self.shared.thread_waits();
        self.shared.phase.wait(|phase| phase != Phase::Starting);
        while !self.shared.phase.has_served() {
            // The process ends under this thread.
            std::thread::park();
        }
    }

    /// Says that nothing is left to do before serving. It counts with `ready = manual`; with `ready = auto` the
    /// listeners say it.
    pub fn ready(&self) {
        self.shared.notes.send(Note::ReadyCalled);
    }

    /// Starts the binary that is now installed and hands over to it. Resolves when that is done, or is not to be.
    ///
    /// # Errors
    /// Why it did not happen; see [`UpgradeError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the upgrade.
    pub async fn upgrade(&self) -> Result<Upgraded, UpgradeError> {
        let reply = Reply::default();
        self.shared.notes.send(Note::Upgrade(reply.clone()));
        reply.wait().await
    }

    /// [`upgrade`](Self::upgrade) for a thread.
    ///
    /// # Errors
    /// The same.
    pub fn upgrade_blocking(&self) -> Result<Upgraded, UpgradeError> {
        let reply = Reply::default();
        self.shared.notes.send(Note::Upgrade(reply.clone()));
        reply.block()
    }

    /// Keeps this process draining until the guard is dropped, at most for `drain_timeout`: for work that is no
    /// connection of a flip listener. `name` is what the reports call it.
    pub fn guard(&self, name: &str) -> Guard {
        self.shared.track(name.into(), None)
    }

    /// What is open in this process, oldest first.
    pub fn open(&self) -> Vec<Draining> {
        self.shared.connections.open()
    }
    /// What this process still waits for, where it leaves: the report that the log has every now and then. `None` while it
    /// serves, so that a health check can tell by it.
    ///
    /// ```
    /// /// A status, and why.
    /// fn health(flip: &flip::Handle) -> (u16, String) {
    ///     match flip.draining() {
    ///         None => (200, "serves".to_owned()),
    ///         Some(drain) => (503, format!("draining: {drain}")),
    ///     }
    /// }
    /// ```
    pub fn draining(&self) -> Option<Drain> {
        self.shared.draining()
    }
}
