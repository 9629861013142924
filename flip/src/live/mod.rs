//! State that outlives the process.

mod forward;
mod hold;
mod registry;
#[cfg(feature = "axum")]
mod web;

use std::fmt;
use std::panic::{Location, RefUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use event_listener::{Event, Listener, listener};
use parking_lot::{RwLock, RwLockReadGuard};

use crate::handoff::calls::{Accepts, CallRefused, Calls};
use crate::handoff::{Apply, Handoff, Limits, Plan, Restorer, Schema, Source};
use crate::shared::{Note, Shared};

pub(crate) use forward::{BUFFER, Forwarder, serve_call};
#[cfg(feature = "fuzzing")]
pub(crate) use forward::{answers, request};
pub(crate) use hold::{Hold, Holding, Inside, Leaves};
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

/// The content belongs to another process now, or to the next one: after the last checkpoint of a service that
/// [stores its state](crate::Store::State) nobody changes it any more.
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
    /// A lock whose readers can go past a writer that waits: see [`reading`](Cell::reading).
    content: RwLock<Option<T>>,
    /// What of the content may be asked without its lock, which closures of the user's hold.
    has_content: AtomicBool,
    /// Notified when the content has arrived.
    arrived: Event,
    /// Notified by whoever leaves the lock that a freeze waits for.
    left: Event,
    hold: Arc<Hold>,
    /// The process that this belongs to; none in tests and tools.
    shared: Option<Arc<Shared>>,
    calls: OnceLock<Calls<T>>,
    /// The new process has some of the content's memory itself, and writes there as soon as it serves.
    shared_memory: bool,
    /// How the old process's content becomes this one's, where their schemas differ.
    plan: Option<Plan>,
}

