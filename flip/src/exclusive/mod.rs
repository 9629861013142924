//! What only one process may hold at a time.

mod registry;
#[cfg(test)]
mod tests;
#[cfg(feature = "axum")]
mod web;

use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Instant;

use event_listener::{Event, Listener, listener};

use crate::control::STACK;
use crate::entry::shielded;
use crate::error::{BoxError, chain};
use crate::live::{Hold, Holding, Inside, Leaves};
use crate::log::say;
use crate::phase::Phase;
use crate::shared::{Note, Shared};
use crate::sys::alone::Alone;

pub(crate) use registry::Exclusives;

/// What only one process may hold at a time: an embedded database with a lock on its file, a lease, a device.
///
/// A parameter `#[exclusive(open = …)] store: Exclusive<Database>` of `main` is opened where the process starts. An upgrade
/// closes it in the old process, as part of the freeze, and opens it in the new one before that is ready. Where the upgrade
/// is rolled back the old process opens it again, once the new one is dead. So the new process finds all that was written,
/// and a new process that fails leaves the old one with what it had.
///
/// ```no_run
/// use flip::{BoxError, Exclusive, TcpListener};
/// use redb::{Database, TableDefinition};
///
/// const PEERS: TableDefinition<&str, u64> = TableDefinition::new("peers");
///
/// #[flip::main]
/// async fn main(
///     #[listen("127.0.0.1:8080")] http: TcpListener,
///     #[exclusive(open = || Database::create("peers.redb"))] store: Exclusive<Database>,
/// ) -> Result<(), BoxError> {
///     while let Some((_stream, peer)) = http.accept().await? {
///         store.with(|store| {
///             let write = store.begin_write()?;
///             write.open_table(PEERS)?.insert(&*peer.ip().to_string(), u64::from(peer.port()))?;
///             Ok::<_, BoxError>(write.commit()?)
///         })??;
///     }
///     Ok(())
/// }
/// ```
///
/// The handle is cheap to clone; all clones reach the same value. Without a running flip, in tests and tools, it is a value
/// that is never handed over:
///
/// ```
/// use flip::Exclusive;
///
/// let store = Exclusive::new(vec![1, 2]);
/// store.with_mut(|numbers| numbers.push(3))?;
/// assert_eq!(store.with(|numbers| numbers.len())?, 3);
/// # Ok::<(), flip::ExclusiveError>(())
/// ```
///
/// # `open` and `close`
/// Both are expressions that give a closure or a function: `FnMut() -> Result<T, E> + Send + 'static`, and
/// `FnMut(T) -> Result<(), E> + Send + 'static`, with any `E` that `?` makes a [`BoxError`](crate::BoxError) of. They may use earlier
/// parameters, by copies: `open = { let path = config.db.clone(); move || Database::create(&path) }`. Without `close` the value
/// is dropped. It is closed when nobody uses it any more, also when the process ends after a stop.
///
/// They run on threads of flip's (at the end of the process, on `main`'s), with the runtime entered, and while clients wait, so
/// both should be quick: what they take counts towards `freeze_timeout`. They must not wait for a task, because tasks may be
/// waiting in [`with`](Exclusive::with).
///
/// # What may fail
/// * `open` in the first process: the parameter cannot be made, and the process ends.
/// * `close` in the old process, or `open` in the new one: the upgrade is rolled back.
/// * `open` in the old process after a roll-back: that is logged, the handle says [`ExclusiveError::NotReopened`] from then
///   on, and everything else serves on. The next upgrade opens it anew.
pub struct Exclusive<T> {
    cell: Arc<Cell<T>>,
}

impl<T> Clone for Exclusive<T> {
    fn clone(&self) -> Self {
        Exclusive { cell: Arc::clone(&self.cell) }
    }
}

impl<T> fmt::Debug for Exclusive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclusive").field("name", &self.cell.name).finish_non_exhaustive()
    }
}

