//! What the threads of one process share: the control thread writes the phase, everybody else reads it and leaves notes.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, Listener, listener};

use crate::checkpoint::Checkpoints;
use crate::control::Earlier;
use crate::drain::{Drain, Gate, Guard, Handlers, Leaving, Pass, Tracker};
use crate::exclusive::Exclusives;
use crate::handle::{Reason, UpgradeError, Upgraded};
use crate::listen::Listeners;
use crate::live::{CallError, Forwarder, Hold, Holding, States};
use crate::pass::{Arrivals, Passer};
use crate::phase::{Phase, Published};
use crate::pid_file::PidFile;
use crate::protocol::{Owner, Word};
use crate::relay::Relays;
use crate::sys::fd::{EventFd, SharedWord};

thread_local! {
    static IN_MAIN: Cell<bool> = const { Cell::new(false) };
}

/// `main` runs on this thread, and nothing else does, until this is dropped.
pub(crate) struct MainTurn(());

impl MainTurn {
    pub(crate) fn begin() -> MainTurn {
        IN_MAIN.set(true);
        MainTurn(())
    }

    /// Whether `main` does this itself: it may be about to fail.
    pub(crate) fn is_now() -> bool {
        IN_MAIN.get()
    }
}

impl Drop for MainTurn {
    fn drop(&mut self) {
        IN_MAIN.set(false);
    }
}

/// One process, as its library sees it.
pub(crate) struct Shared {
    pub(crate) phase: Published,
    /// Who accepts passes here; closed before the freeze and from the end of this process's ownership on.
    pub(crate) accepting: Gate,
    /// Who accepts from a listener that lasts passes here as well: open while the service stops and others have something left.
    pub(crate) lasting: Gate,
    /// Who dispatches requests passes here, for as long as it takes to read and dispatch what is there.
    pub(crate) dispatching: Gate,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) connections: Arc<Tracker>,
    pub(crate) notes: Mailbox,
    /// Who may write to the states.
    pub(crate) hold: Arc<Hold>,
    pub(crate) freeze: Freeze,
    pub(crate) states: States,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) exclusives: Exclusives,
    pub(crate) relays: Relays,
    /// Those of the relays that WebSockets move through.
    #[cfg(feature = "ws")]
    pub(crate) ways: crate::ws::Ways,
    pub(crate) awaited: Awaited,
    /// Set before the phase says that this process leaves.
    pub(crate) leaving: OnceLock<Leaving>,
    /// Set when it is known what is inherited.
    pub(crate) listeners: OnceLock<Arc<Listeners>>,
    pub(crate) forwarder: OnceLock<Arc<Forwarder>>,
    /// The way for connections to the new process, once it serves.
    pub(crate) passer: OnceLock<Passer>,
    /// The owner stops, and takes no more connections.
    passing_ends: AtomicBool,
    /// Connections that draining processes passed to this one.
    pub(crate) arrivals: Arrivals,
    pub(crate) generation: AtomicU64,
    pub(crate) progress: Progress,
    /// How many bytes of each state are taken from the old process.
    pub(crate) state_limit: AtomicU64,
    /// How long what is open may go on, in milliseconds.
    #[cfg(feature = "ws")]
    pub(crate) drain_timeout: AtomicU64,
    pub(crate) start: Started,
    /// What `main` returned is given back to whoever ran flip, and this process ends when they end it.
    pub(crate) returned: AtomicBool,
    /// `main` runs without a runtime, so nothing can drop it.
    pub(crate) main_blocks: AtomicBool,
    /// The way to the old process for what a panic says, until this process serves.
    pub(crate) last_words_to: Mutex<Option<std::os::fd::OwnedFd>>,
    /// Names this process while it serves.
    pid_file: Mutex<Option<PidFile>>,
    /// The text of the last panic, should it be the reason why this process ends.
    words: Mutex<Option<String>>,
    #[cfg(feature = "tokio")]
    pub(crate) runtime: OnceLock<tokio::runtime::Handle>,
}

