//! Who may write: one word for all states of a process, so that a snapshot is one cut through all of them.
//!
//! A writer takes its state's lock first and looks at the word under it. Whoever holds the word back and then passes
//! through every lock once knows that no writer is inside, and that none will be until the release.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use event_listener::{Event, Listener, listener};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Holding {
    /// Writers may write.
    Open = 0,
    /// Writers wait: this process does not serve yet.
    Held = 1,
    /// The content belongs to another process.
    Given = 2,
    /// Writers wait: the snapshot is taken, and the new process may have it at any moment. So do readers of memory that
    /// is not copied.
    Frozen = 3,
}

pub(crate) struct Hold {
    word: AtomicU8,
    changed: Event,
    /// Held while a forwarded call is read, applied and answered.
    calling: Mutex<()>,
}

thread_local! {
    /// How many closures this thread is inside of that a freeze waits for.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

impl Hold {
    pub(crate) fn new(holding: Holding) -> Hold {
        Hold { word: AtomicU8::new(holding as u8), changed: Event::new(), calling: Mutex::new(()) }
    }

    pub(crate) fn get(&self) -> Holding {
        match self.word.load(Ordering::Acquire) {
            0 => Holding::Open,
            1 => Holding::Held,
            3 => Holding::Frozen,
            _ => Holding::Given,
        }
    }

    /// What a writer under its state's lock may do. One that is inside of another `update` already goes on: the
    /// snapshot waits for that one's lock, and it would wait for the snapshot.
    pub(crate) fn admits(&self) -> Holding {
        match self.get() {
            Holding::Held | Holding::Frozen if INSIDE.get() > 0 => Holding::Open,
            holding => holding,
        }
    }

    /// What a reader of memory that is not copied may do, likewise: while it reads, nobody else may write there.
    pub(crate) fn admits_reader(&self) -> Holding {
        match self.get() {
            Holding::Frozen if INSIDE.get() > 0 => Holding::Open,
            holding => holding,
        }
    }

    pub(crate) fn set(&self, holding: Holding) {
        self.word.store(holding as u8, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    /// Blocks while writers are held back.
    pub(crate) fn wait(&self) {
        loop {
            listener!(self.changed => changed);
            if !matches!(self.get(), Holding::Held | Holding::Frozen) {
                return;
            }
            changed.wait();
        }
    }

    /// [`wait`](Self::wait) for a task.
    pub(crate) async fn released(&self) {
        loop {
            listener!(self.changed => changed);
            if !matches!(self.get(), Holding::Held | Holding::Frozen) {
                return;
            }
            changed.await;
        }
    }

    /// The right to read, apply and answer one forwarded call.
    pub(crate) fn calling(&self) -> MutexGuard<'_, ()> {
        self.calling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This thread is inside of a closure that a freeze waits for until this is dropped.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter() -> Inside {
        INSIDE.set(INSIDE.get() + 1);
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}