/// This process does not hold it, and will not any more.
///
/// Under the feature `axum` it is a response: 503, with `Retry-After: 1` unless trying again is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExclusiveError {
    /// A newer process holds it.
    #[error("it is held by a newer process now")]
    HandedOff,
    /// It was closed for an upgrade that was rolled back, and could not be opened again: why.
    #[error("it could not be opened again after an upgrade was rolled back: {0}")]
    NotReopened(String),
    /// The process ends, and has closed it.
    #[error("it is closed: the process ends")]
    Ended,
}

/// How an [`Exclusive`] is opened and closed, for a program that asks for its parameters by [`Setup`](crate::Setup).
///
/// ```no_run
/// use flip::{Exclusive, Opener};
///
/// fn main() -> Result<(), flip::BoxError> {
///     flip::Builder::new().ready(flip::Ready::Manual).run(async |flip: &flip::Setup| {
///         let opener = async { Ok(Opener::new(|| std::fs::File::create("journal")).close(|file| file.sync_all())) };
///         let journal: Exclusive<std::fs::File> = flip.exclusive("journal", opener).await?;
///         let handle: flip::Handle = flip.param("handle").await?;
///         Ok(async move {
///             handle.ready();
///             println!("{} bytes", journal.with(|file| file.metadata())??.len());
///             Ok(())
///         })
///     })
/// }
/// ```
pub struct Opener<T> {
    open: Box<dyn FnMut() -> Result<T, BoxError> + Send>,
    close: Box<dyn FnMut(T) -> Result<(), BoxError> + Send>,
}

impl<T> fmt::Debug for Opener<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl<T: 'static> Opener<T> {
    /// Opened by this, and closed by being dropped.
    pub fn new<E: Into<BoxError>>(mut open: impl FnMut() -> Result<T, E> + Send + 'static) -> Opener<T> {
        Opener {
            open: Box::new(move || open().map_err(Into::into)),
            close: Box::new(|value| {
                drop(value);
                Ok(())
            }),
        }
    }

    /// Closed by this, which is given a value that nobody uses any more.
    pub fn close<E: Into<BoxError>>(mut self, mut close: impl FnMut(T) -> Result<(), E> + Send + 'static) -> Opener<T> {
        self.close = Box::new(move |value| close(value).map_err(Into::into));
        self
    }
}

struct Cell<T> {
    name: Arc<str>,
    held: RwLock<Held<T>>,
    /// Notified when what `held` says has changed, or when it never will any more.
    changed: Event,
    /// Notified by whoever leaves the lock.
    left: Event,
    hold: Arc<Hold>,
    /// The process that this belongs to; none in tests and tools.
    shared: Option<Arc<Shared>>,
    /// Locked before `held`, for as long as it is being opened or closed.
    opener: Mutex<Opener<T>>,
    /// Which attempt to upgrade closed it, until it is opened again; otherwise 0.
    closed_by: AtomicU64,
}

enum Held<T> {
    Open(Alone<T>),
    /// The other process may hold it, or it is about to be opened.
    Closed,
    /// It could not be opened again.
    Lost(String),
}

/// What a caller under the lock may do.
enum Entry {
    /// Go in.
    Admitted(Inside),
    /// Wait for the end of the freeze.
    Frozen,
    /// Wait until it is open.
    Closed,
}

