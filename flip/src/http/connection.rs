//! Drives one connection: from rest to rest, and in the end to a close that destroys nothing.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::gate::{Bell, Gate, State};
#[cfg(feature = "http2")]
use super::multiplex;
use super::sealed::Transport;
use super::service::{Handler, Tracked};
use super::{Lease, Options};
use crate::pass::{Passed, Passer};
use crate::phase::Phase;
use crate::shared::Shared;

/// A connection between two requests: all that there is to it.
pub(super) struct Resting<I> {
    pub(super) io: I,
    /// What was read and not parsed; the socket's bytes come after it.
    pub(super) unread: Bytes,
    /// It had an answer before, so its client knows that it may be closed at any time.
    pub(super) kept: bool,
    pub(super) lease: Lease,
}

impl<I> Resting<I> {
    pub(super) fn fresh(io: I, lease: Lease) -> Resting<I> {
        Resting { io, unread: Bytes::new(), kept: false, lease }
    }
}

/// Serves a connection until it is closed, upgraded or cut.
pub(super) async fn drive<I, S>(
    mut resting: Resting<I>,
    mut service: S,
    mut watch: Watch,
    listener: Arc<str>,
    shared: Arc<Shared>,
    options: Options,
) where
    I: Transport,
    S: Handler,
{
    loop {
        let mut connection = Connection::new(resting, service, &shared, &watch);
        let stop = std::future::poll_fn(|cx| connection.poll(cx, &mut watch, options)).await;
        match stop {
            Stop::Done => {
                if let Some(io) = connection.into_lingering() {
                    linger(io, &shared, options.linger).await;
                }
                return;
            }
            Stop::Failed(error) => {
                tracing::trace!(%error, "connection failed");
                return;
            }
            Stop::Cut => return,
            Stop::Pass => {
                let Some((rest, its)) = connection.take_apart() else { return };
                let Some(back) = pass(rest, &listener, &shared).await else { return };
                (resting, service) = (back, its);
            }
            Stop::Idle => {
                let Some(rest) = connection.take_apart() else { return };
                (resting, service) = rest;
                if resting.unread.is_empty() && !resting.io.holds_part() && !has_more(&resting.io) {
                    close(resting, &shared, options.linger).await;
                    return;
                }
            }
            #[cfg(feature = "http2")]
            Stop::Http2 => {
                let Some((rest, its)) = connection.take_apart() else { return };
                // Boxed, so that the tasks of other connections are not as large as its.
                return Box::pin(multiplex::drive(rest, its, watch, shared, options)).await;
            }
            #[cfg(test)]
            Stop::Rebuild => {
                let Some(rest) = connection.take_apart() else { return };
                (resting, service) = rest;
            }
        }
    }
}

/// Hands a connection to the process that owns the service now. Where that takes no more, it is to be served here.
pub(super) async fn pass<I: Transport>(resting: Resting<I>, listener: &str, shared: &Shared) -> Option<Resting<I>> {
    let Resting { io, unread, kept, lease } = resting;
    let (Some(passer), Ok(socket)) = (shared.passer.get(), io.into_socket()) else { return None };
    let passed = Passed { socket, unread: unread.into(), kept };
    let (Passed { socket, unread, kept }, lease) = pass_on(passer, listener, passed, lease).await?;
    Some(Resting { io: I::from_socket(socket).ok()?, unread: unread.into(), kept, lease })
}

/// The same of a connection that has no runtime. What keeps this process alive for it is dropped once it is on its way.
pub(super) async fn pass_on<L: Send + 'static>(
    passer: &Passer,
    listener: &str,
    passed: Passed,
    lease: L,
) -> Option<(Passed, L)> {
    let (tell, told) = oneshot::channel();
    let on_its_way = move |back: Option<Passed>| {
        if let Some(passed) = back {
            // Nobody waits once the runtime is gone, and then it is closed.
            drop(tell.send((passed, lease)));
        }
    };
    passer.pass(listener, passed, Box::new(on_its_way));
    told.await.ok()
}

/// Why a connection is no longer polled.
enum Stop {
    /// hyper is done with it.
    Done,
    /// So is hyper, and nothing can be said to the peer any more.
    Failed(hyper::Error),
    /// It rested for longer than its grace.
    Idle,
    /// The time is up.
    Cut,
    /// It rests, and the new process takes it from here.
    Pass,
    /// Its client speaks that, and hyper has none of it.
    #[cfg(feature = "http2")]
    Http2,
    #[cfg(test)]
    Rebuild,
}

