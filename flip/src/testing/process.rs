//! Two processes of a service inside of one: their content goes through the same freeze, socket and restore as between real
//! ones. What starts a process, decides and counts time elsewhere is not here.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use super::HandoffError;
use crate::control::{Earlier, STACK, Sockets, freeze_and_send, receive_and_restore, send_sizes, serve_draining};
use crate::entry::block_on;
use crate::error::{BoxError, chain};
use crate::handoff::Handoff;
use crate::live::{Forwarder, Holding, Live};
use crate::params::Setup;
use crate::phase::Phase;
use crate::protocol::Typed;
use crate::relay::Relay;
use crate::shared::{Note, Shared, Start};
use crate::sys::fd::{self, EventFd, PollEntry, poll};

/// At most so long from the start of a new process to its being ready, as `ready_timeout` is if nothing is said.
const READY: Duration = Duration::from_secs(60);
/// What handlers that run would be given: there are none.
const QUIESCE: Duration = Duration::ZERO;

/// One process of a service, for tests: it has states, and hands them over to the next one, all of it in the process of the
/// test.
///
/// ```
/// use flip::{Apply, Handoff, testing::Process};
///
/// #[derive(Default, Handoff)]
/// #[handoff(calls(Hit))]
/// struct Visits { total: u64 }
///
/// #[derive(Handoff)]
/// struct Hit;
///
/// impl Apply<Hit> for Visits {
///     type Answer = u64;
///     fn apply(&mut self, _: Hit) -> u64 {
///         self.total += 1;
///         self.total
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let old = Process::new();
/// let visits = old.live("visits", Visits { total: 6 })?;
///
/// // What `main` of the new process asks for. It gets what the old one has, and its own first value where that has none.
/// let (new, theirs) = old.hand_over(|new| Ok(new.live("visits", Visits::default())?))?;
/// assert_eq!(theirs.read(|visits| visits.total)?, 6);
///
/// // In the old process, requests may still be on their way.
/// assert!(visits.update(|visits| visits.total += 1).is_err());
/// assert_eq!(visits.call(Hit).await?, 7);
/// assert_eq!(theirs.read(|visits| visits.total)?, 7);
///
/// // A `main` that fails is rolled back: nothing has changed.
/// let error = new.hand_over(|_| Err::<(), _>("no such database".into())).err().unwrap();
/// assert_eq!(error.to_string(), "refused before the freeze: no such database");
/// assert_eq!(theirs.update(|visits| visits.total += 1), Ok(()));
/// # Ok::<(), flip::BoxError>(()) }).unwrap();
/// ```
///
/// The states go the way that they go between processes: schemas, freeze, a socket with descriptors, restore, commit, calls
/// that are forwarded. The types may differ, as between releases. Listeners, [`Exclusive`](crate::Exclusive), signals and deaths
/// need real processes, and are not part of it.
pub struct Process {
    shared: Arc<Shared>,
    setup: Setup,
    /// How many handoffs were tried; locked while one is.
    attempts: Mutex<u64>,
    earlier: Mutex<Vec<Drains>>,
    /// The thread that serves those, and what ends it.
    serving: Mutex<Option<(Arc<EventFd>, JoinHandle<()>)>>,
}

/// An earlier generation, and its sockets.
type Drains = (Earlier, Vec<OwnedFd>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("generation", &self.shared.generation()).finish_non_exhaustive()
    }
}

impl Default for Process {
    fn default() -> Process {
        Process::new()
    }
}

/// Why a handoff did not happen.
enum Failed {
    /// `main` has ended, with an error or a panic of its own.
    Main {
        frozen: bool,
    },
    Handoff(HandoffError),
}

impl Process {
    /// The first process of a service.
    ///
    /// # Panics
    /// Where there is no descriptor left.
    pub fn new() -> Process {
        Process::start(Start::Cold).expect("a process needs a descriptor")
    }

