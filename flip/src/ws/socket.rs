//! One WebSocket: a codec, a connection, and the process that it is in.

use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep, timeout};

use super::codec::{Codec, Next};
use super::message::{Error, Message};
use crate::drain::Running;
use crate::http::{Released, Socket, Watch, chance, release};
use crate::phase::Phase;
use crate::shared::Shared;

/// How much is read at once.
const CHUNK: usize = 8 * 1024;
/// How long the peer gets to take what it is told at the end, and to answer.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many bytes of answers to pings may wait for a peer that does not read, before nothing more is read of it.
const OWED: usize = 64 * 1024;
/// How many bytes may wait when a message is to be sent and the process leaves. It is more than most answers are in sum, so that these
/// move, and is the end of a task that only sends.
const UNSENT: usize = 1024 * 1024;
/// The longest time between the end of a process and that of a WebSocket which it cannot pass.
const DELAY: Duration = Duration::from_secs(5);

/// "Service Restart" in IANA's registry of close codes: come back, after some time of chance.
pub(super) const RESTART: (u16, &str) = (1012, "service restart");
/// Normal closure, and an internal error (RFC 6455, 7.4.1).
const DONE: (u16, &str) = (1000, "");
const PANICKED: (u16, &str) = (1011, "internal error");

/// A WebSocket, the server's side. Pings are answered, and a Close, as long as somebody [receives](Self::recv).
///
/// Dropped, it is closed: with 1000, with 1011 in a panic, and with 1012, after a delay, in a process that leaves.
///
/// ```no_run
/// use flip::ws::{Message, WebSocket};
/// use tokio::sync::broadcast::Receiver;
///
/// /// Sends what is said in the room, and gives what this one says.
/// async fn hear(socket: &mut WebSocket, room: &mut Receiver<String>) -> Option<Message> {
///     loop {
///         tokio::select! {
///             message = socket.recv() => return message?.ok(),
///             said = room.recv() => socket.send(said.ok()?).await.ok()?,
///         }
///     }
/// }
/// ```
pub struct WebSocket {
    /// None once it is closed.
    link: Option<Box<Link>>,
    protocol: Option<String>,
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("open", &self.link.is_some()).finish_non_exhaustive()
    }
}

impl WebSocket {
    pub(super) fn upgraded(upgraded: Upgraded, protocol: Option<String>, limit: usize) -> WebSocket {
        let link = match release(upgraded) {
            Ok(Released { socket, unread, lease, shared }) => {
                Link::new(socket.into(), Codec::new(unread, vec![], limit), Some((shared, lease)))
            }
            Err(upgraded) => {
                let io = Io::Other(TokioIo::new(upgraded));
                Link::new(io, Codec::new(vec![], vec![], limit), None)
            }
        };
        WebSocket::over(link, protocol)
    }

    pub(super) fn over(link: Link, protocol: Option<String>) -> WebSocket {
        WebSocket { link: Some(Box::new(link)), protocol }
    }

