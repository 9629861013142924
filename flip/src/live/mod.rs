//! State that outlives the process.

mod forward;
mod hold;
mod registry;
#[cfg(feature = "axum")]
mod web;

use std::fmt;
use std::panic::Location;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard, TryLockError};
use std::time::Duration;

use event_listener::{Event, Listener, listener};

use crate::handoff::calls::{Accepts, CallRefused, Calls};
use crate::handoff::{Apply, Handoff, Limits, Plan, Restorer, Schema};
use crate::shared::{Note, Shared};

pub(crate) use forward::{BUFFER, Forwarder, serve_call};
#[cfg(feature = "fuzzing")]
pub(crate) use forward::{answers, request};
pub(crate) use hold::{Hold, Holding, Inside};
pub(crate) use registry::{Looked, States};

/// State that outlives the process: at every instant one process owns it, and an upgrade hands it over.
///
/// A parameter `visits: Live<Visits>` of `main` gets what the old process had under this name, and `Visits::default()`
/// (or `#[live(init = …)]`) where there is no old process. The handle is cheap to clone; all clones see one content.
///
/// ```
/// use flip::{Handoff, Live};
///
/// #[derive(Default, Handoff)]
/// struct Visits {
///     total: u64,
/// }
///
/// // Without a running flip, in tests and tools, it is a value that is never handed over.
/// let visits = Live::new(Visits::default());
/// let total = visits.update(|v| {
///     v.total += 1;
///     v.total
/// })?;
/// assert_eq!(total, 1);
/// assert_eq!(visits.read(|v| v.total)?, 1);
/// # Ok::<(), flip::HandedOff>(())
/// ```
///
/// # Late binding
/// In a new process the handle exists at once, and its content arrives at the first touch, or when everything else is
/// ready. A touch before that waits, and starts the freeze of the old process early; it is logged with its line.
///
/// # What it refuses
/// Types that can be written through a shared reference (atomics, cells, locks): a reader could change them during the
/// snapshot. See [`Handoff`].
pub struct Live<T> {
    cell: Arc<Cell<T>>,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Live { cell: Arc::clone(&self.cell) }
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("name", &self.cell.name).finish_non_exhaustive()
    }
}

/// The content belongs to another process now.
///
/// Under the feature `axum` it is a response: 503 with `Retry-After: 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state has been handed over to a newer process")]
#[non_exhaustive]
pub struct HandedOff;

/// A call did not bring an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The owner died, or this process ended, before an answer came: whether the call was applied is unknown.
    #[error("the owner of the state is gone; whether the call was applied is unknown")]
    Lost,
    /// The call was not applied: the owner does not know it, or it could not be encoded.
    #[error("the call was not applied: {0}")]
    Refused(String),
}

pub(crate) struct Cell<T> {
    name: Arc<str>,
    content: RwLock<Option<T>>,
    /// Notified when the content has arrived.
    arrived: Event,
    hold: Arc<Hold>,
    /// The process that this belongs to; none in tests and tools.
    shared: Option<Arc<Shared>>,
    calls: OnceLock<Calls<T>>,
    /// The new process has some of the content's memory itself, and writes there as soon as it serves.
    shared_memory: bool,
    /// How the old process's content becomes this one's, where their schemas differ.
    plan: Option<Plan>,
}

