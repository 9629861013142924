//! What is still open here: who may accept, which handlers run, which connections live.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, Listener, listener};
use slab::Slab;

use crate::handle::Reason;
use crate::sys::fd::EventFd;

/// Lets `accept` through, or not. Entering costs one atomic addition; closing waits for those inside, who are in one
/// non-blocking system call.
pub(crate) struct Gate {
    /// The lowest bit says closed; the rest counts those inside.
    state: AtomicUsize,
    left: Event,
}

const CLOSED: usize = 1;
const ONE: usize = 2;

impl Gate {
    pub(crate) fn new(open: bool) -> Gate {
        Gate { state: AtomicUsize::new(if open { 0 } else { CLOSED }), left: Event::new() }
    }

    /// `None` while the gate is closed.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Pass<'_>> {
        let pass = Pass(self);
        // A pass that came too late leaves at once, like any other.
        (self.state.fetch_add(ONE, Ordering::SeqCst) & CLOSED == 0).then_some(pass)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::SeqCst) & CLOSED == 0
    }

    pub(crate) fn open(&self) {
        self.state.fetch_and(!CLOSED, Ordering::SeqCst);
    }

    /// From here on nobody enters; those inside may still be there.
    pub(crate) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Blocks until nobody is inside, at most until `deadline`; says whether nobody is.
    pub(crate) fn wait_empty(&self, deadline: Instant) -> bool {
        loop {
            listener!(self.left => left);
            if self.state.load(Ordering::SeqCst) < ONE {
                return true;
            }
            if left.wait_deadline(deadline).is_none() {
                return self.state.load(Ordering::SeqCst) < ONE;
            }
        }
    }
}

/// Somebody is inside of the gate.
pub(crate) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.state.fetch_sub(ONE, Ordering::SeqCst) == ONE | CLOSED {
            self.0.left.notify(usize::MAX);
        }
    }
}

/// How many handlers run. Only an HTTP server knows.
#[cfg_attr(not(feature = "hyper"), allow(dead_code))]
#[derive(Default)]
pub(crate) struct Handlers {
    running: AtomicUsize,
    /// Somebody waits, or did: only then the last one that ends has to tell.
    awaited: AtomicBool,
    done: Event,
}

#[cfg_attr(not(feature = "hyper"), allow(dead_code))]
impl Handlers {
    #[cfg_attr(not(any(feature = "http2", test)), allow(dead_code))]
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.enter();
        Running(Arc::clone(self))
    }

    /// One begins, of which [`leave`](Self::leave) tells the end.
    #[inline]
    pub(crate) fn enter(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn leave(&self) {
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1 && self.awaited.load(Ordering::SeqCst) {
            self.done.notify(usize::MAX);
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Blocks until no handler runs, at most until `deadline`; says whether none runs.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> bool {
        // Whoever ends and does not see it has ended before the first look at the count below.
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            listener!(self.done => done);
            if self.running.load(Ordering::SeqCst) == 0 {
                return true;
            }
            if done.wait_deadline(deadline).is_none() {
                return self.running.load(Ordering::SeqCst) == 0;
            }
        }
    }
}

/// A handler runs until this is dropped.
#[cfg_attr(not(feature = "hyper"), allow(dead_code))]
pub(crate) struct Running(Arc<Handlers>);

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The connections that this process still serves.
#[derive(Default)]
pub(crate) struct Tracker {
    open: Mutex<Open>,
    closed: Event,
}

#[derive(Default)]
struct Open {
    entries: Slab<Entry>,
    /// How many of these are waited for whatever this process leaves for: all but those of listeners that last.
    waited_for: usize,
    /// Rung when the last of those is gone, once this process stops.
    bell: Option<Arc<EventFd>>,
}

/// With the address of a peer that was not written out: most connections end before anybody asks.
type Entry = (Draining, Option<SocketAddr>);

/// With its peer's address written out.
fn named((entry, address): &Entry) -> Draining {
    let peer = entry.peer.clone().or_else(|| address.map(|address| address.to_string()));
    Draining { peer, ..entry.clone() }
}

/// A connection, or other work, that keeps a process from ending.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Draining {
    /// The listener that it came from, or the name that the guard was given.
    pub name: Arc<str>,
    /// The peer's address, where there is one.
    pub peer: Option<String>,
    /// When it was accepted.
    pub since: Instant,
    /// Of a listener that lasts: a stop does not wait for it.
    lasting: bool,
}

