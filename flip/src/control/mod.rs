//! The control thread: events in, actions out. It decides nothing (the protocol does), takes no lock of the user's and
//! runs no code of the user's, so that a handoff, a stop and a report work while every worker is blocked.

mod content;
mod draining;
mod ending;
mod handing;
mod hear;
mod link;
mod sending;
mod supervisor;
mod taking;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

pub(crate) use self::content::{Earlier, freeze_and_send, receive_and_restore, send_sizes};
#[cfg(feature = "fuzzing")]
pub(crate) use self::content::{header, sizes};
pub(crate) use self::draining::{Sockets, serve_draining};
use self::link::Link;
use self::sending::Sendings;
use crate::config::Settings;
use crate::entry;
use crate::handle::UpgradeError;
use crate::listen::Listeners;
use crate::log::say;
use crate::phase::Phase;
use crate::protocol::{
    Action, Deadline, Event, Hello, Message, NoWord, Old, Owner, Process, Refusal, State, Typed, Waiting, Word, packets,
};
use crate::shared::{Reply, Shared};
use crate::sys::env::Origin;
use crate::sys::fd::{self, EventFd, Pidfd, PollEntry, SharedWord};
use crate::sys::oom::First;
use crate::sys::signal::{self, Signals};
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
    /// What came from a sender who may have told the launcher, too.
    sendings: Sendings,
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
    /// The process that stays, where there is one: its end is the service's.
    launcher: Option<Pidfd>,
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
        let wants = systemd::Wants {
            stores: settings.checkpoint.is_some(),
            ready_timeout: settings.ready_timeout,
            drain_timeout: settings.drain_timeout,
        };
        for advice in systemd::advice(|name| std::env::var_os(name), std::process::id(), wants) {
            say!(warn, "{advice}");
        }
    }
    // One that cannot be watched is one that is not there any more, or does not matter.
    let launcher = origin.launcher().and_then(|pid| Pidfd::open(pid).ok());
    let sendings = Sendings::new(origin.launcher());
    let thread = Thread {
        shared,
        settings,
        origin,
        signals,
        sendings,
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
        launcher,
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
    /// It knows who serves.
    SystemdKnows,
    LauncherDeath,
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
        if let Some(barrier) = self.systemd.as_ref().and_then(Systemd::barrier) {
            sources.push(Source::SystemdKnows);
            entries.push(PollEntry::readable(barrier));
        }
        if let Some(launcher) = self.launcher.as_ref().filter(|_| matches!(self.process.state, State::Old(_))) {
            sources.push(Source::LauncherDeath);
            entries.push(PollEntry::readable(launcher.as_fd()));
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
                while let Some((signal, from)) = self.next_signal() {
                    self.signalled(signal, from);
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
            Source::SystemdKnows => {
                // What it sent before was sent by somebody who did not know.
                signal::take_pending(&self.settings.signals());
                self.look_at(Source::Signals);
                if let Some(systemd) = &mut self.systemd {
                    systemd.knows();
                }
            }
            Source::LauncherDeath => {
                // Whoever waited for it takes the service for ended, and may start another.
                self.launcher = None;
                // Nor does it hear anything.
                self.systemd = None;
                say!(error, "the launcher was killed: the service stops");
                self.step(Event::Stop);
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

    fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(self.shared.listeners.get().expect("the listeners are there before anything can be noted of them"))
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
}

/// What the last upgrade came to, in a process that it brought.
const SUCCEEDED: &str = "the last upgrade succeeded";

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
