//! The control thread: events in, actions out. It decides nothing (the protocol does), takes no lock of the user's and
//! runs no code of the user's, so that a handoff, a stop and a report work while every worker is blocked.

mod content;
mod draining;
mod link;
mod supervisor;

use std::collections::{HashMap, VecDeque};
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

pub(crate) use self::content::{Earlier, freeze_and_send, receive_and_restore, send_sizes};
#[cfg(feature = "fuzzing")]
pub(crate) use self::content::{header, sizes};
pub(crate) use self::draining::{Sockets, serve_draining};
use self::link::Link;
use crate::config::{Ready, Settings};
use crate::drain::{Leaving, report_due};
use crate::entry;
use crate::handle::{UpgradeError, Upgraded};
use crate::listen::{InheritedSocket, Listeners};
use crate::live::{Forwarder, Holding};
use crate::log::say;
use crate::memory;
use crate::pass::Passer;
use crate::phase::Phase;
use crate::pid_file::PidFile;
use crate::protocol::{
    Action, Content, Deadline, Event, Hello, Message, NoWord, OFFER_FIXED, OLDEST, Offer, Old, Owner, Process, Reason,
    Refusal, State, Typed, VERSION, Waiting, Word, packets,
};
use crate::relay::Looked;
use crate::shared::{Note, Reply, Shared, Start};
use crate::sys::env::{self, Origin};
use crate::sys::fd::{self, EventFd, Pidfd, PollEntry, SharedWord};
use crate::sys::oom::First;
use crate::sys::signal::{self, Signals};
use crate::sys::spawn::{Spawn, spawn};
use crate::systemd::{self, Systemd};

/// How much longer than old the new process waits, so that old's report is the one that is read.
const LONGER: Duration = Duration::from_secs(1);
/// Between two tries to wait.
const AGAIN: Duration = Duration::from_millis(100);
/// For threads that run code of the user's: what fits on the stack of `main` fits there, and a large array is restored by way of
/// another. Only what is used is ever memory.
pub(crate) const STACK: usize = 64 << 20;
/// From the cut to the end of the process, whoever blocks.
const LAST: Duration = Duration::from_secs(1);

impl Word for SharedWord {
    fn swap(&self, from: Owner, to: Owner) -> Result<(), Owner> {
        self.compare_exchange(from as u32, to as u32).map_err(Owner::from_raw)
    }

    fn owner(&self) -> Owner {
        Owner::from_raw(self.load())
    }
}

/// What a process is given at its start.
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
    pub(crate) origin: Origin,
    pub(crate) signals: Signals,
    /// The way to the old process, where there is one.
    pub(crate) channel: Option<OwnedFd>,
    /// Where memory runs out this process goes first, until it serves.
    pub(crate) goes_first: Option<First>,
}

/// The process that hands over to this one, until this one owns the service.
struct Before {
    link: Link,
    pid: i32,
    /// Where none can be had, silence tells.
    pidfd: Option<Pidfd>,
    dead: bool,
    calls: Option<OwnedFd>,
    passes: Option<OwnedFd>,
    relays: Vec<(Typed, OwnedFd)>,
}

/// To send the content, with the generations that drain.
type Order = Vec<(Earlier, Vec<OwnedFd>)>;

/// The process that this one hands over to; after the handoff, the owner.
struct After {
    link: Link,
    pid: Pid,
    pidfd: Pidfd,
    /// The version of the protocol that is spoken with it, since its hello.
    version: u32,
    /// Waits for the order to send the content.
    freezer: Option<Sender<Order>>,
    /// The socket that it sends over, to end it by: the new process's end may outlive that process, in a child of its.
    content: Option<OwnedFd>,
    calls: Option<OwnedFd>,
    passes: Option<OwnedFd>,
    relays: Vec<(String, OwnedFd)>,
    /// The owner word, until it goes with the offer.
    word: Option<OwnedFd>,
    /// Why it ended, by its own account.
    words: Option<String>,
    /// How it ended, by the kernel's.
    ended: Option<String>,
    waiting: Waiting,
    frozen: Option<Instant>,
}

/// An earlier generation that drains and answers to this process.
struct Draining {
    earlier: Earlier,
    link: Link,
    pidfd: Pidfd,
    calls: OwnedFd,
    passes: OwnedFd,
    relays: Vec<OwnedFd>,
}

impl Draining {
    fn has_passed_more(&self) -> bool {
        self.relays.iter().chain([&self.passes]).any(|socket| fd::has_unread(socket.as_fd()))
    }

    fn sockets(&self) -> std::io::Result<Sockets> {
        let relays = self.earlier.relays.iter().cloned().zip(&self.relays);
        let relays = relays.map(|(relay, socket)| Ok((relay, socket.try_clone()?)));
        Sockets::new(self.calls.try_clone()?, self.passes.try_clone()?, relays.collect::<std::io::Result<Vec<_>>>()?)
    }

    /// Its descriptors, as they go to the next owner.
    fn descriptors(&self) -> std::io::Result<Vec<OwnedFd>> {
        let mut fds = vec![
            self.link.socket().try_clone_to_owned()?,
            self.pidfd.try_clone()?.into_fd(),
            self.calls.try_clone()?,
            self.passes.try_clone()?,
        ];
        for relay in &self.relays {
            fds.push(relay.try_clone()?);
        }
        Ok(fds)
    }
}

struct Thread {
    shared: Arc<Shared>,
    settings: Settings,
    origin: Origin,
    signals: Signals,
    process: Process,
    word: Option<Arc<SharedWord>>,
    before: Option<Before>,
    after: Option<After>,
    draining: Vec<Draining>,
    /// Those that are gone, and passed connections that nobody has taken yet. They go to the new owner with the living.
    left: Vec<Draining>,
    /// What came with the content, until this process owns it.
    arriving: Vec<Draining>,
    /// The state's deadline, and when it passes.
    deadline: Option<(Deadline, Instant)>,
    /// Events that actions gave rise to.
    events: VecDeque<Event>,
    /// Whose request is being looked at.
    asking: Option<Reply>,
    /// Who waits for the end of the upgrade.
    asked: Vec<Reply>,
    /// Why the last step failed, for the report.
    failure: Option<String>,
    /// The content ended early, and old is not known to be dead.
    content_ended: Option<String>,
    attempt: u64,
    setup_done: bool,
    /// This process owns the service, and its listeners start when `main` has all of its parameters.
    starts_late: bool,
    ready_called: bool,
    said_polled: bool,
    /// There is memory for what is large in the content, or there is no content to come.
    room_made: bool,
    main_ended: bool,
    /// Where the content was touched first, before everything was ready.
    touched: Option<String>,
    draining_stop: Option<Arc<EventFd>>,
    /// When the next report of what is left is due, since when, and how many there were.
    report: Option<(Instant, Instant, u32)>,
    /// The new process was dead when it was found to have taken over.
    orphaned: bool,
    /// Where somebody wants to be told.
    systemd: Option<Systemd>,
    /// Whoever starts the service was told that it serves.
    announced: bool,
    /// What became of the last upgrade.
    last_upgrade: Option<String>,
    goes_first: Option<First>,
    /// Checkpoints are made, or will never be.
    checkpoints_begun: bool,
}

