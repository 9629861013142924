//! Who may write: one word for all states of a process, so that a snapshot is one cut through all of them.
//!
//! A writer takes its state's lock first and looks at the word under it. Whoever holds the word back and then passes
//! through every lock once knows that no writer is inside, and that none will be until the release.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use event_listener::{Event, Listener, listener};
use parking_lot::{Mutex, MutexGuard};

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
    /// Writers wait for the moment of a checkpoint, whatever the word says.
    paused: AtomicBool,
    /// Something was written since the last one.
    written: AtomicBool,
    changed: Event,
    /// Held while a forwarded call is read, applied and answered.
    calling: Mutex<()>,
}

thread_local! {
    /// The closures that this thread is inside of: of each that a freeze waits for, which hold it passed.
    static INSIDE: RefCell<Vec<Option<Passed>>> = const { RefCell::new(Vec::new()) };
}

/// A hold, by its place: whoever is inside keeps it there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Passed(usize);

impl Hold {
    pub(crate) fn new(holding: Holding) -> Hold {
        Hold {
            word: AtomicU8::new(holding as u8),
            paused: AtomicBool::new(false),
            written: AtomicBool::new(false),
            changed: Event::new(),
            calling: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Holding {
        match self.word.load(Ordering::Acquire) {
            0 => Holding::Open,
            1 => Holding::Held,
            3 => Holding::Frozen,
            _ => Holding::Given,
        }
    }

    fn passed(&self) -> Passed {
        Passed(std::ptr::from_ref(self).addr())
    }

    /// What a reader under its lock may do. Who is inside already goes on through a freeze: the snapshot waits for its
    /// lock, and it would wait for the snapshot. Before this process serves nobody may write, wherever they are.
    pub(crate) fn admits_reader(&self) -> Holding {
        match self.get() {
            Holding::Frozen if self.is_passed() => Holding::Open,
            holding => holding,
        }
    }

    /// What a writer under its lock may do: a pause is to it what a freeze is.
    pub(crate) fn admits(&self) -> Holding {
        match self.admits_reader() {
            Holding::Open if self.is_paused() && !self.is_passed() => Holding::Frozen,
            holding => holding,
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Has writers wait, or go on.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    /// This thread is inside of a closure that a freeze of this process waits for.
    fn is_passed(&self) -> bool {
        // Where the thread ends, and with it what it knows of itself, it is inside of nothing.
        INSIDE.try_with(|inside| inside.borrow().contains(&Some(self.passed()))).unwrap_or(false)
    }

    /// Whether a writer has to wait.
    fn holds_back(&self) -> bool {
        // Who is inside may have waited since before this process served, and wake when it is frozen already.
        matches!(self.admits(), Holding::Held | Holding::Frozen)
    }

    pub(crate) fn set(&self, holding: Holding) {
        self.word.store(holding as u8, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    /// To be called under the lock of what is written: whoever has passed through it sees the mark.
    pub(crate) fn mark_written(&self) {
        // Read first, so that writers do not contend for it.
        if !self.is_written() {
            self.written.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_written(&self) {
        self.written.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn has_waiting(&self) -> bool {
        self.changed.total_listeners() > 0
    }

    /// Blocks while writers are held back.
    pub(crate) fn wait(&self) {
        loop {
            listener!(self.changed => changed);
            if !self.holds_back() {
                return;
            }
            changed.wait();
        }
    }

    /// [`wait`](Self::wait) for a task.
    pub(crate) async fn released(&self) {
        loop {
            listener!(self.changed => changed);
            if !self.holds_back() {
                return;
            }
            changed.await;
        }
    }

    /// The right to read, apply and answer one forwarded call.
    pub(crate) fn calling(&self) -> MutexGuard<'_, ()> {
        self.calling.lock()
    }

    /// Whether nobody has it who came before, at the latest then.
    pub(crate) fn settle_calls_by(&self, deadline: Instant) -> bool {
        self.calling.try_lock_until(deadline).is_some()
    }
}

/// This thread is inside of a closure until this is dropped.
pub(crate) struct Inside(());

impl Inside {
    /// Of one that a freeze waits for.
    pub(crate) fn enter(hold: &Hold) -> Inside {
        Inside::push(Some(hold.passed()))
    }

    /// Of one that no freeze waits for.
    pub(crate) fn enter_unawaited() -> Inside {
        Inside::push(None)
    }

    fn push(passed: Option<Passed>) -> Inside {
        // A destructor at the end of a thread may come too late to be known: then it waits like everybody else.
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(passed));
        Inside(())
    }

    /// Whether this thread is inside of any.
    pub(crate) fn is_anywhere() -> bool {
        INSIDE.try_with(|inside| !inside.borrow().is_empty()).unwrap_or(false)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // They end in the opposite order of their beginning: each is a value on the stack around a closure.
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
    }
}

/// Wakes whoever waits for a lock to be free, once it was left.
pub(crate) struct Leaves<'a>(pub(crate) &'a Event);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.notify(usize::MAX);
    }
}