impl<T: Send + 'static> Exclusive<T> {
    /// A value without a running flip, for tests and tools: it is never handed over.
    pub fn new(value: T) -> Exclusive<T> {
        let nobody = Opener::new(|| Err::<T, _>("nothing opens what was given"));
        let held = Held::Open(Alone::new(value));
        Exclusive { cell: Arc::new(Cell::new("", held, nobody, Arc::new(Hold::new(Holding::Open)), None)) }
    }

    /// One of this process: open where nobody else may hold it any more, otherwise opened when that is known.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(crate) async fn declare(name: &str, opener: Opener<T>, shared: &Arc<Shared>) -> Result<Exclusive<T>, BoxError> {
        let (hold, owner) = (Arc::clone(&shared.hold), Some(Arc::clone(shared)));
        let cell = Arc::new(Cell::new(name, Held::Closed, opener, hold, owner));
        if shared.exclusives.declare(Arc::clone(&cell) as Arc<dyn Resource>) {
            let (opened, entered) = (Arc::clone(&cell), Arc::clone(shared));
            let open = move || {
                let _entered = entered.enter();
                Resource::open(&*opened)
            };
            // Like every other time, so that `open` finds the same surroundings, and `main`'s thread is free meanwhile.
            on_a_thread("flip-open", open).await??;
        }
        Ok(Exclusive { cell })
    }

    /// Uses it, together with others that do. The closure must not wait for anything, nor use this one again: an upgrade
    /// waits for it.
    ///
    /// While it is closed for an upgrade, and in a new process until it is open there, this waits on the calling thread.
    ///
    /// # Errors
    /// [`ExclusiveError`] once this process does not hold it any more: the closure was not called.
    #[track_caller]
    pub fn with<R>(&self, run: impl FnOnce(&T) -> R) -> Result<R, ExclusiveError>
    where
        T: Sync,
    {
        let (cell, caller) = (&*self.cell, Location::caller());
        loop {
            let entry = {
                let _leaves = Leaves(&cell.left);
                let held = cell.held.read().unwrap_or_else(PoisonError::into_inner);
                match (cell.look(&held)?, &*held) {
                    (Entry::Admitted(_inside), Held::Open(value)) => return Ok(run(value.get())),
                    (entry, _) => entry,
                }
            };
            cell.wait(entry, caller);
        }
    }

    /// [`with`](Self::with), alone. It is the one for types that several threads cannot use at once, as a connection to SQLite.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// let counter = flip::Exclusive::new(Cell::new(3));
    /// let before = std::thread::scope(|scope| scope.spawn(|| counter.with_mut(|n| n.replace(4))).join().unwrap())?;
    /// assert_eq!(before, 3);
    /// # Ok::<(), flip::ExclusiveError>(())
    /// ```
    ///
    /// # Errors
    /// [`ExclusiveError`] once this process does not hold it any more: the closure was not called.
    ///
    /// # Panics
    /// When the closure does; what it had changed stays changed.
    #[track_caller]
    pub fn with_mut<R>(&self, run: impl FnOnce(&mut T) -> R) -> Result<R, ExclusiveError> {
        let (cell, caller) = (&*self.cell, Location::caller());
        loop {
            let entry = {
                let _leaves = Leaves(&cell.left);
                let mut held = cell.held.write().unwrap_or_else(PoisonError::into_inner);
                match (cell.look(&held)?, &mut *held) {
                    (Entry::Admitted(_inside), Held::Open(value)) => return Ok(run(value.get_mut())),
                    (entry, _) => entry,
                }
            };
            cell.wait(entry, caller);
        }
    }

    /// Waits until it is open, without blocking the thread; also returns once it never will be.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; it is opened all the same.
    #[track_caller]
    pub fn ready(&self) -> impl Future<Output = ()> + '_ {
        self.cell.opened(Location::caller())
    }
}

impl<T> Cell<T> {
    fn new(name: &str, held: Held<T>, opener: Opener<T>, hold: Arc<Hold>, shared: Option<Arc<Shared>>) -> Cell<T> {
        Cell {
            name: name.into(),
            held: RwLock::new(held),
            changed: Event::new(),
            left: Event::new(),
            hold,
            shared,
            opener: Mutex::new(opener),
            closed_by: AtomicU64::new(0),
        }
    }

