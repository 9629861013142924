//! The asynchronous faces, on tokio.

use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use libc::{SOCK_CLOEXEC, SOCK_NONBLOCK};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::address::Address;
use super::blocking::{recv_message, send_message};
use super::error::ListenError;
use super::kind::{Fd, Kind, full_queue, ip_addr, unix_addr, unix_peer};
use super::options::ListenOptions;
use super::registry::Listeners;
use super::{Face, Listen};
use crate::drain::Guard;

/// Whoever waits for a listener hears this, and holds nothing of the listener meanwhile: so it can be closed at any moment.
/// It rings when a socket is readable, at the listener's end, and when the phase changes. It is the runtime's, which wakes
/// outside of its lock: who wakes up on another thread takes that lock at once.
#[derive(Default)]
pub(super) struct Bell(Notify);

impl Bell {
    /// Resolves when it rings from now on, also before this is polled.
    pub(super) fn listen(&self) -> Notified<'_> {
        self.0.notified()
    }

    pub(super) fn ring(&self) {
        self.0.notify_waiters();
    }

    /// Whether `io` is readable; if not, the bell rings when it is.
    pub(super) fn poll_readable<'a>(
        self: &Arc<Self>,
        io: &'a AsyncFd<Arc<Fd>>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'a, Arc<Fd>>>> {
        // A task that has used up its turn would be told to come again at once, and would find itself out of turn for ever,
        // because nothing here yields to the runtime.
        let readable = tokio::task::unconstrained(std::future::poll_fn(|cx| match io.poll_read_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(Some(ready)),
            Poll::Pending => Poll::Pending,
        }));
        let waker = Waker::from(Arc::clone(self));
        match pin!(readable).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(ready)) => Poll::Ready(ready),
            _ => Poll::Pending,
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Watches `fd` in the runtime that polls.
// Deprecated because of types that may close their descriptor, or name another one, while it is watched. These own one for
// as long as they live; the function that replaces it is unsafe, and younger than the tokio that flip asks for.
#[allow(deprecated)]
pub(super) fn register<T: std::os::fd::AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(io::Error::other(
            "this socket of flip's needs a tokio runtime; without one there is `flip::blocking`",
        ));
    }
    AsyncFd::with_interest(fd, interest)
}

macro_rules! listen {
    ($face:ident, $kind:expr) => {
        impl Listen<Address> for $face {
            fn listen(
                listeners: &Arc<Listeners>,
                name: &str,
                address: Address,
                options: &ListenOptions,
            ) -> Result<Self, ListenError> {
                Face::listen($kind, listeners, name, address, options).map($face)
            }
        }
    };
}
/// A TCP listener that outlives the process.
///
/// ```no_run
/// # async fn serve(stream: flip::TcpStream) {}
/// # async fn example(http: flip::TcpListener) -> std::io::Result<()> {
/// while let Some((stream, _peer)) = http.accept().await? {
///     tokio::spawn(serve(stream));
/// }
/// // Handed over or stopping: what was spawned has until `drain_timeout`.
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TcpListener(Face);

listen!(TcpListener, Kind::Tcp);

#[cfg(feature = "hyper")]
impl TcpListener {
    /// Its name, and which of several it is.
    pub(crate) fn label(&self) -> String {
        self.0.label()
    }

    pub(crate) fn lasts(&self) -> bool {
        self.0.lasting
    }

    pub(crate) fn shared(&self) -> &Arc<crate::shared::Shared> {
        &self.0.shared
    }

    /// A connection of this listener that another process accepted.
    pub(crate) fn adopt(&self, socket: OwnedFd) -> io::Result<(TcpStream, SocketAddr)> {
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        let peer = stream.peer_addr()?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        Ok((TcpStream { stream, guard: self.0.track_from(peer) }, peer))
    }
}

impl TcpListener {
    /// The next connection, or `None` when this process will accept no more: another one does, or the service stops.
    ///
    /// It waits while another process owns the listener. What accept(2) says about a connection that is already gone is
    /// not reported; when descriptors or memory run out (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`), that is logged once and
    /// tried again after 5 ms, then twice as long, up to one second. Several tasks may accept at the same time.
    ///
    /// # Errors
    /// The runtime cannot watch the socket, or accept(2) fails in a way that another try does not heal.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let accept = |fd: &Fd| fd.accept(SOCK_CLOEXEC | SOCK_NONBLOCK);
        let Some((fd, peer)) = self.0.next(accept).await? else { return Ok(None) };
        let peer = ip_addr(&peer)?;
        let stream = tokio::net::TcpStream::from_std(fd.into())?;
        Ok(Some((TcpStream { stream, guard: self.0.track_from(peer) }, peer)))
    }

    /// Where it listens; with port 0 the port that it got.
    ///
    /// # Errors
    /// None so far.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip_addr(self.0.local())
    }

    /// The name by which it is handed over: the parameter's.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