/// Starts the control thread. It runs until the process has nothing left to do.
pub(crate) fn start(control: Control) -> std::io::Result<()> {
    let Control { shared, settings, origin, signals, channel, goes_first } = control;
    let before = match channel {
        None => None,
        Some(channel) => {
            let mut link = Link::new(channel)?;
            link.send(&Message::Hello(Hello::own()), vec![]);
            // Its offer brings one that cannot be mistaken; until then this tells whether there is still somebody to make it.
            let (pidfd, gone) = match fd::peer(link.socket()) {
                Ok(pidfd) => (Some(pidfd), false),
                Err(error) => (None, error.raw_os_error() == Some(Errno::ESRCH as i32)),
            };
            Some(Before { link, pid: 0, pidfd, dead: gone, calls: None, passes: None, relays: vec![] })
        }
    };
    let process = if before.is_some() {
        Process::successor(settings.supervised, settings.generations)
    } else {
        Process::cold(settings.supervised, settings.generations)
    };
    shared.state_limit.store(settings.state_limit, Ordering::Relaxed);
    #[cfg(feature = "ws")]
    shared
        .drain_timeout
        .store(u64::try_from(settings.drain_timeout.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let room_made = before.is_none();
    let mut systemd = Systemd::new(|name| origin.variable(name));
    if before.is_none() {
        if let Some(systemd) = &mut systemd {
            systemd.starting(settings.ready_timeout);
        }
        for advice in systemd::advice(|name| std::env::var_os(name), std::process::id()) {
            say!(warn, "{advice}");
        }
    }
    let thread = Thread {
        shared,
        settings,
        origin,
        signals,
        process,
        word: None,
        before,
        after: None,
        draining: vec![],
        left: vec![],
        arriving: vec![],
        deadline: None,
        events: VecDeque::new(),
        asking: None,
        asked: vec![],
        failure: None,
        content_ended: None,
        attempt: 0,
        setup_done: false,
        starts_late: false,
        ready_called: false,
        said_polled: false,
        room_made,
        main_ended: false,
        touched: None,
        draining_stop: None,
        report: None,
        orphaned: false,
        systemd,
        announced: false,
        last_upgrade: None,
        goes_first,
        checkpoints_begun: false,
    };
    std::thread::Builder::new().name("flip-control".into()).spawn(move || {
        // Without this thread nothing but SIGKILL would end the process, and nobody would take over from it.
        if let Err(text) = entry::shielded(|| {
            thread.run();
            Ok(())
        }) {
            crate::log::print(format_args!("the control thread failed and the process ends: {text}"));
        }
        entry::end(1)
    })?;
    Ok(())
}

/// Says why this process is about to end, from whichever thread knows. Where old does not listen, it sees the death.
pub(crate) fn say_last_words(channel: &OwnedFd, text: String) {
    for (bytes, _) in packets(&Message::Words(shortened(text)).encode(), 0) {
        let _ = fd::send(channel.as_fd(), &bytes, &[]);
    }
}

/// One packet's worth: what several threads say must not mix.
fn shortened(mut text: String) -> String {
    const WORDS: usize = 8 * 1024;
    if text.len() > WORDS {
        let end = (0..=WORDS).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// What there is to wait for, in the order of the poll set.
#[derive(Clone, Copy)]
enum Source {
    Notes,
    Signals,
    Before,
    BeforeDeath,
    After,
    AfterDeath,
    Draining(usize),
    DrainingDeath(usize),
    Systemd,
}

impl Thread {
    fn run(mut self) {
        self.arm();
        if self.before.as_ref().is_some_and(|before| before.dead) {
            self.step(Event::OldDied);
        }
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    // poll(2) fails for lack of memory, which may pass.
                    say!(error, "the control thread cannot wait and tries again: {error}");
                    std::thread::sleep(AGAIN);
                    continue;
                }
            };
            // Messages before deaths, so that last words are heard first.
            for source in ready {
                self.look_at(source);
            }
            self.look_at_the_clock();
            self.look_whether_all_is_done();
            self.report();
            self.look_after_systemd();
        }
    }

    fn wait<'link>(&'link self) -> std::io::Result<Vec<Source>> {
        let mut sources = vec![Source::Notes, Source::Signals];
        let mut entries =
            vec![PollEntry::readable(self.shared.notes.bell().as_fd()), PollEntry::readable(self.signals.as_fd())];
        let mut link = |link: &'link Link, source| {
            if link.is_open() {
                sources.push(source);
                entries.push(PollEntry::readable(link.socket()));
            }
            if link.wants_to_write() {
                sources.push(source);
                entries.push(PollEntry::writable(link.socket()));
            }
        };
        if let Some(before) = &self.before {
            link(&before.link, Source::Before);
        }
        if let Some(after) = &self.after {
            link(&after.link, Source::After);
        }
        for (index, draining) in self.draining.iter().enumerate() {
            link(&draining.link, Source::Draining(index));
        }
        if let Some(Before { pidfd: Some(pidfd), dead: false, .. }) = &self.before {
            sources.push(Source::BeforeDeath);
            entries.push(PollEntry::readable(pidfd.as_fd()));
        }
        if let Some(after) = &self.after
            && !self.shared.phase.get().is_leaving()
        {
            sources.push(Source::AfterDeath);
            entries.push(PollEntry::readable(after.pidfd.as_fd()));
        }
        for (index, draining) in self.draining.iter().enumerate() {
            sources.push(Source::DrainingDeath(index));
            entries.push(PollEntry::readable(draining.pidfd.as_fd()));
        }
        if let Some(systemd) = self.systemd.as_ref().filter(|systemd| systemd.wants_to_write()) {
            sources.push(Source::Systemd);
            entries.push(PollEntry::writable(systemd.as_fd()));
        }
        let systemd = self.systemd.as_ref().and_then(Systemd::due);
        let next =
            [self.deadline.map(|(_, at)| at), self.report.map(|(due, ..)| due), systemd].into_iter().flatten().min();
        let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
        fd::poll(&mut entries, timeout)?;
        Ok(sources.into_iter().zip(&entries).filter(|(_, entry)| entry.is_ready()).map(|(source, _)| source).collect())
    }

    fn look_at(&mut self, source: Source) {
        match source {
            Source::Notes => {
                for note in self.shared.notes.take() {
                    self.note(note);
                }
            }
            Source::Signals => {
                while let Some(received) = self.signals.read() {
                    self.signalled(received.signal, received.from);
                }
            }
            Source::Before => self.hear_before(),
            Source::After => self.hear_after(),
            Source::Draining(index) => self.hear_draining(index),
            Source::BeforeDeath => self.look_whether_old_died(),
            Source::AfterDeath => self.look_whether_new_died(),
            Source::DrainingDeath(index) => {
                // An earlier one may have gone in the same turn; the poll comes again.
                if self.draining.get(index).is_some_and(|draining| draining.pidfd.is_dead()) {
                    self.hear_draining(index);
                    let gone = self.draining.remove(index);
                    gone.pidfd.reap();
                    if self.draining.is_empty() {
                        // Its thread has nobody left to hear, and goes by itself.
                        self.draining_stop = None;
                    }
                    say!(debug, "generation {} (pid {}) is gone", gone.earlier.generation, gone.earlier.pid);
                    if gone.has_passed_more() {
                        self.left.push(gone);
                    }
                    self.step(Event::DrainingGone);
                    self.tell(Systemd::status);
                }
            }
            Source::Systemd => {
                if let Some(systemd) = &mut self.systemd {
                    systemd.flush();
                }
            }
        }
    }

    /// The death of the old process, and only after it what follows from it: the end of the content it was sending.
    fn look_whether_old_died(&mut self) {
        let is_dead = |pidfd: &Pidfd| pidfd.is_dead();
        let Some(before) = self.before.as_ref().filter(|before| !before.dead) else { return };
        if !before.pidfd.as_ref().is_some_and(is_dead) {
            return;
        }
        // What it said before it died was said.
        self.hear_before();
        if let Some(before) = &mut self.before {
            before.dead = true;
            self.step(Event::OldDied);
        }
        if let Some(text) = self.content_ended.take() {
            self.failure = Some(text);
            self.step(Event::RestoreFailed);
        }
    }

    fn look_whether_new_died(&mut self) {
        if self.after.as_ref().is_some_and(|after| after.pidfd.is_dead()) {
            self.hear_after();
            if let Some(after) = &mut self.after {
                after.ended = after.pidfd.reap();
                self.step(Event::NewDied);
            }
        }
    }

    // ---- what comes in

    fn note(&mut self, note: Note) {
        match note {
            Note::Touched(place) => {
                if self.touched.is_none() {
                    self.touched = Some(place);
                    if self.room_made {
                        self.step(Event::Touched);
                    }
                }
            }
            Note::RoomMade => self.room_is_made(),
            Note::SetupDone => {
                self.setup_done = true;
                self.refuse_relays();
                if std::mem::take(&mut self.starts_late) && self.shared.phase.get() == Phase::Serving {
                    self.start_listeners();
                }
                self.look_whether_polled();
            }
            Note::Polled => self.look_whether_polled(),
            Note::ReadyCalled => {
                self.ready_called = true;
                self.look_whether_polled();
            }
            Note::Restored(earlier, fds) => self.restored(earlier, fds),
            Note::RestoreFailed(text) => {
                // Its death is the reason then, and comes first.
                self.look_whether_old_died();
                self.failure = Some(text);
                self.step(Event::RestoreFailed);
            }
            Note::Opens => self.say_missing(),
            // Whose descriptors were kept for that.
            Note::Passed => self.left.retain(Draining::has_passed_more),
            // By itself an end means nothing; old's death, which is seen after it, or the deadline decides.
            Note::ContentEnded(text) => {
                self.content_ended = Some(text);
                if self.before.as_ref().is_some_and(|before| before.dead) {
                    self.failure = self.content_ended.take();
                    self.step(Event::RestoreFailed);
                }
            }
            Note::FreezeFailed(attempt, text) => {
                if attempt == self.attempt {
                    self.failure = Some(text);
                    self.step(Event::FreezeFailed);
                }
            }
            Note::MainEnded(words) => {
                self.main_ended = true;
                self.failure = words;
                self.step(Event::MainEnded);
            }
            Note::Drained => self.step(Event::Drained),
            Note::Beats => {
                if let Some(systemd) = &mut self.systemd {
                    systemd.heartbeat_answered();
                }
            }
            Note::Upgrade(reply) => {
                if self.settings.upgrade.is_none() {
                    return reply.answer(Err(UpgradeError::Off));
                }
                self.asking = Some(reply);
                self.step(Event::UpgradeAsked);
                // Neither taken up nor refused: this process is about to end.
                if let Some(reply) = self.asking.take() {
                    reply.answer(Err(UpgradeError::Stopping));
                }
            }
        }
    }

    /// Before the commit, so that nothing is on its way through a relay that is none here.
    fn refuse_relays(&self) {
        let Some(before) = &self.before else { return };
        for (relay, socket) in &before.relays {
            if matches!(self.shared.relays.look_for(&relay.name), Looked::Unwanted) {
                fd::shutdown(socket.as_fd());
            }
        }
    }

    /// Old may freeze from here on: what was held back until then is said.
    fn room_is_made(&mut self) {
        self.room_made = true;
        if self.touched.is_some() {
            self.step(Event::Touched);
        }
        self.look_whether_polled();
    }

    fn look_whether_polled(&mut self) {
        if !self.setup_done || self.said_polled || !self.room_made {
            return;
        }
        let listeners = self.listeners();
        let ready = match self.settings.ready {
            Ready::Auto => listeners.all_polled(),
            Ready::Manual => self.ready_called,
        };
        if ready {
            self.said_polled = true;
            self.step(Event::Polled);
        } else if self.touched.is_some() {
            self.say_missing();
        }
    }

    /// Old repeats it, should it have to roll back.
    fn say_missing(&mut self) {
        let missing = self.waiting();
        self.send_before(Message::Missing(missing));
    }

    fn waiting(&self) -> Waiting {
        let unpolled = match self.settings.ready {
            Ready::Auto => self.listeners().unpolled(),
            Ready::Manual => vec!["the call of Handle::ready".to_owned()],
        };
        Waiting { touched: self.touched.clone(), unpolled, opening: self.shared.awaited.get() }
    }

    fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(self.shared.listeners.get().expect("the listeners are there before anything can be noted of them"))
    }

    fn signalled(&mut self, signal: Signal, from: signal::Sender) {
        let by = match from {
            signal::Sender::Process(pid) if pid.as_raw() > 0 => format!("{signal} from pid {pid}"),
            signal::Sender::Process(_) => format!("{signal}"),
            signal::Sender::Kernel => format!("{signal} from the kernel"),
        };
        // A terminal that hangs up is gone, and with it whoever would look at a new process. A shell that ends tells its jobs so itself.
        let hung_up = || self.origin.terminal && !env::has_terminal();
        let hang_up = signal == Signal::SIGHUP && (from == signal::Sender::Kernel || hung_up());
        if hang_up && self.origin.ignored.contains(signal) {
            return say!(info, "{by}: ignored, as it was at the start (nohup(1))");
        }
        if self.settings.upgrade == Some(signal) && !hang_up {
            say!(info, "{by}: upgrade");
            if self.process.state == State::Old(Old::Starting) {
                let missing = self.waiting().unpolled.join(", ");
                say!(warn, "the upgrade waits until this process is ready; missing: {missing}");
            }
            self.step(Event::UpgradeSignalled);
        } else {
            say!(info, "{by}: stop");
            self.step(Event::StopSignalled);
        }
    }

    fn hear_before(&mut self) {
        while let Some(before) = &mut self.before {
            before.link.flush();
            let event = match before.link.receive() {
                Ok(None) => return,
                Ok(Some(received)) => match received.message {
                    Message::Offer(offer) => match self.offered(offer, received.fds) {
                        Ok(()) => Event::Offer,
                        Err(text) => {
                            self.failure = Some(text);
                            Event::Garbled
                        }
                    },
                    Message::Commit => Event::Commit,
                    Message::Again if self.settings.upgrade.is_none() => continue,
                    Message::Again => Event::Again,
                    Message::Stop => Event::Stop,
                    _ => Event::Garbled,
                },
                Err(text) => {
                    self.failure = Some(text);
                    Event::Garbled
                }
            };
            self.step(event);
        }
    }

    fn hear_after(&mut self) {
        while let Some(after) = &mut self.after {
            after.link.flush();
            let event = match after.link.receive() {
                Ok(None) => return,
                Ok(Some(received)) => match received.message {
                    Message::Hello(hello) => match welcome(&hello, received.pid, after.pid) {
                        Ok(version) => {
                            after.version = version;
                            Event::Hello
                        }
                        Err(text) => {
                            self.failure = Some(text);
                            Event::Garbled
                        }
                    },
                    Message::Prepared(waiting) => {
                        after.waiting = waiting;
                        Event::Prepared
                    }
                    Message::Missing(waiting) => {
                        after.waiting = waiting;
                        continue;
                    }
                    Message::Words(words) => {
                        after.words = Some(words);
                        continue;
                    }
                    Message::Ready => Event::Ready,
                    Message::Serving => Event::Serving,
                    Message::Stop => {
                        // Whoever stops takes no more connections: what is left here ends here.
                        self.shared.stop_passing();
                        Event::Stop
                    }
                    Message::Cut => Event::Cut,
                    _ => Event::Garbled,
                },
                Err(text) => {
                    self.failure = Some(text);
                    Event::Garbled
                }
            };
            self.step(event);
        }
    }

    fn hear_draining(&mut self, index: usize) {
        while let Some(draining) = self.draining.get_mut(index) {
            draining.link.flush();
            match draining.link.receive() {
                Ok(Some(received)) => match received.message {
                    Message::Again if self.settings.upgrade.is_none() => {}
                    Message::Again => self.step(Event::Again),
                    Message::Stop => self.step(Event::Stop),
                    // Its death is what counts.
                    _ => {}
                },
                Ok(None) => return,
                Err(text) => say!(warn, "generation {} sent nonsense: {text}", draining.earlier.generation),
            }
        }
    }

    /// The old process's offer, taken apart and checked.
    fn offered(&mut self, offer: Offer, mut fds: Vec<OwnedFd>) -> Result<(), String> {
        if self.word.is_some() {
            return Err("a second offer came".to_owned());
        }
        if !(OLDEST..=VERSION).contains(&offer.version) {
            return Err(format!("it speaks version {} of the protocol, this one {OLDEST} to {VERSION}", offer.version));
        }
        if fds.len() != OFFER_FIXED + offer.listeners.len() + offer.relays.len() {
            return Err(format!(
                "the offer names {} listeners and {} relays and brings {} descriptors",
                offer.listeners.len(),
                offer.relays.len(),
                fds.len()
            ));
        }
        let relays = fds.split_off(OFFER_FIXED + offer.listeners.len());
        let listeners = fds.split_off(OFFER_FIXED);
        let mut fixed = fds.into_iter();
        let mut next = || fixed.next().expect("counted above");
        let word = SharedWord::map(next()).map_err(|error| format!("the owner word cannot be mapped: {error}"))?;
        let pidfd = Pidfd::received(next()).map_err(|error| format!("the old process's handle is none: {error}"))?;
        let (content, calls, passes) = (next(), next(), next());
        let inherited =
            offer.listeners.into_iter().zip(listeners).map(|(offered, fd)| InheritedSocket { offered, fd }).collect();
        let predecessor = u32::try_from(offer.pid).ok();
        let listeners = Listeners::new(Arc::clone(&self.shared), inherited, predecessor)
            .map_err(|error| crate::error::chain(&error))?;
        if pidfd.is_dead() {
            // What it held is free. Nothing is declared yet: `main` waits for the offer.
            self.shared.exclusives.free();
        }
        // Only this thread sets it, and only here or at a cold start.
        let _ = self.shared.listeners.set(listeners);
        self.shared.states.offered(offer.states.into_iter().map(|state| (state.name, state.schema)));
        self.shared.relays.offered(offer.relays.iter().map(|relay| (relay.name.clone(), relay.schema.clone())));
        self.origin.mask = offer.mask.iter().filter_map(|signal| Signal::try_from(*signal).ok()).collect();
        self.shared.generation.store(offer.generation, Ordering::Relaxed);
        self.word = Some(Arc::new(word));
        // It waits for the content from here on, so that nobody waits for its start.
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("flip-content".into())
            .stack_size(STACK)
            .spawn(move || receive_and_restore(&shared, content))
            .map_err(|error| format!("the content cannot be received: {error}"))?;
        if let Some(before) = &mut self.before {
            before.pid = offer.pid;
            before.pidfd = Some(pidfd);
            before.calls = Some(calls);
            before.passes = Some(passes);
            before.relays = offer.relays.into_iter().zip(relays).collect();
        }
        self.shared.start.announce(Start::Successor);
        Ok(())
    }

    fn restored(&mut self, earlier: Vec<Earlier>, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().expect("the reader counted them");
        self.arriving.clear();
        self.left.clear();
        for earlier in earlier {
            let (channel, pidfd, calls, passes) = (next(), next(), next(), next());
            let relays = earlier.relays.iter().map(|_| next()).collect();
            match Link::new(channel).and_then(|link| Ok((link, Pidfd::received(pidfd)?))) {
                Ok((link, pidfd)) => {
                    let is_gone = pidfd.is_dead();
                    let draining = Draining { earlier, link, pidfd, calls, passes, relays };
                    if is_gone { self.left.push(draining) } else { self.arriving.push(draining) }
                }
                Err(error) => say!(warn, "generation {} drains alone: {error}", earlier.generation),
            }
        }
        self.step(Event::Restored { draining: u8::try_from(self.arriving.len()).unwrap_or(u8::MAX) });
    }

    fn look_at_the_clock(&mut self) {
        let Some((deadline, at)) = self.deadline else { return };
        let now = Instant::now();
        if now < at {
            return;
        }
        // Bytes that keep arriving extend the two that wait for bytes.
        if matches!(deadline, Deadline::Freeze | Deadline::Content)
            && let Some(extended) = self.shared.progress.last().checked_add(self.time_for(deadline))
            && extended > now
        {
            self.deadline = Some((deadline, extended));
            let longest = (extended - now).saturating_add(self.settings.freeze_timeout);
            if let Some(systemd) = &mut self.systemd {
                systemd.extend(longest);
            }
            return;
        }
        // A death that came first decides first.
        self.look_whether_old_died();
        self.look_whether_new_died();
        if self.deadline.is_some_and(|(_, at)| at <= now) {
            self.deadline = None;
            self.step(Event::DeadlinePassed);
        }
    }

    /// From here on what is open here ends. The state has its deadline already.
    fn begin_to_leave(&mut self) {
        let until = self.deadline.filter(|(deadline, _)| *deadline == Deadline::Drain).map(|(_, at)| at);
        // Nobody else sets it, and nobody leaves twice.
        let _ = self.shared.leaving.set(Leaving { until, open: self.shared.connections.len() });
        let now = Instant::now();
        self.report = Some((now + report_due(0), now, 0));
    }

    /// Says what is left, if it is time to.
    fn report(&mut self) {
        let now = Instant::now();
        let Some((_, since, said)) = self.report.filter(|(due, ..)| *due <= now) else { return };
        self.report = since.checked_add(report_due(said + 1)).map(|due| (due, since, said + 1));
        let Some(drain) = self.shared.draining() else { return };
        let mut left = vec![];
        if drain.connections() + drain.handlers > 0 {
            left.push(drain.to_string());
        }
        let earlier = self.draining.iter().map(|draining| {
            format!("generation {} (pid {}) drains", draining.earlier.generation, draining.earlier.pid)
        });
        left.extend(earlier);
        if !self.main_ended && left.is_empty() {
            left.push("main has not returned".to_owned());
        }
        if !left.is_empty() {
            let (pid, drains) = (std::process::id(), (now - since).as_secs());
            say!(info, "generation {} (pid {pid}) drains for {drains} s: {}", self.generation(), left.join("; "));
        }
    }

    /// What lasted through a stop ends once nothing else is left.
    fn look_whether_all_is_done(&mut self) {
        let shared = &self.shared;
        if shared.lasting.is_open() && shared.connections.is_done() && self.draining.is_empty() {
            self.end_what_lasts();
        }
    }

    /// Nothing is accepted any more, and whoever waits for a phase looks again.
    fn end_what_lasts(&self) {
        let shared = &self.shared;
        if shared.lasting.is_open() {
            shared.lasting.close();
            shared.phase.set(shared.phase.get());
            let listeners = self.listeners();
            listeners.close();
            self.unlink(&listeners);
        }
    }

    fn time_for(&self, deadline: Deadline) -> Duration {
        let settings = &self.settings;
        match deadline {
            Deadline::Ready | Deadline::Offer => settings.ready_timeout,
            Deadline::Freeze | Deadline::Serving => settings.freeze_timeout,
            Deadline::Content => {
                settings.freeze_timeout.saturating_add(settings.quiesce_timeout).saturating_add(LONGER)
            }
            Deadline::Commit => settings.freeze_timeout.saturating_add(LONGER),
            Deadline::Drain => settings.drain_timeout,
            Deadline::Cut => LAST,
        }
    }

    /// Follows the state's deadline: the same one keeps its time.
    fn arm(&mut self) {
        let wanted = self.process.deadline();
        if self.deadline.map(|(deadline, _)| deadline) != wanted {
            // What lies beyond the clock's end never passes.
            self.deadline =
                wanted.and_then(|deadline| Some((deadline, Instant::now().checked_add(self.time_for(deadline))?)));
        }
    }

    // ---- what goes out

    fn step(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let actions = match &self.word {
                Some(word) => self.process.step(event, &**word),
                None => self.process.step(event, &NoWord),
            };
            self.arm();
            for action in actions {
                self.act(action);
            }
            if self.process.state == State::Old(Old::Serving) {
                self.announce();
                self.begin_checkpoints();
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn => self.spawn(),
            Action::SendOffer => {
                if let Err(error) = self.send_offer() {
                    self.failure = Some(format!("the offer cannot be made: {error}"));
                    self.events.push_back(Event::FreezeFailed);
                }
            }
            Action::Freeze => self.freeze(),
            Action::SendCommit => self.send_after(Message::Commit),
            Action::Thaw => self.thaw(),
            Action::Kill => self.kill(),
            Action::HandOver => self.hand_over(),
            Action::ReportRolledBack(reason) => self.report_rolled_back(reason),
            Action::Refuse(refusal) => {
                if let Some(reply) = self.asking.take() {
                    reply.answer(Err(UpgradeError::from(refusal)));
                }
            }
            Action::SendAgain => self.send_after(Message::Again),
            Action::SendStop => self.send_after(Message::Stop),

            Action::SendPrepared => self.send_prepared(),
            Action::SendReady => self.send_before(Message::Ready),
            Action::Serve(content) => self.serve(content),
            Action::SendServing => self.send_serving(),
            Action::Leave(reason) => self.leave(reason),

            Action::Stop => self.stop(),
            Action::TellDraining => self.tell_draining(&Message::Stop),
            Action::CutDraining => self.tell_draining(&Message::Cut),
            Action::CutOldest => {
                let too_many = (self.draining.len() + 2).saturating_sub(self.settings.generations.into());
                for oldest in self.draining.iter_mut().take(too_many) {
                    say!(
                        warn,
                        "generation {} (pid {}) is cut: there are too many that drain",
                        oldest.earlier.generation,
                        oldest.earlier.pid
                    );
                    oldest.link.send(&Message::Cut, vec![]);
                }
            }
            Action::Cut => {
                for open in self.shared.connections.open() {
                    say!(warn, "cut: {open}");
                }
                if !self.main_ended {
                    say!(warn, "cut: main, which has not returned");
                }
                self.report = None;
                self.shared.phase.set(Phase::Cut);
                self.end_what_lasts();
                self.shared.exclusives.wake();
                if self.shared.main_blocks.load(Ordering::Relaxed) {
                    // Nobody can drop a `main` that runs on its own thread; the process ends under it.
                    self.events.push_back(Event::Drained);
                }
            }
            Action::SendDone => self.send_after(Message::Done),
            Action::Exit => self.exit(),
        }
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    fn send_before(&mut self, message: Message) {
        if let Some(before) = &mut self.before {
            before.link.send(&message, vec![]);
        }
    }

    fn send_after(&mut self, message: Message) {
        if let Some(after) = &mut self.after {
            after.link.send(&message, vec![]);
        }
    }

    fn tell_draining(&mut self, message: &Message) {
        for draining in &mut self.draining {
            draining.link.send(message, vec![]);
        }
    }

    fn spawn(&mut self) {
        // An upgrade that was asked for before this process was ready.
        self.announce();
        self.attempt += 1;
        self.failure = None;
        let Settings { ready_timeout, freeze_timeout, quiesce_timeout, .. } = self.settings;
        let longest = ready_timeout.saturating_add(freeze_timeout.saturating_mul(2)).saturating_add(quiesce_timeout);
        self.tell(|systemd, status| systemd.reloading(longest, status));
        // The end of this attempt is the answer, and it may come at once.
        self.asked.extend(self.asking.take());
        if let Err(error) = self.try_spawn() {
            self.failure = Some(error);
            self.events.push_back(Event::SpawnFailed);
        }
    }

    fn try_spawn(&mut self) -> Result<(), String> {
        self.word = None;
        if self.settings.checks_memory
            && let Some(refusal) = memory::refusal()
        {
            return Err(refusal);
        }
        let text = |doing: &'static str| move |error: std::io::Error| format!("{doing}: {error}");
        let (word, file) = SharedWord::create().map_err(text("the owner word cannot be made"))?;
        let (ours, theirs) = fd::seqpacket_pair().map_err(text("the channel cannot be made"))?;
        let link = Link::new(ours).map_err(text("the channel cannot be made"))?;
        self.word = Some(Arc::new(word));
        let executable = self.executable();
        let handled: SigSet = self.settings.signals().into_iter().collect();
        let child = spawn(&Spawn {
            executable: &executable,
            args: &self.origin.args,
            extra_env: &self.origin.launched,
            origin: &self.origin,
            handled,
            channel: theirs.as_fd(),
        })
        .map_err(|error| crate::error::chain(&error))?;
        say!(info, "generation {} starts as pid {} from {}", self.generation() + 1, child.pid, executable.display());
        self.after = Some(After {
            link,
            pid: child.pid,
            pidfd: child.pidfd,
            version: 0,
            freezer: None,
            content: None,
            calls: None,
            passes: None,
            relays: vec![],
            words: None,
            ended: None,
            word: Some(file),
            waiting: Waiting::default(),
            frozen: None,
        });
        Ok(())
    }

    fn mask(&self) -> Vec<i32> {
        self.origin.mask.iter().map(|signal| signal as i32).collect()
    }

    fn send_offer(&mut self) -> std::io::Result<()> {
        let (generation, mask) = (self.generation() + 1, self.mask());
        let states = self.shared.states.schemas();
        let listeners = self.listeners();
        listeners.allow_overlap();
        let (content, their_content) = fd::stream_pair()?;
        let ours = content.try_clone()?;
        let freezer = self.start_freezer(content)?;
        let Some(after) = &mut self.after else { return Ok(()) };
        let word = after.word.take().ok_or_else(|| std::io::Error::other("the owner word is gone"))?;
        let pidfd = Pidfd::open(Pid::this())?.into_fd();
        let (calls, their_calls) = fd::seqpacket_pair()?;
        let (passes, their_passes) = fd::seqpacket_pair()?;
        let mut fds = vec![word, pidfd, their_content, their_calls, their_passes];
        let mut offered = vec![];
        for outgoing in listeners.offer() {
            fds.push(outgoing.as_fd().try_clone_to_owned()?);
            offered.push(outgoing.offered);
        }
        let mut relays = vec![];
        for relay in self.shared.relays.all() {
            let (ours, theirs) = fd::seqpacket_pair()?;
            fds.push(theirs);
            after.relays.push((relay.name().to_string(), ours));
            relays.push(Typed { name: relay.name().to_string(), schema: relay.schema().encode() });
        }
        after.freezer = Some(freezer);
        after.content = Some(ours);
        after.calls = Some(calls);
        after.passes = Some(passes);
        let states = states.into_iter().map(|(name, schema)| Typed { name, schema: schema.encode() }).collect();
        let pid = Pid::this().as_raw();
        let offer = Offer { version: after.version, generation, pid, mask, listeners: offered, states, relays };
        after.link.send(&Message::Offer(offer), fds);
        Ok(())
    }

    /// The thread that will take the snapshot and send it: there before the freeze, so that nobody waits for its start.
    fn start_freezer(&self, content: OwnedFd) -> std::io::Result<Sender<Order>> {
        let (order, orders) = channel();
        let (shared, attempt, quiesce) = (Arc::clone(&self.shared), self.attempt, self.settings.quiesce_timeout);
        std::thread::Builder::new().name("flip-freeze".into()).stack_size(STACK).spawn(move || {
            send_sizes(&shared, content.as_fd());
            // Rolled back before the freeze: there is nothing to do.
            let Ok(earlier) = orders.recv() else { return };
            let _entered = shared.enter();
            let content = content.as_fd();
            let result = entry::shielded(|| freeze_and_send(&shared, attempt, content, earlier, quiesce));
            if let Err(text) = result {
                shared.notes.send(Note::FreezeFailed(attempt, text));
            }
        })?;
        Ok(order)
    }

    fn freeze(&mut self) {
        let shared = &self.shared;
        shared.accepting.close();
        shared.dispatching.close();
        shared.phase.set(Phase::Frozen);
        shared.awaited.begin(self.attempt);
        shared.freeze.begin(self.attempt, self.word.clone());
        self.left.retain(Draining::has_passed_more);
        let earlier: std::io::Result<Vec<_>> = self
            .draining
            .iter()
            .chain(&self.left)
            .map(|draining| Ok((draining.earlier.clone(), draining.descriptors()?)))
            .collect();
        let Some(after) = &mut self.after else { return };
        after.frozen = Some(Instant::now());
        let ordered = earlier.and_then(|earlier| {
            let freezer = after.freezer.take().ok_or_else(|| std::io::Error::other("nobody is there to send it"))?;
            freezer.send(earlier).map_err(|_| std::io::Error::other("the thread that sends it is gone"))
        });
        if let Err(error) = ordered {
            self.failure = Some(format!("the content cannot be sent: {error}"));
            self.events.push_back(Event::FreezeFailed);
        }
    }

    fn thaw(&mut self) {
        self.shared.freeze.end(&self.shared.hold);
        // A snapshot that waits for whoever is inside of one sees that it is not wanted.
        self.shared.states.wake();
        self.shared.exclusives.wake();
        self.shared.relays.wake();
        self.shared.accepting.open();
        self.shared.dispatching.open();
        self.shared.phase.set(Phase::Serving);
        self.listeners().wake();
    }

    fn kill(&mut self) {
        self.word = None;
        if let Some(after) = self.after.as_mut() {
            // Its last words may be there already.
            while let Ok(Some(received)) = after.link.receive() {
                if let Message::Words(words) = received.message {
                    after.words = Some(words);
                }
            }
            if let Some(content) = after.content.take() {
                // Whoever still sends must not wait for a reader: it has the states' locks.
                fd::shutdown(content.as_fd());
            }
            // It may be dead, and that is what is wanted.
            let _ = after.pidfd.signal(Signal::SIGKILL);
            after.pidfd.reap();
        }
    }

    fn report_rolled_back(&mut self, reason: Reason) {
        self.listeners().forbid_overlap();
        let awaited = self.shared.awaited.get();
        self.reopen();
        let after = self.after.take();
        let new = match &after {
            Some(after) => format!("the new process (pid {})", after.pid),
            None => "the new process".to_owned(),
        };
        let words = after.as_ref().and_then(|after| after.words.clone());
        let failure = self.failure.take();
        let because = |text: Option<String>| text.map(|text| format!(": {text}")).unwrap_or_default();
        let why = match reason {
            Reason::SpawnFailed => format!("no new process could be started{}", because(failure)),
            Reason::NewDied => match words {
                Some(words) => format!("{new} ended before it served: {words}"),
                None => {
                    let status = after.as_ref().and_then(|after| after.ended.clone());
                    let status = status.unwrap_or_else(|| "its status is unknown".to_owned());
                    format!("{new} ended before it served, without a word: {status}")
                }
            },
            Reason::TooSlow(deadline) => {
                let time = format!("{:?}", self.time_for(deadline));
                match awaited.filter(|_| deadline == Deadline::Freeze) {
                    // The new process can do nothing about it.
                    Some(what) => format!("the freeze took longer than {time} (freeze_timeout), waiting for {what}"),
                    None => {
                        let waiting = after.map(|after| after.waiting).unwrap_or_default();
                        format!("{new} {}", too_slow(deadline, &time, &waiting))
                    }
                }
            }
            Reason::FreezeFailed => format!("the content could not be handed over{}", because(words.or(failure))),
            Reason::Garbled => format!("{new} sent what cannot be understood{}", because(failure)),
            Reason::Stopped => "the service was told to stop".to_owned(),
            Reason::OldDied | Reason::RolledBack | Reason::Failed => format!("{new} left{}", because(words)),
        };
        let why = format!(
            "upgrade rolled back: {why}; generation {} (pid {}) goes on",
            self.generation(),
            std::process::id()
        );
        say!(error, "{why}");
        self.last_upgrade = Some(why.clone());
        self.tell(Systemd::ready);
        for reply in self.asked.drain(..) {
            reply.answer(Err(UpgradeError::RolledBack(why.clone())));
        }
    }

    /// What this attempt closed is opened again once the new process, which may have opened it, is dead: on a thread of its
    /// own, because neither may ever be.
    fn reopen(&self) {
        let (shared, attempt) = (Arc::clone(&self.shared), self.attempt);
        let closed = shared.exclusives.closed_by(attempt);
        let Some(after) = self.after.as_ref().filter(|_| !closed.is_empty()) else { return };
        let lost = closed.clone();
        let started = after.pidfd.try_clone().and_then(|new| {
            std::thread::Builder::new().name("flip-reopen".into()).stack_size(STACK).spawn(move || {
                new.wait();
                let _entered = shared.enter();
                closed.iter().for_each(|exclusive| exclusive.reopen(attempt));
            })
        });
        if let Err(error) = started {
            // Nobody is inside of what is closed, so this waits for nobody.
            lost.iter().for_each(|exclusive| exclusive.lose(attempt, &error.to_string()));
        }
    }

    fn hand_over(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.store_in_time();
        let calls = self.after.as_mut().and_then(|after| after.calls.take());
        let forwarder = calls
            .ok_or_else(|| std::io::Error::other("no socket for calls"))
            .and_then(Forwarder::start)
            .or_else(|error| {
                say!(warn, "calls cannot be forwarded to the new process: {error}");
                Forwarder::broken()
            });
        if let Ok(forwarder) = forwarder {
            // Nobody else sets it, and nobody hands over twice.
            let _ = shared.forwarder.set(forwarder);
        }
        if let Some(passes) = self.after.as_mut().and_then(|after| after.passes.take()) {
            match Passer::start(passes) {
                // Nobody else sets it, and nobody hands over twice.
                Ok(passer) => drop(shared.passer.set(passer)),
                Err(error) => say!(warn, "connections cannot be passed to the new process: {error}"),
            }
        }
        let mut sockets: HashMap<_, _> =
            self.after.as_mut().map(|after| after.relays.drain(..).collect()).unwrap_or_default();
        for relay in shared.relays.all() {
            let socket = sockets.remove(&**relay.name());
            relay.open(socket);
        }
        // It is the new process's by now, which has put its own in this one's place.
        shared.set_pid_file(None);
        shared.freeze.give(&shared.hold);
        shared.relays.give_up();
        shared.exclusives.wake();
        self.begin_to_leave();
        shared.phase.set(Phase::HandedOff);
        // Before anybody is told, so that an address that the new process does not have is free then.
        self.listeners().close();
        self.tell_new_main();
        self.draining.clear();
        self.left.clear();
        if let Some(stop) = self.draining_stop.take() {
            stop.ring();
        }
        // Dropping a large content takes its time, and runs destructors of the user's.
        let states = shared.states.all();
        if !states.is_empty() {
            let entered = Arc::clone(&shared);
            let dropper = std::thread::Builder::new().name("flip-drop".into()).stack_size(STACK).spawn(move || {
                let _entered = entered.enter();
                entered.checkpoints.leave();
                states.iter().for_each(|state| state.give_up());
            });
            if let Err(error) = dropper {
                say!(warn, "the content that was handed over stays in memory: {error}");
            }
        }
        self.word = None;
        if let Some(after) = &mut self.after {
            after.content = None;
            let pid = after.pid;
            let pause = after.frozen.map(|frozen| frozen.elapsed()).unwrap_or_default();
            let generation = self.generation();
            say!(
                info,
                "handed over to generation {} (pid {pid}); freeze to commit {} us; generation {generation} drains {}",
                generation + 1,
                pause.as_micros(),
                shared.draining().map(|drain| drain.to_string()).unwrap_or_default(),
            );
            if generation == 1
                && !self.origin.is_launched()
                && (std::io::stdin().is_terminal() || std::io::stderr().is_terminal())
            {
                // The prompt comes back, and the keys that stopped the service no longer reach it.
                say!(info, "pid {pid} now serves, and Ctrl-C does not reach it; stop it by: kill -TERM {pid}");
            }
            if self.orphaned {
                let why = format!("the new process (pid {pid}) died as soon as it served: nobody owns the service");
                for reply in self.asked.drain(..) {
                    reply.answer(Err(UpgradeError::RolledBack(why.clone())));
                }
            }
            for reply in self.asked.drain(..) {
                reply.answer(Ok(Upgraded { pid: pid.as_raw(), generation: generation + 1 }));
            }
        }
    }

    fn send_prepared(&mut self) {
        let waiting = self.waiting();
        let Some(before) = &mut self.before else { return };
        if let Some(place) = waiting.touched.as_ref().filter(|_| !waiting.unpolled.is_empty()) {
            say!(
                info,
                "the content of {place} is touched before everything is ready; the old process is frozen until then"
            );
        }
        before.link.send(&Message::Prepared(waiting), vec![]);
    }

    fn serve(&mut self, content: Content) {
        let shared = Arc::clone(&self.shared);
        if let Some(Err(error)) = self.goes_first.take().map(First::over) {
            say!(warn, "where memory runs out this process stays the first to go (oom_score_adj): {error}");
        }
        match content {
            Content::Restored => {
                self.draining = std::mem::take(&mut self.arriving);
                // Where the predecessor lives it comes to them, and they are served together.
                if self.before.as_ref().is_none_or(|before| before.dead) {
                    self.serve_draining();
                }
            }
            Content::Fresh => {
                self.arriving.clear();
                self.left.clear();
                if !shared.states.withdraw_offer() || !shared.exclusives.free() {
                    self.start_over();
                }
                if shared.start.is_announced() {
                    say!(
                        warn,
                        "the old process died before it had handed anything over: this is a cold start on its listeners"
                    );
                } else {
                    say!(warn, "the old process died before it had offered anything: this is a cold start");
                    // What it had blocked for this process's start alone.
                    self.settings.signals().into_iter().for_each(|signal| self.origin.mask.remove(signal));
                }
            }
        }
        self.have_listeners();
        if let Some(path) = &self.settings.pid_file {
            shared.set_pid_file(PidFile::take_over(path));
        }
        shared.hold.set(Holding::Open);
        shared.relays.wake();
        if self.setup_done {
            self.start_listeners();
        } else {
            // `main` has not asked for all of its listeners yet: those that nobody asks for would be closed, and who waits
            // in their queues reset.
            self.starts_late = true;
            shared.phase.set(Phase::Serving);
        }
        shared.forget_last_words();
        self.word = None;
        if content == Content::Fresh {
            self.before = None;
            shared.start.announce(Start::Cold);
            self.room_made = true;
        }
        say!(info, "generation {} (pid {}) serves", self.generation(), std::process::id());
        let is_told = self.before.as_ref().is_some_and(|before| !before.dead);
        self.last_upgrade = Some(if is_told { SUCCEEDED } else { "the process before died" }.to_owned());
        // Who hands over says who serves.
        self.announced = is_told;
        match &mut self.systemd {
            Some(systemd) if is_told => systemd.begin(),
            Some(systemd) => systemd.take_over(),
            None => {}
        }
        self.keep(is_told);
    }

    /// What an upgrade starts.
    fn executable(&self) -> PathBuf {
        self.origin.directory.join(self.settings.executable.as_ref().unwrap_or(&self.origin.executable))
    }

    fn have_listeners(&self) {
        if self.shared.listeners.get().is_none() {
            // Only this thread sets it, and only here or with the offer.
            let _ = self.shared.listeners.set(Listeners::cold(Arc::clone(&self.shared), vec![]));
        }
    }

    /// From here on this process accepts.
    fn start_listeners(&mut self) {
        let shared = Arc::clone(&self.shared);
        // Old is not there any more to go on where one fails; the others of our listeners are.
        for error in self.listeners().start().failed {
            say!(error, "{}", crate::error::chain(&error));
        }
        shared.accepting.open();
        shared.dispatching.open();
        shared.phase.set(Phase::Serving);
        self.listeners().wake();
    }

    fn send_serving(&mut self) {
        let Some(mut before) = self.before.take() else { return };
        before.link.send(&Message::Serving, vec![]);
        let (Some(pidfd), Some(calls), Some(passes)) = (before.pidfd, before.calls, before.passes) else { return };
        let (relays, sockets) = before.relays.into_iter().unzip();
        let earlier = Earlier { pid: before.pid, generation: self.generation() - 1, relays };
        self.draining.push(Draining { earlier, link: before.link, pidfd, calls, passes, relays: sockets });
        self.serve_draining();
    }

    /// Applies the calls and takes the connections of the draining generations, on a thread of its own.
    fn serve_draining(&mut self) {
        let shared = Arc::clone(&self.shared);
        let started = (|| {
            let sockets =
                self.draining.iter().chain(&self.left).map(Draining::sockets).collect::<std::io::Result<_>>()?;
            let stop = Arc::new(EventFd::new()?);
            self.shared.arrivals.set_sources(self.draining.len() + self.left.len());
            let ring = Arc::clone(&stop);
            std::thread::Builder::new().name("flip-draining".into()).stack_size(STACK).spawn(move || {
                let _entered = shared.enter();
                serve_draining(&shared, sockets, &ring);
            })?;
            Ok::<_, std::io::Error>(stop)
        })();
        match started {
            Ok(stop) => self.draining_stop = Some(stop),
            Err(error) => say!(error, "the draining processes are not served: {error}"),
        }
    }

    /// The program again, from its start, with the listeners of the dead old process and without its content: what was
    /// begun here waits for content that will not come.
    fn start_over(&mut self) -> ! {
        say!(warn, "the old process died before its content was here: starting over on its listeners");
        let error = self.try_start_over().expect_err("an exec that succeeds does not return");
        say!(error, "cannot start over: {error}");
        entry::end(1)
    }

    fn try_start_over(&mut self) -> std::io::Result<std::convert::Infallible> {
        let (ours, theirs) = fd::seqpacket_pair()?;
        let mut link = Link::new(ours)?;
        let (_, word) = SharedWord::create()?;
        let (_, content) = fd::stream_pair()?;
        let (_, calls) = fd::seqpacket_pair()?;
        let (_, passes) = fd::seqpacket_pair()?;
        let before = self.before.take();
        let pid = before.as_ref().map_or(0, |before| before.pid);
        // The offer of one who died right after making it.
        let dead = before.and_then(|before| before.pidfd).ok_or_else(|| std::io::Error::other("no offer was made"))?;
        let mut fds = vec![word, dead.into_fd(), content, calls, passes];
        let mut listeners = vec![];
        for outgoing in self.listeners().offer() {
            fds.push(outgoing.as_fd().try_clone_to_owned()?);
            listeners.push(outgoing.offered);
        }
        for InheritedSocket { offered, fd } in self.listeners().take_unclaimed() {
            fds.push(fd);
            listeners.push(offered);
        }
        let generation = self.generation();
        // Nobody is there to hear a hello: the one version that every release speaks.
        link.send(
            &Message::Offer(Offer {
                version: OLDEST,
                generation,
                pid,
                mask: self.mask(),
                listeners,
                states: vec![],
                relays: vec![],
            }),
            fds,
        );
        let handled: SigSet = self.settings.signals().into_iter().collect();
        crate::sys::spawn::replace(&Spawn {
            executable: &self.origin.executable,
            args: &self.origin.args,
            extra_env: &self.origin.launched,
            origin: &self.origin,
            handled,
            channel: theirs.as_fd(),
        })
    }

    fn leave(&mut self, reason: Reason) {
        let failure = self.failure.take().or_else(|| self.shared.last_words());
        let because = failure.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
        let text = match reason {
            Reason::Failed => failure.unwrap_or_else(|| "main returned before it was ready".to_owned()),
            Reason::Stopped => "it was told to stop".to_owned(),
            Reason::OldDied => "the old process died, and the supervisor starts another".to_owned(),
            Reason::RolledBack => "the old process took the handoff back".to_owned(),
            Reason::TooSlow(Deadline::Offer) => "the old process made no offer in time".to_owned(),
            Reason::TooSlow(_) => "the old process fell silent".to_owned(),
            Reason::Garbled => format!("the old process sent what cannot be understood{because}"),
            Reason::SpawnFailed | Reason::NewDied | Reason::FreezeFailed => format!("{reason:?}{because}"),
        };
        self.send_before(Message::Words(shortened(text.clone())));
        say!(error, "pid {} leaves without having served: {text}", std::process::id());
        if self.main_ended {
            // It ends the process by what it returned, so that its own error is printed and its status counts.
            self.shared.phase.set(Phase::Over);
            std::thread::sleep(LAST);
        }
        entry::end(1);
    }

    fn stop(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.freeze.finish();
        shared.connections.ring_when_done(Arc::clone(shared.notes.bell()));
        self.begin_to_leave();
        shared.lasting.open();
        shared.accepting.close();
        shared.phase.set(Phase::Stopping);
        shared.relays.wake();
        let listeners = self.listeners();
        listeners.close();
        self.unlink(&listeners);
        let left = shared.draining().map(|drain| drain.to_string()).unwrap_or_default();
        say!(info, "generation {} (pid {}) stops and drains {left}", self.generation(), std::process::id());
        let longest = self.settings.drain_timeout.saturating_add(LAST);
        self.tell(|systemd, status| systemd.stopping(longest, status));
    }

    fn exit(&mut self) {
        let phase = self.shared.phase.get();
        if let Some(after) = &mut self.after {
            after.link.flush();
        }
        if self.orphaned {
            say!(error, "the new process died as soon as it served: nobody owns the service");
            entry::end(1);
        }
        self.end_what_lasts();
        self.report = None;
        self.end_checkpoints();
        self.shared.remove_pid_file();
        if let Some(systemd) = self.systemd.as_mut().filter(|_| self.shared.phase.has_handed_off()) {
            // Who serves must be known before the process that said so is gone.
            systemd.finish(LAST);
        }
        self.shared.phase.set(Phase::Over);
        if phase == Phase::Cut && self.shared.main_blocks.load(Ordering::Relaxed) && !self.main_ended {
            entry::end(0);
        }
        // `main` returns now and ends the process; where it is blocked for good, this does.
        std::thread::sleep(LAST);
        while self.shared.returned.load(Ordering::SeqCst) {
            // Whoever called `run` has something left to do.
            std::thread::park();
        }
        for open in self.shared.connections.open() {
            say!(warn, "cut: {open}");
        }
        say!(warn, "main has not returned (phase {phase:?}): the process ends without it");
        entry::end(0)
    }
}

