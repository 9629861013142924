//! Items that a process which has handed over passes to the owner: live connections with their context.
//!
//! [`Relay`] knows the type, [`Post`] (`post.rs`) does not: what is passed is written at once and read when it is taken, also
//! where both happen in one process. `parcel.rs` has what lies in between, `registry.rs` all relays of a process.

#[cfg(feature = "tokio")]
mod connection;
mod parcel;
mod post;
mod registry;

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use event_listener::{EventListener, Listener, listener};
use futures_core::Stream;

use crate::error::Error;
use crate::handoff::{Handoff, SaveError, Schema};
use crate::params::{Param, Setup};
use crate::phase::Phase;
use crate::shared::Shared;

#[cfg(test)]
mod tests;

#[cfg(feature = "tokio")]
pub use connection::{Accepted, Connection};
pub(crate) use parcel::{DESCRIPTORS, Origin, Parcel, Untaken, parcels};
use post::Taken;
pub(crate) use post::{Post, Receives};
pub(crate) use registry::{Looked, Relays};

/// Passes items from processes that have handed over to the owner: live connections with their context, jobs that were
/// begun, whatever is [`Handoff`].
///
/// A parameter `sessions: Relay<Session>` of `main` is one mailbox through all generations: what any of them
/// [passes](Relay::pass) arrives at the [`next`](Relay::next) of the process that owns the service, in order, and once. Its handle is
/// cheap to clone.
///
/// ```no_run
/// use std::net::TcpStream;
///
/// use flip::{Handle, Handoff, Relay, TcpListener};
///
/// #[derive(Handoff)]
/// struct Session {
///     peer: TcpStream,
///     messages: u64,
/// }
///
/// # async fn message(_: &mut Session) -> bool { true }
/// async fn talk(sessions: Relay<Session>, mut session: Session) {
///     loop {
///         tokio::select! {
///             () = sessions.requested() => break,
///             goes_on = message(&mut session) => if !goes_on { return },
///         }
///     }
///     if let Err(refused) = sessions.pass(session).await {
///         eprintln!("closed after {} messages: {refused}", refused.item.messages);
///     }
/// }
///
/// #[flip::main]
/// async fn main(
///     #[listen("127.0.0.1:7000")] chat: TcpListener,
///     sessions: Relay<Session>,
///     flip: Handle,
/// ) -> std::io::Result<()> {
///     loop {
///         let session = tokio::select! {
///             Some(passed) = sessions.next() => passed,
///             accepted = chat.accept() => match accepted? {
///                 Some((stream, _)) => Session { peer: stream.into_inner().0.into_std()?, messages: 0 },
///                 None => return Ok(()),
///             },
///         };
///         // What flip cannot know keeps this process by a guard; a `Connection` has one.
///         let (alive, sessions) = (flip.guard("session"), sessions.clone());
///         tokio::spawn(async move {
///             talk(sessions, session).await;
///             drop(alive);
///         });
///     }
/// }
/// ```
///
/// # What is kept, and what is not
/// Items that wait when their process is replaced move on to the next owner before the commit, in front of what comes later; a
/// roll-back leaves them where they are. Items that were passed and not received stay in the socket, which goes on, too. So generation 1
/// passes to 3 when 2 was replaced. What the owner has received is gone with it if it is killed.
///
/// The new process reads items by the schemas of those who passed them, as it does with state: see
/// [`Handoff`](trait@Handoff#between-releases). Where the type of a relay cannot become what it is in the new process, the upgrade is refused. An
/// item that cannot be read all the same, by its value or because it comes from a generation further back, is closed, counted and reported.
/// A relay that the new process does not have, or whose every handle it has dropped, takes nothing: `pass` gives the item back.
///
/// About 64 items wait in a process; then `pass` waits. An item has at most 64 descriptors and 63 MiB. Each relay has a socket of its own, so one that is full delays nothing else.
pub struct Relay<T> {
    receives: Arc<Receives>,
    /// Of a stream that is being polled.
    arrived: Option<EventListener>,
    _item: PhantomData<fn(T) -> T>,
}

/// An item was not passed.
#[derive(thiserror::Error)]
#[error("not passed: {why}")]
#[non_exhaustive]
pub struct PassError<T> {
    /// What was to be passed, as it was.
    pub item: T,
    /// Why it was not.
    pub why: WhyNotPassed,
}

impl<T> fmt::Debug for PassError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassError").field("why", &self.why).finish_non_exhaustive()
    }
}

/// Why an item was not passed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyNotPassed {
    /// The owner has no such relay, has dropped it, or is gone.
    #[error("the process that owns the service takes no items of this relay")]
    Unwanted,
    /// The owner has such a relay, is full of items that it does not [take](Relay::next), and has been for almost all of `drain_timeout`:
    /// said of WebSockets, which are to be told in time.
    #[error("the process that owns the service has not taken it in time")]
    NotTaken,
    /// The service stops.
    #[error("the service stops")]
    Stopping,
    /// The item could not be written.
    #[error("it cannot be written: {0}")]
    Unwritable(#[from] SaveError),
}

impl<T> Clone for Relay<T> {
    fn clone(&self) -> Self {
        Relay::over(Arc::clone(&self.receives))
    }
}

impl<T> fmt::Debug for Relay<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("name", &self.post().name()).finish_non_exhaustive()
    }
}