impl<T: Handoff + Send + Sync + 'static> Live<T> {
    /// State without a running flip, for tests and tools: it is never handed over.
    pub fn new(value: T) -> Live<T> {
        Live { cell: Arc::new(Cell::new("", Some(value), Arc::new(Hold::new(Holding::Open)), None)) }
    }

    /// State of this process.
    pub(crate) fn declare(name: &str, value: T, shared: &Arc<Shared>) -> Live<T> {
        Self::declared(Cell::new(name, Some(value), Arc::clone(&shared.hold), Some(Arc::clone(shared))), shared)
    }

    /// State that will come from the old process, by this plan.
    pub(crate) fn expect(name: &str, plan: Plan, shared: &Arc<Shared>) -> Live<T> {
        let mut cell = Cell::new(name, None, Arc::clone(&shared.hold), Some(Arc::clone(shared)));
        cell.plan = plan.is_needed().then_some(plan);
        Self::declared(cell, shared)
    }

    fn declared(cell: Cell<T>, shared: &Arc<Shared>) -> Live<T> {
        let cell = Arc::new(cell);
        shared.states.declare(Arc::clone(&cell) as Arc<dyn State>);
        Live { cell }
    }

    /// Reads the content. The closure must not wait for anything: writers wait for it.
    ///
    /// In a new process the first touch waits until the content has arrived, on this thread.
    ///
    /// # Errors
    /// [`HandedOff`] once another process owns the content.
    #[track_caller]
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> Result<R, HandedOff> {
        let caller = Location::caller();
        loop {
            let content = self.cell.content.read().unwrap_or_else(PoisonError::into_inner);
            let mut inside = None;
            match self.cell.hold.admits_reader() {
                Holding::Given => return Err(HandedOff),
                // Under the lock, so that what is read was still the content when this was looked at.
                Holding::Frozen if self.cell.is_given() => return Err(HandedOff),
                Holding::Frozen if self.cell.shared_memory => {
                    drop(content);
                    self.cell.hold.wait();
                    continue;
                }
                _ if self.cell.shared_memory => inside = Some(Inside::enter()),
                _ => {}
            }
            match &*content {
                Some(value) => return Ok(read(value)),
                None => drop((content, inside)),
            }
            self.cell.wait_for_content(caller);
        }
    }

    /// Changes the content. The closure must not wait for anything; inside, the content of *other* states may be
    /// changed, that of this one not.
    ///
    /// While the process is frozen, and in a new process until it serves, this waits on the calling thread.
    ///
    /// # Errors
    /// [`HandedOff`] once another process owns the content: nothing was changed. [`call`](Live::call) works then, too.
    ///
    /// # Panics
    /// When the closure does; what it had changed stays changed.
    #[track_caller]
    pub fn update<R>(&self, update: impl FnOnce(&mut T) -> R) -> Result<R, HandedOff> {
        let caller = Location::caller();
        loop {
            let mut content = self.cell.content.write().unwrap_or_else(PoisonError::into_inner);
            match (self.cell.hold.admits(), &mut *content) {
                (Holding::Given, _) => return Err(HandedOff),
                (Holding::Open, Some(value)) => {
                    let _inside = Inside::enter();
                    return Ok(update(value));
                }
                (_, None) => {
                    drop(content);
                    self.cell.wait_for_content(caller);
                }
                (Holding::Held | Holding::Frozen, Some(_)) => {
                    drop(content);
                    self.cell.hold.wait();
                }
            }
        }
    }

    /// Applies `op` to the content, wherever it is: here while this process owns it, in the owner afterwards. It waits
    /// while the process is frozen. The operation is listed on the state, so that every process knows how to apply it.
    ///
    /// ```
    /// use flip::{Apply, Handoff, Live};
    ///
    /// #[derive(Default, Handoff)]
    /// #[handoff(calls(Hit))]
    /// struct Totals {
    ///     hits: u64,
    /// }
    ///
    /// #[derive(Handoff)]
    /// struct Hit;
    ///
    /// impl Apply<Hit> for Totals {
    ///     type Answer = u64;
    ///     fn apply(&mut self, _: Hit) -> u64 {
    ///         self.hits += 1;
    ///         self.hits
    ///     }
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let totals = Live::new(Totals::default());
    /// assert_eq!(totals.call(Hit).await?, 1);
    /// # Ok::<(), flip::CallError>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`CallError::Lost`]: the outcome is unknown. [`CallError::Refused`]: it was not applied. It is applied at most once.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the operation back: it may have been applied.
    #[track_caller]
    pub fn call<Op>(&self, op: Op) -> impl Future<Output = Result<<T as Apply<Op>>::Answer, CallError>>
    where
        T: Apply<Op> + Accepts<Op>,
        Op: Handoff,
        <T as Apply<Op>>::Answer: Handoff,
    {
        // Here, because an `async fn` does not know who called it.
        self.call_from(op, Location::caller())
    }

    async fn call_from<Op>(
        &self,
        op: Op,
        caller: &'static Location<'static>,
    ) -> Result<<T as Apply<Op>>::Answer, CallError>
    where
        T: Apply<Op> + Accepts<Op>,
        Op: Handoff,
        <T as Apply<Op>>::Answer: Handoff,
    {
        loop {
            enum Wait {
                Content,
                Release,
                Forward,
            }
            let wait = {
                let mut content = self.cell.content.write().unwrap_or_else(PoisonError::into_inner);
                match (self.cell.hold.admits(), &mut *content) {
                    (Holding::Given, _) => Wait::Forward,
                    (Holding::Open, Some(value)) => {
                        let _inside = Inside::enter();
                        return Ok(value.apply(op));
                    }
                    (_, None) => Wait::Content,
                    (Holding::Held | Holding::Frozen, Some(_)) => Wait::Release,
                }
            };
            match wait {
                Wait::Content => self.cell.content_arrives(caller).await,
                Wait::Release => self.cell.hold.released().await,
                Wait::Forward => break,
            }
        }
        let shared = self.cell.shared.as_ref().expect("only the state of a running flip is given away");
        let bytes = crate::handoff::to_bytes(&op).map_err(|error| CallError::Refused(error.to_string()))?;
        let answer = shared.forward(&self.cell.name, &Calls::<T>::name_of::<Op>(), bytes).await?;
        // It was applied, and the owner's answer is of another version.
        crate::handoff::from_bytes(&answer).map_err(|_| CallError::Lost)
    }

    /// Waits until the content is here, without blocking the thread.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; the content comes all the same.
    #[track_caller]
    pub fn ready(&self) -> impl Future<Output = ()> + '_ {
        self.cell.content_arrives(Location::caller())
    }
}