    fn start(start: Start) -> io::Result<Process> {
        let shared = Shared::new(start == Start::Cold)?;
        #[cfg(feature = "tokio")]
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nobody else sets it.
            let _ = shared.runtime.set(runtime);
        }
        let setup = Setup::new(&shared, start);
        let (attempts, earlier, serving) = Default::default();
        Ok(Process { shared, setup, attempts, earlier, serving })
    }

    /// A state, as a parameter `name: Live<T>` of `main` is one: what the old process has under this name, and otherwise `init`.
    ///
    /// # Errors
    /// The state of the old process cannot become a `T`; or there is one of this name here already.
    pub fn live<T: Handoff + Send + Sync + 'static>(&self, name: &str, init: T) -> Result<Live<T>, HandoffError> {
        let live = block_on(self.setup.live(name, std::future::ready(Ok(init))));
        live.map_err(|error| HandoffError::BeforeFreeze(chain(&error)))
    }

    /// A relay, as a parameter `name: Relay<T>` of `main` is one: what an earlier process passes arrives here.
    ///
    /// # Errors
    /// What the old process would pass cannot be read as a `T`; or there is one of this name here already.
    pub fn relay<T: Handoff>(&self, name: &str) -> Result<Relay<T>, HandoffError> {
        self.setup.relay(name).map_err(|error| HandoffError::BeforeFreeze(chain(&error)))
    }

    /// Hands all states over to a new process, whose `main` this runs on the calling thread; gives the new process and what `main`
    /// returned.
    ///
    /// Afterwards the handles of this process say [`HandedOff`](crate::HandedOff), and their calls are forwarded for as long as the
    /// new process is there. States that `main` does not ask for are dropped.
    ///
    /// A touch of a state in `main` starts the freeze early, as in a real process. What waits there until the process serves
    /// ([`Live::update`], say) waits for the end of `main`, so it is rolled back after a minute.
    ///
    /// # Errors
    /// `main` failed, or a state cannot be handed over. Then this process goes on, and handles of the new one say `HandedOff`.
    ///
    /// # Panics
    /// When `main` does, after the roll-back; if the handoff had failed already, why is on standard error. Where there is no
    /// descriptor left, or no thread.
    pub fn hand_over<R>(
        &self,
        main: impl FnOnce(&Process) -> Result<R, BoxError>,
    ) -> Result<(Process, R), HandoffError> {
        self.hand_over_by(main, Process::drive)
    }

    fn hand_over_by<R>(
        &self,
        main: impl FnOnce(&Process) -> Result<R, BoxError>,
        drive: fn(&Process, &Process, u64) -> Result<(), Failed>,
    ) -> Result<(Process, R), HandoffError> {
        let busy = |why: &str| Err(HandoffError::BeforeFreeze(why.to_owned()));
        let mut attempts = match self.attempts.try_lock() {
            Ok(attempts) => attempts,
            // It panicked, and was rolled back.
            Err(TryLockError::Poisoned(attempts)) => attempts.into_inner(),
            Err(TryLockError::WouldBlock) => return busy("this process is handing over already"),
        };
        if self.shared.hold.get() != Holding::Open {
            return busy("this process has handed over already");
        }
        *attempts += 1;
        let attempt = *attempts;
        let new = Process::start(Start::Successor).expect("a process needs a descriptor");
        new.shared.generation.store(self.shared.generation() + 1, Ordering::Relaxed);
        let states = self.shared.states.schemas().into_iter();
        new.shared.states.offered(states.map(|(name, schema)| (name, schema.encode())));
        let relays = self.shared.relays.all().into_iter();
        new.shared.relays.offered(relays.map(|relay| (relay.name().to_string(), relay.schema().encode())));
        let (made, driven) = thread::scope(|scope| {
            let control = scope.spawn(|| self.control(&new, || drive(self, &new, attempt)));
            let made = catch_unwind(AssertUnwindSafe(|| main(&new)));
            if matches!(made, Ok(Ok(_))) {
                new.setup.complete();
            } else {
                new.shared.states.complete();
                new.shared.notes.send(Note::MainEnded(None));
            }
            (made, control.join())
        });
        let driven = match (made, driven) {
            // An assertion says more than what followed from it, or led to it.
            (Err(panic), driven) => {
                if let Ok(Err(Failed::Handoff(error))) = driven {
                    crate::log::print(format_args!("before `main` panicked, its handoff was {error}"));
                }
                resume_unwind(panic)
            }
            (_, Err(panic)) => resume_unwind(panic),
            (Ok(made), Ok(driven)) => (made, driven),
        };
        match driven {
            // `main` may have failed because of it.
            (_, Err(Failed::Handoff(error))) => Err(error),
            (Ok(value), _) => Ok((new, value)),
            (Err(error), driven) => Err(match error.downcast() {
                Ok(error) => *error,
                Err(error) if matches!(driven, Err(Failed::Main { frozen: true })) => {
                    HandoffError::RolledBack(chain(&*error))
                }
                Err(error) => HandoffError::BeforeFreeze(chain(&*error)),
            }),
        }
    }

    /// What the control threads of both do, on a thread of its own.
    fn control(&self, new: &Process, drive: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
        let result = catch_unwind(AssertUnwindSafe(drive));
        if !matches!(result, Ok(Ok(()))) {
            self.shared.freeze.end(&self.shared.hold);
            self.shared.relays.wake();
            // Nobody waits for what will not come.
            new.shared.hold.set(Holding::Given);
            new.shared.relays.give_up();
            new.give_up();
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn drive(&self, new: &Process, attempt: u64) -> Result<(), Failed> {
        let rolled_back = |why: String| Err(Failed::Handoff(HandoffError::RolledBack(why)));
        let mut notes = Notes { shared: &new.shared, taken: VecDeque::new(), deadline: Instant::now() + READY };
        let mut is_done = loop {
            match notes.next() {
                Some(Note::SetupDone) => break true,
                Some(Note::Touched(_)) => break false,
                Some(Note::MainEnded(_)) => return Err(Failed::Main { frozen: false }),
                Some(_) => {}
                None => return rolled_back(notes.too_slow()),
            }
        };
        let (ours, theirs) = fd::stream_pair().expect("a handoff needs descriptors");
        let (calls, their_calls) = fd::seqpacket_pair().expect("a handoff needs descriptors");
        let (_, their_passes) = fd::seqpacket_pair().expect("a handoff needs descriptors");
        let duplicate = |(earlier, fds): &Drains| {
            (earlier.clone(), fds.iter().map(|fd| fd.try_clone().expect("a handoff needs descriptors")).collect())
        };
        let earlier = self.earlier().iter().map(duplicate).collect();

        self.shared.freeze.begin(attempt, None);
        let sent = thread::scope(|scope| {
            let freezer = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
                // Closed when it is done, or could not.
                let ours = ours;
                send_sizes(&self.shared, ours.as_fd());
                let _entered = self.shared.enter();
                crate::entry::shielded(|| freeze_and_send(&self.shared, attempt, ours.as_fd(), earlier, QUIESCE))
            });
            let freezer = freezer.expect("a handoff needs a thread");
            receive_and_restore(&new.shared, theirs);
            freezer.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        let mut drains = None;
        while drains.is_none() || !is_done {
            match notes.next() {
                Some(Note::SetupDone) => is_done = true,
                Some(Note::Restored(earlier, fds)) => drains = Some((earlier, fds)),
                Some(Note::ContentEnded(why)) => return rolled_back(sent.err().unwrap_or(why)),
                Some(Note::RestoreFailed(why)) => return rolled_back(why),
                Some(Note::MainEnded(_)) => return Err(Failed::Main { frozen: true }),
                Some(_) => {}
                None => return rolled_back(notes.too_slow()),
            }
        }

        let (earlier, fds) = drains.expect("the loop ends with it");
        let mut fds = fds.into_iter();
        let mut sockets = |earlier: &Earlier| fds.by_ref().take(earlier.descriptors()).collect();
        let fds: Vec<Vec<OwnedFd>> = earlier.iter().map(&mut sockets).collect();
        let mut all: Vec<Drains> = earlier.into_iter().zip(fds).collect();
        // There is neither a channel nor a handle of a process, nobody looks for one, and no connection is passed.
        let nobody = || their_passes.try_clone().expect("a handoff needs descriptors");
        let pid = std::process::id().cast_signed();
        let mut this = Earlier { pid, generation: self.shared.generation(), relays: vec![] };
        let mut fds = vec![nobody(), nobody(), their_calls, nobody()];
        for relay in self.shared.relays.all() {
            let (ours, theirs) = fd::seqpacket_pair().expect("a handoff needs descriptors");
            relay.open(Some(ours));
            this.relays.push(Typed { name: relay.name().to_string(), schema: relay.schema().encode() });
            fds.push(theirs);
        }
        all.push((this, fds));
        *new.earlier() = all;

        let forwarder = Forwarder::start(calls).expect("a handoff needs a thread");
        // Nobody else sets it, and nobody hands over twice.
        let _ = self.shared.forwarder.set(forwarder);
        self.shared.freeze.give(&self.shared.hold);
        self.shared.relays.give_up();
        self.shared.phase.set(Phase::HandedOff);
        self.stop_serving();
        new.shared.hold.set(Holding::Open);
        new.shared.relays.wake();
        new.serve();
        self.give_up();
        Ok(())
    }

    fn earlier(&self) -> std::sync::MutexGuard<'_, Vec<Drains>> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the content.
    fn give_up(&self) {
        let _entered = self.shared.enter();
        self.shared.states.all().iter().for_each(|state| state.give_up());
    }

    /// Applies the calls of the earlier generations.
    fn serve(&self) {
        let stop = Arc::new(EventFd::new().expect("a handoff needs descriptors"));
        let earlier = self.earlier();
        let sockets = earlier.iter().map(|(earlier, fds)| {
            let copies = fds.iter().skip(2).map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
            let mut copies = copies.into_iter();
            let mut next = || copies.next().expect("their number was looked at");
            let (calls, passes) = (next(), next());
            Sockets::new(calls, passes, earlier.relays.iter().cloned().zip(copies))
        });
        let sockets = sockets.collect::<io::Result<Vec<_>>>().expect("a handoff needs descriptors");
        self.shared.arrivals.set_sources(sockets.len());
        let (shared, stops) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
            let _entered = shared.enter();
            serve_draining(&shared, sockets, &stops);
        });
        let thread = thread.expect("a handoff needs a thread");
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, thread));
    }

    fn stop_serving(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = serving {
            stop.ring();
            // It has reported its panic.
            let _ = thread.join();
        }
        self.earlier().clear();
    }
}