/// Whether the new process is the one that was started, and the newest version that both speak.
fn welcome(hello: &Hello, from: Option<i32>, pid: Pid) -> Result<u32, String> {
    if from.is_some_and(|from| from != pid.as_raw()) {
        return Err(format!("its hello comes from pid {}", from.unwrap_or_default()));
    }
    let version = hello.newest.min(VERSION);
    if version < hello.oldest.max(OLDEST) {
        return Err(format!(
            "flip {} speaks versions {} to {} of the protocol, this one {OLDEST} to {VERSION}",
            hello.flip, hello.oldest, hello.newest
        ));
    }
    Ok(version)
}

/// What the last upgrade came to, in a process that it brought.
const SUCCEEDED: &str = "the last upgrade succeeded";

fn too_slow(deadline: Deadline, time: &str, waiting: &Waiting) -> String {
    match deadline {
        Deadline::Ready => format!(
            "was not ready within {time} (ready_timeout); with `ready = auto` each listener has to be polled once, \
             with `ready = manual` Handle::ready has to be called"
        ),
        Deadline::Serving => format!("did not take over within {time} of the commit"),
        _ => {
            let mut text = format!("did not get ready within {time} of the freeze (freeze_timeout)");
            if let Some(touched) = &waiting.touched {
                text.push_str(&format!("; the content was touched first: {touched}"));
            }
            if !waiting.unpolled.is_empty() {
                text.push_str(&format!("; not polled yet: {}", waiting.unpolled.join(", ")));
            }
            if let Some(exclusive) = &waiting.opening {
                text.push_str(&format!("; waiting for the exclusive {exclusive}"));
            }
            text
        }
    }
}

impl From<Refusal> for UpgradeError {
    fn from(refusal: Refusal) -> UpgradeError {
        match refusal {
            Refusal::Starting => UpgradeError::Starting,
            Refusal::Busy => UpgradeError::Busy,
            Refusal::Stopping => UpgradeError::Stopping,
            Refusal::HandedOver => UpgradeError::HandedOff,
        }
    }
}