impl<T: Handoff> Cell<T> {
    fn new(name: &str, value: Option<T>, hold: Arc<Hold>, shared: Option<Arc<Shared>>) -> Cell<T> {
        Cell {
            name: name.into(),
            content: RwLock::new(value),
            arrived: Event::new(),
            hold,
            shared,
            calls: OnceLock::new(),
            shared_memory: Schema::of::<T>().has_memory(),
            plan: None,
        }
    }
}

impl<T> Cell<T> {
    /// The lock when nobody is inside.
    fn alone(&self) -> RwLockWriteGuard<'_, Option<T>> {
        loop {
            // A waiting writer would hold up a read inside of a read, and wait for the outer one: nobody would go on.
            match self.content.try_write() {
                Ok(content) => return content,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    /// Frozen, and it is over, though nobody has told this process yet.
    fn is_given(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.freeze.is_given(&self.hold))
    }

    fn has_content(&self) -> bool {
        self.content.read().unwrap_or_else(PoisonError::into_inner).is_some() || self.hold.get() == Holding::Given
    }

    fn touch(&self, caller: &Location<'_>) {
        if let Some(shared) = &self.shared {
            shared.notes.send(Note::Touched(format!("{} at {caller}", self.name)));
        }
    }

    fn wait_for_content(&self, caller: &Location<'_>) {
        listener!(self.arrived => arrived);
        if !self.has_content() {
            self.touch(caller);
            arrived.wait();
        }
    }

    async fn content_arrives(&self, caller: &Location<'_>) {
        loop {
            listener!(self.arrived => arrived);
            if self.has_content() {
                return;
            }
            self.touch(caller);
            arrived.await;
        }
    }
}

/// A state, whatever its type: what the freeze, the restore and forwarded calls need of it.
pub(crate) trait State: Send + Sync {
    fn name(&self) -> &str;
    fn schema(&self) -> Arc<Schema>;
    fn has_content(&self) -> bool;
    /// Returns when no writer that came before the hold is inside, nor a reader of memory that is not copied.
    fn settle(&self);
    fn save(&self, sink: &mut dyn crate::handoff::Sink) -> Result<(), String>;
    /// Lets `sink` see what is large, as far as it wants to and nobody is writing.
    fn search(&self, sink: &mut dyn crate::handoff::Sink);
    fn restore(&self, source: &mut dyn crate::handoff::Source) -> Result<(), String>;
    /// Drops the content; called when the hold says `Given`.
    fn give_up(&self);
    /// Applies a forwarded call.
    ///
    /// # Errors
    /// Why it was not applied; nothing where it was, and its answer cannot be sent.
    fn apply(&self, op: &str, bytes: &[u8]) -> Result<Vec<u8>, Option<String>>;
}

impl<T: Handoff + Send + Sync + 'static> State for Cell<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> Arc<Schema> {
        Schema::of::<T>()
    }

    fn has_content(&self) -> bool {
        Cell::has_content(self)
    }

    fn settle(&self) {
        if self.shared_memory {
            return drop(self.alone());
        }
        drop(self.content.read().unwrap_or_else(PoisonError::into_inner));
    }

    fn save(&self, sink: &mut dyn crate::handoff::Sink) -> Result<(), String> {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        let value = content.as_ref().expect("an owner has its content");
        crate::handoff::save(value, sink).map_err(|error| format!("{}: {error}", self.name))
    }

    fn search(&self, sink: &mut dyn crate::handoff::Sink) {
        if let Ok(content) = self.content.try_read()
            && let Some(value) = &*content
        {
            // It ends early, or with an error that comes again when the value is sent.
            let _ = crate::handoff::save(value, sink);
        }
    }

    fn restore(&self, source: &mut dyn crate::handoff::Source) -> Result<(), String> {
        let bytes = self.shared.as_ref().map_or(u64::MAX, |shared| shared.state_limit.load(Ordering::Relaxed));
        let limits = Limits { bytes, ..Limits::default() };
        let mut restorer = Restorer::new(source, limits);
        let value = match &self.plan {
            Some(plan) => crate::handoff::restore_matched(restorer, plan, Limits::default()),
            None => crate::handoff::restore(&mut restorer).and_then(|value| restorer.finish().map(|()| value)),
        };
        let value = value.map_err(|error| format!("{}: {error}", self.name))?;
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.arrived.notify(usize::MAX);
        Ok(())
    }

    fn give_up(&self) {
        let value = self.alone().take();
        self.arrived.notify(usize::MAX);
        // A panic in a destructor of the user's must not reach the locks above.
        drop(value);
    }

    fn apply(&self, op: &str, bytes: &[u8]) -> Result<Vec<u8>, Option<String>> {
        let calls = self.calls.get_or_init(Calls::of);
        let answer = calls.apply(op, bytes, &mut |apply| {
            let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(value) = &mut *content {
                let _inside = Inside::enter();
                apply(value);
            }
        });
        match answer {
            Ok(answer) => answer.ok_or_else(|| Some("the state has not arrived".to_owned())),
            Err(CallRefused::Answer(_)) => Err(None),
            Err(refused) => Err(Some(refused.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::Region;
    use crate::protocol::{Owner, Word};
    use crate::sys::fd::SharedWord;

    #[derive(Default, flip::Handoff)]
    struct Plain {
        total: u64,
    }

    #[derive(Default, flip::Handoff)]
    struct Mapped {
        parts: Vec<Option<(u8, Region)>>,
    }

    /// The old process hears of the end of the handoff later than others see what the new one has written.
    #[test]
    fn reads_end_when_the_new_process_serves() {
        let shared = Shared::new(true).unwrap();
        let state = Live::declare("state", Plain { total: 1 }, &shared);
        let (word, _file) = SharedWord::create().unwrap();
        let word = Arc::new(word);
        shared.freeze.begin(1, Some(Arc::clone(&word)));
        assert!(shared.freeze.hold_back(1, &shared.hold));
        assert_eq!(state.read(|state| state.total), Ok(1));
        word.swap(Owner::Old, Owner::New).unwrap();
        assert_eq!(state.read(|state| state.total), Ok(1));
        word.swap(Owner::New, Owner::Serving).unwrap();
        assert_eq!(state.read(|state| state.total), Err(HandedOff));
        shared.freeze.give(&shared.hold);
        assert_eq!(state.read(|state| state.total), Err(HandedOff));
    }

    fn open<T: Handoff + Default + Send + Sync + 'static>(hold: &Arc<Hold>) -> Live<T> {
        Live { cell: Arc::new(Cell::new("", Some(T::default()), Arc::clone(hold), None)) }
    }

    #[test]
    fn freeze_waits_for_who_reads_what_is_not_copied() {
        let hold = Arc::new(Hold::new(Holding::Open));
        let (plain, mapped) = (open::<Plain>(&hold), open::<Mapped>(&hold));
        let (entered, has_entered) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel();
        let reader = {
            let (plain, mapped) = (plain.clone(), mapped.clone());
            thread::spawn(move || {
                mapped.read(|_| {
                    entered.send(()).unwrap();
                    may_leave.recv().unwrap();
                    // Whoever is inside goes on: the freeze waits for it.
                    plain.update(|plain| plain.total += 1).unwrap();
                    mapped.read(|mapped| mapped.parts.len()).unwrap()
                })
            })
        };
        has_entered.recv().unwrap();
        hold.set(Holding::Frozen);
        let (settled, has_settled) = mpsc::channel();
        let freeze = {
            let states: [Arc<dyn State>; 2] = [plain.cell.clone(), mapped.cell.clone()];
            thread::spawn(move || {
                states.iter().for_each(|state| state.settle());
                settled.send(()).unwrap();
            })
        };
        assert!(has_settled.try_recv().is_err(), "somebody is reading");
        leave.send(()).unwrap();
        has_settled.recv().unwrap();
        assert_eq!(reader.join().unwrap(), Ok(0));
        freeze.join().unwrap();

        // What is copied may be read all the time, what is not only when nobody else may write it.
        assert_eq!(plain.read(|plain| plain.total), Ok(1));
        let late = {
            let mapped = mapped.clone();
            thread::spawn(move || mapped.read(|mapped| mapped.parts.len()))
        };
        hold.set(Holding::Given);
        assert_eq!(late.join().unwrap(), Err(HandedOff));
    }

    #[test]
    fn new_process_reads_what_it_has_before_it_serves() {
        let hold = Arc::new(Hold::new(Holding::Held));
        assert_eq!(open::<Mapped>(&hold).read(|mapped| mapped.parts.len()), Ok(0));
    }
}