/// Calls from earlier processes are lost from here on.
impl Drop for Process {
    fn drop(&mut self) {
        self.stop_serving();
    }
}

/// What a new process says.
struct Notes<'a> {
    shared: &'a Shared,
    taken: VecDeque<Note>,
    deadline: Instant,
}

impl Notes<'_> {
    /// The next one; nothing where the deadline passes.
    fn next(&mut self) -> Option<Note> {
        loop {
            self.taken.extend(self.shared.notes.take());
            if let Some(note) = self.taken.pop_front() {
                return Some(note);
            }
            let left = self.deadline.checked_duration_since(Instant::now())?;
            let mut bell = [PollEntry::readable(self.shared.notes.bell().as_fd())];
            poll(&mut bell, Some(left)).expect("a poll of one descriptor");
        }
    }

    fn too_slow(&self) -> String {
        format!(
            "`main` of the new process did not get ready within {} s: does it wait until it serves?",
            READY.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{Apply, CallError, HandedOff, Region};

    #[derive(Debug, Default, PartialEq, flip::Handoff)]
    #[handoff(calls(Hit))]
    struct Visits {
        total: u64,
    }

    #[derive(flip::Handoff)]
    struct Hit;

    impl Apply<Hit> for Visits {
        type Answer = u64;
        fn apply(&mut self, _: Hit) -> u64 {
            self.total += 1;
            self.total
        }
    }

    mod next {
        #[derive(Default, flip::Handoff)]
        pub(super) struct Visits {
            #[handoff(alias = "total")]
            pub(super) count: u8,
        }
    }

    #[derive(Default, flip::Handoff)]
    struct Peers {
        open: Vec<UnixStream>,
        seen: Region,
    }

    #[test]
    fn states_go_on_with_their_descriptors_and_memory() {
        let old = Process::new();
        let visits = old.live("visits", Visits { total: 7 }).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let seen = Region::try_from(&b"before"[..]).unwrap();
        let peers = old.live("peers", Peers { open: vec![theirs], seen }).unwrap();
        let gone = old.live("gone", 1_u8).unwrap();

        let (new, (visits_there, peers_there, fresh)) = old
            .hand_over(|new| {
                let peers = new.live("peers", Peers::default())?;
                let visits = new.live("visits", next::Visits::default())?;
                // As in a real process, a touch brings the content before everything is asked for.
                assert_eq!(visits.read(|visits| visits.count)?, 7);
                Ok((visits, peers, new.live("fresh", "first".to_owned())?))
            })
            .unwrap();
        assert_eq!(visits.read(|visits| visits.total), Err(HandedOff));
        assert_eq!(peers.update(|_| ()), Err(HandedOff));
        assert_eq!(gone.read(|_| ()), Err(HandedOff));
        assert_eq!(fresh.read(String::clone), Ok("first".to_owned()));
        visits_there.update(|visits| visits.count += 1).unwrap();
        peers_there
            .update(|peers| {
                peers.open[0].write_all(b"hello").unwrap();
                peers.seen.extend_from_slice(b" and after").unwrap();
            })
            .unwrap();
        // Nobody else has the other end.
        drop((new, peers_there.update(|peers| peers.open.clear())));
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(peers_there.read(|peers| peers.seen.to_vec()).unwrap(), b"before and after");
        assert_eq!(visits_there.read(|visits| visits.count), Ok(8));
    }

    #[test]
    fn calls_of_all_generations_reach_the_owner() {
        let main = |process: &Process| Ok(process.live("visits", Visits::default())?);
        let first = Process::new();
        let one = main(&first).map_err(|error: BoxError| error).unwrap();
        let (second, two) = first.hand_over(main).unwrap();
        assert_eq!(block_on(one.call(Hit)), Ok(1));
        let (third, three) = second.hand_over(main).unwrap();
        assert_eq!(block_on(one.call(Hit)), Ok(2));
        assert_eq!(block_on(two.call(Hit)), Ok(3));
        assert_eq!(block_on(three.call(Hit)), Ok(4));
        drop(second);
        assert_eq!(block_on(one.call(Hit)), Ok(5));
        drop(third);
        assert_eq!(block_on(one.call(Hit)), Err(CallError::Lost));
        assert!(first.hand_over(main).is_err_and(|error| error.to_string().ends_with("handed over already")));
    }

    #[test]
    fn what_fails_is_rolled_back_and_says_when_it_was_found() {
        let old = Process::new();
        let visits = old.live("visits", Visits { total: 1 << 32 }).unwrap();
        let twice = old.live("visits", 1_u8).unwrap_err();
        assert!(twice.to_string().ends_with("two states have the name `visits`: each needs its own"), "{twice}");
        mod other {
            #[derive(flip::Handoff)]
            pub(super) struct Hit;
        }
        #[derive(Default, flip::Handoff)]
        #[handoff(calls(Hit, other::Hit))]
        struct Both;
        impl Apply<Hit> for Both {
            type Answer = ();
            fn apply(&mut self, _: Hit) {}
        }
        impl Apply<other::Hit> for Both {
            type Answer = ();
            fn apply(&mut self, _: other::Hit) {}
        }
        let both = old.live("both", Both).unwrap_err().to_string();
        assert!(both.contains("two calls of the state `both` cannot be told apart: `"), "{both}");
        let still_here = |total| assert_eq!(block_on(visits.call(Hit)), Ok((1_u64 << 32) + total));

        let error = old.hand_over(|new| Ok(new.live("visits", String::new())?)).unwrap_err();
        let HandoffError::BeforeFreeze(why) = &error else { panic!("{error}") };
        assert!(why.starts_with("the state `visits` of the running process cannot become what it is here: `"), "{why}");
        still_here(1);

        let error = old.hand_over(|new| Ok(new.live("visits", next::Visits::default())?)).unwrap_err();
        let why = "visits: Visits.total: 4294967297, u64 in the running process, does not fit into u8 here: keep u64, \
                   or convert the field, from the type that it had: `#[handoff(from = \"…\", migrate = …)]`";
        assert_eq!(error, HandoffError::RolledBack(why.to_owned()));
        still_here(2);

        // Whoever waits for content that does not come is let go.
        let error = old.hand_over(|new| {
            let visits = new.live("visits", next::Visits::default())?;
            Ok(visits.read(|_| ())?)
        });
        assert!(matches!(&error, Err(HandoffError::RolledBack(why)) if why.contains("does not fit")), "{error:?}");
        still_here(3);

        let mut there = None;
        let error = old.hand_over(|new| {
            let visits = there.insert(new.live("visits", Visits::default())?);
            assert_eq!(visits.read(|visits| visits.total)?, (1 << 32) + 3);
            Err::<(), _>("no such database".into())
        });
        assert_eq!(error.unwrap_err(), HandoffError::RolledBack("no such database".to_owned()));
        assert_eq!(there.unwrap().update(|_| ()), Err(HandedOff));
        still_here(4);

        let error = old.hand_over(|_| old.hand_over(|_| Ok(())).map(drop).map_err(BoxError::from)).unwrap_err();
        assert_eq!(error, HandoffError::BeforeFreeze("this process is handing over already".to_owned()));

        let panic_of = |hand_over: &dyn Fn()| {
            let panicked = catch_unwind(AssertUnwindSafe(hand_over)).unwrap_err();
            panicked.downcast_ref::<&str>().map(|text| (*text).to_owned())
        };
        let text = panic_of(&|| drop(old.hand_over(|_| -> Result<(), BoxError> { panic!("there") })));
        assert_eq!(text.as_deref(), Some("there"));
        still_here(5);

        // Also where the handoff had failed before.
        let text = panic_of(&|| {
            drop(old.hand_over(|new| -> Result<(), BoxError> {
                assert_eq!(new.live("visits", next::Visits::default())?.read(|_| ()), Err(HandedOff));
                panic!("an assertion")
            }))
        });
        assert_eq!(text.as_deref(), Some("an assertion"));
        still_here(6);

        // Whatever happens on the way, nobody waits for ever.
        let text = panic_of(&|| {
            let main = |new: &Process| Ok(new.live("visits", Visits::default())?.read(|visits| visits.total)?);
            drop(old.hand_over_by(main, |_, _, _| panic!("no descriptor is left")));
        });
        assert_eq!(text.as_deref(), Some("no descriptor is left"));
        still_here(7);

        let (new, _) = old.hand_over(|new| Ok(new.live("visits", Visits::default())?)).unwrap();
        still_here(8);
        drop(new);
    }
}