impl<T> Relay<T> {
    fn over(receives: Arc<Receives>) -> Relay<T> {
        Relay { receives, arrived: None, _item: PhantomData }
    }

    pub(crate) fn post(&self) -> &Arc<Post> {
        self.receives.post()
    }

    /// Resolves when a newer process owns the service: now is the time to [`pass`](Self::pass). At once where that has happened.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn requested(&self) {
        match self.post().shared() {
            Some(shared) => {
                shared.phase.until(|_| shared.phase.has_handed_off()).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Whether a newer process owns the service.
    pub fn is_requested(&self) -> bool {
        self.post().shared().is_some_and(|shared| shared.phase.has_handed_off())
    }
}

impl<T: Handoff> Default for Relay<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Handoff> Relay<T> {
    /// A relay without a running flip, for tests and tools: what is passed arrives at its own [`next`](Self::next).
    pub fn new() -> Relay<T> {
        Relay::over(Receives::start(Post::new("relay", Schema::of::<T>(), None)))
    }

    /// Gives an item to the owner of the service: to the newer process where this one has handed over, and to the
    /// [`next`](Self::next) of this one before. Waits while the relay is full, and while the process is frozen. When it resolves, nothing of
    /// the item is left here: descriptors in it are closed, and open there.
    ///
    /// Until then this process goes on draining, at most for `drain_timeout`.
    ///
    /// # Errors
    /// [`PassError`] with the item, which is still this process's to end.
    ///
    /// # Cancel safety
    /// Dropped, the item is either passed or dropped with the future.
    ///
    /// # Caveats
    /// What is left of the item is dropped here when the owner has it already. A `Drop` of yours that says goodbye on a connection, or shuts
    /// it down (shutdown(2)), would do so to the one that goes on there: descriptors are only to be closed.
    pub async fn pass(&self, item: T) -> Result<(), PassError<T>> {
        let post = self.post();
        let _alive = post.shared().map(|shared| shared.track(Arc::clone(post.name()), None));
        match Self::send(post, &item).await {
            Ok(()) => Ok(()),
            Err(why) => Err(PassError { item, why }),
        }
    }

    async fn send(post: &Arc<Post>, item: &T) -> Result<(), WhyNotPassed> {
        let place = post.place().await?;
        let parcel = Parcel::wrap(item, post.origin())?;
        place.put(parcel).await
    }

    /// [`pass`](Self::pass) for a thread.
    ///
    /// # Errors
    /// The same.
    pub fn pass_blocking(&self, item: T) -> Result<(), PassError<T>> {
        crate::entry::block_on(self.pass(item))
    }

    /// The next item that was passed to this process; `None` when there will be none, because a newer process owns the service, or this one
    /// stops and has given all of them. Waits in a process that does not serve yet, and while it is frozen.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Option<T> {
        let post = self.post();
        loop {
            listener!(post.arrived() => arrived);
            match self.take() {
                Taken::Item(item) => return Some(item),
                Taken::Over => return None,
                Taken::Nothing => arrived.await,
            }
        }
    }

    /// [`next`](Self::next) for a thread.
    pub fn next_blocking(&self) -> Option<T> {
        let post = self.post();
        loop {
            listener!(post.arrived() => arrived);
            match self.take() {
                Taken::Item(item) => return Some(item),
                Taken::Over => return None,
                Taken::Nothing => arrived.wait(),
            }
        }
    }

    fn take(&self) -> Taken<T> {
        let post = self.post();
        // An item that is taken keeps this process from ending, until whoever takes it can.
        let _alive = post.shared().map(|shared| shared.track(Arc::clone(post.name()), None));
        loop {
            return match post.take() {
                Taken::Nothing => Taken::Nothing,
                Taken::Over => Taken::Over,
                Taken::Item(parcel) => match crate::entry::shielded(|| parcel.unwrap::<T>(post)) {
                    Ok(item) => Taken::Item(item),
                    Err(why) => {
                        post.lose(&why);
                        continue;
                    }
                },
            };
        }
    }
}

impl<T: Handoff> Stream for Relay<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            // Made before the look, so that nothing comes in between.
            if self.arrived.is_none() {
                let arrived = self.post().arrived().listen();
                self.arrived = Some(arrived);
            }
            match self.take() {
                Taken::Item(item) => {
                    self.arrived = None;
                    return Poll::Ready(Some(item));
                }
                Taken::Over => {
                    self.arrived = None;
                    return Poll::Ready(None);
                }
                Taken::Nothing => {
                    if let Some(arrived) = &mut self.arrived {
                        ready!(Pin::new(arrived).poll(cx));
                    }
                    self.arrived = None;
                }
            }
        }
    }
}

impl<T: Handoff> Param for Relay<T> {
    async fn provide(setup: &Setup, name: &str) -> Result<Self, Error> {
        setup.relay(name)
    }
}

impl<T: Handoff> Relay<T> {
    /// The relay of a process, by this name.
    pub(crate) fn declare(name: &str, shared: &Arc<Shared>) -> Relay<T> {
        let post = Post::new(name, Schema::of::<T>(), Some(Arc::clone(shared)));
        shared.relays.declare(Arc::clone(&post));
        Relay::over(Receives::start(post))
    }
}

/// Whether what this process holds may be taken at all: not before it serves, and nothing new once it leaves.
fn is_stopping(shared: &Shared) -> bool {
    shared.phase.get() >= Phase::Stopping && !shared.phase.has_handed_off()
}