/// A Unix stream listener that outlives the process.
///
/// ```no_run
/// # async fn serve(stream: flip::UnixStream) {}
/// # async fn example(admin: flip::UnixListener) -> std::io::Result<()> {
/// while let Some((stream, _peer)) = admin.accept().await? {
///     tokio::spawn(serve(stream));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UnixListener(Face);

listen!(UnixListener, Kind::Unix);

#[cfg(feature = "hyper")]
impl UnixListener {
    /// Its name, and which of several it is.
    pub(crate) fn label(&self) -> String {
        self.0.label()
    }

    pub(crate) fn lasts(&self) -> bool {
        self.0.lasting
    }

    pub(crate) fn shared(&self) -> &Arc<crate::shared::Shared> {
        &self.0.shared
    }

    /// A connection of this listener that another process accepted.
    pub(crate) fn adopt(&self, socket: OwnedFd) -> io::Result<UnixStream> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(UnixStream { stream: tokio::net::UnixStream::from_std(stream)?, guard: self.0.track(None) })
    }
}

impl UnixListener {
    /// The next connection, or `None` when this process will accept no more. See [`TcpListener::accept`].
    ///
    /// # Errors
    /// As [`TcpListener::accept`].
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<Option<(UnixStream, UnixAddr)>> {
        let accept = |fd: &Fd| fd.accept(SOCK_CLOEXEC | SOCK_NONBLOCK);
        let Some((fd, peer)) = self.0.next(accept).await? else { return Ok(None) };
        let peer = unix_addr(&peer)?;
        let stream = tokio::net::UnixStream::from_std(fd.into())?;
        Ok(Some((UnixStream { stream, guard: self.0.track(unix_peer(&peer)) }, peer)))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None so far.
    pub fn local_addr(&self) -> io::Result<UnixAddr> {
        unix_addr(self.0.local())
    }

    /// The name by which it is handed over: the parameter's.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

/// A Unix listener of `SOCK_SEQPACKET` that outlives the process: connections that keep the bounds of messages (unix(7)).
///
/// ```no_run
/// # async fn example(control: flip::SeqpacketListener) -> std::io::Result<()> {
/// while let Some((stream, _peer)) = control.accept().await? {
///     let mut message = [0; 4096];
///     let length = stream.recv(&mut message).await?;
///     stream.send(&message[..length]).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SeqpacketListener(Face);

listen!(SeqpacketListener, Kind::Seqpacket);

impl SeqpacketListener {
    /// The next connection, or `None` when this process will accept no more. See [`TcpListener::accept`].
    ///
    /// # Errors
    /// As [`TcpListener::accept`].
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<Option<(SeqpacketStream, UnixAddr)>> {
        let accept = |fd: &Fd| fd.accept(SOCK_CLOEXEC | SOCK_NONBLOCK);
        let Some((fd, peer)) = self.0.next(accept).await? else { return Ok(None) };
        let peer = unix_addr(&peer)?;
        let socket = register(fd, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Some((SeqpacketStream { socket, guard: self.0.track(unix_peer(&peer)) }, peer)))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None so far.
    pub fn local_addr(&self) -> io::Result<UnixAddr> {
        unix_addr(self.0.local())
    }

    /// The name by which it is handed over: the parameter's.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

macro_rules! stream {
    ($(#[$doc:meta])* $stream:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $stream {
            stream: $inner,
            guard: Guard,
        }

        impl $stream {
            /// The runtime's stream, and what keeps the process draining until it is dropped.
            pub fn into_inner(self) -> ($inner, Guard) {
                (self.stream, self.guard)
            }
        }

        impl Deref for $stream {
            type Target = $inner;

            fn deref(&self) -> &Self::Target {
                &self.stream
            }
        }

        impl DerefMut for $stream {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.stream
            }
        }

        impl AsFd for $stream {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.stream.as_fd()
            }
        }

        impl AsyncRead for $stream {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $stream {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(cx)
            }
        }
    };
}

stream! {
    /// A connection that a [`TcpListener`] accepted. While it lives, a process that has handed over or is stopping waits for
    /// it, at most for `drain_timeout`.
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # async fn example(mut stream: flip::TcpStream) -> std::io::Result<()> {
    /// stream.set_nodelay(true)?;
    /// stream.write_all(b"hello\n").await?;
    /// # Ok(())
    /// # }
    /// ```
    TcpStream, tokio::net::TcpStream
}

stream! {
    /// A connection that a [`UnixListener`] accepted. While it lives, a process that has handed over or is stopping waits for
    /// it, at most for `drain_timeout`.
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # async fn example(mut stream: flip::UnixStream) -> std::io::Result<()> {
    /// if stream.peer_cred()?.uid() == 0 {
    ///     stream.write_all(b"hello\n").await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    UnixStream, tokio::net::UnixStream
}

/// A connection that a [`SeqpacketListener`] accepted. While it lives, a process that has handed over or is stopping waits
/// for it, at most for `drain_timeout`.
///
/// ```no_run
/// # async fn example(stream: flip::SeqpacketStream) -> std::io::Result<()> {
/// let mut message = [0; 4096];
/// let length = stream.recv(&mut message).await?;
/// stream.send(&message[..length]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SeqpacketStream {
    socket: AsyncFd<OwnedFd>,
    guard: Guard,
}

impl SeqpacketStream {
    /// Receives one message; 0 bytes are the end of the connection, or an empty message (recv(2)).
    ///
    /// # Errors
    /// `InvalidData` for a message that is longer than the buffer, whose rest is lost; otherwise what recv(2) says.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.async_io(Interest::READABLE, |fd| recv_message(fd, buf)).await
    }

