//! The way of WebSockets to the new process: a relay, whose items are all that there is to one.

use std::fmt;
use std::io;
use std::net;
use std::os::unix::net as unix;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::WebSocket;
use super::codec::Codec;
use super::socket::{Io, Link, RESTART, must_be_told};
use crate::entry::shielded;
use crate::error::Error;
use crate::handoff::{Handoff, RestoreError, Restorer, SaveError, Saver, Schemas, Type};
use crate::log::say;
use crate::params::{Param, Setup};
use crate::relay::{Parcel, PassError, Post, Relay};

/// The WebSockets that move from one process to the next, each with what the program knows about it: a parameter
/// `sockets: Sockets<Session>` of `main`. Its handle is cheap to clone. See [the module](super) for a whole program.
///
/// It is a [`Relay`](crate::Relay), and what is said there of items and their types between releases holds for `Session`.
pub struct Sockets<S> {
    relay: Relay<Moving<S>>,
}

/// All that there is to a WebSocket.
#[derive(flip::Handoff)]
pub(super) struct Moving<S> {
    socket: Socket,
    /// What arrived and is no whole message, or was not asked for.
    unread: Vec<u8>,
    /// Frames that are to be sent.
    unsent: Vec<u8>,
    limit: u64,
    protocol: Option<String>,
    /// The last by its name, and so in what is written: behind one that cannot be read nothing else can be.
    #[handoff(rename = "with")]
    session: Known<S>,
}

/// What the program knows about a WebSocket, or why that cannot be read here: the WebSocket is there all the same, and can be told.
/// In the schema it is the session itself.
struct Known<S>(Result<S, String>);

impl<S: Handoff> Handoff for Known<S> {
    fn schema(schemas: &mut Schemas) -> Type {
        S::schema(schemas)
    }

    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        match &self.0 {
            Ok(session) => session.save(out),
            Err(why) => Err(SaveError::new(why.clone())),
        }
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Known<S>, RestoreError> {
        let session = shielded(|| S::restore(input).map_err(|error| error.to_string()));
        if session.is_err() {
            input.give_up();
        }
        Ok(Known(session))
    }
}

#[derive(flip::Handoff)]
enum Socket {
    Tcp(net::TcpStream),
    Unix(unix::UnixStream),
}

impl<S> Clone for Sockets<S> {
    fn clone(&self) -> Self {
        Sockets { relay: self.relay.clone() }
    }
}

impl<S> fmt::Debug for Sockets<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("relay", &self.relay).finish_non_exhaustive()
    }
}

impl<S: Handoff> Default for Sockets<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Handoff> Sockets<S> {
    /// Without a running flip, for tests and tools: what is passed arrives at its own [`next`](Self::next).
    pub fn new() -> Sockets<S> {
        Sockets { relay: Relay::new() }
    }

    /// WebSockets move through this relay.
    pub(super) fn over(relay: Relay<Moving<S>>) -> Sockets<S> {
        if let Some(shared) = relay.post().shared() {
            shared.ways.add(relay.post());
        }
        relay.post().turns_away_by(turn_away::<S>);
        Sockets { relay }
    }

    /// Moves a WebSocket to the process that owns the service: to the newer one where this one has handed over, and to the
    /// [`next`](Self::next) of this one before. What was not received and what was not sent moves with it. Where it is closed, nothing
    /// happens.
    ///
    /// Where the newer process does not take it, not even shortly before `drain_timeout`, or the service stops, it is closed with 1012 after [a delay](super#what-does-not-move), and
    /// this waits for it.
    ///
    /// # Cancel safety
    /// Dropped, the WebSocket is either passed or dropped with the future.
    pub async fn pass(&self, socket: WebSocket, session: S) {
        let Some((link, protocol)) = socket.take() else { return };
        if !link.is_movable() {
            let delay = link.delay();
            return link.end(RESTART, delay).await;
        }
        let Link { io, codec, process } = link;
        let limit = codec.limit();
        let (unread, unsent) = codec.into_parts();
        // It fails where the runtime ends.
        let Ok(socket) = Socket::of(io) else { return };
        let moving = Moving { socket, unread, unsent, limit: limit as u64, protocol, session: Known(Ok(session)) };
        let Err(PassError { item, why }) = self.pass_in_time(moving).await else { return };
        if let Some(process) = &process {
            process.shared.ways.tell(&why);
        }
        let Ok(io) = item.socket.open() else { return };
        let link = Link { io, codec: Codec::new(item.unread, item.unsent, limit), process };
        let delay = link.delay();
        link.end(RESTART, delay).await;
    }

    async fn pass_in_time(&self, moving: Moving<S>) -> Result<(), PassError<Moving<S>>> {
        let mut passed = pin!(self.relay.pass(moving));
        let post = self.relay.post();
        let Some(shared) = post.shared() else { return passed.await };
        tokio::select! {
            biased;
            passed = &mut passed => return passed,
            () = must_be_told(shared) => post.wait_no_longer(),
        }
        passed.await
    }

