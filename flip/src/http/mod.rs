//! HTTP over listeners that outlive the process: what [`serve`] promises, and how it keeps it.
//!
//! hyper parses and writes; flip decides when it may. Three things sit around each of hyper's connections:
//!
//! ```text
//!   socket ── Gate (gate.rs) ── hyper ── Tracked (service.rs) ── the user's service
//!                      └────── Connection (connection.rs) drives ──────┘
//! ```
//!
//! The gate holds back reads between two requests and the end of an answer's flush; both are moments at which hyper
//! has nothing but unread bytes. So a frozen connection can go on as if nothing had happened, and can be taken apart into its
//! socket and those bytes without anything lost. hyper's own graceful shutdown is never used: it closes a connection that
//! was accepted and not yet read from, and drops what a client has pipelined.
//!
//! HTTP/2 (feature `http2`) is told apart by its first bytes (`preface.rs`) before hyper has any. It never rests, so it is
//! not passed, and its graceful shutdown loses nothing (`multiplex.rs`).

mod connection;
mod gate;
#[cfg(feature = "http2")]
mod multiplex;
#[cfg(feature = "http2")]
mod preface;
mod service;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{Extensions, Request, Response};
use event_listener::{Event, listener};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::drain::Guard;
use crate::listen::{TcpListener, UnixListener};
use crate::pass::Passed;
use crate::phase::Phase;
use crate::shared::Shared;
use connection::Resting;

/// A listener that [`serve`] can accept from: flip's TCP and Unix ones.
///
/// It cannot be implemented outside of flip.
pub trait Accept: sealed::Accept {}

impl<L: sealed::Accept> Accept for L {}

pub(crate) mod sealed {
    use super::*;

    /// What a listener has to give.
    pub trait Accept: Send + Sync + 'static {
        type Io: Transport;
        type Peer: Peer;

        /// The next connection, or `None` when this process will never accept again.
        fn accept(&self) -> impl Future<Output = io::Result<Option<Accepted<Self::Io, Self::Peer>>>> + Send;

        /// A connection that an earlier process accepted.
        fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<Self::Io, Self::Peer>>;

        /// The listener's name, and which of several it is.
        fn label(&self) -> String;

        fn process(&self) -> Process;
    }

    /// What requests come over.
    pub trait Transport: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {
        /// Without the runtime, on its way to another process.
        fn into_socket(self) -> io::Result<OwnedFd>;
    }

    impl Transport for tokio::net::TcpStream {
        fn into_socket(self) -> io::Result<OwnedFd> {
            self.into_std().map(Into::into)
        }
    }

    impl Transport for tokio::net::UnixStream {
        fn into_socket(self) -> io::Result<OwnedFd> {
            self.into_std().map(Into::into)
        }
    }

    pub struct Accepted<I, P> {
        pub(crate) io: I,
        pub(crate) guard: Guard,
        pub(crate) peer: P,
    }

    /// The process that a listener belongs to.
    pub struct Process(pub(crate) Arc<Shared>);

    /// Who is at the other end.
    pub trait Peer: Clone + Send + Sync + 'static {
        /// Lets handlers ask for it.
        fn describe(&self, extensions: &mut Extensions);
    }

    impl Peer for SocketAddr {
        fn describe(&self, extensions: &mut Extensions) {
            extensions.insert(ConnectInfo(*self));
        }
    }

    impl Accept for TcpListener {
        type Io = tokio::net::TcpStream;
        type Peer = SocketAddr;

        async fn accept(&self) -> io::Result<Option<Accepted<Self::Io, SocketAddr>>> {
            let Some((stream, peer)) = self.accept().await? else { return Ok(None) };
            let (io, guard) = stream.into_inner();
            Ok(Some(Accepted { io, guard, peer }))
        }

        fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<Self::Io, SocketAddr>> {
            let (stream, peer) = self.adopt(socket)?;
            let (io, guard) = stream.into_inner();
            Ok(Accepted { io, guard, peer })
        }

        fn label(&self) -> String {
            self.label()
        }

        fn process(&self) -> Process {
            Process(Arc::clone(self.shared()))
        }
    }

    impl Accept for UnixListener {
        type Io = tokio::net::UnixStream;
        type Peer = ();

        async fn accept(&self) -> io::Result<Option<Accepted<Self::Io, ()>>> {
            let Some((stream, _)) = self.accept().await? else { return Ok(None) };
            let (io, guard) = stream.into_inner();
            Ok(Some(Accepted { io, guard, peer: () }))
        }

        fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<Self::Io, ()>> {
            let (io, guard) = self.adopt(socket)?.into_inner();
            Ok(Accepted { io, guard, peer: () })
        }

        fn label(&self) -> String {
            self.label()
        }

        fn process(&self) -> Process {
            Process(Arc::clone(self.shared()))
        }
    }

    /// Nobody that could be named, as on most Unix sockets.
    impl Peer for () {
        fn describe(&self, _: &mut Extensions) {}
    }
}

