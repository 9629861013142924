//! What lies between hyper and the socket: decides when hyper may read and when an answer counts as flushed.
//!
//! Two facts about hyper's HTTP/1 make a connection stop between two requests with nothing lost. Both are how it
//! behaves and not what it promises, so the tests hold them:
//!
//! - it takes bytes from its read buffer for a head only when the head is whole; so while it waits for more of it, nothing
//!   is lost with hyper itself;
//! - after an answer it asks the transport to flush, and turns to the next head, which a client may have pipelined, only
//!   once that flush is done and it has read the request's body, or has been told that nobody wants it.
//!
//! So where that body ends, or is left, only after its answer has, nothing stops hyper but the service: a request that it
//! parses while requests have to wait is parked there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Lease;
use super::sealed::Transport;
use crate::shared::Shared;

/// What the gate, the service and the driver of one connection know together.
///
/// All but `body` is read and written by the connection's task alone, which is why it is relaxed.
pub(super) struct State {
    pub(super) shared: Arc<Shared>,
    /// It can go on in another process.
    passes: bool,
    /// Its listener lasts.
    lasting: bool,
    /// A request was dispatched and its answer has not ended.
    answering: AtomicBool,
    /// That answer, or its end, has not been flushed.
    owed: AtomicBool,
    /// hyper will close the connection after this answer, or has given it away.
    closing: AtomicBool,
    /// It had an answer before.
    kept: AtomicBool,
    /// How far the request's body is.
    body: AtomicU64,
    /// hyper may hold bytes that it has not parsed.
    unread: AtomicBool,
    /// Nothing written waits for a flush.
    flushed: AtomicBool,
    /// No request is to be read.
    still: AtomicBool,
    /// It is to end, with an answer or at rest.
    asked: AtomicBool,
    /// hyper waits for a flush that is done.
    held: AtomicBool,
    /// This side was closed.
    shut: AtomicBool,
    /// The other side was closed.
    eof: AtomicBool,
    /// Which HTTP it speaks is not known yet.
    #[cfg(feature = "http2")]
    untold: AtomicBool,
    /// It is HTTP/2.
    #[cfg(feature = "http2")]
    http2: AtomicBool,
    bell: Arc<Bell>,
}

/// What becomes of a request that was parked.
pub(super) enum Turn {
    /// It is dispatched in this process.
    Here,
    /// No handler of this process may see it.
    Refused,
}

/// There is none, or it was read to its end.
const READ: u64 = 0;
/// The handler has it.
const OPEN: u64 = 1;
/// It was dropped before its end. hyper reads the rest if that is already there, and otherwise closes.
const DROPPED: u64 = 2;
/// Above these three: which request's body it is. One may be read or dropped by anybody, also when the next request is here.
const NEXT: u64 = 4;

impl State {
    pub(super) fn new(shared: Arc<Shared>, passes: bool, kept: bool, lasting: bool, bell: Arc<Bell>) -> State {
        State {
            shared,
            passes,
            lasting,
            answering: AtomicBool::new(false),
            owed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            kept: AtomicBool::new(kept),
            body: AtomicU64::new(READ),
            unread: AtomicBool::new(false),
            flushed: AtomicBool::new(true),
            still: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            held: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            eof: AtomicBool::new(false),
            // It is told once, and under TLS, which does not pass, by the handshake.
            #[cfg(feature = "http2")]
            untold: AtomicBool::new(passes && !kept),
            #[cfg(feature = "http2")]
            http2: AtomicBool::new(false),
            bell,
        }
    }

    /// Whether the new process takes it as soon as it rests.
    #[inline]
    pub(super) fn is_passing(&self) -> bool {
        self.passes && self.shared.passing().is_some()
    }

