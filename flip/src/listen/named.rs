//! One named listener of this process: its sockets, and how somebody waits on them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};
use socket2::SockAddr;

use super::address::Address;
use super::kind::{Fd, Kind};
use super::path::{Owned, PathInode};
use super::registry::Listeners;
use crate::drain::Guard;
use crate::log::say;
use crate::shared::{Note, Shared};

/// A socket that goes to the new process, without its descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offered {
    pub(crate) name: String,
    /// The place in a `Vec` of listeners.
    pub(crate) index: u32,
    /// Which of the sockets that share the address.
    pub(crate) shard: u32,
    pub(crate) kind: Kind,
    /// As it is configured: a text that is compared.
    pub(crate) address: String,
    /// Where an IP socket is bound: with port 0, the port that it got.
    pub(crate) bound: Option<SocketAddr>,
    /// What is at the path of a Unix socket, if it has one.
    pub(crate) path: Option<PathInode>,
    /// The process that gives it uses it as a blocking socket; O_NONBLOCK belongs to the open file description, and so to
    /// both (open(2)).
    pub(crate) blocking: bool,
    /// SO_REUSEPORT was set for this handoff, and for nothing else.
    #[serde(default)]
    pub(crate) overlap_allowed: bool,
}

/// One of the sockets of a [`Named`].
pub(super) struct Slot {
    /// Deregistered before its descriptor is closed.
    #[cfg(feature = "tokio")]
    pub(super) io: Option<tokio::io::unix::AsyncFd<Arc<Fd>>>,
    pub(super) fd: Arc<Fd>,
    pub(super) local: SockAddr,
    pub(super) path: Option<Owned>,
    pub(super) listening: bool,
    /// At an address that is no longer wanted: what is in its queue is still served, then it is closed.
    pub(super) leftover: bool,
    /// SO_REUSEPORT was set by [`Listeners::allow_overlap`], in this process or in the old one, and by nobody else.
    pub(super) overlap_allowed: bool,
    /// Another process may still use it.
    pub(super) inherited: bool,
}

impl Slot {
    pub(super) fn new(fd: Fd, local: SockAddr, path: Option<Owned>, listening: bool) -> Slot {
        Slot {
            #[cfg(feature = "tokio")]
            io: None,
            fd: Arc::new(fd),
            local,
            path,
            listening,
            leftover: false,
            overlap_allowed: false,
            inherited: false,
        }
    }
}

pub(super) struct Slots {
    pub(super) open: Vec<Slot>,
    /// Nothing will be accepted or received here again.
    pub(super) closed: bool,
    /// Where the next look begins, so that no shard starves.
    next: usize,
}

/// How a listener was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A face of flip's: gated, counted, closed at the handover.
    Managed,
    /// A bare tokio socket.
    Bare,
    /// A bare socket of the standard library, which its users expect to block.
    BareBlocking,
}

