//! TLS, by rustls, between the gate and the socket.
//!
//! Until its client has said something, a connection is a socket like any other, and is passed like one. From then on it
//! stays with the process that has its keys: on a stop and after a handoff it ends as one that nobody takes, with
//! `Connection: close` or GOAWAY, or when it has rested for its grace; a close_notify goes before each of these ends.
//!
//! rustls can give a connection's keys away, and flip does not ask for them. They are the keys of one moment: either side may
//! replace its own at any time (KeyUpdate, RFC 8446, 4.6.3), rustls by itself when one has encrypted as much as it may, and
//! whoever has the earlier ones then cannot read on. Half a record may have been read, or be written, and goes with no key.
//! And until the new process serves, either may be the one that goes on: two processes that encrypt with one key and
//! one sequence number break it.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::Options;
use super::connection::{self, Resting, Watch, close, pass};
#[cfg(feature = "http2")]
use super::multiplex;
use super::sealed::{Accept, Accepted, Process, Transport};
use super::service::Handler;
use crate::listen::TcpListener;
use crate::phase::Phase;
use crate::shared::Shared;

/// How long a client may take from its connection to the end of the handshake, where nothing else is said.
const LIMIT: Duration = Duration::from_secs(10);

impl TcpListener {
    /// This listener with TLS on its connections, for [`serve`](crate::serve()) and [`serve_hyper`](crate::serve_hyper).
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")] mod program {
    /// use std::sync::Arc;
    ///
    /// use axum::Router;
    /// use axum::routing::get;
    /// use flip::TcpListener;
    /// use rustls::ServerConfig;
    /// use rustls::pki_types::pem::PemObject;
    /// use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    ///
    /// fn config() -> Result<ServerConfig, flip::BoxError> {
    ///     let chain = CertificateDer::pem_file_iter("chain.pem")?.collect::<Result<_, _>>()?;
    ///     let key = PrivateKeyDer::from_pem_file("key.pem")?;
    ///     let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    ///     config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    ///     Ok(config)
    /// }
    ///
    /// #[flip::main]
    /// async fn main(
    ///     #[with(config()?)] config: ServerConfig,
    ///     #[listen("0.0.0.0:443")] https: TcpListener,
    /// ) -> std::io::Result<()> {
    ///     let router = Router::new().route("/", get(async || format!("served by {}\n", std::process::id())));
    ///     flip::serve(https.tls(Arc::new(config)), router).await
    /// }
    /// # }
    /// # fn main() {}
    /// ```
    ///
    /// HTTP/2 is spoken where the configuration offers `h2` (ALPN) and the client takes it, with the feature `http2`; without that
    /// feature it is not offered.
    ///
    /// Which cryptography rustls uses is the program's choice, by the features of its own dependency on `rustls`.
    ///
    /// # Caveats
    ///
    /// Each process reads its certificates anew. A client resumes a session across an upgrade only where both processes can
    /// read each other's tickets; otherwise it makes a whole handshake, and does not notice.
    pub fn tls(self, config: Arc<ServerConfig>) -> Tls<TcpListener> {
        Tls::new(self, config)
    }
}

/// A listener with TLS on its connections: see [`TcpListener::tls`].
///
/// They are not passed to a new process, because their keys are in this one:
///
/// - while the state is on its way nothing is answered, and a roll-back closes nothing;
/// - after a handoff, and on a stop, the next answer of a connection announces `Connection: close`, and HTTP/2 says GOAWAY.
///   A connection that rests is closed after about a second, by a close_notify. The old process answers what
///   still comes to it, and cannot write any more: a handler's [`Live::update`](crate::Live::update) says
///   [`HandedOff`](crate::HandedOff), [`Live::call`](crate::Live::call) is forwarded;
/// - a connection whose client has not said anything yet is passed, and has its handshake in the new process. One in the middle of its
///   handshake finishes it, and is served, in the old one.
///
/// A client that takes longer than ten seconds for its handshake is closed; see [`handshake_timeout`](Tls::handshake_timeout).
pub struct Tls<L> {
    listener: L,
    handshake: Handshake,
}