impl Shared {
    /// `serving`: this process owns the service from its start.
    pub(crate) fn new(serving: bool) -> std::io::Result<Arc<Shared>> {
        Ok(Arc::new(Shared {
            phase: Published::new(if serving { Phase::Serving } else { Phase::Starting }),
            accepting: Gate::new(serving),
            lasting: Gate::new(false),
            dispatching: Gate::new(serving),
            handlers: Arc::default(),
            connections: Arc::default(),
            notes: Mailbox::new()?,
            hold: Arc::new(Hold::new(if serving { Holding::Open } else { Holding::Held })),
            freeze: Freeze::default(),
            states: States::default(),
            checkpoints: Checkpoints::default(),
            exclusives: Exclusives::new(serving),
            relays: Relays::new()?,
            #[cfg(feature = "ws")]
            ways: crate::ws::Ways::default(),
            awaited: Awaited::default(),
            leaving: OnceLock::new(),
            listeners: OnceLock::new(),
            forwarder: OnceLock::new(),
            passer: OnceLock::new(),
            passing_ends: AtomicBool::new(false),
            arrivals: Arrivals::default(),
            generation: AtomicU64::new(1),
            progress: Progress::new(),
            state_limit: AtomicU64::new(u64::MAX),
            #[cfg(feature = "ws")]
            drain_timeout: AtomicU64::new(0),
            start: Started::default(),
            returned: AtomicBool::new(false),
            main_blocks: AtomicBool::new(false),
            last_words_to: Mutex::default(),
            pid_file: Mutex::default(),
            words: Mutex::default(),
            #[cfg(feature = "tokio")]
            runtime: OnceLock::new(),
        }))
    }

    /// `main` waits for something, so it has not failed: the listeners that it dropped so far, it does not want.
    pub(crate) fn main_goes_on(&self) {
        if self.phase.get() == Phase::Starting
            && let Some(listeners) = self.listeners.get()
            && listeners.main_goes_on()
        {
            self.notes.send(Note::Polled);
        }
    }

    /// Called where a thread waits for something of flip's: it may be `main`'s.
    pub(crate) fn thread_waits(&self) {
        if MainTurn::is_now() {
            self.main_goes_on();
        }
    }

    /// What rests in this process ends here from now on.
    pub(crate) fn stop_passing(&self) {
        self.passing_ends.store(true, Ordering::SeqCst);
        self.relays.stop();
        // Who rests looks again.
        self.phase.set(self.phase.get());
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Enters the user's runtime, where there is one, so that what is restored can register with it.
    #[cfg(feature = "tokio")]
    pub(crate) fn enter(&self) -> Option<tokio::runtime::EnterGuard<'_>> {
        self.runtime.get().map(tokio::runtime::Handle::enter)
    }

    /// There is no runtime to enter.
    #[cfg(not(feature = "tokio"))]
    pub(crate) fn enter(&self) -> Option<()> {
        None
    }

    /// Has the runtime leave a note; says whether there is one that could.
    #[cfg(feature = "tokio")]
    pub(crate) fn beat(self: &Arc<Self>) -> bool {
        let Some(runtime) = self.runtime.get() else { return false };
        let shared = Arc::clone(self);
        runtime.spawn(async move { shared.notes.send(Note::Beats) });
        true
    }

    /// There is no runtime that could answer.
    #[cfg(not(feature = "tokio"))]
    pub(crate) fn beat(self: &Arc<Self>) -> bool {
        false
    }

    /// Has the owner apply a call.
    pub(crate) async fn forward(&self, state: &str, op: &str, bytes: Vec<u8>) -> Result<Vec<u8>, CallError> {
        match self.forwarder.get() {
            Some(forwarder) => forwarder.forward(state, op, bytes).await,
            // This process stops, and the next one goes on from what it has stored.
            None => Err(CallError::Refused("the service stops".to_owned())),
        }
    }

    /// Whether this process has handed over to one that serves: what begins, begins there.
    #[cfg(feature = "hyper")]
    #[inline]
    pub(crate) fn is_served_elsewhere(&self) -> bool {
        self.phase.get() == Phase::HandedOff && !self.passing_ends.load(Ordering::SeqCst)
    }

    /// The way to the new process for connections at rest, where this one has handed over.
    #[cfg(feature = "hyper")]
    #[inline]
    pub(crate) fn passing(&self) -> Option<&Passer> {
        self.passer.get().filter(|passer| self.is_served_elsewhere() && !passer.is_broken())
    }

    /// Whether there is anything that a process can work on only while it owns it.
    #[cfg(feature = "hyper")]
    pub(crate) fn has_state(&self) -> bool {
        !self.states.is_empty() || !self.exclusives.is_empty()
    }