/// Serves HTTP on a listener until this process hands over or stops, and loses nothing: HTTP/1.1, and with the feature `http2`
/// also HTTP/2 to clients that begin with it (prior knowledge).
///
/// `service` is an [`axum::Router`], or any other tower service of such requests. Each connection runs as a task, and a
/// handler that panics takes only its connection, or its HTTP/2 stream, with it. On TCP, handlers can extract
/// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
///
/// It returns when nothing will be accepted any more and each of its connections is done, or was cut. Until
/// then, in a process that handed over or stops:
///
/// - a connection without an answer yet gets one, however late its request arrives, and so does every request that was
///   pipelined;
/// - each answer with nothing behind it announces `Connection: close`;
/// - a connection that rests between two requests is passed to the new process, with what was read of it; its client does
///   not notice. In a service that stops it is closed after about a second without a request, because one may be on its way;
/// - streaming answers and upgraded connections go on;
/// - an HTTP/2 connection takes no more requests (GOAWAY) and ends with its last stream; it is not passed. What reaches it too
///   late, or came while the state was on its way, is refused (REFUSED_STREAM) before a handler has seen it, so that its client
///   sends it again, to the new process. In a service that stops it is answered;
/// - what is left at `drain_timeout` is cut.
///
/// # Errors
///
/// When the listener fails for good. Connections that failed before they were accepted, and a lack of descriptors, are
/// waited out.
///
/// # Cancel safety
///
/// When the future is dropped nothing more is accepted; the connections go on.
///
/// # Caveats
///
/// Without the feature `http2` HTTP/2 is not spoken; with it, not by `Upgrade: h2c`.
pub async fn serve<L, S, B>(listener: L, service: S) -> io::Result<()>
where
    L: Accept,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    serve_with(listener, service, Options::default()).await
}

/// How patient a leaving process is.
#[derive(Clone, Copy, Debug)]
struct Options {
    /// How long a connection rests before it is closed; each one up to a fifth shorter or longer.
    grace: Duration,
    /// How long the peer gets to close its side after this one has.
    linger: Duration,
    /// Takes each connection apart once a freeze, puts it together again, and counts.
    #[cfg(test)]
    rebuilt: Option<&'static AtomicUsize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            grace: Duration::from_secs(1),
            linger: Duration::from_secs(1),
            #[cfg(test)]
            rebuilt: None,
        }
    }
}

async fn serve_with<L, S, B>(listener: L, service: S, options: Options) -> io::Result<()>
where
    L: Accept,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let sealed::Process(shared) = listener.process();
    let open = Arc::new(Open::default());
    let name: Arc<str> = listener.label().into();
    let serve = |resting: Resting<L::Io>, peer: L::Peer| {
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(connection::drive(resting, service, peer, Arc::clone(&name), Arc::clone(&shared), options));
    };
    let resume = |passed: Passed| match listener.adopt(passed.socket) {
        Ok(sealed::Accepted { io, guard, peer }) => {
            let resting =
                Resting { io, unread: passed.unread.into(), kept: passed.kept, lease: Lease::new(guard, &open) };
            serve(resting, peer);
        }
        // Its peer has gone on the way.
        Err(error) => tracing::debug!(%error, listener = &*name, "a connection that was passed is gone"),
    };
    shared.arrivals.serve(&name);
    loop {
        tokio::select! {
            passed = shared.arrivals.next(&name) => resume(passed),
            accepted = listener.accept() => match accepted {
                Ok(Some(sealed::Accepted { io, guard, peer })) => serve(Resting::fresh(io, Lease::new(guard, &open)), peer),
                Ok(None) => break,
                Err(error) if belongs_to_a_connection(&error) => {}
                Err(error) if is_lack(&error) => {
                    tracing::warn!(%error, "cannot accept; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            },
        }
    }
    // A service that stops has nobody to pass to: it serves what earlier processes still pass.
    while shared.phase.get() == Phase::Stopping {
        tokio::select! {
            passed = shared.arrivals.next(&name) => resume(passed),
            () = shared.arrivals.exhausted() => break,
            _ = shared.phase.until(|phase| phase >= Phase::Cut) => break,
        }
    }
    // What earlier processes passed and nobody took yet goes on, where there is somebody to take it.
    while let Some(passed) = shared.arrivals.try_next(&name) {
        match shared.passing() {
            Some(passer) => passer.pass(&name, passed, Box::new(shared.track(Arc::clone(&name), None))),
            None => resume(passed),
        }
    }
    tokio::select! {
        () = open.all_closed() => {}
        _ = shared.phase.until(|phase| phase >= Phase::Cut) => {}
    }
    Ok(())
}

/// What accept(2) reports of the connection that it would have returned: "treat them like EAGAIN by retrying".
fn belongs_to_a_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | HostUnreachable | NetworkDown | NetworkUnreachable
    )
}

/// A lack that may pass, while the connection stays in the backlog.
fn is_lack(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// How many connections one call of [`serve`] has open, those that were upgraded included.
#[derive(Default)]
struct Open {
    count: AtomicUsize,
    none: Event,
}

impl Open {
    async fn all_closed(&self) {
        loop {
            listener!(self.none => none);
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

/// What a connection holds for as long as its socket is open, whoever has that socket.
struct Lease {
    open: Arc<Open>,
    _guard: Guard,
}

impl Lease {
    fn new(guard: Guard, open: &Arc<Open>) -> Lease {
        open.count.fetch_add(1, Ordering::SeqCst);
        Lease { open: Arc::clone(open), _guard: guard }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.open.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.open.none.notify(usize::MAX);
        }
    }
}
