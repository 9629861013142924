//! What the control thread publishes, and everybody else watches.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use event_listener::{Event, Listener, listener};
use slab::Slab;

use crate::handle::Reason;

/// What this process is to the service now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It was started to take over and does not own the service yet.
    Starting = 0,
    /// It owns the service.
    Serving = 1,
    /// It owns the service and holds still: nothing is accepted, dispatched or written.
    Frozen = 2,
    /// Another process owns the service; what is open here ends.
    HandedOff = 3,
    /// The service ends; what is open here ends.
    Stopping = 4,
    /// What is still open is dropped.
    Cut = 5,
    /// The control thread has nothing left to do: the process ends.
    Over = 6,
}

impl Phase {
    /// Nothing will ever be accepted here again.
    #[inline]
    pub(crate) fn is_leaving(self) -> bool {
        self >= Phase::HandedOff
    }
}

/// The phase, and a way to wait for its change from any thread or task.
pub(crate) struct Published {
    phase: AtomicU8,
    /// This process has owned the service.
    served: AtomicBool,
    /// Another process owns it now.
    handed_off: AtomicBool,
    changed: Event,
    /// Of those that watch for as long as they live: who waits for `changed` enters its list anew after each change.
    watchers: Mutex<Slab<Waker>>,
}

impl Published {
    pub(crate) fn new(phase: Phase) -> Published {
        Published {
            phase: AtomicU8::new(phase as u8),
            served: AtomicBool::new(phase == Phase::Serving),
            handed_off: AtomicBool::new(false),
            changed: Event::new(),
            watchers: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Phase {
        // Sequentially consistent, as is the count of handlers: who begins to work and then still reads `Serving` was
        // counted before whoever sets `Frozen` looks at the count. It costs nothing on x86 and little elsewhere.
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            2 => Phase::Frozen,
            3 => Phase::HandedOff,
            4 => Phase::Stopping,
            5 => Phase::Cut,
            _ => Phase::Over,
        }
    }

    /// Whether this process has ever owned the service.
    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Ordering::SeqCst)
    }

    /// Whether another process owns the service, whatever became of this one since.
    pub(crate) fn has_handed_off(&self) -> bool {
        self.handed_off.load(Ordering::SeqCst)
    }

    /// Why this process leaves, where it does.
    pub(crate) fn reason(&self) -> Reason {
        if self.has_handed_off() { Reason::HandedOff } else { Reason::Stopped }
    }

    pub(crate) fn set(&self, phase: Phase) {
        match phase {
            Phase::Serving => self.served.store(true, Ordering::SeqCst),
            Phase::HandedOff => self.handed_off.store(true, Ordering::SeqCst),
            _ => {}
        }
        self.phase.store(phase as u8, Ordering::SeqCst);
        self.changed.notify(usize::MAX);
        // Woken outside of the lock: who wakes up on another thread and ends takes it.
        let watchers: Vec<_> = self.watchers().iter().map(|(_, waker)| waker.clone()).collect();
        watchers.into_iter().for_each(Waker::wake);
    }

    /// Wakes this by every change from now on, until [`forget`](Self::forget) has the key.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn watch(&self, waker: Waker) -> usize {
        self.watchers().insert(waker)
    }

    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn forget(&self, key: usize) {
        let waker = self.watchers().remove(key);
        // Outside of the lock.
        drop(waker);
    }

    fn watchers(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves with the first phase that `wanted` accepts.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn until(&self, wanted: impl Fn(Phase) -> bool) -> Phase {
        loop {
            let phase = self.get();
            if wanted(phase) {
                return phase;
            }
            listener!(self.changed => changed);
            // The phase may have changed before the listener was in the list.
            if self.get() == phase {
                changed.await;
            }
        }
    }

    /// [`until`](Self::until) for a thread.
    pub(crate) fn wait(&self, wanted: impl Fn(Phase) -> bool) -> Phase {
        loop {
            let phase = self.get();
            if wanted(phase) {
                return phase;
            }
            listener!(self.changed => changed);
            if self.get() == phase {
                changed.wait();
            }
        }
    }

    /// An owned listener for the next change, for futures that are written by hand; check [`get`](Self::get) after
    /// making it.
    pub(crate) fn listen(&self) -> event_listener::EventListener {
        self.changed.listen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_sees_the_phase_it_waits_for() {
        let published = Published::new(Phase::Starting);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| published.wait(Phase::is_leaving));
            published.set(Phase::Serving);
            published.set(Phase::HandedOff);
            assert_eq!(waiter.join().unwrap(), Phase::HandedOff);
        });
    }
}