    fn opener(&self) -> MutexGuard<'_, Opener<T>> {
        self.opener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has not served yet, and may use what it holds all the same: nobody else does.
    fn is_starting(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| !shared.phase.has_served())
    }

    fn has_ended(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.exclusives.have_ended())
    }

    /// What a caller may do who has the lock.
    fn look(&self, held: &Held<T>) -> Result<Entry, ExclusiveError> {
        let holding = self.hold.admits();
        if holding == Holding::Given {
            return Err(ExclusiveError::HandedOff);
        }
        if self.has_ended() {
            return Err(ExclusiveError::Ended);
        }
        match (held, holding) {
            (Held::Lost(why), _) => Err(ExclusiveError::NotReopened(why.clone())),
            (Held::Closed, _) => Ok(Entry::Closed),
            // Who serves nobody yet is held back by no freeze of its own; its `update`s wait all the same.
            (Held::Open(_), holding) if holding == Holding::Open || self.is_starting() => {
                Ok(Entry::Admitted(Inside::enter(&self.hold)))
            }
            (Held::Open(_), _) => Ok(Entry::Frozen),
        }
    }

    fn wait(&self, entry: Entry, caller: &Location<'_>) {
        match entry {
            Entry::Admitted(_) => {}
            Entry::Frozen => self.hold.wait(),
            Entry::Closed => {
                listener!(self.changed => changed);
                if self.is_closed() {
                    self.touch(caller);
                    changed.wait();
                }
            }
        }
    }

    async fn opened(&self, caller: &Location<'_>) {
        loop {
            listener!(self.changed => changed);
            if !self.is_closed() {
                return;
            }
            self.touch(caller);
            changed.await;
        }
    }

    /// It may still come to be open.
    fn is_closed(&self) -> bool {
        let _leaves = Leaves(&self.left);
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        matches!(self.look(&held), Ok(Entry::Closed))
    }

    /// The old process is asked for it.
    fn touch(&self, caller: &Location<'_>) {
        if let Some(shared) = self.shared.as_ref().filter(|_| self.is_starting()) {
            shared.notes.send(Note::Touched(format!("{} at {caller}", self.name)));
        }
    }

    /// What was opened, for everybody; `opener` is this cell's.
    fn put(&self, opener: &mut Opener<T>, value: T) {
        let late = {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            // Where another one could not be opened meanwhile, this process gives back what it has.
            let late = self.has_ended() || self.shared.as_ref().is_some_and(|shared| !shared.exclusives.are_free());
            if late {
                Some(value)
            } else {
                *held = Held::Open(Alone::new(value));
                None
            }
        };
        if let Some(value) = late {
            self.close_at_the_end(opener, value);
        }
        self.settled();
    }

    fn lose(&self, why: String) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held::Lost(why);
        self.settled();
    }

    fn settled(&self) {
        self.closed_by.store(0, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify(usize::MAX);
        self.left.notify(usize::MAX);
    }

    /// Does this with what is held, if nobody is at it.
    fn alone<R>(&self, act: impl FnOnce(&mut Held<T>) -> R) -> Option<R> {
        match self.held.try_write() {
            Ok(mut held) => Some(act(&mut held)),
            Err(TryLockError::Poisoned(poisoned)) => Some(act(&mut poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn open_value(opener: &mut Opener<T>) -> Result<T, String> {
        shielded(|| (opener.open)().map_err(|error| chain(&*error)))
    }

    fn close_at_the_end(&self, opener: &mut Opener<T>, value: T) {
        if let Err(why) = shielded(|| (opener.close)(value).map_err(|error| chain(&*error))) {
            say!(error, "the exclusive `{}` cannot be closed as the process ends: {why}", self.name);
        }
    }
}

/// Runs this on a thread of its own.
async fn on_a_thread<R: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> R + Send + 'static,
) -> Result<R, std::io::Error> {
    let (result, done) = (Arc::new(Mutex::new(None)), Arc::new(Event::new()));
    let (give, tell) = (Arc::clone(&result), Arc::clone(&done));
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        let value = run();
        *give.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        tell.notify(usize::MAX);
    })?;
    loop {
        listener!(done => is_done);
        if let Some(value) = result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(value);
        }
        is_done.await;
    }
}

/// An exclusive, whatever its type: what the freeze, the start and the end of a process need of it.
pub(crate) trait Resource: Send + Sync {
    fn name(&self) -> &str;
    /// In a new process: the old one holds it no longer.
    ///
    /// # Errors
    /// Why it cannot be opened.
    fn open(&self) -> Result<(), String>;
    /// Returns when nobody who came before the hold is inside, and it is not about to be opened again; false where the
    /// freeze of this attempt is not wanted any more.
    fn settle(&self, shared: &Shared, attempt: u64) -> bool;
    /// Closes it where it is open; false where the freeze of this attempt is not wanted any more, and it stays as it is.
    ///
    /// # Errors
    /// Why it cannot be closed.
    fn close(&self, shared: &Shared, attempt: u64) -> Result<bool, String>;
    fn is_closed_by(&self, attempt: u64) -> bool;
    /// Opens it again, where this attempt closed it; says so where it cannot.
    fn reopen(&self, attempt: u64);
    /// It will not be opened again, where this attempt closed it.
    fn lose(&self, attempt: u64, why: &str);
    /// Whoever waits looks again.
    fn wake(&self);
    /// Closes it when nobody uses it any more; after the cut, or this moment, nobody is waited for.
    fn end(&self, latest: Option<Instant>);
}

