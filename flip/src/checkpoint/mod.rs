//! Checkpoints: what the states of this process are, in files that outlast it, for a process that has no old one to ask.
//!
//! ```text
//! serving      every `checkpoint`, where something changed: writers held back ── states ──▶ file 0 ── sum, head
//!              the next time                                                  ── states ──▶ file 1 ── sum, head
//! handoff      what the freeze has sent, while the new process restores it;  the files go with the content
//! stop         the last one, after which nobody writes
//! cold start   the newest that is whole ── the schemas are matched, as in a handoff ──▶ states
//! ```
//!
//! Whoever owns the states has the first file locked (fcntl(2), advisory record locks). The kernel takes the lock back when that
//! process ends, so no pid has to be believed: who finds the file locked knows that an owner lives.

mod file;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use event_listener::Listener;
use nix::sys::memfd::MFdFlags;
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub(crate) use self::file::Stored;
use self::file::{Blank, Checkpoint, Draft, Head, Unfit};
#[cfg(feature = "fuzzing")]
pub(crate) use self::file::{fuzzed, seed};
use crate::entry;
use crate::error::Error;
use crate::live::{Holding, State};
use crate::log::say;
use crate::phase::Phase;
use crate::shared::Shared;
use crate::sys::fd;

/// How many files there are.
pub(crate) const FILES: usize = 2;
/// What the names of these files in the store begin with. A listener's name begins otherwise.
const STATE: &str = "flip-state.";
/// How many processes may end while they restore a checkpoint.
const ATTEMPTS: u32 = 2;
/// How long writers are held back for the sake of one who is inside of a closure, and when that is tried again.
const PATIENCE: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(100);
/// How long the last checkpoint waits for them.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// After so many turns that came to nothing that is said.
const LONG: u32 = 100;

/// What becomes of a checkpoint that was set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Aside {
    #[default]
    Keep,
    /// It is tried again.
    Restore,
    Drop,
}

/// Descriptors that a process was given at its start, under their names.
type Passed = Vec<(String, OwnedFd)>;

/// A file, under its name in the store.
#[derive(Clone)]
struct Named {
    name: String,
    file: Arc<File>,
}

/// The files on their way to the next process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Passing {
    names: [String; FILES],
    /// Of the checkpoint that the old process makes of what it sends.
    sequence: u64,
}

#[derive(Default)]
pub(crate) struct Checkpoints {
    /// Where this process writes; nothing where it keeps none, or a newer one has them.
    files: Mutex<Option<Files>>,
    /// What is to lie in the store. Never closed before the process ends: any close would give the lock back.
    stored: Mutex<Vec<Named>>,
    /// By which names something lay there at the start.
    before: Mutex<Vec<String>>,
    /// What a cold start goes on from.
    found: Mutex<Option<Found>>,
    /// The last one is made, and no other.
    ending: AtomicBool,
}

struct Files {
    files: [Named; FILES],
    /// Which one holds the newest.
    newest: usize,
    sequence: u64,
    /// This process has them locked.
    owned: bool,
    /// Why it cannot have them was said.
    said: bool,
}

struct Found {
    checkpoint: Checkpoint,
    /// Not asked for so far.
    left: Vec<String>,
    /// Of those that were, one is here.
    restored: bool,
}

/// What came of a turn.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing is to be done before the next time.
    Over,
    Again,
}

impl Checkpoints {
    /// Sorts what a cold start was passed: the rest is listeners.
    pub(crate) fn sort(passed: Passed) -> (Passed, Passed) {
        passed.into_iter().partition(|(name, _)| name.starts_with(STATE))
    }

