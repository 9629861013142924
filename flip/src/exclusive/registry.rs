//! The exclusives of a process, by name: closed, opened and opened again together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Resource;
use crate::shared::{Note, Shared};

/// What the start of a process is called where attempts to upgrade are numbered.
const STARTS: u64 = 0;
/// How long those are waited for who use what a process closes that has failed.
const PATIENCE: Duration = Duration::from_secs(1);

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

    #[cfg(feature = "hyper")]
    pub(crate) fn is_empty(&self) -> bool {
        self.inner().declared.is_empty()
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
        for exclusive in &waiting {
            shared.awaited.set(STARTS, format!("`{}` to be opened", exclusive.name()));
            shared.notes.send(Note::Opens);
            if let Err(why) = exclusive.open() {
                let why = format!("the exclusive `{}` cannot be opened: {why}", exclusive.name());
                self.give_back(shared, &why);
                return Err(why);
            }
        }
        shared.awaited.set_nothing(STARTS);
        if !waiting.is_empty() {
            shared.notes.send(Note::Opens);
        }
        Ok(())
    }

    /// This process will have none of them: closes what is open, for whoever opens it next.
    fn give_back(&self, shared: &Shared, why: &str) {
        let declared = {
            let mut inner = self.inner();
            inner.free = false;
            inner.waiting = inner.declared.clone();
            inner.declared.clone()
        };
        // Who is inside may be waiting for just what is not going to come.
        let latest = Instant::now() + PATIENCE;
        for exclusive in declared {
            shared.awaited.set(STARTS, format!("`{}` to be closed again, because {why}", exclusive.name()));
            shared.notes.send(Note::Opens);
            exclusive.end(Some(latest));
        }
    }

    pub(super) fn are_free(&self) -> bool {
        self.inner().free
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
        self.end_until(None);
    }

    /// [`end`](Self::end) where nothing else would end the wait for those who use one.
    pub(crate) fn end_soon(&self) {
        self.end_until(Some(Instant::now() + PATIENCE));
    }

    fn end_until(&self, latest: Option<Instant>) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake();
        self.all().iter().for_each(|exclusive| exclusive.end(latest));
    }
}