/// What a closure had changed when it panicked stays changed, which `update` says.
impl<T> RefUnwindSafe for Cell<T> {}

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

    /// State that goes on from what an earlier process has stored.
    ///
    /// # Errors
    /// Why it cannot be restored.
    pub(crate) fn restored(
        name: &str,
        plan: Plan,
        stored: &mut dyn Source,
        shared: &Arc<Shared>,
    ) -> Result<Live<T>, String> {
        let mut cell = Cell::new(name, None, Arc::clone(&shared.hold), Some(Arc::clone(shared)));
        cell.plan = plan.is_needed().then_some(plan);
        cell.restore(stored)?;
        Ok(Self::declared(cell, shared))
    }

    fn declared(cell: Cell<T>, shared: &Arc<Shared>) -> Live<T> {
        let cell = Arc::new(cell);
        shared.states.declare(Arc::clone(&cell) as Arc<dyn State>);
        Live { cell }
    }

    /// Reads the content. The closure must not wait for anything: writers wait for it. Inside, this and other states may be
    /// read; an [`update`](Live::update) there may have to wait for the end of a freeze, and keeps writers waiting as long.
    ///
    /// In a new process the first touch waits until the content has arrived, on this thread.
    ///
    /// # Errors
    /// [`HandedOff`] once another process owns the content.
    #[track_caller]
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> Result<R, HandedOff> {
        let (cell, caller) = (&*self.cell, Location::caller());
        loop {
            if cell.hold.get() == Holding::Given {
                return Err(HandedOff);
            }
            let is_here = {
                // Nobody waits for readers of what is copied.
                let _leaves = cell.shared_memory.then(|| Leaves(&cell.left));
                let content = cell.reading();
                match (cell.hold.admits_reader(), &*content) {
                    (Holding::Given, _) => return Err(HandedOff),
                    // Under the lock, so that what is read was still the content when this was looked at.
                    (Holding::Frozen, _) if cell.is_given() => return Err(HandedOff),
                    (Holding::Frozen, Some(_)) if cell.shared_memory => true,
                    (_, Some(value)) => {
                        let _inside =
                            if cell.shared_memory { Inside::enter(&cell.hold) } else { Inside::enter_unawaited() };
                        return Ok(read(value));
                    }
                    (_, None) => false,
                }
            };
            if is_here {
                cell.hold.wait();
            } else {
                cell.wait_for_content(caller);
            }
        }
    }

    /// Changes the content. The closure must not wait for anything; inside, the content of *other* states may be
    /// changed, that of this one not. Where several are changed inside of each other, in one order everywhere: two
    /// threads that begin at opposite ends wait for each other for ever.
    ///
    /// While the process is frozen, and in a new process until it serves, this waits on the calling thread.
    ///
    /// # Errors
    /// [`HandedOff`] once another process owns the content: nothing was changed. [`call`](Live::call) works then, too, unless the
    /// service stops.
    ///
    /// # Panics
    /// When the closure does; what it had changed stays changed.
    #[track_caller]
    pub fn update<R>(&self, update: impl FnOnce(&mut T) -> R) -> Result<R, HandedOff> {
        let (cell, caller) = (&*self.cell, Location::caller());
        loop {
            match cell.hold.admits() {
                Holding::Given => return Err(HandedOff),
                // Not with the lock: readers would wait behind it for the end of the snapshot.
                Holding::Frozen => {
                    cell.hold.wait();
                    continue;
                }
                Holding::Open | Holding::Held => {}
            }
            let is_here = {
                let _leaves = Leaves(&cell.left);
                let mut content = cell.content.write();
                match (cell.hold.admits(), &mut *content) {
                    (Holding::Given, _) => return Err(HandedOff),
                    (Holding::Open, Some(value)) => {
                        let _inside = Inside::enter(&cell.hold);
                        cell.hold.mark_written();
                        return Ok(update(value));
                    }
                    (_, content) => content.is_some(),
                }
            };
            if is_here {
                cell.hold.wait();
            } else {
                cell.wait_for_content(caller);
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
            match self.cell.hold.admits() {
                Holding::Given => break,
                Holding::Frozen => {
                    self.cell.hold.released().await;
                    continue;
                }
                Holding::Open | Holding::Held => {}
            }
            let wait = {
                let _leaves = Leaves(&self.cell.left);
                let mut content = self.cell.content.write();
                match (self.cell.hold.admits(), &mut *content) {
                    (Holding::Given, _) => Wait::Forward,
                    (Holding::Open, Some(value)) => {
                        let _inside = Inside::enter(&self.cell.hold);
                        self.cell.hold.mark_written();
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
            has_content: AtomicBool::new(value.is_some()),
            content: RwLock::new(value),
            arrived: Event::new(),
            left: Event::new(),
            hold,
            shared,
            calls: OnceLock::new(),
            shared_memory: Schema::of::<T>().has_memory(),
            plan: None,
        }
    }
}

impl<T> Cell<T> {
    /// The lock, for a closure that reads.
    fn reading(&self) -> RwLockReadGuard<'_, Option<T>> {
        // A writer that waits goes before readers that come, or it would wait for ever; but not before one whose thread is
        // inside of something already: the writer may be waiting for just that.
        if Inside::is_anywhere() { self.content.read_recursive() } else { self.content.read() }
    }

    /// Whether nobody is inside who is waited for, at this moment.
    fn is_settled(&self) -> bool {
        // Past a writer that waits: behind a reader who waits for the end of the freeze it would never have its turn.
        let settled = if self.shared_memory {
            self.content.try_write().is_some()
        } else {
            self.content.try_read_recursive().is_some()
        };
        if settled {
            // The thread of another attempt may have found this one there.
            self.left.notify(usize::MAX);
        }
        settled
    }

    /// Frozen, and it is over, though nobody has told this process yet.
    fn is_given(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.freeze.is_given(&self.hold))
    }

    fn has_content(&self) -> bool {
        self.has_content.load(Ordering::Acquire) || self.hold.get() == Holding::Given
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
    /// Returns when no writer that came before the hold is inside, nor a reader of memory that is not copied; false where
    /// the freeze of this attempt is not wanted any more.
    fn settle(&self, shared: &Shared, attempt: u64) -> bool;
    /// Whoever waits for those who are inside looks again.
    fn wake(&self);
    /// Whether nobody is inside who came before the hold, at the latest then.
    fn settle_by(&self, deadline: Instant) -> bool;
    /// Whether its values are bytes alone.
    fn is_storable(&self) -> bool;
    fn save(&self, sink: &mut dyn crate::handoff::Sink) -> Result<(), String>;
    /// Lets `sink` see what is large, as far as it wants to and nobody is writing.
    fn search(&self, sink: &mut dyn crate::handoff::Sink);
    fn restore(&self, source: &mut dyn Source) -> Result<(), String>;
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

    fn settle(&self, shared: &Shared, attempt: u64) -> bool {
        loop {
            listener!(self.left => left);
            if !shared.freeze.is_wanted(attempt) {
                return false;
            }
            if self.is_settled() {
                return true;
            }
            left.wait();
        }
    }

    fn wake(&self) {
        self.left.notify(usize::MAX);
    }

    fn settle_by(&self, deadline: Instant) -> bool {
        loop {
            listener!(self.left => left);
            if self.is_settled() {
                return true;
            }
            if left.wait_deadline(deadline).is_none() {
                return self.is_settled();
            }
        }
    }

    fn is_storable(&self) -> bool {
        Schema::of::<T>().is_bytes()
    }

    fn save(&self, sink: &mut dyn crate::handoff::Sink) -> Result<(), String> {
        let _leaves = Leaves(&self.left);
        let content = self.content.read_recursive();
        let value = content.as_ref().expect("an owner has its content");
        crate::handoff::save(value, sink).map_err(|error| format!("{}: {error}", self.name))
    }

    fn search(&self, sink: &mut dyn crate::handoff::Sink) {
        let _leaves = Leaves(&self.left);
        if let Some(content) = self.content.try_read_recursive()
            && let Some(value) = &*content
        {
            // It ends early, or with an error that comes again when the value is sent.
            let _ = crate::handoff::save(value, sink);
        }
    }

    fn restore(&self, source: &mut dyn Source) -> Result<(), String> {
        let bytes = self.shared.as_ref().map_or(u64::MAX, |shared| shared.state_limit.load(Ordering::Relaxed));
        let limits = Limits { readers: crate::handoff::cores(), ..Limits::default() };
        let mut restorer = Restorer::new(source, Limits { bytes, ..limits });
        let value = match &self.plan {
            Some(plan) => crate::handoff::restore_matched(restorer, plan, limits),
            None => crate::handoff::restore(&mut restorer).and_then(|value| restorer.finish().map(|()| value)),
        };
        let value = value.map_err(|error| format!("{}: {error}", self.name))?;
        *self.content.write() = Some(value);
        self.has_content.store(true, Ordering::Release);
        self.arrived.notify(usize::MAX);
        Ok(())
    }

    fn give_up(&self) {
        let value = self.content.write().take();
        self.arrived.notify(usize::MAX);
        // A panic in a destructor of the user's must not reach the locks above.
        drop(value);
    }

    fn apply(&self, op: &str, bytes: &[u8]) -> Result<Vec<u8>, Option<String>> {
        let calls = self.calls.get_or_init(Calls::of);
        let answer = calls.apply(op, bytes, &mut |apply| {
            let _leaves = Leaves(&self.left);
            let mut content = self.content.write();
            if let Some(value) = &mut *content {
                let _inside = Inside::enter(&self.hold);
                self.hold.mark_written();
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
    use std::time::Duration;

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

    /// What the thread of the freeze does first.
    fn freeze(shared: &Shared, attempt: u64) {
        shared.freeze.begin(attempt, None);
        assert!(shared.freeze.hold_back(attempt, &shared.hold));
    }

    /// What the control thread does where it comes to nothing.
    fn thaw(shared: &Shared) {
        shared.freeze.end(&shared.hold);
        shared.states.wake();
    }

    fn until(condition: impl Fn() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }

    /// Of a thread that may hang where something is wrong.
    fn result<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || done.send(run()));
        is_done.recv_timeout(Duration::from_secs(30)).expect("it ends")
    }

    /// Goes into a closure, and on in there when it is told to.
    struct User<R> {
        leave: mpsc::Sender<()>,
        thread: thread::JoinHandle<R>,
    }

    impl<R: Send + 'static> User<R> {
        fn enters(run: impl FnOnce(&dyn Fn()) -> R + Send + 'static) -> User<R> {
            let (entered, has_entered) = mpsc::channel();
            let (leave, may_leave) = mpsc::channel();
            let thread = thread::spawn(move || {
                run(&|| {
                    entered.send(()).unwrap();
                    may_leave.recv().unwrap();
                })
            });
            has_entered.recv().unwrap();
            User { leave, thread }
        }

        /// Until it has ended, or waits for the end of the hold.
        fn goes_on(&self, shared: &Shared) {
            self.leave.send(()).unwrap();
            until(|| shared.hold.has_waiting() || self.thread.is_finished());
        }
    }

    fn count(plain: &mut Plain) {
        plain.total += 1;
    }

    fn total(state: &Live<Plain>) -> u64 {
        state.read(|plain| plain.total).unwrap()
    }

    /// A writer that waits for whoever reads this.
    fn queued(state: &Live<Plain>) -> thread::JoinHandle<Result<(), HandedOff>> {
        let writes = state.clone();
        let writer = thread::spawn(move || writes.update(count));
        until(|| state.cell.content.try_read().is_none());
        writer
    }

    #[test]
    fn freeze_waits_for_who_reads_what_is_not_copied() {
        let shared = Shared::new(true).unwrap();
        let plain = Live::declare("plain", Plain::default(), &shared);
        let mapped = Live::declare("mapped", Mapped::default(), &shared);
        let (writes, reads) = (plain.clone(), mapped.clone());
        let reader = User::enters(move |inside| {
            reads.read(|_| {
                inside();
                // Whoever is inside goes on: the freeze waits for it.
                writes.update(count).unwrap();
                reads.read(|mapped| mapped.parts.len()).unwrap()
            })
        });
        freeze(&shared, 1);
        assert!(plain.cell.is_settled());
        assert!(!mapped.cell.is_settled(), "somebody is reading");
        let freezes = Arc::clone(&shared);
        let freezer = thread::spawn(move || freezes.states.settle(&freezes, 1));
        until(|| mapped.cell.left.total_listeners() > 0);
        reader.leave.send(()).unwrap();
        assert!(freezer.join().unwrap());
        assert_eq!(reader.thread.join().unwrap(), Ok(0));

        // What is copied may be read all the time, what is not only when nobody else may write it.
        assert_eq!(total(&plain), 1);
        let late = thread::spawn(move || mapped.read(|mapped| mapped.parts.len()));
        until(|| shared.hold.has_waiting() || late.is_finished());
        shared.hold.set(Holding::Given);
        assert_eq!(late.join().unwrap(), Err(HandedOff));
    }

    #[test]
    fn freeze_that_is_taken_back_waits_for_nobody_and_has_said_for_whom() {
        let shared = Shared::new(true).unwrap();
        let plain = Live::declare("plain", Plain::default(), &shared);
        let mapped = Live::declare("mapped", Mapped::default(), &shared);
        let writes = plain.clone();
        let writer = User::enters(move |inside| writes.update(|_| inside()));
        let reader = User::enters(move |inside| mapped.read(|_| inside()));
        for (attempt, name, user) in [(1, "plain", writer), (2, "mapped", reader)] {
            shared.awaited.begin(attempt);
            freeze(&shared, attempt);
            let freezes = Arc::clone(&shared);
            let freezer = thread::spawn(move || freezes.states.settle(&freezes, attempt));
            let state = shared.states.find(name).unwrap();
            until(|| shared.awaited.get().is_some_and(|what| what.contains(name)));
            thaw(&shared);
            // The user is still inside.
            assert!(!freezer.join().unwrap());
            user.leave.send(()).unwrap();
            user.thread.join().unwrap().unwrap();
            assert!(state.has_content());
        }
    }

    #[test]
    fn new_process_reads_what_it_has_before_it_serves() {
        let shared = Shared::new(false).unwrap();
        let mapped = Live::declare("mapped", Mapped::default(), &shared);
        assert_eq!(mapped.read(|mapped| mapped.parts.len()), Ok(0));
    }

    #[test]
    fn new_process_does_not_write_before_it_serves_wherever_it_reads() {
        let shared = Shared::new(false).unwrap();
        let plain = Live::declare("plain", Plain::default(), &shared);
        let mapped = Live::declare("mapped", Mapped::default(), &shared);
        let writes = plain.clone();
        let reader = User::enters(move |inside| {
            mapped.read(|_| {
                inside();
                writes.update(count)
            })
        });
        reader.goes_on(&shared);
        assert_eq!(total(&plain), 0);
        // It serves and is frozen again before this thread has woken: the freeze waits for it.
        freeze(&shared, 1);
        assert!(result(move || shared.states.settle(&shared, 1)));
        assert_eq!(result(|| reader.thread.join().unwrap()), Ok(Ok(())));
        assert_eq!(plain.cell.content.read().as_ref().unwrap().total, 1);
    }

    #[test]
    fn reader_that_waits_for_the_end_of_a_freeze_does_not_hold_it_up() {
        let shared = Shared::new(true).unwrap();
        let first = Live::declare("first", Plain::default(), &shared);
        let second = Live::declare("second", Plain::default(), &shared);
        let (reads, writes) = (first.clone(), second.clone());
        let reader = User::enters(move |inside| {
            reads.read(|_| {
                inside();
                writes.update(count)
            })
        });
        let writer = queued(&first);
        freeze(&shared, 1);
        reader.goes_on(&shared);
        assert!(!reader.thread.is_finished());
        let (freezes, cell) = (Arc::clone(&shared), Arc::clone(&first.cell));
        assert!(result(move || freezes.states.settle(&freezes, 1)));
        struct Nowhere;
        impl crate::handoff::Sink for Nowhere {
            fn send(&mut self, _: &[u8], _: &[std::os::fd::BorrowedFd<'_>]) -> std::io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(result(move || cell.save(&mut Nowhere)), Ok(()));
        thaw(&shared);
        assert_eq!(reader.thread.join().unwrap(), Ok(Ok(())));
        assert_eq!(writer.join().unwrap(), Ok(()));
        assert_eq!((total(&first), total(&second)), (1, 1));
    }

    #[test]
    fn read_inside_of_a_read_does_not_wait_for_who_waits_for_it() {
        let state = Live::new(Plain::default());
        let reads = state.clone();
        let reader = User::enters(move |inside| {
            reads.read(|_| {
                inside();
                total(&reads)
            })
        });
        let writer = queued(&state);
        reader.leave.send(()).unwrap();
        assert_eq!(result(|| reader.thread.join().unwrap()), Ok(0));
        assert_eq!(writer.join().unwrap(), Ok(()));
        assert_eq!(total(&state), 1);
    }

    #[test]
    fn closure_of_another_process_does_not_go_through_a_freeze() {
        let shared = Shared::new(true).unwrap();
        let state = Live::declare("state", Plain::default(), &shared);
        let (detached, writes) = (Live::new(Plain::default()), state.clone());
        let user = User::enters(move |inside| {
            detached.update(|_| {
                inside();
                writes.update(count)
            })
        });
        freeze(&shared, 1);
        assert!(shared.states.settle(&shared, 1));
        user.goes_on(&shared);
        assert_eq!(total(&state), 0);
        thaw(&shared);
        assert_eq!(user.thread.join().unwrap(), Ok(Ok(())));
        assert_eq!(total(&state), 1);
    }

    #[test]
    fn offer_is_withdrawn_whoever_uses_a_state() {
        let shared = Shared::new(false).unwrap();
        let state = Live::declare("state", Plain::default(), &shared);
        let reads = state.clone();
        let reader = User::enters(move |inside| reads.read(|_| inside()));
        let writer = queued(&state);
        let control = Arc::clone(&shared);
        assert!(result(move || control.states.withdraw_offer()));
        reader.leave.send(()).unwrap();
        assert_eq!(reader.thread.join().unwrap(), Ok(()));
        shared.hold.set(Holding::Open);
        assert_eq!(writer.join().unwrap(), Ok(()));
    }

    #[test]
    fn handoff_is_said_to_others_while_somebody_still_reads() {
        let shared = Shared::new(true).unwrap();
        let state = Live::declare("state", Plain::default(), &shared);
        let reads = state.clone();
        let reader = User::enters(move |inside| reads.read(|_| inside()));
        freeze(&shared, 1);
        shared.freeze.give(&shared.hold);
        let cell = Arc::clone(&state.cell);
        let drops = thread::spawn(move || cell.give_up());
        until(|| state.cell.content.try_read().is_none());
        let late = state.clone();
        assert_eq!(result(move || (late.read(|_| ()), late.update(count))), (Err(HandedOff), Err(HandedOff)));
        reader.leave.send(()).unwrap();
        assert_eq!(reader.thread.join().unwrap(), Ok(()));
        drops.join().unwrap();
    }

    #[test]
    fn panic_in_a_closure_ends_nothing_else() {
        let state = Live::new(Plain::default());
        let writes = state.clone();
        let panicked = std::panic::catch_unwind(move || {
            writes.update(|plain| {
                count(plain);
                panic!("on purpose")
            })
        });
        assert!(panicked.is_err());
        assert!(!Inside::is_anywhere());
        assert_eq!(total(&state), 1);
    }
}