    /// Looks at what lies in the store.
    ///
    /// # Errors
    /// A process that lives owns the states.
    pub(crate) fn find(&self, passed: Passed, wanted: bool, aside: Aside) -> Result<(), Error> {
        *self.before.lock() = passed.iter().map(|(name, _)| name.clone()).collect();
        let (mut lying, mut kept) = (vec![], vec![]);
        for (name, fd) in passed {
            let named = Named { name, file: Arc::new(File::from(fd)) };
            if wanted && let Ok(Some(pid)) = fd::locked_by(named.file.as_fd()) {
                return Err(lives(pid, &named.name));
            }
            match Head::read(&named.file) {
                Ok(head) => lying.push((named, head)),
                Err(Unfit::Unwritten) => {}
                Err(unfit @ (Unfit::Version(_) | Unfit::Unread(_))) => {
                    say!(warn, "`{}` from the store of descriptors is left there: {unfit}", named.name);
                    kept.push(named);
                }
                Err(unfit) => say!(warn, "`{}` from the store of descriptors is no checkpoint: {unfit}", named.name),
            }
        }
        if !wanted {
            if !lying.is_empty() {
                say!(
                    warn,
                    "a checkpoint of the state lies in the store of descriptors, and this program keeps none: it is dropped; \
                     write `store = state` to go on from it"
                );
            }
            *self.stored.lock() = kept;
            return Ok(());
        }
        lying.sort_by_key(|(_, head)| std::cmp::Reverse(head.sequence));
        // What is written from here on is newer than all that lies there.
        let sequence = lying.first().map_or(0, |(_, head)| head.sequence);
        let (current, asides) = choose(lying, aside);
        let mut found = None;
        for (named, _) in &current {
            match Checkpoint::read(&named.file) {
                Ok(checkpoint) => {
                    let left = checkpoint.names().map(str::to_owned).collect();
                    found = Some((named.clone(), Found { checkpoint, left, restored: false }));
                    break;
                }
                Err(unfit) => say!(warn, "`{}` from the store of descriptors is no checkpoint: {unfit}", named.name),
            }
        }
        let (first, found) = found.unzip();
        *self.found.lock() = found;
        kept.extend(asides);
        self.keep(first, sequence, kept);
        Ok(())
    }

    /// From here on these are kept: the file that the newest is in, and one more; and what is not to be touched.
    fn keep(&self, newest: Option<Named>, sequence: u64, mut stored: Vec<Named>) {
        let mut taken = self.before.lock().clone();
        // The store takes no second content under a name that it knows.
        let mut made = || {
            let name = (0_u32..).map(|number| format!("{STATE}{number}")).find(|name| !taken.contains(name));
            let name = name.expect("there is a number for each");
            taken.push(name.clone());
            let file = fd::memory_file(c"flip-state", MFdFlags::MFD_CLOEXEC)?;
            Ok::<_, std::io::Error>(Named { name, file: Arc::new(file.into()) })
        };
        let files = (|| {
            let first = newest.clone().map_or_else(&mut made, Ok)?;
            Ok::<_, std::io::Error>(Files { files: [first, made()?], newest: 0, sequence, owned: false, said: false })
        })();
        match files {
            Ok(files) => {
                stored.extend(files.files.iter().cloned());
                *self.files.lock() = Some(files);
            }
            Err(error) => {
                // What there is stays.
                stored.extend(newest);
                say!(warn, "no checkpoint can be made: {error}");
            }
        }
        self.stored.lock().extend(stored);
    }

    /// What is to lie in the store.
    pub(crate) fn stored(&self) -> Vec<(String, Arc<File>)> {
        self.stored.lock().iter().map(|Named { name, file }| (name.clone(), Arc::clone(file))).collect()
    }

    /// By which names something lay there at the start.
    pub(crate) fn stored_before(&self) -> Vec<String> {
        std::mem::take(&mut *self.before.lock())
    }

    // ---- a cold start

    /// What the state of this name goes on from, if there is something: its schema, and its bytes.
    pub(crate) fn take(&self, name: &str) -> Option<(Vec<u8>, Stored)> {
        let mut found = self.found.lock();
        let found = found.as_mut()?;
        found.left.retain(|left| left != name);
        found.checkpoint.find(name)
    }

    /// Restores one of them; who ends in it has tried.
    ///
    /// # Errors
    /// Those of `restore`, and what becomes of the checkpoint.
    pub(crate) fn trying<R>(&self, restore: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
        let found = self.found.lock();
        let Some((file, head)) =
            found.as_ref().map(|found| (Arc::clone(&found.checkpoint.file), found.checkpoint.head))
        else {
            return restore();
        };
        drop(found);
        head.note(head.attempts + 1, false, &file);
        let restored = restore().map_err(|error| {
            let what =
                if head.attempts + 1 < ATTEMPTS { "one more that fails sets it" } else { "the next start sets it" };
            format!("{error}; it is from {} ago and stays in the store: {what} aside and begins anew", age(head.age()))
        })?;
        head.note(head.attempts, false, &file);
        if let Some(found) = &mut *self.found.lock() {
            found.restored = true;
        }
        Ok(restored)
    }