    /// The protocol that was [agreed on](super::Upgrade::protocols).
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// The next message. `None` where none will come any more: it is closed, or a newer process serves and takes it from here, by
    /// [`Sockets::pass`](super::Sockets::pass). Sends meanwhile what an earlier [`send`](Self::send) did not.
    ///
    /// # Errors
    /// The connection is lost, or the peer breaks the protocol. `None` comes after that.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        let link = self.link.as_mut()?;
        match poll_fn(|cx| link.poll_recv(cx)).await {
            Step::Message(message) => Some(Ok(message)),
            Step::Moves => None,
            Step::Leaves => {
                link.tell(&"its process leaves, and none takes it");
                self.end(RESTART, Duration::ZERO);
                None
            }
            Step::Closed => {
                self.end(DONE, Duration::ZERO);
                None
            }
            Step::Failed(error) => {
                self.end(DONE, Duration::ZERO);
                Some(Err(error))
            }
        }
    }

    /// Sends a message, and waits until it is sent; where a newer process serves it may do so. While this waits for the peer, no upgrade
    /// waits for the message that is being answered.
    ///
    /// Every task has to come back to [`recv`](Self::recv), also one that expects nothing: only there it learns that its WebSocket is to
    /// move, and only there pings and a Close are seen.
    ///
    /// # Errors
    /// It is closed, or the connection is lost. [`Error::Leaving`] where this process leaves and the peer does not read: more than
    /// 1 MiB waits to be sent, which moves if the WebSocket is passed; this message is not taken.
    ///
    /// # Cancel safety
    /// Dropped, it has either done nothing, or what is left of the message is sent by the next [`recv`](Self::recv) or `send`.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        let link = self.link.as_mut().ok_or(Error::Closed)?;
        // One after another, so that what is not sent is bounded.
        link.sent().await?;
        if link.codec.unsent().len() > UNSENT {
            return Err(Error::Leaving);
        }
        link.codec.send(message.into())?;
        link.sent().await
    }

    /// Closes it, with a code and a reason of at most 123 bytes (RFC 6455, 7.4), and waits for the peer to do so, two seconds at most.
    pub async fn close(mut self, code: u16, reason: &str) {
        if let Some(link) = self.link.take() {
            link.end((code, reason), Duration::ZERO).await;
        }
    }

    /// It, to be moved; nothing where it is closed.
    pub(super) fn take(mut self) -> Option<(Link, Option<String>)> {
        let mut link = self.link.take()?;
        if let Some(process) = &mut link.process {
            process.running = None;
        }
        Some((*link, self.protocol.take()))
    }

    /// Says goodbye, on a task of its own.
    fn end(&mut self, farewell: (u16, &'static str), delay: Duration) {
        if let (Some(link), Ok(runtime)) = (self.link.take(), Handle::try_current()) {
            runtime.spawn(link.end(farewell, delay));
        }
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let Some(link) = &self.link else { return };
        if link.is_leaving() {
            link.tell(&"its process leaves, and nobody passed it");
            let delay = link.delay();
            self.end(RESTART, delay);
        } else {
            self.end(if std::thread::panicking() { PANICKED } else { DONE }, Duration::ZERO);
        }
    }
}

/// A WebSocket that is not closed.
pub(super) struct Link {
    pub(super) io: Io,
    pub(super) codec: Codec,
    pub(super) process: Option<Process>,
}

/// The process, as one of its WebSockets sees it.
pub(super) struct Process {
    pub(super) shared: Arc<Shared>,
    watch: Watch,
    /// The program is at work on a message.
    running: Option<Running>,
    /// Until it is told that the process leaves, where it cannot move.
    patience: Option<Pin<Box<Sleep>>>,
    // Keeps the process draining.
    _lease: Box<dyn Send + Sync>,
}

/// What may be done now.
enum Stand {
    Serves,
    /// Nothing is to be read.
    Still,
    /// A newer process takes it.
    Moves,
    /// The process leaves, and nobody takes it.
    Stays,
    /// It is to be told so.
    Leaves,
}

enum Step {
    Message(Message),
    Moves,
    Leaves,
    Closed,
    Failed(Error),
}

impl Process {
    fn stand(&mut self, cx: &mut Context<'_>, is_movable: bool) -> Stand {
        let phase = self.watch.phase(cx);
        if !phase.is_leaving() {
            return if matches!(phase, Phase::Starting | Phase::Frozen) { Stand::Still } else { Stand::Serves };
        }
        if is_movable && self.shared.phase.has_handed_off() && self.shared.ways.lead_out() {
            return Stand::Moves;
        }
        let shared = &self.shared;
        match self.patience.get_or_insert_with(|| Box::pin(sleep(delay(shared)))).as_mut().poll(cx) {
            Poll::Ready(()) => Stand::Leaves,
            Poll::Pending => Stand::Stays,
        }
    }
}

/// Some time of chance, so that the clients of one process do not all come back in the same moment.
fn delay(shared: &Shared) -> Duration {
    // The other half is for the farewell.
    let left = left(shared).unwrap_or(Duration::MAX);
    longest_delay(shared).mul_f64(chance()).min(left / 2)
}

