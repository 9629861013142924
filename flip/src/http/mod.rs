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
//! HTTP/2 (feature `http2`) is told apart by its first bytes, in the gate, before hyper has any. It never rests, so it is
//! not passed, and its graceful shutdown loses nothing (`multiplex.rs`).
//!
//! TLS (feature `rustls`) lies between the gate and the socket, and ties a connection to this process from its first byte on
//! (`tls.rs`). axum's routers are services like any other, with another type of body (`web.rs`).
//!
//! What every request passes through is marked `inline`: its callers are generic, and so compiled with the program.

mod connection;
mod gate;
#[cfg(feature = "http2")]
mod multiplex;
mod service;
#[cfg(test)]
#[cfg(feature = "axum")]
mod tests;
#[cfg(feature = "rustls")]
mod tls;
#[cfg(feature = "ws")]
mod upgraded;
#[cfg(feature = "axum")]
mod web;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use event_listener::{Event, listener};
use hyper::body::Body as HttpBody;
use hyper::service::Service;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, Interest};

use crate::drain::Guard;
use crate::listen::{TcpListener, UnixListener};
use crate::pass::Passed;
use crate::phase::Phase;
use crate::shared::Shared;
use connection::Resting;
pub(crate) use connection::Watch;
#[cfg(feature = "ws")]
pub(crate) use connection::chance;
pub use service::RequestBody;
use service::{Described, Handler};
#[cfg(all(feature = "rustls", feature = "ws"))]
pub(crate) use tls::Secured;
#[cfg(feature = "rustls")]
pub use tls::Tls;
#[cfg(feature = "ws")]
pub(crate) use upgraded::{Released, Socket, release};
#[cfg(feature = "axum")]
pub use web::serve;

/// A listener that HTTP can be served on: flip's TCP and Unix ones, and TCP under TLS.
///
/// It cannot be implemented outside of flip.
pub trait Accept: sealed::Accept {}

impl<L: sealed::Accept> Accept for L {}

pub(crate) mod sealed {
    use super::*;

    /// What a listener has to give.
    pub trait Accept: Send + Sync + 'static {
        type Io: Transport;

        /// The next connection, or `None` when this process will never accept again.
        fn accept(&self) -> impl Future<Output = io::Result<Option<Accepted<Self::Io>>>> + Send;

        /// A connection that an earlier process accepted.
        fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<Self::Io>>;

        /// The listener's name, and which of several it is.
        fn label(&self) -> String;

        /// Whether a stop leaves it open until nothing else is.
        fn lasts(&self) -> bool {
            false
        }

        fn process(&self) -> Process;

        /// How its connections are encrypted, where they are.
        #[cfg(feature = "rustls")]
        fn tls(&self) -> Option<&tls::Handshake> {
            None
        }
    }

    /// What requests come over.
    pub trait Transport: AsyncRead + AsyncWrite + AsFd + Sized + Unpin + Send + 'static {
        /// It can go on in another process.
        const PASSES: bool = true;

        /// Without the runtime, on its way to another process.
        fn into_socket(self) -> io::Result<OwnedFd>;

        /// The way back.
        fn from_socket(socket: OwnedFd) -> io::Result<Self>;

        /// Whether it has taken bytes from the socket that it gives only when more of them come.
        fn holds_part(&self) -> bool {
            false
        }

        /// For whoever throws away what comes: the socket's own bytes.
        fn wire(&mut self) -> &mut (dyn AsyncRead + Unpin + Send);

        /// Whether the socket has something to read, or its end, which is nothing.
        fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;
    }

    macro_rules! transport {
        ($stream:ty) => {
            impl Transport for $stream {
                fn into_socket(self) -> io::Result<OwnedFd> {
                    self.into_std().map(Into::into)
                }

                fn from_socket(socket: OwnedFd) -> io::Result<Self> {
                    Self::from_std(socket.into())
                }

                fn wire(&mut self) -> &mut (dyn AsyncRead + Unpin + Send) {
                    self
                }

                fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
                    loop {
                        // tokio may say so of a socket that it has not looked at yet.
                        ready!(self.poll_read_ready(cx))?;
                        match self.try_io(Interest::READABLE, || connection::peek(self)) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            peeked => return Poll::Ready(peeked),
                        }
                    }
                }
            }
        };
    }

    transport!(tokio::net::TcpStream);
    transport!(tokio::net::UnixStream);

    pub struct Accepted<I> {
        pub(crate) io: I,
        pub(crate) guard: Guard,
        /// Who is at the other end, where that has an address.
        pub(crate) peer: Option<SocketAddr>,
    }

    /// The process that a listener belongs to.
    pub struct Process(pub(crate) Arc<Shared>);

    impl Accept for TcpListener {
        type Io = tokio::net::TcpStream;

        async fn accept(&self) -> io::Result<Option<Accepted<Self::Io>>> {
            let Some((stream, peer)) = self.accept().await? else { return Ok(None) };
            let (io, guard) = stream.into_inner();
            Ok(Some(Accepted { io, guard, peer: Some(peer) }))
        }

        fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<Self::Io>> {
            let (stream, peer) = self.adopt(socket)?;
            let (io, guard) = stream.into_inner();
            Ok(Accepted { io, guard, peer: Some(peer) })
        }

        fn label(&self) -> String {
            self.label()
        }

        fn lasts(&self) -> bool {
            self.lasts()
        }

        fn process(&self) -> Process {
            Process(Arc::clone(self.shared()))
        }
    }

    impl Accept for UnixListener {
        type Io = tokio::net::UnixStream;

        async fn accept(&self) -> io::Result<Option<Accepted<Self::Io>>> {
            let Some((stream, _)) = self.accept().await? else { return Ok(None) };
            let (io, guard) = stream.into_inner();
            Ok(Some(Accepted { io, guard, peer: None }))
        }

        fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<Self::Io>> {
            let (io, guard) = self.adopt(socket)?.into_inner();
            Ok(Accepted { io, guard, peer: None })
        }

        fn label(&self) -> String {
            self.label()
        }

        fn lasts(&self) -> bool {
            self.lasts()
        }

        fn process(&self) -> Process {
            Process(Arc::clone(self.shared()))
        }
    }
}