    /// Sends one message, whole or not at all.
    ///
    /// # Errors
    /// What send(2) says; the peer's end is `BrokenPipe`, without a signal.
    ///
    /// # Cancel safety
    /// The message was not sent when the future is dropped before it is done.
    pub async fn send(&self, message: &[u8]) -> io::Result<usize> {
        self.socket.async_io(Interest::WRITABLE, |fd| send_message(fd, message)).await
    }

    /// The descriptor, which is non-blocking, and what keeps the process draining until it is dropped.
    pub fn into_inner(self) -> (OwnedFd, Guard) {
        (self.socket.into_inner(), self.guard)
    }
}

impl AsFd for SeqpacketStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A UDP socket that outlives the process.
///
/// Datagrams are received by one process at a time; those that come during a handoff wait in the socket for the new one.
/// Answers can be sent while draining, too: once it has received, a process that has handed over or is stopping waits until
/// the socket is dropped, at most for `drain_timeout`.
///
/// ```no_run
/// # async fn example(dns: flip::UdpSocket) -> std::io::Result<()> {
/// let mut datagram = [0; 512];
/// while let Some((length, peer)) = dns.recv_from(&mut datagram).await? {
///     dns.send_to(&datagram[..length], peer).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UdpSocket {
    face: Face,
    sending: Sending,
}

impl Listen<Address> for UdpSocket {
    fn listen(
        listeners: &Arc<Listeners>,
        name: &str,
        address: Address,
        options: &ListenOptions,
    ) -> Result<Self, ListenError> {
        let face = Face::listen(Kind::Udp, listeners, name, address, options)?;
        Ok(UdpSocket { face, sending: Sending::default() })
    }
}

impl UdpSocket {
    /// The next datagram and its sender, or `None` when this process will receive no more: another one does, or the service
    /// stops. A datagram that is longer than the buffer is cut (udp(7)).
    ///
    /// # Errors
    /// What recv(2) says.
    ///
    /// # Cancel safety
    /// No datagram is lost when the future is dropped.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        self.face.next(|fd| self.face.receive(fd.udp()?.recv_from(buf))).await
    }

    /// Sends a datagram from the address of this socket. It is never held back, not even after handing over.
    ///
    /// # Errors
    /// What send(2) says.
    ///
    /// # Cancel safety
    /// The datagram was not sent when the future is dropped before it is done.
    pub async fn send_to(&self, datagram: &[u8], to: impl Into<SocketAddr>) -> io::Result<usize> {
        let to = to.into();
        self.sending.send(&self.face, |fd| fd.udp()?.send_to(datagram, to)).await
    }

    /// Where it is bound; with port 0 the port that it got.
    ///
    /// # Errors
    /// None so far.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip_addr(self.face.local())
    }

    /// The name by which it is handed over: the parameter's.
    pub fn name(&self) -> &str {
        &self.face.name
    }
}