fn longest_delay(shared: &Shared) -> Duration {
    DELAY.min(Duration::from_millis(shared.drain_timeout.load(Ordering::Relaxed)) / 5)
}

/// Until what is left is cut, in a process that leaves.
fn left(shared: &Shared) -> Option<Duration> {
    shared.leaving.get()?.left(Instant::now())
}

/// Until those that the new process does not take have to be told, with time for the delay and the farewell; or half of what is left.
pub(super) async fn must_be_told(shared: &Shared) {
    shared.phase.until(|phase| phase.is_leaving()).await;
    match left(shared) {
        Some(left) => sleep(left.saturating_sub(2 * longest_delay(shared)).max(left / 2)).await,
        None => pending().await,
    }
}

impl Link {
    pub(super) fn new(io: Io, codec: Codec, process: Option<(Arc<Shared>, Box<dyn Send + Sync>)>) -> Link {
        let process = process.map(|(shared, lease)| Process {
            watch: Watch::new(&shared, false),
            shared,
            running: None,
            patience: None,
            _lease: lease,
        });
        Link { io, codec, process }
    }

    pub(super) fn is_movable(&self) -> bool {
        self.codec.is_open() && self.io.is_movable()
    }

    fn is_leaving(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.shared.phase.get().is_leaving())
    }

    fn tell(&self, why: &dyn fmt::Display) {
        if let Some(process) = &self.process {
            process.shared.ways.tell(why);
        }
    }

    pub(super) fn delay(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, |process| delay(&process.shared))
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let is_movable = self.is_movable();
        let Link { io, codec, process } = self;
        let Some(process) = process else { return receive(io, codec, cx) };
        // The program is done with what it had.
        process.running = None;
        let stand = process.stand(cx, is_movable);
        // Whoever freezes waits until nobody is in here: what was received by then counts as running.
        let pass = process.shared.dispatching.enter();
        match stand {
            Stand::Serves if pass.is_some() => {}
            Stand::Stays => {}
            Stand::Serves | Stand::Still => {
                // Where it fails, reading says so, once this process reads again.
                let _ = send(io, codec, cx);
                return Poll::Pending;
            }
            Stand::Moves => return Poll::Ready(Step::Moves),
            Stand::Leaves => return Poll::Ready(Step::Leaves),
        }
        let step = ready!(receive(io, codec, cx));
        if let Step::Message(_) = step {
            process.running = Some(process.shared.handlers.begin());
        }
        Poll::Ready(step)
    }

    /// Until all is sent, or need not be sent by this process. Whoever waits for the peer is not at work on a message: no freeze waits for
    /// the peer, too.
    async fn sent(&mut self) -> Result<(), Error> {
        let mut waits = Waits { link: self, was_at_work: false };
        poll_fn(|cx| waits.poll(cx)).await
    }

    /// Ready when all is sent, or need not be sent by this process.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Poll::Ready(sent) = send(&mut self.io, &mut self.codec, cx) {
            return Poll::Ready(sent.map_err(Error::Lost));
        }
        let is_movable = self.is_movable();
        match self.process.as_mut().map(|process| process.stand(cx, is_movable)) {
            // The program has to come back to `recv`, whatever the peer does.
            Some(Stand::Moves | Stand::Leaves) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    /// Closes it after this time. It ends with the process if that is earlier.
    pub(super) async fn end(mut self, (code, reason): (u16, &str), delay: Duration) {
        let shared = self.process.as_mut().map(|process| {
            process.running = None;
            Arc::clone(&process.shared)
        });
        let end = async {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            if self.codec.is_open() {
                self.codec.close(code, reason);
            }
            let mut is_shut = false;
            // Whoever does not answer hears it all the same, if it can be heard.
            let _ = timeout(FAREWELL, poll_fn(|cx| self.poll_end(cx, &mut is_shut))).await;
        };
        match &shared {
            Some(shared) => tokio::select! {
                () = end => {}
                _ = shared.phase.until(|phase| phase >= Phase::Cut) => {}
            },
            None => end.await,
        }
    }

    /// Sends what there is, reads until the peer has sent its Close, closes this side, and reads until the peer closes its own: the
    /// kernel answers bytes that nobody reads with a reset, which destroys what the peer has not read.
    fn poll_end(&mut self, cx: &mut Context<'_>, is_shut: &mut bool) -> Poll<()> {
        let Link { io, codec, .. } = self;
        loop {
            // What comes before the answer to a Close, nobody wants.
            while !matches!(codec.next(), Ok(Next::Nothing | Next::Closed) | Err(_)) {}
            if ready!(send(io, codec, cx)).is_err() {
                return Poll::Ready(());
            }
            if codec.has_ended() && !*is_shut {
                if ready!(io.poll_shutdown(cx)).is_err() {
                    return Poll::Ready(());
                }
                *is_shut = true;
            }
            match ready!(read(io, codec, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// Waits for the peer, and is at work again when it is dropped.
struct Waits<'l> {
    link: &'l mut Link,
    was_at_work: bool,
}

impl Waits<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let polled = self.link.poll_sent(cx);
        if let (Poll::Pending, Some(process)) = (&polled, &mut self.link.process) {
            self.was_at_work |= process.running.take().is_some();
        }
        polled
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let (true, Some(process)) = (self.was_at_work, &mut self.link.process) {
            process.running = Some(process.shared.handlers.begin());
        }
    }
}

fn receive(io: &mut Io, codec: &mut Codec, cx: &mut Context<'_>) -> Poll<Step> {
    loop {
        match codec.next() {
            Ok(Next::Message(message)) => return Poll::Ready(Step::Message(message)),
            Ok(Next::Closed) => return Poll::Ready(Step::Closed),
            Ok(Next::Nothing) => {}
            Err(error) => return Poll::Ready(Step::Failed(error)),
        }
        // Where it fails, reading says so, once all is read that the peer has sent before.
        if send(io, codec, cx).is_pending() && codec.owed() > OWED {
            return Poll::Pending;
        }
        match ready!(read(io, codec, cx)) {
            Ok(0) => return Poll::Ready(Step::Failed(Error::Lost(io::ErrorKind::UnexpectedEof.into()))),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Step::Failed(Error::Lost(error))),
        }
    }
}

/// Sends what is to be sent.
fn send(io: &mut Io, codec: &mut Codec, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !codec.unsent().is_empty() {
        let count = ready!(io.poll_write(cx, codec.unsent()))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        codec.sent(count);
    }
    // What is under TLS has a buffer of its own.
    io.poll_flush(cx)
}

/// Reads what has arrived; says how much.
fn read(io: &mut Io, codec: &mut Codec, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; CHUNK];
    let mut buf = ReadBuf::uninit(&mut room);
    ready!(io.poll_read(cx, &mut buf))?;
    codec.arrived(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}

/// What it comes over.
pub(super) enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "rustls")]
    Secured(Box<crate::http::Secured<TcpStream>>),
    /// Of another server.
    Other(TokioIo<Upgraded>),
    #[cfg(test)]
    Duplex(tokio::io::DuplexStream),
}

impl From<Socket> for Io {
    fn from(socket: Socket) -> Io {
        match socket {
            Socket::Tcp(socket) => Io::Tcp(socket),
            Socket::Unix(socket) => Io::Unix(socket),
            #[cfg(feature = "rustls")]
            Socket::Secured(socket) => Io::Secured(socket),
        }
    }
}

macro_rules! each {
    ($io:expr, $bound:ident => $what:expr) => {
        match $io {
            Io::Tcp($bound) => $what,
            Io::Unix($bound) => $what,
            #[cfg(feature = "rustls")]
            Io::Secured($bound) => $what,
            Io::Other($bound) => $what,
            #[cfg(test)]
            Io::Duplex($bound) => $what,
        }
    };
}

impl Io {
    fn is_movable(&self) -> bool {
        matches!(self, Io::Tcp(_) | Io::Unix(_))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