impl<L> Tls<L> {
    pub(super) fn new(listener: L, config: Arc<ServerConfig>) -> Tls<L> {
        #[cfg(not(feature = "http2"))]
        let config = without_http2(config);
        Tls { listener, handshake: Handshake { acceptor: config.into(), limit: LIMIT } }
    }

    /// At most so long from the accept to the end of the handshake; ten seconds if nothing is said.
    ///
    /// ```no_run
    /// # fn example(https: flip::Tls<flip::TcpListener>) -> flip::Tls<flip::TcpListener> {
    /// https.handshake_timeout(std::time::Duration::from_secs(3))
    /// # }
    /// ```
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.handshake.limit = limit;
        self
    }
}

#[cfg(not(feature = "http2"))]
fn without_http2(mut config: Arc<ServerConfig>) -> Arc<ServerConfig> {
    Arc::make_mut(&mut config).alpn_protocols.retain(|protocol| protocol != b"h2");
    config
}

impl<L: fmt::Debug> fmt::Debug for Tls<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl<L: Accept> Accept for Tls<L> {
    type Io = L::Io;

    async fn accept(&self) -> io::Result<Option<Accepted<L::Io>>> {
        self.listener.accept().await
    }

    fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted<L::Io>> {
        self.listener.adopt(socket)
    }

    fn label(&self) -> String {
        self.listener.label()
    }

    fn lasts(&self) -> bool {
        self.listener.lasts()
    }

    fn process(&self) -> Process {
        self.listener.process()
    }

    fn tls(&self) -> Option<&Handshake> {
        Some(&self.handshake)
    }
}

/// How a connection of a listener begins.
#[derive(Clone)]
pub struct Handshake {
    acceptor: TlsAcceptor,
    limit: Duration,
}

/// Has the handshake with a connection's client, and serves it until it is closed, upgraded or cut.
pub(super) async fn drive<I, S>(
    mut resting: Resting<I>,
    handshake: Handshake,
    service: S,
    listener: Arc<str>,
    shared: Arc<Shared>,
    options: Options,
) where
    I: Transport,
    S: Handler,
{
    if resting.kept || !resting.unread.is_empty() {
        tracing::debug!(listener = &*listener, "a connection without TLS was passed, and is closed: here there is TLS");
        return close(resting, &shared, options.linger).await;
    }
    let limit = Instant::now() + handshake.limit;
    let mut watch = Watch::new(&shared, options.lasting);
    loop {
        let hello = std::future::poll_fn(|cx| poll_hello(&mut resting, cx, &mut watch));
        match timeout_at(limit, hello).await {
            Ok(Hello::Here) => break,
            Ok(Hello::Pass) => match pass(resting, &listener, &shared).await {
                Some(back) => resting = back,
                None => return,
            },
            Ok(Hello::Over) => return,
            Err(_) => return close(resting, &shared, options.linger).await,
        }
    }
    let Resting { io, lease, .. } = resting;
    let late = Arc::new(AtomicBool::new(false));
    let socket = Socket { io, record: Record::default(), late: Arc::clone(&late) };
    let mut accept = handshake.acceptor.accept(socket).into_fallible();
    let accepted = tokio::select! {
        accepted = timeout_at(limit, &mut accept) => accepted,
        _ = shared.phase.until(|phase| phase >= Phase::Cut) => return,
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(_) => {
            // The socket comes back with an error only.
            late.store(true, Ordering::Relaxed);
            match timeout_at(limit, accept).await {
                Ok(accepted) => accepted,
                // It waits for room to write, so its peer reads nothing that could be destroyed.
                Err(_) => return tracing::trace!("handshake took too long"),
            }
        }
    };
    let io = match accepted {
        Ok(io) => io,
        Err((error, Socket { io, .. })) => {
            tracing::trace!(%error, "handshake failed");
            // Closing it wholly might destroy the alert that says why.
            return close(Resting::fresh(io, lease), &shared, options.linger).await;
        }
    };
    #[cfg(feature = "http2")]
    if io.get_ref().1.alpn_protocol() == Some(b"h2") {
        let resting = Resting::fresh(Secured(io), lease);
        return Box::pin(multiplex::drive(resting, service, watch, shared, options)).await;
    }
    connection::drive(Resting::fresh(Secured(io), lease), service, watch, listener, shared, options).await;
}