/// hyper's connection with what flip knows about it.
struct Connection<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Handler,
{
    hyper: UpgradeableConnection<TokioIo<Gate<I>>, Tracked<S>>,
    state: Arc<State>,
    /// Until when it may rest. Only a leaving process has one.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<I: Transport, S: Handler> Connection<I, S> {
    fn new(resting: Resting<I>, service: S, shared: &Arc<Shared>, watch: &Watch) -> Self {
        let state =
            Arc::new(State::new(Arc::clone(shared), I::PASSES, resting.kept, watch.lasting, Arc::clone(&watch.bell)));
        let gate = Gate::new(resting.io, resting.unread, Arc::clone(&state), resting.lease);
        let tracked = Tracked::new(service, Arc::clone(&state));
        // `pipeline_flush` stays off: with it hyper would not flush between two pipelined requests, where the gate holds.
        let hyper = http1::Builder::new().serve_connection(TokioIo::new(gate), tracked).with_upgrades();
        Connection { hyper, state, patience: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, watch: &mut Watch, options: Options) -> Poll<Stop> {
        let state = &self.state;
        // Before hyper is polled: a change that comes later wakes this task again.
        let phase = watch.phase(cx);
        if phase >= Phase::Cut {
            return Poll::Ready(Stop::Cut);
        }
        // Whoever freezes waits until nobody is in here: what was read by then is dispatched, and counts as running.
        let pass = state.shared.dispatching.enter();
        // Nearly always it serves, and then nothing else is to be looked at.
        let (still, passing, asked) = match phase {
            Phase::Serving => (pass.is_none(), false, false),
            Phase::Starting | Phase::Frozen => (true, false, false),
            _ => (false, state.is_passing(), watch.is_asked(I::PASSES, cx)),
        };
        state.set_held(still || passing);
        state.set_asked(asked);
        let unsettled = state.unsettled();
        // What rests and is held stays as it is: hyper might have a whole request in its buffer, where the gate cannot hold it.
        if !(state.is_held() && state.at_rest()) {
            if let Poll::Ready(result) = Pin::new(&mut self.hyper).poll(cx) {
                return Poll::Ready(result.map_or_else(Stop::Failed, |()| Stop::Done));
            }
            if let Some(number) = unsettled {
                state.settle(number);
            }
        }
        drop(pass);
        #[cfg(feature = "http2")]
        if state.is_http2() {
            return Poll::Ready(Stop::Http2);
        }
        if passing && state.at_rest() {
            return Poll::Ready(Stop::Pass);
        }
        #[cfg(test)]
        if state.at_rest() && watch.is_to_rebuild(phase, options) {
            return Poll::Ready(Stop::Rebuild);
        }
        if !asked {
            return Poll::Pending;
        }
        if !state.is_kept() || !state.at_rest() {
            self.patience = None;
            return Poll::Pending;
        }
        let patience = self.patience.get_or_insert_with(|| {
            let grace = options.grace.min(state.shared.patience());
            Box::pin(tokio::time::sleep_until(Instant::now() + jittered(grace)))
        });
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Stop::Idle)
    }

    /// The connection at rest, as its parts: what is sent to another process, or put together again here. `None` where
    /// hyper holds more than bytes that it has not parsed; then it is lost, so ask [`State::at_rest`] before.
    fn take_apart(self) -> Option<(Resting<I>, S)> {
        if !self.state.at_rest() {
            return None;
        }
        let kept = self.state.is_kept();
        let parts = self.hyper.into_parts()?;
        let (io, rest, lease) = parts.io.into_inner().into_parts();
        let unread = match (parts.read_buf.is_empty(), rest.is_empty()) {
            (true, _) => rest,
            (_, true) => parts.read_buf,
            // hyper stopped reading in the middle of what an earlier taking apart had left.
            _ => [parts.read_buf, rest].concat().into(),
        };
        Some((Resting { io, unread, kept, lease }, parts.service.into_inner()))
    }

    /// The socket of a connection that hyper has closed, where closing it wholly might destroy the last answer.
    fn into_lingering(self) -> Option<(I, Lease)> {
        let state = self.state;
        let may_have_more = state.shared.phase.get().is_leaving() || state.has_unread() || state.has_unread_body();
        if !state.is_shut() || state.has_seen_end() || !may_have_more {
            return None;
        }
        // An upgraded connection is somebody else's.
        let (io, _, lease) = self.hyper.into_parts()?.io.into_inner().into_parts();
        Some((io, lease))
    }
}