    /// `main` has all of its parameters: says whether there is anything that goes on, and gives the names that nobody asked for.
    pub(crate) fn complete(&self) -> Vec<String> {
        let Some(found) = self.found.lock().take() else { return vec![] };
        if found.restored {
            say!(info, "the state goes on from the checkpoint of {} ago", age(found.checkpoint.head.age()));
        }
        found.left
    }

    // ---- a handoff

    /// The files for the new process, with their descriptors.
    pub(crate) fn passing(&self) -> Option<(Passing, [Arc<File>; FILES])> {
        let files = self.files.lock();
        let files = files.as_ref()?;
        let [first, second] = &files.files;
        let passing = Passing { names: [first.name.clone(), second.name.clone()], sequence: files.sequence + 1 };
        Some((passing, [Arc::clone(&first.file), Arc::clone(&second.file)]))
    }

    /// The old process writes what it has sent, and nobody else meanwhile: until `sent` has returned nothing is written.
    pub(crate) fn after<E>(
        &self,
        shared: &Shared,
        attempt: u64,
        sent: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut files = self.files.lock();
        sent()?;
        // It may be over before the first turn.
        let Some(files) = Files::owned(&mut files, shared) else { return Ok(()) };
        // After a roll-back writers write again.
        let is_wanted = || shared.freeze.is_wanted(attempt) || shared.hold.get() == Holding::Given;
        let written = entry::shielded(|| {
            let draft = files.blank().write(&storable(shared), &is_wanted)?;
            files.seal(draft, &is_wanted)
        });
        match written {
            _ if !is_wanted() => shared.hold.mark_written(),
            Ok(()) => {}
            Err(why) => say!(warn, "what was handed over is no checkpoint: {why}"),
        }
        Ok(())
    }

    /// What an old process has passed on.
    pub(crate) fn inherit(&self, passing: Passing, files: [OwnedFd; FILES]) {
        let mut names = passing.names.into_iter();
        let files = files.map(|fd| Named { name: names.next().expect("two of each"), file: Arc::new(File::from(fd)) });
        self.before.lock().extend(files.iter().map(|one| one.name.clone()));
        self.stored.lock().extend(files.iter().cloned());
        *self.files.lock() = Some(Files { files, newest: 0, sequence: passing.sequence, owned: false, said: false });
    }

    /// Leaves them to the newer process, which waits for that.
    pub(crate) fn leave(&self) {
        if let Some(files) = self.files.lock().take() {
            files.unlock();
        }
    }

    // ---- while this process serves

    /// Makes them from here on, on a thread of its own, until this process leaves.
    pub(crate) fn start(shared: &Arc<Shared>, every: Duration) {
        let checkpoints = &shared.checkpoints;
        let has_files = checkpoints.files.lock().is_some() || !checkpoints.stored.lock().is_empty();
        if !has_files {
            checkpoints.keep(None, 0, vec![]);
        }
        for state in shared.states.all().iter().filter(|state| !state.is_storable()) {
            say!(
                warn,
                "the state `{}` has descriptors or a Region, which no checkpoint can hold: after a crash it begins anew",
                state.name()
            );
        }
        let shared = Arc::clone(shared);
        let started = std::thread::Builder::new()
            .name("flip-checkpoint".into())
            .stack_size(crate::control::STACK)
            .spawn(move || shared.checkpoints.run(&shared, every));
        if let Err(error) = started {
            say!(warn, "no checkpoint will be made: {error}");
        }
    }

    /// None are made.
    pub(crate) fn forget(&self) {
        if let Some(files) = self.files.lock().take() {
            self.stored.lock().retain(|one| files.files.iter().all(|file| file.name != one.name));
        }
    }

    fn run(&self, shared: &Shared, every: Duration) {
        let (mut due, mut again) = (Some(Instant::now()), 0);
        loop {
            let changed = shared.phase.listen();
            match shared.phase.get() {
                Phase::HandedOff => return self.leave(),
                _ if self.ending.load(Ordering::SeqCst) => return,
                Phase::Serving | Phase::Stopping => {
                    if due.is_some_and(|due| due <= Instant::now()) {
                        let over = self.turn(shared) == Turn::Over;
                        again = if over { 0 } else { again + 1 };
                        if again == LONG {
                            say!(
                                warn,
                                "no checkpoint can be made: somebody is inside of a state all the time, or the process before \
                                 does not end"
                            );
                        }
                        // What lies beyond the clock's end never comes.
                        due = Instant::now().checked_add(if over { every } else { AGAIN.min(every) });
                    }
                    match due {
                        Some(due) => drop(changed.wait_deadline(due)),
                        None => changed.wait(),
                    }
                }
                Phase::Starting | Phase::Frozen => changed.wait(),
                Phase::Cut | Phase::Over => return,
            }
        }
    }