    /// What a panic said.
    pub(crate) fn set_last_words(&self, text: String) {
        if let Some(channel) = &*lock(&self.last_words_to) {
            crate::control::say_last_words(channel, text.clone());
        }
        *lock(&self.words) = Some(text);
    }

    /// This process serves: nobody has to hear why it ends.
    pub(crate) fn forget_last_words(&self) {
        *lock(&self.last_words_to) = None;
    }

    pub(crate) fn last_words(&self) -> Option<String> {
        lock(&self.words).clone()
    }

    /// From here on the file names this process; `None`: another one, whose it is now.
    pub(crate) fn set_pid_file(&self, file: Option<PidFile>) {
        *lock(&self.pid_file) = file;
    }

    /// The service ends with this process.
    pub(crate) fn remove_pid_file(&self) {
        if let Some(file) = lock(&self.pid_file).take() {
            file.remove();
        }
    }

    pub(crate) fn track(&self, name: Arc<str>, peer: Option<String>) -> Guard {
        self.connections.track(name, peer, false)
    }

    /// What this process still waits for, where it leaves.
    pub(crate) fn draining(&self) -> Option<Drain> {
        let leaving = self.leaving.get().filter(|_| self.phase.get().is_leaving())?;
        Some(Drain::new(self.phase.reason(), leaving, &self.connections, &self.handlers))
    }

    /// Whether connections end here: this process leaves, and no other takes them. `lasting`: those of a listener that lasts.
    #[cfg(feature = "hyper")]
    #[inline]
    pub(crate) fn sends_away(&self, lasting: bool, passes: bool) -> bool {
        let phase = self.phase.get();
        let lasts = lasting && phase == Phase::Stopping && self.lasting.is_open();
        phase.is_leaving() && !lasts && !(passes && self.passing().is_some())
    }

    /// Over how much time from now on these are sent away.
    #[cfg(feature = "hyper")]
    pub(crate) fn spread(&self, lasting: bool) -> Duration {
        // What lasted ends when all others have: the clients of the others are gone.
        let leaving = self.leaving.get().filter(|_| !lasting);
        leaving.map_or(Duration::ZERO, |leaving| leaving.spread(Instant::now()))
    }

    /// How long from now on a connection may rest at most, so that it is closed and not cut.
    #[cfg(feature = "hyper")]
    pub(crate) fn patience(&self) -> Duration {
        self.leaving.get().and_then(|leaving| leaving.left(Instant::now())).map_or(Duration::MAX, |left| left / 4)
    }

    /// Nothing is open that has to end before this process does.
    pub(crate) fn is_drained(&self) -> bool {
        match self.phase.reason() {
            Reason::Stopped => self.connections.is_done(),
            Reason::HandedOff => self.connections.is_empty(),
        }
    }

