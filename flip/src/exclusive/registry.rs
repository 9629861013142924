//! The exclusives of a process, by name: closed, opened and opened again together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Resource;
use crate::shared::{Note, Shared};

/// What the start of a process is called where attempts to upgrade are numbered.
const STARTS: u64 = 0;

pub(crate) struct Exclusives {
    inner: Mutex<Inner>,
    /// The process ends: what is open is closed, and nothing is opened any more.
    ended: AtomicBool,
}

struct Inner {
    declared: Vec<Arc<dyn Resource>>,
    /// Those to be opened when nobody else holds anything any more.
    waiting: Vec<Arc<dyn Resource>>,
    /// Nobody else holds anything: what is declared is opened there and then.
    free: bool,
}

impl Exclusives {
    /// `free`: there is no old process.
    pub(crate) fn new(free: bool) -> Exclusives {
        Exclusives {
            inner: Mutex::new(Inner { declared: vec![], waiting: vec![], free }),
            ended: AtomicBool::new(false),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<dyn Resource>> {
        self.inner().declared.clone()
    }

    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.inner().declared.iter().any(|exclusive| exclusive.name() == name)
    }

    /// Whether it may be opened at once; otherwise it will be.
    pub(super) fn declare(&self, exclusive: Arc<dyn Resource>) -> bool {
        let mut inner = self.inner();
        inner.declared.push(Arc::clone(&exclusive));
        if !inner.free {
            inner.waiting.push(exclusive);
        }
        inner.free
    }

    /// Nobody else holds anything any more: opens what was declared until now, and tells the control thread of each. What
    /// comes later is opened by whoever declares it.
    ///
    /// # Errors
    /// Why one of them cannot be opened.
    pub(crate) fn open_all(&self, shared: &Shared) -> Result<(), String> {
        let waiting = {
            let mut inner = self.inner();
            inner.free = true;
            std::mem::take(&mut inner.waiting)
        };
        for (at, exclusive) in waiting.iter().enumerate() {
            shared.awaited.set(STARTS, format!("`{}` to be opened", exclusive.name()));
            shared.notes.send(Note::Opens);
            if let Err(why) = exclusive.open() {
                self.inner().waiting.extend(waiting[at..].iter().cloned());
                return Err(format!("the exclusive `{}` cannot be opened: {why}", exclusive.name()));
            }
        }
        shared.awaited.set_nothing(STARTS);
        if !waiting.is_empty() {
            shared.notes.send(Note::Opens);
        }
        Ok(())
    }

    /// The old process is dead, and held nothing any more. False where something waits to be opened already.
    pub(crate) fn free(&self) -> bool {
        let mut inner = self.inner();
        inner.free = inner.waiting.is_empty();
        inner.free
    }

    /// Waits until nobody who came before the hold uses any of them; false where the freeze is not wanted any more.
    pub(crate) fn settle(&self, shared: &Shared, attempt: u64) -> bool {
        for exclusive in self.all() {
            let used =
                format!("the exclusive `{}` not to be used any more, by a closure of this process", exclusive.name());
            shared.awaited.set(attempt, used);
            if !exclusive.settle(shared, attempt) {
                return false;
            }
        }
        shared.awaited.set_nothing(attempt);
        true
    }

    /// Closes all of them for the freeze of this attempt; false where it is not wanted any more, and this process may hold
    /// what was not closed.
    ///
    /// # Errors
    /// Why one of them cannot be closed.
    pub(crate) fn close_all(&self, shared: &Shared, attempt: u64) -> Result<bool, String> {
        for exclusive in self.all() {
            shared.awaited.set(attempt, format!("the exclusive `{}` to be closed", exclusive.name()));
            if !exclusive.close(shared, attempt)? {
                return Ok(false);
            }
        }
        shared.awaited.set_nothing(attempt);
        Ok(true)
    }

    /// Those that this attempt closed.
    pub(crate) fn closed_by(&self, attempt: u64) -> Vec<Arc<dyn Resource>> {
        let mut closed = self.all();
        closed.retain(|exclusive| exclusive.is_closed_by(attempt));
        closed
    }

    pub(crate) fn wake(&self) {
        self.all().iter().for_each(|exclusive| exclusive.wake());
    }

    pub(crate) fn have_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// The process ends: closes what is open, on the thread of whoever calls.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake();
        self.all().iter().for_each(|exclusive| exclusive.end());
    }
}
