//! What is still open here: who may accept, which handlers run, which connections live.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use event_listener::{Event, Listener, listener};

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
    fn drop(&mut self) {
        if self.0.state.fetch_sub(ONE, Ordering::SeqCst) == ONE | CLOSED {
            self.0.left.notify(usize::MAX);
        }
    }
}

/// How many handlers run. Only an HTTP server knows.
#[cfg_attr(not(feature = "axum"), allow(dead_code))]
#[derive(Default)]
pub(crate) struct Handlers {
    running: AtomicUsize,
    done: Event,
}

#[cfg_attr(not(feature = "axum"), allow(dead_code))]
impl Handlers {
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    /// Blocks until no handler runs, at most until `deadline`; says whether none runs.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> bool {
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
#[cfg_attr(not(feature = "axum"), allow(dead_code))]
pub(crate) struct Running(Arc<Handlers>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.done.notify(usize::MAX);
        }
    }
}

/// The connections that this process still serves.
#[derive(Default)]
pub(crate) struct Tracker {
    open: Mutex<HashMap<u64, Draining>>,
    next: AtomicU64,
    closed: Event,
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
    pub(crate) fn track(self: &Arc<Self>, name: Arc<str>, peer: Option<String>) -> Guard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Draining { name, peer, since: Instant::now() };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        Guard { tracker: Arc::clone(self), id }
    }

    /// What is open now, oldest first.
    pub(crate) fn open(&self) -> Vec<Draining> {
        let mut open: Vec<_> = self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        open.sort_by_key(|entry| entry.since);
        open
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// A listener for the moment at which nothing is open; check [`is_empty`](Self::is_empty) after making it.
    pub(crate) fn listen(&self) -> event_listener::EventListener {
        self.closed.listen()
    }
}

/// Keeps this process draining until it is dropped, at most for `drain_timeout`.
///
/// Streams that a flip listener accepts carry one. [`Handle::guard`](crate::Handle::guard) makes one for other work.
#[must_use = "the process ends without waiting once this is dropped"]
pub struct Guard {
    tracker: Arc<Tracker>,
    id: u64,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut open = self.tracker.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.id);
        if open.is_empty() {
            drop(open);
            self.tracker.closed.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_waits_for_those_inside() {
        let gate = Gate::new(true);
        let inside = gate.enter().unwrap();
        gate.close();
        assert!(gate.enter().is_none());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| gate.wait_empty(Instant::now() + std::time::Duration::from_secs(30)));
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
        let guard = tracker.track("http".into(), Some("127.0.0.1:9".into()));
        assert!(tracker.open()[0].to_string().starts_with("http from 127.0.0.1:9, 0."));
        drop(guard);
        assert!(tracker.is_empty());
    }
}