    fn turn(&self, shared: &Shared) -> Turn {
        let mut files = self.files.lock();
        let Some(files) = Files::owned(&mut files, shared) else { return Turn::Again };
        if !shared.hold.is_written() {
            return Turn::Over;
        }
        let is_wanted =
            || matches!(shared.phase.get(), Phase::Serving | Phase::Stopping) && !self.ending.load(Ordering::SeqCst);
        let (blank, states) = (files.blank(), storable(shared));
        let _entered = shared.enter();
        let made = entry::shielded(|| {
            let Some(_paused) = Paused::begin(shared, PATIENCE) else { return Ok(None) };
            shared.hold.forget_written();
            blank.write(&states, &is_wanted).map(Some)
        });
        // Writers write again.
        let made = made.and_then(|draft| draft.map(|draft| files.seal(draft, &is_wanted)).transpose());
        match made {
            Ok(Some(())) => Turn::Over,
            Ok(None) => Turn::Again,
            Err(why) => {
                shared.hold.mark_written();
                if is_wanted() {
                    say!(warn, "no checkpoint can be made: {why}; the one before counts");
                }
                Turn::Over
            }
        }
    }

    /// The last one. From here on nobody changes anything, and whoever tries is told.
    pub(crate) fn finish(&self, shared: &Shared) {
        // One that is being made gives way.
        self.ending.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + LAST_PATIENCE;
        let mut files = self.files.lock();
        let Some(files) = files.as_mut() else { return };
        // The process before may be about to go; fcntl(2) waits for a lock for ever, or not at all.
        while !files.own(shared) && Instant::now() < deadline {
            std::thread::sleep(LAST_PATIENCE / 100);
        }
        let made = entry::shielded(|| {
            if !files.owned {
                return Err("the process before still has the files".to_owned());
            }
            let blank = files.blank();
            let Some(paused) = Paused::begin(shared, LAST_PATIENCE) else {
                return Err("somebody is inside of a state".to_owned());
            };
            let is_wanted = || true;
            let draft = if shared.hold.is_written() { Some(blank.write(&storable(shared), &is_wanted)?) } else { None };
            paused.for_good();
            draft.map(|draft| files.seal(draft, &is_wanted)).transpose()
        });
        if let Err(why) = made {
            say!(warn, "the last checkpoint could not be made: {why}; the one before counts");
        }
        files.unlock();
    }
}

impl Files {
    fn owned<'f>(files: &'f mut Option<Files>, shared: &Shared) -> Option<&'f mut Files> {
        let files = files.as_mut()?;
        files.own(shared).then_some(files)
    }

    /// Whether this process owns them, or comes to, now that no other does.
    fn own(&mut self, shared: &Shared) -> bool {
        let locked = if self.owned { Ok(false) } else { fd::lock(self.files[0].file.as_fd()) };
        if let Err(error) = &locked
            && !std::mem::replace(&mut self.said, true)
        {
            say!(warn, "no checkpoint can be made: its file cannot be locked: {error}");
        }
        if let Ok(true) = locked {
            self.owned = true;
            let heads = self.files.each_ref().map(|one| Head::read(&one.file).ok());
            let sequence = |at: usize| heads[at].map_or(0, |head: Head| head.sequence);
            self.newest = usize::from(sequence(1) > sequence(0));
            if let Some(head) = heads[self.newest].filter(|head| head.attempts > 0) {
                // It has brought a process to where it serves.
                head.note(0, false, &self.files[self.newest].file);
            }
            // What the old process has sent lies there, if it came to writing it.
            if sequence(self.newest) == 0 || sequence(self.newest) != self.sequence {
                shared.hold.mark_written();
            }
            self.sequence = self.sequence.max(sequence(self.newest));
        }
        self.owned
    }

    fn unlock(&self) {
        fd::unlock(self.files[0].file.as_fd());
    }

    fn next(&self) -> &Arc<File> {
        &self.files[1 - self.newest].file
    }

    fn blank(&self) -> Blank {
        Blank::of(self.next())
    }

    fn seal(&mut self, draft: Draft, is_wanted: &dyn Fn() -> bool) -> Result<(), String> {
        let sealed = draft.seal(self.next(), self.sequence + 1, is_wanted);
        sealed.map_err(|error| format!("it cannot be written: {error}"))?;
        self.sequence += 1;
        self.newest = 1 - self.newest;
        Ok(())
    }
}