impl fmt::Display for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(peer) = &self.peer {
            write!(f, " from {peer}")?;
        }
        write!(f, ", {:.1} s old", self.since.elapsed().as_secs_f64())
    }
}

impl Tracker {
    pub(crate) fn track(self: &Arc<Self>, name: Arc<str>, peer: Option<String>, lasting: bool) -> Guard {
        self.enter(Draining { name, peer, since: Instant::now(), lasting }, None)
    }

    /// A connection from this address.
    #[cfg(feature = "tokio")]
    pub(crate) fn track_from(self: &Arc<Self>, name: Arc<str>, address: SocketAddr, lasting: bool) -> Guard {
        self.enter(Draining { name, peer: None, since: Instant::now(), lasting }, Some(address))
    }

    fn enter(self: &Arc<Self>, entry: Draining, address: Option<SocketAddr>) -> Guard {
        let mut open = self.lock();
        open.waited_for += usize::from(!entry.lasting);
        let key = open.entries.insert((entry, address));
        drop(open);
        Guard { tracker: Arc::clone(self), key }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is open now, oldest first.
    pub(crate) fn open(&self) -> Vec<Draining> {
        let entries: Vec<_> = self.lock().entries.iter().map(|(_, entry)| entry.clone()).collect();
        let mut open: Vec<_> = entries.iter().map(named).collect();
        open.sort_by_key(|entry| entry.since);
        open
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// Nothing is open but what came from listeners that last.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().waited_for == 0
    }

    /// Rings this whenever [`is_done`](Self::is_done) becomes true from now on.
    pub(crate) fn ring_when_done(&self, bell: Arc<EventFd>) {
        self.lock().bell = Some(bell);
    }

    /// A listener for the moment at which nothing is open, or nothing that a stop waits for; check
    /// [`is_empty`](Self::is_empty) and [`is_done`](Self::is_done) after making it.
    pub(crate) fn listen(&self) -> event_listener::EventListener {
        self.closed.listen()
    }

    /// How many there are by name, and the oldest; `all`, or those that a stop waits for.
    fn count(&self, all: bool) -> (Vec<(Arc<str>, usize)>, Option<Draining>) {
        let open = self.lock();
        let (mut counts, mut oldest) = (HashMap::<Arc<str>, usize>::new(), None::<&Entry>);
        for (_, entry) in open.entries.iter().filter(|(_, (entry, _))| all || !entry.lasting) {
            let Draining { name, since, .. } = &entry.0;
            match counts.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(counts.insert(Arc::clone(name), 1)),
            }
            if oldest.is_none_or(|(oldest, _)| *since < oldest.since) {
                oldest = Some(entry);
            }
        }
        let oldest = oldest.map(named);
        drop(open);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        (counts, oldest)
    }
}

/// What was true when this process began to leave.
pub(crate) struct Leaving {
    /// When what is left is cut, if ever.
    pub(crate) until: Option<Instant>,
    /// How much was open.
    pub(crate) open: usize,
}

/// How many clients may be sent away in one moment.
#[cfg_attr(not(feature = "hyper"), allow(dead_code))]
const AT_ONCE: usize = 100;
/// For each one beyond that.
#[cfg_attr(not(feature = "hyper"), allow(dead_code))]
const APART: Duration = Duration::from_millis(1);

#[cfg_attr(not(feature = "hyper"), allow(dead_code))]
impl Leaving {
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now))
    }

    /// Over how much time from now on clients are sent away. They come back somewhere else, all of those that go in one
    /// moment in one moment: so it grows with their number. At most half of what is left, so that they have the other half.
    pub(crate) fn spread(&self, now: Instant) -> Duration {
        let many = u32::try_from(self.open.saturating_sub(AT_ONCE)).unwrap_or(u32::MAX);
        let spread = APART.saturating_mul(many);
        self.left(now).map_or(spread, |left| spread.min(left / 2))
    }
}