/// What is to be done with a connection of which nothing was read.
enum Hello {
    /// Its client speaks, or has gone.
    Here,
    /// The new process takes it from here.
    Pass,
    /// It failed, or the time is up.
    Over,
}

fn poll_hello<I: Transport>(resting: &mut Resting<I>, cx: &mut Context<'_>, watch: &mut Watch) -> Poll<Hello> {
    let phase = watch.phase(cx);
    if phase >= Phase::Cut {
        return Poll::Ready(Hello::Over);
    }
    if watch.is_passing() {
        return Poll::Ready(Hello::Pass);
    }
    // Once rustls has a byte, it is not passed.
    if matches!(phase, Phase::Starting | Phase::Frozen) {
        return Poll::Pending;
    }
    Poll::Ready(if ready!(resting.io.poll_readable(cx)).is_ok() { Hello::Here } else { Hello::Over })
}

/// The socket, as rustls has it.
struct Socket<I> {
    io: I,
    record: Record,
    /// The handshake took too long.
    late: Arc<AtomicBool>,
}

/// How much of a record was read: of its type, version and length, which are five bytes, and of what follows (RFC 8446, 5.1).
/// rustls does not tell that it waits for the rest of one, which may be a request.
#[derive(Default)]
struct Record {
    head: usize,
    left: usize,
}

impl Record {
    fn read(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            if self.head < 5 {
                // The last two are the length.
                self.left = if self.head < 3 { 0 } else { self.left << 8 | usize::from(*byte) };
                self.head += 1;
                bytes = rest;
            } else {
                let n = self.left.min(bytes.len());
                self.left -= n;
                bytes = &bytes[n..];
            }
            if self.head == 5 && self.left == 0 {
                self.head = 0;
            }
        }
    }

    fn is_between(&self) -> bool {
        self.head == 0
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Socket<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.late.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut socket.io).poll_read(cx, buf))?;
        socket.record.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

/// Writes as what it names does.
macro_rules! write_through {
    ($outer:ident, $inner:tt, $($bound:tt)*) => {
        impl<I: $($bound)*> AsyncWrite for $outer<I> {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$inner).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$inner).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.$inner.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$inner).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$inner).poll_shutdown(cx)
            }
        }
    };
}

write_through!(Socket, io, AsyncWrite + Unpin);

/// A connection after its handshake.
pub(crate) struct Secured<I>(TlsStream<Socket<I>>);

write_through!(Secured, 0, AsyncRead + AsyncWrite + Unpin);

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<I: AsFd> AsFd for Secured<I> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.io.as_fd()
    }
}

impl<I: Transport> Transport for Secured<I> {
    const PASSES: bool = false;

    fn into_socket(self) -> io::Result<OwnedFd> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the keys of this connection are here"))
    }

    fn from_socket(_: OwnedFd) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this connection never left"))
    }

    fn holds_part(&self) -> bool {
        !self.0.get_ref().0.record.is_between()
    }

    fn wire(&mut self) -> &mut (dyn AsyncRead + Unpin + Send) {
        self.0.get_mut().0.io.wire()
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.0.get_ref().0.io.poll_readable(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_record_is_known_wherever_it_is_cut() {
        let records = [&[23, 3, 3, 1, 2][..], &[7; 0x102], &[21, 3, 3, 0, 0], &[23, 3, 3, 0, 1, 9]].concat();
        let ends = [0, 0x107, 0x10c, records.len()];
        for at in 0..=records.len() {
            let mut record = Record::default();
            record.read(&records[..at]);
            assert_eq!(record.is_between(), ends.contains(&at), "cut at {at}");
            record.read(&records[at..]);
            assert!(record.is_between());
        }
    }
}
