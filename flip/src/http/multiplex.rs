//! Drives one HTTP/2 connection, on which many requests run at once. It never rests, so it stays with the process that
//! accepted it: on a stop, when it is its turn, and after a handoff its client is told to open no more streams (GOAWAY), those that
//! it has are answered, and then it ends. Until the handoff is committed nothing is said, so that a roll-back changes nothing.
//!
//! A request that comes while this process holds still waits in its stream's task. Served by this process it is after a
//! roll-back, in a service that stops, and in one that has no state: a handler here does what one there would. After any
//! other commit it is refused (REFUSED_STREAM, RFC 9113, 8.7): no handler has seen it, so its client sends it again, on a
//! connection to the new process, where a handler here could not write. The GOAWAY is said before, so that it is not
//! sent again on this one.

use std::error::Error as StdError;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use event_listener::{Event, listener};
use hyper::body::{Body as HttpBody, Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Options;
use super::connection::{Resting, Watch, linger};
use super::sealed::Transport;
use super::service::{Handler, RequestBody};
use crate::drain::Running;
use crate::phase::Phase;
use crate::shared::Shared;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Serves a connection, the preface of which hyper has not read, until it is closed or cut.
pub(super) async fn drive<I, S>(
    resting: Resting<I>,
    service: S,
    mut watch: Watch,
    shared: Arc<Shared>,
    options: Options,
) where
    I: Transport,
    S: Handler,
{
    let Resting { io, unread, lease, .. } = resting;
    let mut wire = Wire { io, unread, shut: false, eof: false };
    let end = {
        let state = Arc::new(State::new(Arc::clone(&shared)));
        let streams = Streams { service, state: Arc::clone(&state) };
        let builder = http2::Builder::new(TokioExecutor::new());
        let mut hyper = pin!(builder.serve_connection(TokioIo::new(&mut wire), streams));
        std::future::poll_fn(|cx| {
            // Before hyper is polled: a change that comes later wakes this task again.
            let phase = watch.phase(cx);
            if phase >= Phase::Cut {
                return Poll::Ready(None);
            }
            loop {
                let begun = state.has_begun();
                // Where another process serves, at once: what comes until the client knows is refused. Otherwise in its turn;
                // and a fresh connection gets its first answer, however late it asks: nobody else is there to give it.
                let asked = watch.is_asked(true, cx) && begun;
                if !state.is_told() && (asked || shared.is_served_elsewhere()) {
                    hyper.as_mut().graceful_shutdown();
                    // What is refused from here on is written behind it.
                    state.tell();
                }
                if let Poll::Ready(result) = hyper.as_mut().poll(cx) {
                    return Poll::Ready(Some(result));
                }
                if begun == state.has_begun() {
                    return Poll::Pending;
                }
            }
        })
        .await
    };
    match end {
        // Closing it wholly might destroy the last answer.
        Some(Ok(())) if wire.shut && !wire.eof => linger((wire.io, lease), &shared, options.linger).await,
        Some(Ok(())) | None => {}
        Some(Err(error)) => tracing::trace!(%error, "connection failed"),
    }
}

/// What the driver and the requests of one connection know together.
struct State {
    shared: Arc<Shared>,
    /// It had a request.
    begun: AtomicBool,
    /// hyper will say GOAWAY before anything else.
    told: AtomicBool,
    said: Event,
}

impl State {
    fn new(shared: Arc<Shared>) -> State {
        State { shared, begun: AtomicBool::new(false), told: AtomicBool::new(false), said: Event::new() }
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    fn tell(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.said.notify(usize::MAX);
    }

    /// The right to dispatch a request now: whoever freezes waits until nobody is about to, and then for the handlers.
    fn begin(&self) -> Option<Running> {
        let _pass = self.shared.dispatching.enter()?;
        Some(self.shared.handlers.begin())
    }

    /// Waits for that right; `None` when another process owns what handlers work on, and this one has said so.
    async fn turn(self: Arc<State>) -> Option<Running> {
        let shared = &self.shared;
        loop {
            if let Some(running) = self.begin() {
                return Some(running);
            }
            let phase = shared.phase.get();
            if phase.is_leaving() {
                break;
            }
            // The gate opens before the phase says so: a change that comes in between is seen in the next turn.
            let changed = shared.phase.listen();
            if shared.phase.get() == phase && !shared.dispatching.is_open() {
                changed.await;
            }
        }
        if !shared.is_served_elsewhere() || !shared.has_state() {
            return Some(shared.handlers.begin());
        }
        loop {
            listener!(self.said => said);
            if self.is_told() {
                return None;
            }
            said.await;
        }
    }
}

/// The user's service, as one connection's hyper sees it.
struct Streams<S> {
    service: S,
    state: Arc<State>,
}

impl<S: Handler> Service<Request<Incoming>> for Streams<S> {
    type Response = Response<S::Body>;
    type Error = BoxError;
    type Future = Exchange<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Exchange<S::Future> {
        let (head, body) = request.into_parts();
        let body = if body.is_end_stream() { RequestBody::default() } else { body.into() };
        self.state.begun.store(true, Ordering::Relaxed);
        match self.state.begin() {
            Some(running) => {
                Exchange { turn: Turn::Here { _running: running }, future: Some(self.service.call(head, body)) }
            }
            None => {
                let (service, state) = (self.service.clone(), Arc::clone(&self.state));
                let turn = async move {
                    let running = state.turn().await?;
                    Some((running, service.call(head, body)))
                };
                Exchange { turn: Turn::Awaited { turn: Box::pin(turn) }, future: None }
            }
        }
    }
}

/// The right to dispatch a request, and what its handler then begins.
type Begun<F> = Pin<Box<dyn Future<Output = Option<(Running, F)>> + Send>>;

enum Turn<F> {
    /// It may not be dispatched yet: the user's service has not seen it.
    Awaited {
        turn: Begun<F>,
    },
    Here {
        _running: Running,
    },
    /// There is an answer's head. A body that streams is not a handler that runs.
    Over,
}

pin_project! {
    /// A request on its way to an answer's head.
    struct Exchange<F> {
        turn: Turn<F>,
        // None while its turn is awaited.
        #[pin]
        future: Option<F>,
    }
}

impl<F, B, E> Future for Exchange<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Turn::Awaited { turn } = this.turn {
            match ready!(turn.as_mut().poll(cx)) {
                Some((running, future)) => {
                    *this.turn = Turn::Here { _running: running };
                    this.future.set(Some(future));
                }
                // hyper looks for this type among an error's sources, and resets the stream for its reason.
                None => return Poll::Ready(Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into())),
            }
        }
        let future = this.future.as_mut().as_pin_mut().expect("it is there once it has its turn");
        let response = ready!(future.poll(cx));
        *this.turn = Turn::Over;
        Poll::Ready(response.map_err(Into::into))
    }
}

/// The transport that hyper sees.
struct Wire<I> {
    io: I,
    /// What was read before it was known which version this is; it comes before the socket's bytes.
    unread: Bytes,
    /// This side was closed.
    shut: bool,
    /// The other side was closed.
    eof: bool,
}

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.unread.is_empty() {
            let n = wire.unread.len().min(buf.remaining());
            buf.put_slice(&wire.unread.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut wire.io).poll_read(cx, buf))?;
        wire.eof |= buf.filled().len() == before;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(Pin::new(&mut wire.io).poll_shutdown(cx))?;
        wire.shut = true;
        Poll::Ready(Ok(()))
    }
}