/// A Unix datagram socket that outlives the process: as [`UdpSocket`].
///
/// ```no_run
/// # async fn example(log: flip::UnixDatagram) -> std::io::Result<()> {
/// let mut line = [0; 4096];
/// while let Some((length, _sender)) = log.recv_from(&mut line).await? {
///     println!("{}", String::from_utf8_lossy(&line[..length]));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UnixDatagram(Face);

listen!(UnixDatagram, Kind::UnixDatagram);

impl UnixDatagram {
    /// The next datagram and its sender, or `None` when this process will receive no more: another one does, or the service
    /// stops. A datagram that is longer than the buffer is cut (unix(7)).
    ///
    /// # Errors
    /// What recv(2) says.
    ///
    /// # Cancel safety
    /// No datagram is lost when the future is dropped.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<Option<(usize, UnixAddr)>> {
        self.0.next(|fd| self.0.receive(fd.unix_datagram()?.recv_from(buf))).await
    }

    /// Sends a datagram to a path from the address of this socket. It is never held back, not even after handing over.
    ///
    /// # Errors
    /// What send(2) says.
    ///
    /// # Cancel safety
    /// The datagram was not sent when the future is dropped before it is done.
    pub async fn send_to(&self, datagram: &[u8], to: impl AsRef<Path>) -> io::Result<usize> {
        let to = UnixAddr::from_pathname(to)?;
        self.send_to_addr(datagram, &to).await
    }

    /// [`send_to`](Self::send_to) an address, such as one in the abstract namespace.
    ///
    /// # Errors
    /// What send(2) says.
    ///
    /// # Cancel safety
    /// The datagram was not sent when the future is dropped before it is done.
    pub async fn send_to_addr(&self, datagram: &[u8], to: &UnixAddr) -> io::Result<usize> {
        tokio::task::consume_budget().await;
        let fd = self.0.sender()?;
        for wait in full_queue() {
            match fd.unix_datagram()?.send_to_addr(datagram, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(wait).await,
                done => return done,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// None so far.
    pub fn local_addr(&self) -> io::Result<UnixAddr> {
        unix_addr(self.0.local())
    }

    /// The name by which it is handed over: the parameter's.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

/// Sending has nothing to do with who owns the socket, so it waits apart from receiving.
#[derive(Debug, Default)]
struct Sending {
    /// Made when a send would block for the first time. The descriptor is a copy: one that receives is registered already.
    writable: std::sync::OnceLock<AsyncFd<Fd>>,
}

impl Sending {
    async fn send(&self, face: &Face, mut send: impl FnMut(&Fd) -> io::Result<usize>) -> io::Result<usize> {
        tokio::task::consume_budget().await;
        let fd = face.sender()?;
        match send(&fd) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        let writable = match self.writable.get() {
            Some(writable) => writable,
            None => {
                let copy = Fd::new(face.kind, fd.as_fd().try_clone_to_owned()?);
                let made = register(copy, Interest::WRITABLE)?;
                self.writable.get_or_init(|| made)
            }
        };
        drop(fd);
        writable.async_io(Interest::WRITABLE, |fd| send(fd)).await
    }
}

#[cfg(feature = "axum")]
mod serve {
    use super::*;

    macro_rules! axum_listener {
        ($face:ident, $stream:ident, $addr:ty) => {
            /// After handing over, or when stopping, its `accept` waits for ever: end the server by
            /// `with_graceful_shutdown`. `flip::serve` does more: see there.
            impl axum::serve::Listener for $face {
                type Io = $stream;
                type Addr = $addr;

                async fn accept(&mut self) -> ($stream, $addr) {
                    loop {
                        match $face::accept(self).await {
                            Ok(Some(accepted)) => return accepted,
                            Ok(None) => std::future::pending().await,
                            Err(error) => {
                                tracing::error!(listener = self.name(), %error, "accept failed");
                                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                            }
                        }
                    }
                }

                fn local_addr(&self) -> io::Result<$addr> {
                    $face::local_addr(self)
                }
            }
        };
    }
    axum_listener!(TcpListener, TcpStream, SocketAddr);
    axum_listener!(UnixListener, UnixStream, UnixAddr);
}