    /// Whether requests have to wait now.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        get(&self.still)
    }

    /// Says so for one poll of the connection.
    #[inline]
    pub(super) fn set_held(&self, held: bool) {
        set(&self.still, held);
    }

    /// What becomes of a request that was parsed while requests have to wait. Nobody is asked to wake this task: see the gate.
    pub(super) fn poll_turn(&self) -> Poll<Turn> {
        if self.is_passing() && self.shared.has_state() {
            // hyper has its bytes, so it cannot be passed, and a handler here could not write.
            return Poll::Ready(Turn::Refused);
        }
        if self.is_held() && !self.is_passing() { Poll::Pending } else { Poll::Ready(Turn::Here) }
    }

    /// Whether an answer is to announce the end of this connection.
    #[inline]
    pub(super) fn announces_close(&self) -> bool {
        // What is everybody's turn may have begun since the driver looked.
        self.shared.phase.get().is_leaving() && self.is_asked_by_now()
    }

    #[cold]
    fn is_asked_by_now(&self) -> bool {
        self.is_asked()
            || (self.shared.sends_away(self.lasting, self.passes) && self.shared.spread(self.lasting).is_zero())
    }

    /// Whether this connection is to end, and no other process takes it.
    #[inline]
    pub(super) fn is_asked(&self) -> bool {
        get(&self.asked)
    }

    /// Says so for one poll of the connection.
    #[inline]
    pub(super) fn set_asked(&self, asked: bool) {
        set(&self.asked, asked);
    }

    /// hyper has parsed a request. Gives the number by which its body is spoken of.
    #[inline]
    pub(super) fn begin(&self, has_body: bool) -> u64 {
        set(&self.answering, true);
        set(&self.owed, true);
        set(&self.closing, false);
        let number = self.body.load(Ordering::Acquire) / NEXT + 1;
        self.body.store(number * NEXT + if has_body { OPEN } else { READ }, Ordering::Release);
        number
    }

    /// hyper has an answer's head.
    #[inline]
    pub(super) fn answer(&self, closing: bool) {
        set(&self.closing, closing);
    }

    /// hyper has the whole answer, though not yet flushed.
    #[inline]
    pub(super) fn end(&self) {
        set(&self.answering, false);
        set(&self.kept, true);
        if self.body() == DROPPED {
            self.bell.ring();
        }
    }

    pub(super) fn body_read(&self, number: u64) {
        self.body_goes(number, OPEN, READ);
    }

    pub(super) fn body_dropped(&self, number: u64) {
        self.body_goes(number, OPEN, DROPPED);
        // It may have been dropped after the answer's end, by another task; whether this connection rests is seen anew.
        self.bell.ring();
    }

    /// Unless another request is here by now.
    fn body_goes(&self, number: u64, from: u64, to: u64) {
        let (from, to) = (number * NEXT + from, number * NEXT + to);
        // What fails was about an earlier body, which hyper has done with.
        let _ = self.body.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
    }

    #[inline]
    fn body(&self) -> u64 {
        self.body.load(Ordering::Acquire) % NEXT
    }

    #[inline]
    pub(super) fn is_body_open(&self) -> bool {
        self.body() == OPEN
    }

    /// The request about which nothing is left to say but what hyper does about the body that nobody read.
    #[inline]
    pub(super) fn unsettled(&self) -> Option<u64> {
        let body = self.body.load(Ordering::Acquire);
        (body % NEXT == DROPPED && !get(&self.answering)).then_some(body / NEXT)
    }

    /// hyper has looked at that body after it was dropped and did not close, so it has read all of it.
    pub(super) fn settle(&self, number: u64) {
        if get(&self.flushed) {
            self.body_goes(number, DROPPED, READ);
        }
    }

    #[inline]
    pub(super) fn is_kept(&self) -> bool {
        get(&self.kept)
    }

    /// hyper may hold some of the next request. It is exact whenever a handler runs without a body: hyper then watches
    /// for the end of the connection, but only while its buffer is empty.
    #[inline]
    pub(super) fn has_unread(&self) -> bool {
        get(&self.unread)
    }

    pub(super) fn has_seen_end(&self) -> bool {
        get(&self.eof)
    }

    #[cfg(feature = "http2")]
    #[inline]
    pub(super) fn is_http2(&self) -> bool {
        get(&self.http2)
    }

    pub(super) fn is_shut(&self) -> bool {
        get(&self.shut)
    }

    pub(super) fn has_unread_body(&self) -> bool {
        self.body() != READ
    }

    #[inline]
    fn is_between(&self) -> bool {
        !get(&self.answering) && !get(&self.closing) && self.body() == READ
    }

    /// hyper holds nothing but bytes that it has not parsed.
    #[inline]
    pub(super) fn at_rest(&self) -> bool {
        self.is_between() && (get(&self.flushed) || get(&self.held)) && !get(&self.shut)
    }
}

/// Wakes a connection's task, whichever that is by then.
pub(super) struct Bell(Mutex<Waker>);

impl Bell {
    pub(super) fn new() -> Bell {
        Bell(Mutex::new(Waker::noop().clone()))
    }

    pub(super) fn ring(&self) {
        self.task().wake_by_ref();
    }

    pub(super) fn set_task(&self, task: &Waker) {
        self.task().clone_from(task);
    }