impl<T: Send + 'static> Resource for Cell<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) -> Result<(), String> {
        let mut opener = self.opener();
        let value = Self::open_value(&mut opener)?;
        self.put(&mut opener, value);
        Ok(())
    }

    fn settle(&self, shared: &Shared, attempt: u64) -> bool {
        loop {
            listener!(self.left => left);
            if !shared.freeze.is_wanted(attempt) {
                return false;
            }
            // By trying: a writer that waits would hold up a `with` inside of a `with`, and wait for the outer one.
            if self.closed_by.load(Ordering::SeqCst) == 0 && self.alone(|_| ()).is_some() {
                // The thread of another attempt may have found this one there.
                self.left.notify(usize::MAX);
                return true;
            }
            left.wait();
        }
    }

    fn close(&self, shared: &Shared, attempt: u64) -> Result<bool, String> {
        let mut opener = self.opener();
        let value = loop {
            listener!(self.left => left);
            let taken = self.alone(|held| {
                // Whatever is taken out here, a roll-back that comes later puts back.
                shared.freeze.if_wanted(attempt, || match std::mem::replace(held, Held::Closed) {
                    Held::Open(value) => {
                        self.closed_by.store(attempt, Ordering::SeqCst);
                        Some(value.into_inner())
                    }
                    other => {
                        *held = other;
                        None
                    }
                })
            });
            match taken {
                Some(Some(Some(value))) => break value,
                // It is not open: it was lost.
                Some(Some(None)) => return Ok(true),
                // Rolled back meanwhile.
                Some(None) => return Ok(false),
                None if !shared.freeze.is_wanted(attempt) => return Ok(false),
                None => left.wait(),
            }
        };
        shielded(|| (opener.close)(value).map(|()| true).map_err(|error| chain(&*error)))
            .map_err(|why| format!("the exclusive `{}` cannot be closed: {why}", self.name))
    }

    fn is_closed_by(&self, attempt: u64) -> bool {
        self.closed_by.load(Ordering::SeqCst) == attempt
    }

    fn reopen(&self, attempt: u64) {
        let mut opener = self.opener();
        if !self.is_closed_by(attempt) || self.has_ended() {
            return;
        }
        match Self::open_value(&mut opener) {
            Ok(value) => {
                self.put(&mut opener, value);
                say!(info, "the exclusive `{}` is open again", self.name);
            }
            Err(why) => Resource::lose(self, attempt, &why),
        }
    }

    fn lose(&self, attempt: u64, why: &str) {
        if self.is_closed_by(attempt) {
            say!(
                error,
                "the exclusive `{0}` cannot be opened again: {why}; whatever needs `{0}` fails from now on, the rest serves; \
                 when it can be opened, upgrade: the new process opens it",
                self.name
            );
            Cell::lose(self, why.to_owned());
        }
    }

    fn wake(&self) {
        Cell::wake(self);
    }

    fn end(&self, latest: Option<Instant>) {
        loop {
            listener!(self.left => left);
            match self.alone(|held| match std::mem::replace(held, Held::Closed) {
                Held::Open(value) => Some(value.into_inner()),
                other => {
                    *held = other;
                    None
                }
            }) {
                Some(Some(value)) => return self.close_at_the_end(&mut self.opener(), value),
                Some(None) => return,
                None if self.shared.as_ref().is_some_and(|shared| shared.phase.get() >= Phase::Cut) => return,
                None => match latest {
                    Some(latest) => {
                        if left.wait_deadline(latest).is_none() {
                            return say!(warn, "the exclusive `{}` is still used, and is not closed", self.name);
                        }
                    }
                    None => left.wait(),
                },
            }
        }
    }
}