/// [`serve`](crate::serve) for a service of hyper's, without axum (feature `hyper`): it promises the same, and keeps it in the same way.
///
/// `service` is a [`hyper::service::Service`], such as one of [`service_fn`](hyper::service::service_fn); one of tower's becomes one by
/// `hyper_util::service::TowerToHyperService`. Each connection has a clone of it. On TCP the client's address is among
/// the request's extensions, as a [`SocketAddr`].
///
/// ```no_run
/// use std::convert::Infallible;
///
/// use flip::{RequestBody, TcpListener};
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
///
/// async fn hello(_: Request<RequestBody>) -> Result<Response<String>, Infallible> {
///     Ok(Response::new(format!("served by {}\n", std::process::id())))
/// }
///
/// #[flip::main]
/// async fn main(#[listen("127.0.0.1:8080")] http: TcpListener) -> std::io::Result<()> {
///     flip::serve_hyper(http, service_fn(hello)).await
/// }
/// ```
///
/// From a listener that [keeps accepting](crate::ListenOptions::keep_accepting) it goes on in a service that stops until all else
/// is done.
///
/// # Errors
///
/// As `serve`.
///
/// # Cancel safety
///
/// As `serve`.
pub async fn serve_hyper<L, S, B>(listener: L, service: S) -> io::Result<()>
where
    L: Accept,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    serve_with(listener, move |peer| Described::new(service.clone(), peer), Options::default()).await
}

/// How patient a leaving process is.
#[derive(Clone, Copy, Debug)]
struct Options {
    /// How long a connection rests before it is closed; each one up to a fifth shorter or longer.
    grace: Duration,
    /// How long the peer gets to close its side after this one has.
    linger: Duration,
    /// The listener lasts.
    lasting: bool,
    /// Takes each connection apart once a freeze, puts it together again, and counts.
    #[cfg(test)]
    rebuilt: Option<&'static AtomicUsize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            grace: Duration::from_secs(1),
            linger: Duration::from_secs(1),
            lasting: false,
            #[cfg(test)]
            rebuilt: None,
        }
    }
}

/// `service` makes one for each connection, which hears who is at the other end.
async fn serve_with<L, S>(listener: L, service: impl Fn(Option<SocketAddr>) -> S, options: Options) -> io::Result<()>
where
    L: Accept,
    S: Handler,
{
    let sealed::Process(shared) = listener.process();
    let options = match listener.lasts() {
        // Its clients only look whether somebody is there: none has a request on its way that is worth the wait.
        true => Options { lasting: true, grace: Duration::ZERO, ..options },
        false => options,
    };
    let open = Arc::new(Open::default());
    let name: Arc<str> = listener.label().into();
    let serve = |resting: Resting<L::Io>, peer: Option<SocketAddr>| {
        let (service, name, shared) = (service(peer), Arc::clone(&name), Arc::clone(&shared));
        // Boxed: the runtime copies a future some ten times until it has begun and ended, and these have thousands of bytes.
        #[cfg(feature = "rustls")]
        if let Some(handshake) = listener.tls() {
            tokio::spawn(Box::pin(tls::drive(resting, handshake.clone(), service, name, shared, options)));
            return;
        }
        let watch = Watch::new(&shared, options.lasting);
        tokio::spawn(Box::pin(connection::drive(resting, service, watch, name, shared, options)));
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
    // Waited for anew only after one has come: most turns of this loop accept.
    let mut arrival = pin!(shared.arrivals.next(&name));
    loop {
        tokio::select! {
            passed = &mut arrival => {
                resume(passed);
                arrival.set(shared.arrivals.next(&name));
                // To accept counts already; thousands may be passed at once.
                tokio::task::consume_budget().await;
            }
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
            Some(passer) => {
                let guard = shared.track(Arc::clone(&name), None);
                if let Some((passed, _guard)) = connection::pass_on(passer, &name, passed, guard).await {
                    resume(passed);
                }
            }
            None => resume(passed),
        }
    }
    tokio::select! {
        () = open.all_closed() => {}
        _ = shared.phase.until(|phase| phase >= Phase::Cut) => {}
        // Nobody waits for these when all others are gone.
        () = tokio::time::sleep(options.linger), if options.lasting && shared.phase.get() == Phase::Stopping => {}
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

/// How many connections one call of [`serve_hyper`] has open, those that were upgraded included.
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

/// What a connection holds for as long as its socket is open, whoever has that socket. Given back in this order: who waits for all to be
/// closed finds none.
struct Lease {
    _guard: Guard,
    _counted: Counted,
}

impl Lease {
    fn new(guard: Guard, open: &Arc<Open>) -> Lease {
        open.count.fetch_add(1, Ordering::SeqCst);
        Lease { _guard: guard, _counted: Counted(Arc::clone(open)) }
    }
}

/// One of those that are open.
struct Counted(Arc<Open>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify(usize::MAX);
        }
    }
}