/// A named listener. Faces hold it; the registry closes it under their hands.
pub(crate) struct Named {
    pub(crate) name: Arc<str>,
    pub(crate) index: u32,
    pub(crate) kind: Kind,
    pub(crate) address: Address,
    pub(crate) manner: Manner,
    pub(super) backlog: i32,
    /// A stop leaves it open until nothing else is.
    pub(crate) lasting: bool,
    pub(super) shared: Arc<Shared>,
    pub(super) registry: Weak<Listeners>,
    local: SockAddr,
    /// Used, or not managed: nothing is left to wait for here.
    polled: AtomicBool,
    slots: Mutex<Slots>,
    #[cfg(feature = "tokio")]
    bell: Arc<super::face::Bell>,
    /// By which the phase knows the bell.
    #[cfg(feature = "tokio")]
    key: usize,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

pub(super) struct Fields {
    pub(super) name: Arc<str>,
    pub(super) index: u32,
    pub(super) kind: Kind,
    pub(super) address: Address,
    pub(super) manner: Manner,
    pub(super) backlog: i32,
    pub(super) lasting: bool,
    pub(super) shared: Arc<Shared>,
    pub(super) registry: Weak<Listeners>,
}

impl Named {
    pub(super) fn new(fields: Fields, slots: Vec<Slot>, local: SockAddr) -> Named {
        let Fields { name, index, kind, address, manner, backlog, lasting, shared, registry } = fields;
        #[cfg(feature = "tokio")]
        let bell = Arc::<super::face::Bell>::default();
        Named {
            name,
            index,
            kind,
            address,
            manner,
            backlog,
            lasting,
            #[cfg(feature = "tokio")]
            key: shared.phase.watch(Arc::clone(&bell).into()),
            shared,
            registry,
            local,
            polled: AtomicBool::new(manner != Manner::Managed),
            slots: Mutex::new(Slots { open: slots, closed: false, next: 0 }),
            #[cfg(feature = "tokio")]
            bell,
        }
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of its first socket; port 0 is resolved.
    pub(crate) fn local(&self) -> &SockAddr {
        &self.local
    }

    pub(crate) fn is_polled(&self) -> bool {
        self.polled.load(Ordering::SeqCst)
    }

    fn mark_polled(&self) {
        if !self.polled.load(Ordering::Relaxed) && !self.polled.swap(true, Ordering::SeqCst) {
            self.shared.arrivals.accepts(&self.label());
            self.shared.notes.send(Note::Polled);
        }
    }

    pub(crate) fn track(&self, peer: Option<String>) -> Guard {
        self.shared.connections.track(Arc::clone(&self.name), peer, self.lasting)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn track_from(&self, address: SocketAddr) -> Guard {
        self.shared.connections.track_from(Arc::clone(&self.name), address, self.lasting)
    }

    /// The name as people are told it.
    pub(crate) fn label(&self) -> String {
        if self.index == 0 { self.name.to_string() } else { format!("{}[{}]", self.name, self.index) }
    }

    /// Its face is gone.
    pub(super) fn leave(self: &Arc<Self>) {
        self.shared.arrivals.forget(&self.label());
        if let Some(registry) = self.registry.upgrade() {
            registry.left(self);
        }
        if !self.is_polled() {
            // It may have been the last one that was waited for.
            self.shared.notes.send(Note::Polled);
        }
        // Those that wait hold nothing of it; there are none, because they borrow the face.
        drop(self.take());
    }

    pub(super) fn take(&self) -> Vec<Slot> {
        let mut slots = self.slots();
        slots.closed = true;
        std::mem::take(&mut slots.open)
    }

    /// Accepts and receives nothing more. Listeners are closed; datagram sockets can still send.
    pub(super) fn close(&self) {
        let gone = if self.kind.accepts() {
            self.take()
        } else {
            let mut slots = self.slots();
            slots.closed = true;
            // The new process reads this very socket: what arrives there must not wake this one.
            #[cfg(feature = "tokio")]
            for slot in &mut slots.open {
                slot.io = None;
            }
            Vec::new()
        };
        drop(gone);
        #[cfg(feature = "tokio")]
        self.bell.ring();
    }

    /// A socket to send by, as long as the face lives.
    pub(super) fn sender(&self) -> io::Result<Arc<Fd>> {
        let slots = self.slots();
        slots.open.first().map(|slot| Arc::clone(&slot.fd)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// What a system call on one of the sockets gives, and `None` when this process is done with them. `op` is one
    /// non-blocking system call; it is made only with the right to accept.
    ///
    /// # Cancel safety
    /// Nothing is lost: there is no await between the call and the return.
    #[cfg(feature = "tokio")]
    pub(super) async fn next<T>(&self, mut op: impl FnMut(&Fd) -> io::Result<T>) -> io::Result<Option<T>> {
        self.mark_polled();
        // A listener that always has somebody waiting leaves room for its neighbours all the same.
        tokio::task::consume_budget().await;
        let mut backoff = Backoff::default();
        loop {
            // Before looking: whatever comes meanwhile rings.
            let rung = self.bell.listen();
            let Some(pass) = self.shared.may_accept(self.lasting).await else { return Ok(None) };
            let found = self.look(&mut op);
            drop(pass);
            match found {
                Look::Found(done) => return done.map(Some),
                Look::Closed => return Ok(None),
                Look::Nothing => rung.await,
                Look::Exhausted(error) => {
                    let phase = self.shared.phase.listen();
                    either(tokio::time::sleep(backoff.next(&self.name, &error)), phase).await;
                }
            }
        }
    }

    /// Makes the call where the runtime says that something is there.
    #[cfg(feature = "tokio")]
    fn look<T>(&self, op: &mut impl FnMut(&Fd) -> io::Result<T>) -> Look<T> {
        self.each(|slot, backlog| {
            if let Err(error) = slot.listen(self.kind, backlog) {
                return Call::Done(Err(error));
            }
            if slot.leftover {
                return call(&slot.fd, op);
            }
            let io = match &mut slot.io {
                Some(io) => io,
                none => match super::face::register(Arc::clone(&slot.fd), tokio::io::Interest::READABLE) {
                    Ok(io) => none.insert(io),
                    Err(error) => return Call::Done(Err(error)),
                },
            };
            loop {
                match self.bell.poll_readable(io) {
                    std::task::Poll::Pending => return Call::Empty,
                    std::task::Poll::Ready(Err(error)) => return Call::Done(Err(error)),
                    std::task::Poll::Ready(Ok(mut ready)) => match call(&slot.fd, op) {
                        // Cleared only if nothing came since it was read, which was before the call.
                        Call::Empty => ready.clear_ready(),
                        done => return done,
                    },
                }
            }
        })
    }

    /// [`next`](Self::next) for a thread.
    pub(super) fn next_blocking<T>(&self, mut op: impl FnMut(&Fd) -> io::Result<T>) -> io::Result<Option<T>> {
        self.mark_polled();
        self.shared.thread_waits();
        let Some(registry) = self.registry.upgrade() else { return Ok(None) };
        let mut backoff = Backoff::default();
        loop {
            // Before looking: it rings for what happens afterwards.
            let alarm = registry.alarm(self.lasting)?;
            let Some(pass) = self.shared.wait_to_accept(self.lasting) else { return Ok(None) };
            let found = self.each(|slot, backlog| match slot.listen(self.kind, backlog) {
                Ok(()) => call(&slot.fd, &mut op),
                Err(error) => Call::Done(Err(error)),
            });
            drop(pass);
            match found {
                Look::Found(done) => return done.map(Some),
                Look::Closed => return Ok(None),
                Look::Nothing => {
                    // Kept open while the kernel watches them; a closed registry rings, and they go.
                    let fds: Vec<_> = self.slots().open.iter().map(|slot| Arc::clone(&slot.fd)).collect();
                    let mut watched: Vec<_> =
                        fds.iter().map(|fd| PollFd::new(std::os::fd::AsFd::as_fd(&**fd), PollFlags::POLLIN)).collect();
                    watched.push(PollFd::new(std::os::fd::AsFd::as_fd(alarm), PollFlags::POLLIN));
                    poll(&mut watched, PollTimeout::NONE)?;
                }
                Look::Exhausted(error) => {
                    let wait = backoff.next(&self.name, &error);
                    let mut alarm = [PollFd::new(std::os::fd::AsFd::as_fd(alarm), PollFlags::POLLIN)];
                    poll(&mut alarm, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX))?;
                }
            }
        }
    }

    /// Tries each socket once, another one first each time.
    fn each<T>(&self, mut look: impl FnMut(&mut Slot, i32) -> Call<T>) -> Look<T> {
        let mut slots = self.slots();
        if slots.closed {
            return Look::Closed;
        }
        let count = slots.open.len();
        for step in 0..count {
            let at = (slots.next + step) % count;
            match look(&mut slots.open[at], self.backlog) {
                Call::Done(done) => {
                    slots.next = at + 1;
                    return Look::Found(done);
                }
                Call::Exhausted(error) => return Look::Exhausted(error),
                Call::Empty => {}
            }
        }
        // Their queues are empty; what remains are the addresses that are wanted.
        slots.open.retain(|slot| !slot.leftover);
        Look::Nothing
    }
}

#[cfg(feature = "tokio")]
impl Drop for Named {
    fn drop(&mut self) {
        self.shared.phase.forget(self.key);
    }
}

impl Slot {
    /// listen(2), if that is still to be done.
    pub(super) fn listen(&mut self, kind: Kind, backlog: i32) -> io::Result<()> {
        if self.listening || !kind.accepts() {
            return Ok(());
        }
        self.fd.socket().listen(backlog)?;
        self.listening = true;
        Ok(())
    }
}

/// What one look at all sockets gave.
enum Look<T> {
    Found(io::Result<T>),
    Nothing,
    Closed,
    Exhausted(io::Error),
}

/// What one socket gave.
enum Call<T> {
    Done(io::Result<T>),
    Empty,
    /// No descriptor or memory is left for another connection: those that wait stay in the queue.
    Exhausted(io::Error),
}

fn call<T>(fd: &Fd, op: &mut impl FnMut(&Fd) -> io::Result<T>) -> Call<T> {
    loop {
        let error = match op(fd) {
            Ok(done) => return Call::Done(Ok(done)),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => return Call::Empty,
            Some(Errno::EINTR) => {}
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => return Call::Exhausted(error),
            // A connection that is gone before it was accepted, or refused by a firewall: there may be another one
            // ("Error handling" in accept(2)).
            Some(
                Errno::ECONNABORTED
                | Errno::EPERM
                | Errno::EPROTO
                | Errno::ENETDOWN
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH,
            ) if matches!(fd, Fd::Listener(_)) => {}
            _ => return Call::Done(Err(error)),
        }
    }
}

/// How long to leave a queue alone that nothing can be taken from: 5 ms, doubled up to one second.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self, name: &str, error: &io::Error) -> Duration {
        if self.0 == 0 {
            say!(warn, "the listener `{name}` cannot accept for now, and connections wait in its queue: {error}");
        }
        let wait = Duration::from_millis((5 << self.0.min(8)).min(1000));
        self.0 += 1;
        wait
    }
}

/// poll(2), again where a signal interrupts it.
pub(super) fn poll(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    match nix::poll::poll(fds, timeout) {
        // Whoever waits looks again, which is right after a timeout, too.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(feature = "tokio")]
async fn either(one: impl Future, other: impl Future) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    std::future::poll_fn(|cx| {
        if one.as_mut().poll(cx).is_ready() || other.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await
}