fn storable(shared: &Shared) -> Vec<Arc<dyn State>> {
    shared.states.all().into_iter().filter(|state| state.is_storable()).collect()
}

/// Nobody writes, in any of the states, until this is dropped.
struct Paused<'a>(&'a Shared);

impl Paused<'_> {
    fn begin(shared: &Shared, patience: Duration) -> Option<Paused<'_>> {
        // A freeze that is under way has a checkpoint of its own.
        if shared.hold.get() != Holding::Open {
            return None;
        }
        let deadline = Instant::now() + patience;
        shared.hold.set_paused(true);
        let paused = Paused(shared);
        // A call of an earlier generation's holds no lock of this process.
        let settled =
            shared.hold.settle_calls_by(deadline) && storable(shared).iter().all(|state| state.settle_by(deadline));
        settled.then_some(paused)
    }

    fn for_good(self) {
        self.0.hold.set(Holding::Given);
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.hold.set_paused(false);
    }
}

/// Which of those that lie there, the newest first, are to be gone on from, and which stay aside.
fn choose(lying: Vec<(Named, Head)>, aside: Aside) -> (Vec<(Named, Head)>, Vec<Named>) {
    let is_poisoned = |(_, head): &(Named, Head)| head.attempts >= ATTEMPTS;
    let (mut asides, mut current): (Vec<_>, Vec<_>) = lying.into_iter().partition(|(_, head)| head.aside);
    if aside == Aside::Drop {
        asides.clear();
    }
    if aside == Aside::Restore && asides.iter().any(is_poisoned) {
        if let Some((_, head)) = current.first() {
            say!(
                warn,
                "the state that was set aside is tried again (FLIP_ASIDE=restore), and what it was since, until {} ago, is set \
                 aside instead; FLIP_ASIDE=drop drops that",
                age(head.age())
            );
        }
        std::mem::swap(&mut current, &mut asides);
        note(&mut current, false);
        note(&mut asides, true);
    } else if let Some((_, head)) = current.first().filter(|newest| is_poisoned(newest)) {
        say!(
            error,
            "the checkpoint of {} ago has ended {ATTEMPTS} processes that restored it, and is set aside: {}. \
             FLIP_ASIDE=restore has it tried again, by a program that can read it; FLIP_ASIDE=drop drops it",
            age(head.age()),
            if asides.iter().all(is_poisoned) {
                "the state begins anew"
            } else {
                "the state is what was aside until now"
            }
        );
        // The one before it is older than what is aside already, if there is something.
        current.truncate(1);
        std::mem::swap(&mut current, &mut asides);
        note(&mut asides, true);
        // What is poisoned as well gives way.
        current.retain(|one| !is_poisoned(one));
        note(&mut current, false);
    } else if let Some((Named { name, .. }, head)) = asides.first() {
        say!(
            warn,
            "a checkpoint of {} ago that was set aside lies in the store of descriptors (`{name}`); {}FLIP_ASIDE=drop drops it",
            age(head.age()),
            // What was live until it gave way to one that was tried again is not.
            if asides.iter().any(is_poisoned) { "FLIP_ASIDE=restore has it tried again, " } else { "" }
        );
    }
    (current, asides.into_iter().map(|(named, _)| named).collect())
}

/// Notes in each whether it is aside. What was aside and is to be tried has no attempts behind it.
fn note(files: &mut [(Named, Head)], aside: bool) {
    for (named, head) in files {
        head.aside = aside;
        head.attempts = if aside { head.attempts } else { 0 };
        head.note(head.attempts, aside, &named.file);
    }
}

fn lives(pid: Pid, name: &str) -> Error {
    let (who, end) = match pid.as_raw() {
        // It is of another pid namespace, fcntl(2).
        0 => ("a process outside of this pid namespace".to_owned(), String::new()),
        pid => (format!("pid {pid}"), format!(" (kill {pid})")),
    };
    Error::program(format!(
        "{who} lives and owns the state that lies in the store of descriptors as `{name}`: two processes would change it. \
         End that one{end}, which leaves its newest state there, and start this one again"
    ))
}

/// `0.3 s`, `12 s`, `5 min`, `3 h`.
fn age(age: Duration) -> String {
    match age.as_secs() {
        0..10 => format!("{:.1} s", age.as_secs_f64()),
        10..120 => format!("{} s", age.as_secs()),
        120..7200 => format!("{} min", age.as_secs() / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests;