    /// The next WebSocket that was passed to this process; `None` when there will be none, as with [`Relay::next`](crate::Relay::next).
    /// One whose session cannot be read here is counted, reported, and told 1012.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Option<(WebSocket, S)> {
        loop {
            let moving = self.relay.next().await?;
            if let Some(moved) = self.adopt(moving) {
                return Some(moved);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn lost(&self) -> u64 {
        self.relay.post().lost()
    }

    fn adopt(&self, moving: Moving<S>) -> Option<(WebSocket, S)> {
        let post = self.relay.post();
        match moving.open(post) {
            Ok((link, protocol, Ok(session))) => Some((WebSocket::over(link, protocol), session)),
            Ok((link, _, Err(why))) => {
                post.lose(&why);
                let delay = link.delay();
                tokio::spawn(link.end(RESTART, delay));
                None
            }
            Err(error) => {
                post.lose(&error.to_string());
                None
            }
        }
    }
}

/// Tells one that nobody takes.
fn turn_away<S: Handoff>(post: &Arc<Post>, parcel: Parcel) {
    tell(post, parcel, |post, parcel| {
        let (link, ..) = parcel.unwrap::<Moving<S>>(post)?.open(post).map_err(|error| error.to_string())?;
        Ok(link)
    });
}

fn tell(post: &Arc<Post>, parcel: Parcel, open: fn(&Arc<Post>, Parcel) -> Result<Link, String>) {
    // It may be the control thread that gives up what waits, and a session may be read by code of the user's.
    let _entered = post.shared().and_then(|shared| shared.enter());
    let Ok(runtime) = Handle::try_current() else { return };
    let alive = post.shared().map(|shared| shared.track(Arc::clone(post.name()), None));
    let post = Arc::clone(post);
    runtime.spawn(async move {
        match shielded(|| open(&post, parcel)) {
            Ok(link) => {
                drop(alive);
                let delay = link.delay();
                link.end(RESTART, delay).await;
            }
            Err(why) => post.lose(&why),
        }
    });
}

impl<S> Moving<S> {
    /// It as it is in this process, with the protocol that was agreed on and its session.
    #[allow(clippy::type_complexity, reason = "all three are wanted by one caller alone")]
    fn open(self, post: &Arc<Post>) -> io::Result<(Link, Option<String>, Result<S, String>)> {
        let Moving { socket, unread, unsent, limit, protocol, session: Known(session) } = self;
        let io = socket.open()?;
        let process = post.shared().map(|shared| {
            let guard: Box<dyn Send + Sync> = Box::new(shared.track(Arc::clone(post.name()), None));
            (Arc::clone(shared), guard)
        });
        let codec = Codec::new(unread, unsent, usize::try_from(limit).unwrap_or(usize::MAX));
        Ok((Link::new(io, codec, process), protocol, session))
    }
}

impl<S: Handoff> Stream for Sockets<S> {
    type Item = (WebSocket, S);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<(WebSocket, S)>> {
        loop {
            let Some(moving) = ready!(Pin::new(&mut self.relay).poll_next(cx)) else { return Poll::Ready(None) };
            if let Some(moved) = self.adopt(moving) {
                return Poll::Ready(Some(moved));
            }
        }
    }
}

impl<S: Handoff> Param for Sockets<S> {
    async fn provide(setup: &Setup, name: &str) -> Result<Self, Error> {
        Ok(Sockets::over(setup.relay(name)?))
    }
}

impl Socket {
    fn of(io: Io) -> io::Result<Socket> {
        match io {
            Io::Tcp(io) => io.into_std().map(Socket::Tcp),
            Io::Unix(io) => io.into_std().map(Socket::Unix),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn open(self) -> io::Result<Io> {
        match self {
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                TcpStream::from_std(socket).map(Io::Tcp)
            }
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                UnixStream::from_std(socket).map(Io::Unix)
            }
        }
    }
}

/// The relays of a process that WebSockets move through.
#[derive(Default)]
pub(crate) struct Ways {
    posts: Mutex<Vec<Arc<Post>>>,
    told: AtomicU64,
}

impl Ways {
    fn add(&self, post: &Arc<Post>) {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(post));
    }

    /// Whether one of them leads to a newer process.
    pub(super) fn lead_out(&self) -> bool {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|post| post.leads_out())
    }

    /// One does not move, and its client is told.
    pub(super) fn tell(&self, why: &dyn fmt::Display) {
        let told = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        // The first says why; of many the rest says how many.
        if told.is_power_of_two() {
            say!(info, "a WebSocket is closed with 1012 ({told} so far): {why}");
        }
    }
}