/// Watches the phase for one task, at the price of two loads a poll.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    /// By which the phase knows the bell.
    key: usize,
    /// Whom the bell wakes.
    task: Waker,
    /// The connection's listener lasts.
    lasting: bool,
    /// When this connection's client is sent away, once that is known; `None` is at once.
    turn: Option<Option<Pin<Box<Sleep>>>>,
    #[cfg(test)]
    rebuilt: bool,
}

impl Watch {
    pub(crate) fn new(shared: &Arc<Shared>, lasting: bool) -> Watch {
        let bell = Arc::new(Bell::new());
        Watch {
            shared: Arc::clone(shared),
            key: shared.phase.watch(Waker::from(Arc::clone(&bell))),
            bell,
            task: Waker::noop().clone(),
            lasting,
            turn: None,
            #[cfg(test)]
            rebuilt: false,
        }
    }

    /// The phase now; what it changes to later wakes this task.
    #[inline]
    pub(crate) fn phase(&mut self, cx: &mut Context<'_>) -> Phase {
        if !self.task.will_wake(cx.waker()) {
            self.task.clone_from(cx.waker());
            self.bell.set_task(cx.waker());
        }
        let phase = self.shared.phase.get();
        #[cfg(test)]
        {
            self.rebuilt &= phase == Phase::Frozen;
        }
        phase
    }

    /// Whether the new process takes what it can.
    #[cfg(feature = "rustls")]
    pub(super) fn is_passing(&self) -> bool {
        self.shared.passing().is_some()
    }

    /// Whether this connection is to end: of all that this process sends away it is its turn. What becomes true wakes this
    /// task.
    #[inline]
    pub(super) fn is_asked(&mut self, passes: bool, cx: &mut Context<'_>) -> bool {
        let shared = &self.shared;
        if !shared.sends_away(self.lasting, passes) {
            return false;
        }
        let turn = self.turn.get_or_insert_with(|| {
            let spread = shared.spread(self.lasting);
            (!spread.is_zero()).then(|| Box::pin(tokio::time::sleep(spread.mul_f64(chance()))))
        });
        turn.as_mut().is_none_or(|turn| turn.as_mut().poll(cx).is_ready())
    }

    /// Whether a connection that rests in this phase is to be taken apart, which it is once a freeze, and counted.
    #[cfg(test)]
    pub(super) fn is_to_rebuild(&mut self, phase: Phase, options: Options) -> bool {
        let Some(count) = options.rebuilt.filter(|_| phase == Phase::Frozen && !self.rebuilt) else { return false };
        self.rebuilt = true;
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        true
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.phase.forget(self.key);
    }
}

/// Up to a fifth shorter or longer, so that the clients of one process do not all come back in the same moment.
fn jittered(grace: Duration) -> Duration {
    grace.mul_f64(0.8 + 0.4 * chance())
}

/// From 0 to 1, each as likely as the others.
pub(crate) fn chance() -> f64 {
    // The standard library's only source of chance: each state is keyed anew.
    f64::from(RandomState::new().hash_one(0) as u32) / f64::from(u32::MAX)
}

/// Whether the socket holds unread bytes now. It asks the kernel: what tokio knows may be older than the bytes.
fn has_more(io: &impl AsFd) -> bool {
    peek(io).is_ok_and(|n| n > 0)
}

pub(super) fn peek(io: &impl AsFd) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(recv(io.as_fd().as_raw_fd(), &mut [0], flags)?)
}

pub(super) async fn close<I: Transport>(resting: Resting<I>, shared: &Shared, limit: Duration) {
    let Resting { mut io, lease, .. } = resting;
    // Where it fails the peer is gone already, and lingering sees that. TLS says goodbye before, to a peer that may not read.
    let _ = tokio::time::timeout(limit, std::future::poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx))).await;
    linger((io, lease), shared, limit).await;
}

/// Reads on after this side was closed, until the peer closes its own: the kernel answers bytes that nobody reads with a
/// reset, and a reset destroys what the peer has not yet read.
pub(super) async fn linger<I: Transport>((mut io, _lease): (I, Lease), shared: &Shared, limit: Duration) {
    let end = std::future::poll_fn(|cx| {
        loop {
            let mut room = [const { MaybeUninit::uninit() }; 4096];
            let mut buf = ReadBuf::uninit(&mut room);
            match ready!(Pin::new(io.wire()).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) => return Poll::Ready(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    });
    tokio::select! {
        () = end => {}
        () = tokio::time::sleep(limit) => {}
        _ = shared.phase.until(|phase| phase >= Phase::Cut) => {}
    }
}