    /// The right to accept now; `lasting`: from a listener that lasts.
    fn pass(&self, lasting: bool) -> Option<Pass<'_>> {
        self.accepting.enter().or_else(|| if lasting { self.lasting.enter() } else { None })
    }

    pub(crate) fn is_open(&self, lasting: bool) -> bool {
        self.accepting.is_open() || (lasting && self.lasting.is_open())
    }

    /// Waits for the right to accept; `None` when this process will never accept again from this listener, which may be one
    /// that lasts. The pass is for one non-blocking system call, and is never held over an await.
    #[cfg(feature = "tokio")]
    pub(crate) async fn may_accept(&self, lasting: bool) -> Option<Pass<'_>> {
        loop {
            if let Some(pass) = self.pass(lasting) {
                return Some(pass);
            }
            let phase = self.phase.get();
            if phase.is_leaving() {
                return None;
            }
            // The gate opens before the phase says so: a change that comes in between is seen in the next turn.
            let changed = self.phase.listen();
            if self.phase.get() == phase && !self.is_open(lasting) {
                changed.await;
            }
        }
    }

    /// [`may_accept`](Self::may_accept) for a thread.
    pub(crate) fn wait_to_accept(&self, lasting: bool) -> Option<Pass<'_>> {
        loop {
            if let Some(pass) = self.pass(lasting) {
                return Some(pass);
            }
            let phase = self.phase.get();
            if phase.is_leaving() {
                return None;
            }
            let changed = self.phase.listen();
            if self.phase.get() == phase && !self.is_open(lasting) {
                changed.wait();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When content moved last: a frame of it was sent, or received.
pub(crate) struct Progress {
    began: Instant,
    /// In nanoseconds after it.
    last: AtomicU64,
}

impl Progress {
    fn new() -> Progress {
        Progress { began: Instant::now(), last: AtomicU64::new(0) }
    }

    pub(crate) fn mark(&self) {
        // Five centuries fit.
        self.last.store(self.began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.began + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }
}

/// The freeze that is under way, if one is: a thread that takes a snapshot for one that was rolled back meanwhile must
/// hold nobody back.
#[derive(Default)]
pub(crate) struct Freeze(Mutex<Option<Wanted>>);

struct Wanted {
    attempt: u64,
    /// Who owns the content meanwhile; none in tests, where nobody else can.
    word: Option<Arc<SharedWord>>,
}

impl Freeze {
    pub(crate) fn begin(&self, attempt: u64, word: Option<Arc<SharedWord>>) {
        *lock(&self.0) = Some(Wanted { attempt, word });
    }

    /// Holds writers back, if the freeze of this attempt is still wanted.
    pub(crate) fn hold_back(&self, attempt: u64, hold: &Hold) -> bool {
        self.if_wanted(attempt, || hold.set(Holding::Frozen)).is_some()
    }

    pub(crate) fn is_wanted(&self, attempt: u64) -> bool {
        self.if_wanted(attempt, || ()).is_some()
    }

    /// Does this before a roll-back, or not at all.
    pub(crate) fn if_wanted<R>(&self, attempt: u64, act: impl FnOnce() -> R) -> Option<R> {
        let wanted = lock(&self.0);
        wanted.as_ref().is_some_and(|wanted| wanted.attempt == attempt).then(act)
    }

    /// Rolled back: writers write again.
    pub(crate) fn end(&self, hold: &Hold) {
        let mut wanted = lock(&self.0);
        *wanted = None;
        hold.set(Holding::Open);
    }

    /// Committed: nobody may hold back any more, and nobody reads here.
    pub(crate) fn give(&self, hold: &Hold) {
        let mut wanted = lock(&self.0);
        *wanted = None;
        hold.set(Holding::Given);
    }

    /// Whether the new process has the content already: it may write as soon as the word says so, and this process hears
    /// of it later.
    pub(crate) fn is_given(&self, hold: &Hold) -> bool {
        let wanted = lock(&self.0);
        match hold.get() {
            Holding::Frozen => {
                let word = wanted.as_ref().and_then(|wanted| wanted.word.as_ref());
                word.is_some_and(|word| word.owner() == Owner::Serving)
            }
            holding => holding == Holding::Given,
        }
    }

    /// Stopped: nobody may hold back any more.
    pub(crate) fn finish(&self) {
        *lock(&self.0) = None;
    }
}

/// What a freeze or a start waits for, for the report of one that takes too long.
#[derive(Default)]
pub(crate) struct Awaited(Mutex<Awaits>);

#[derive(Default)]
struct Awaits {
    /// Which attempt to upgrade; 0 is the start of this process.
    attempt: u64,
    what: Option<String>,
}

impl Awaited {
    /// From here on it is this attempt that counts: the thread of one that was rolled back may still be there.
    pub(crate) fn begin(&self, attempt: u64) {
        *lock(&self.0) = Awaits { attempt, what: None };
    }

    pub(crate) fn set(&self, attempt: u64, what: String) {
        self.put(attempt, Some(what));
    }

    pub(crate) fn set_nothing(&self, attempt: u64) {
        self.put(attempt, None);
    }

    fn put(&self, attempt: u64, what: Option<String>) {
        let mut awaits = lock(&self.0);
        if awaits.attempt == attempt {
            awaits.what = what;
        }
    }

    /// What is waited for at this moment.
    pub(crate) fn get(&self) -> Option<String> {
        lock(&self.0).what.clone()
    }
}

/// How this process came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nobody hands over.
    Cold,
    /// An old process has made its offer.
    Successor,
}

/// The first of these that is announced, and a way to wait for it.
#[derive(Default)]
pub(crate) struct Started {
    start: OnceLock<Start>,
    announced: Event,
}

impl Started {
    pub(crate) fn announce(&self, start: Start) {
        // The first one counts.
        let _ = self.start.set(start);
        self.announced.notify(usize::MAX);
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.start.get().is_some()
    }

    pub(crate) fn wait(&self) -> Start {
        loop {
            listener!(self.announced => announced);
            if let Some(start) = self.start.get() {
                return *start;
            }
            announced.wait();
        }
    }
}

/// What the library tells the control thread.
pub(crate) enum Note {
    /// There is memory for what is large in the content: the old process may freeze.
    RoomMade,
    /// A state was touched before its content was here: its name and the line.
    Touched(String),
    /// `main` has all of its parameters.
    SetupDone,
    /// A managed listener was polled for the first time, or dropped before: look whether any is left.
    Polled,
    /// The program says that it is ready.
    ReadyCalled,
    /// The content is here; with it, who drains and four descriptors for each.
    Restored(Vec<Earlier>, Vec<std::os::fd::OwnedFd>),
    RestoreFailed(String),
    /// All that a generation had passed before it went has been taken.
    Passed,
    /// An exclusive is being opened, which may take its time, or is open.
    Opens,
    /// The content ended before it was whole.
    ContentEnded(String),
    /// The snapshot of this attempt failed.
    FreezeFailed(u64, String),
    /// `main` has returned, or could not be started for this reason.
    MainEnded(Option<String>),
    /// `main` has returned and the last connection is done.
    Drained,
    /// The runtime gets round to new tasks.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    Beats,
    Upgrade(Reply),
}

/// Whoever asked for an upgrade, waiting for the truth.
#[derive(Clone, Default)]
pub(crate) struct Reply(Arc<Answer>);

#[derive(Default)]
struct Answer {
    result: Mutex<Option<Result<Upgraded, UpgradeError>>>,
    given: Event,
}

impl Reply {
    pub(crate) fn answer(self, result: Result<Upgraded, UpgradeError>) {
        *lock(&self.0.result) = Some(result);
        self.0.given.notify(usize::MAX);
    }

    pub(crate) async fn wait(self) -> Result<Upgraded, UpgradeError> {
        loop {
            listener!(self.0.given => given);
            if let Some(result) = lock(&self.0.result).take() {
                return result;
            }
            given.await;
        }
    }

    /// [`wait`](Self::wait) for a thread.
    pub(crate) fn block(self) -> Result<Upgraded, UpgradeError> {
        loop {
            listener!(self.0.given => given);
            if let Some(result) = lock(&self.0.result).take() {
                return result;
            }
            given.wait();
        }
    }
}

/// Notes for the control thread, and the bell that wakes it.
pub(crate) struct Mailbox {
    notes: Mutex<Vec<Note>>,
    bell: Arc<EventFd>,
}

impl Mailbox {
    fn new() -> std::io::Result<Mailbox> {
        Ok(Mailbox { notes: Mutex::default(), bell: Arc::new(EventFd::new()?) })
    }

    pub(crate) fn send(&self, note: Note) {
        lock(&self.notes).push(note);
        self.bell.ring();
    }

    /// All notes so far, in order.
    pub(crate) fn take(&self) -> Vec<Note> {
        self.bell.clear();
        std::mem::take(&mut *lock(&self.notes))
    }

    pub(crate) fn bell(&self) -> &Arc<EventFd> {
        &self.bell
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::fd;

    #[test]
    fn a_runtime_of_each_flavor_beats_for_another_thread() {
        fn beats(handle: &tokio::runtime::Handle, runs: impl FnOnce(Arc<Shared>)) {
            let shared = Shared::new(true).unwrap();
            assert!(!shared.beat(), "there is none yet");
            shared.runtime.set(handle.clone()).unwrap();
            std::thread::scope(|scope| scope.spawn(|| assert!(shared.beat())).join().unwrap());
            runs(Arc::clone(&shared));
            assert!(matches!(shared.notes.take()[..], [Note::Beats]));
        }
        fn until_heard(shared: &Shared) {
            fd::poll(&mut [fd::PollEntry::readable(shared.notes.bell().as_fd())], None).unwrap();
        }
        let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
        beats(one.handle(), |_| one.block_on(tokio::task::yield_now()));
        let local = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        beats(local.handle(), |_| local.block_on(tokio::task::yield_now()));
        let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        beats(many.handle(), |shared| until_heard(&shared));
    }
}