/// When the next report of what is left is due, after the beginning and `said` reports: 1 s, 2 s, 5 s, 10 s and 30 s, and
/// then every 30 s.
pub(crate) fn report_due(said: u32) -> Duration {
    const FIRST: [u64; 4] = [1, 2, 5, 10];
    let due = FIRST.get(said as usize).copied();
    Duration::from_secs(due.unwrap_or_else(|| 30 * u64::from(said - 3)))
}

/// What a process that leaves still waits for: see [`Handle::draining`](crate::Handle::draining).
///
/// As text it is what the log says: `2 connections (http 2), the oldest: http from 127.0.0.1:50000, 7.2 s old; 1 handler
/// runs; 25.0 s left (drain_timeout)`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Drain {
    /// Why it leaves.
    pub reason: Reason,
    /// How many connections of each listener are open, and guards of each name; the most first. In a service that stops,
    /// without those of listeners that [keep accepting](crate::ListenOptions::keep_accepting), because they are not waited
    /// for.
    pub open: Vec<(Arc<str>, usize)>,
    /// The one that was accepted first.
    pub oldest: Option<Draining>,
    /// How many handlers of `flip::serve` run: requests without an answer's head. One that asks counts itself.
    pub handlers: usize,
    /// How long until what is left is cut; `None` where `drain_timeout` is beyond the clock's end.
    pub left: Option<Duration>,
}

impl Drain {
    pub(crate) fn new(reason: Reason, leaving: &Leaving, tracker: &Tracker, handlers: &Handlers) -> Drain {
        let (open, oldest) = tracker.count(reason != Reason::Stopped);
        Drain { reason, open, oldest, handlers: handlers.running(), left: leaving.left(Instant::now()) }
    }