    fn task(&self) -> MutexGuard<'_, Waker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[inline]
fn get(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

#[inline]
fn set(flag: &AtomicBool, to: bool) {
    flag.store(to, Ordering::Relaxed);
}

/// What a client of HTTP/2 says before anything else (RFC 9113, 3.4); no request of HTTP/1 begins so.
#[cfg(feature = "http2")]
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether these first bytes, as far as they go, are those of HTTP/2.
#[cfg(feature = "http2")]
fn may_be_http2(bytes: &[u8]) -> bool {
    bytes.iter().zip(PREFACE).all(|(byte, its)| byte == its)
}

/// The transport that hyper sees.
pub(super) struct Gate<I> {
    io: I,
    /// What was read before this connection was put together; it comes before the socket's bytes.
    unread: Bytes,
    state: Arc<State>,
    // Here, because the transport of an upgraded connection outlives everything else.
    lease: Lease,
}

impl<I> Gate<I> {
    pub(super) fn new(io: I, unread: Bytes, state: Arc<State>, lease: Lease) -> Gate<I> {
        Gate { io, unread, state, lease }
    }

    #[cfg(feature = "ws")]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.state.shared
    }

    pub(super) fn into_parts(self) -> (I, Bytes, Lease) {
        (self.io, self.unread, self.lease)
    }
}

impl<I: Transport> Gate<I> {
    /// Whether the client of an answer that is being made has gone, which hyper is to know as ever: otherwise the answer would be waited for
    /// until the time is up. What a client has sent instead stays where it is, for the new process.
    fn has_lost_its_client(&self, cx: &mut Context<'_>) -> bool {
        let waits = self.state.is_passing() && get(&self.state.answering) && self.unread.is_empty();
        waits && matches!(self.io.poll_readable(cx), Poll::Ready(Ok(0) | Err(_)))
    }

    /// Reads until the first bytes tell which HTTP the client speaks. Of HTTP/1 hyper then has them. Of HTTP/2, and until it is
    /// known, it has none: the connection rests, whatever part of the preface is there, and can be passed like any other.
    // Cold: it is asked for once, by what each request passes through.
    #[cfg(feature = "http2")]
    #[cold]
    fn poll_version(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while may_be_http2(&self.unread) {
            if self.unread.len() >= PREFACE.len() {
                set(&self.state.http2, true);
                return Poll::Pending;
            }
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            // Of an end in the middle hyper makes what it makes of any.
            if read.is_empty() || (self.unread.is_empty() && !may_be_http2(read)) {
                break;
            }
            self.unread = [&self.unread, read].concat().into();
            buf.set_filled(before);
        }
        set(&self.state.untold, false);
        Poll::Ready(Ok(()))
    }
}

impl<I: Transport> AsyncRead for Gate<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let state = &*gate.state;
        if get(&state.answering) {
            // For a body and for the connection's end hyper reads only when its buffer is empty.
            set(&state.unread, false);
        }
        // A body that is being read goes on, and so does whatever ends the connection. Nobody is asked to wake this
        // task here: the driver is, by every change of the phase.
        if state.is_held() && state.body() == READ && !get(&state.closing) && !gate.has_lost_its_client(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        #[cfg(feature = "http2")]
        if get(&state.untold) {
            ready!(gate.poll_version(cx, buf))?;
            if buf.filled().len() > before {
                set(&gate.state.unread, true);
                return Poll::Ready(Ok(()));
            }
        }
        let state = &*gate.state;
        if !gate.unread.is_empty() {
            let n = gate.unread.len().min(buf.remaining());
            buf.put_slice(&gate.unread.split_to(n));
            set(&state.unread, true);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut gate.io).poll_read(cx, buf))?;
        let read = buf.filled().len() > before;
        set(if read { &state.unread } else { &state.eof }, true);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gate<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        set(&gate.state.flushed, false);
        Pin::new(&mut gate.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        set(&gate.state.flushed, false);
        Pin::new(&mut gate.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        ready!(Pin::new(&mut gate.io).poll_flush(cx))?;
        let state = &*gate.state;
        // What hyper answers on its own, to a head that is none, is not held: it closes after that.
        if get(&state.owed) && state.is_between() {
            if state.is_held() {
                // All is flushed. Saying so would let hyper parse the next request.
                set(&state.held, true);
                return Poll::Pending;
            }
            set(&state.owed, false);
        }
        set(&state.held, false);
        set(&state.flushed, true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        ready!(Pin::new(&mut gate.io).poll_shutdown(cx))?;
        set(&gate.state.shut, true);
        Poll::Ready(Ok(()))
    }
}