    /// How many there are in [`open`](Self::open).
    pub fn connections(&self) -> usize {
        self.open.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// So that a line stays one, whatever guards are called.
        const NAMES: usize = 8;
        let connections = self.connections();
        write!(f, "{}", counted(connections, "connection"))?;
        if let Some(oldest) = &self.oldest {
            let names = self.open.iter().take(NAMES).map(|(name, count)| format!("{name} {count}"));
            let mut names = names.collect::<Vec<_>>().join(", ");
            if self.open.len() > NAMES {
                names.push_str(", and others");
            }
            write!(f, " ({names}), the oldest: {oldest}")?;
        }
        if self.handlers > 0 {
            write!(f, "; {} {}", counted(self.handlers, "handler"), if self.handlers == 1 { "runs" } else { "run" })?;
        }
        match self.left {
            Some(left) if connections + self.handlers > 0 => {
                write!(f, "; {:.1} s left (drain_timeout)", left.as_secs_f64())
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Keeps this process draining until it is dropped, at most for `drain_timeout`.
///
/// Streams that a flip listener accepts carry one. [`Handle::guard`](crate::Handle::guard) makes one for other work.
#[must_use = "the process ends without waiting once this is dropped"]
pub struct Guard {
    tracker: Arc<Tracker>,
    key: usize,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut open = self.tracker.lock();
        let (gone, _) = open.entries.remove(self.key);
        let waited_for = !gone.lasting;
        open.waited_for -= usize::from(waited_for);
        let is_done = waited_for && open.waited_for == 0;
        if is_done || open.entries.is_empty() {
            let bell = open.bell.clone().filter(|_| is_done);
            drop(open);
            self.tracker.closed.notify(usize::MAX);
            if let Some(bell) = bell {
                bell.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::fd::{PollEntry, poll};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_closed_gate_lets_nobody_in_and_waits_for_those_inside() {
        let gate = Gate::new(true);
        let inside = gate.enter().unwrap();
        gate.close();
        assert!(gate.enter().is_none());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| gate.wait_empty(Instant::now() + Duration::from_secs(30)));
            drop(inside);
            assert!(waiter.join().unwrap());
        });
        gate.open();
        assert!(gate.enter().is_some());
    }

    #[test]
    fn a_handler_that_does_not_end_is_not_waited_for() {
        let handlers = Arc::new(Handlers::default());
        let running = handlers.begin();
        assert!(!handlers.wait_idle(Instant::now()));
        drop(running);
        assert!(handlers.wait_idle(Instant::now()));
    }

    #[test]
    fn what_is_open_is_named() {
        let tracker = Arc::new(Tracker::default());
        let guard = tracker.track("http".into(), Some("127.0.0.1:9".into()), false);
        assert!(tracker.open()[0].to_string().starts_with("http from 127.0.0.1:9, 0."));
        drop(guard);
        #[cfg(feature = "tokio")]
        {
            let guard = tracker.track_from("http".into(), "127.0.0.1:10".parse().unwrap(), false);
            assert!(tracker.open()[0].to_string().starts_with("http from 127.0.0.1:10, 0."));
            drop(guard);
        }
        assert!(tracker.is_empty());
    }

    #[test]
    fn what_lasts_is_not_waited_for() {
        let tracker = Arc::new(Tracker::default());
        let bell = Arc::new(EventFd::new().unwrap());
        tracker.ring_when_done(Arc::clone(&bell));
        let rang = || poll(&mut [PollEntry::readable(bell.as_fd())], Some(Duration::ZERO)).unwrap() == 1;
        let health = tracker.track("health".into(), None, true);
        assert!(tracker.is_done() && !tracker.is_empty());
        let http = tracker.track("http".into(), None, false);
        assert!(!tracker.is_done());
        drop(tracker.track("health".into(), None, true));
        assert!(!rang());
        drop(http);
        assert!(tracker.is_done() && !tracker.is_empty() && rang());
        drop(health);
        assert!(tracker.is_empty());
    }

    #[test]
    fn what_is_left_is_one_line() {
        let tracker = Arc::new(Tracker::default());
        let leaving = Leaving { until: Instant::now().checked_add(HOUR), open: 0 };
        let handlers = Arc::new(Handlers::default());
        let drain = |reason| Drain::new(reason, &leaving, &tracker, &handlers);
        assert_eq!(drain(Reason::Stopped).to_string(), "0 connections");
        let _first = tracker.track("dns".into(), Some("127.0.0.1:9".into()), false);
        let _others = [(); 2].map(|()| tracker.track("http".into(), None, false));
        let _health = tracker.track("health".into(), None, true);
        let _running = handlers.begin();
        let stopped = drain(Reason::Stopped);
        assert_eq!((stopped.connections(), &stopped.open[..]), (3, &[("http".into(), 2), ("dns".into(), 1)][..]));
        let text = stopped.to_string();
        let begin = "3 connections (http 2, dns 1), the oldest: dns from 127.0.0.1:9, ";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains(" s old; 1 handler runs; 3") && text.ends_with(" s left (drain_timeout)"), "{text}");
        assert_eq!(drain(Reason::HandedOff).connections(), 4);
    }

    #[test]
    fn reports_come_less_and_less_often() {
        let due: Vec<_> = (0..7).map(|said| report_due(said).as_secs()).collect();
        assert_eq!(due, [1, 2, 5, 10, 30, 60, 90]);
    }

    #[test]
    fn time_for_the_clients_grows_with_their_number_up_to_half_of_what_is_left() {
        let now = Instant::now();
        let spread = |open, left: Option<u64>| {
            let until = left.and_then(|left| now.checked_add(Duration::from_secs(left)));
            Leaving { until, open }.spread(now)
        };
        assert_eq!(spread(AT_ONCE, Some(30)), Duration::ZERO);
        assert_eq!(spread(AT_ONCE + 1000, Some(30)), Duration::from_secs(1));
        assert_eq!(spread(1_000_000, Some(30)), Duration::from_secs(15));
        assert_eq!(spread(AT_ONCE + 60_000, None), Duration::from_secs(60));
        assert_eq!(spread(1_000_000, Some(0)), Duration::ZERO);
    }
}
