//! The world around the machines, small enough to walk: processes, channels, words, pidfds, a supervisor, and faults.
//!
//! # The environment's contract
//!
//! What the machines may rely on, and what therefore the control thread has to keep:
//!
//! * **One step at a time.** An event is delivered to a process only when all actions of its last step are done. The
//!   process can die or be stopped between any two of them.
//! * **Channels are first in, first out**, and what was sent stays readable when its sender is dead. `Serving` and
//!   `Commit` may also be delivered though nobody sent them.
//! * **What a dead process had sent is read before its death is reported.** The walk grants it only where it decides:
//!   for the offer, which has the listeners, and for requests that somebody who drains had handed on.
//! * **Death goes first.** A deadline, or content that does not decode, is reported only after the pidfd of the other
//!   process was looked at and its death, if it was one, reported.
//! * **An early end of the content is not reported before the death of old is**: a dying process closes its sockets
//!   before its pidfd says so. Where old lives, it is old that knows, and kills; or the deadline.
//! * **Touched** is delivered at most once and only while the user's `main` initialises; **Polled** once.
//! * **Spawn** makes a process, a fresh channel and a fresh word. Where it reports `SpawnFailed` there may be none.
//! * **Kill** forgets: no event of that handoff follows, neither messages nor a death.
//! * **Freeze** sends the pidfds of those who drain with the content, and `Restored` starts to watch them. From then on
//!   both processes watch, and each is told. A process that becomes the owner while its old one lives watches that too:
//!   from its step on, its death is `DrainingGone`. Before, it is `OldDied`.
//! * **HandOver** keeps the channel to the new owner, which `SendAgain` and `SendStop` still use, and on which `Stop`
//!   and `Cut` arrive. The channels of those who drain are then read by the new owner alone. The supervisor is told of
//!   a new owner that lives; where it is dead already, this process ends with a failure, so that another is started.
//! * **Exit** and **Leave** end the process.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// How many faults and requests one run may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Requests whose asker waits for the answer.
    pub(super) asks: u8,
    /// Requests by signal.
    pub(super) signals: u8,
    pub(super) stops: u8,
    pub(super) crashes: u8,
    /// Processes that stop running, for good or not.
    pub(super) silences: u8,
    /// Deadlines that pass while something else could still happen. Where nothing else can they pass for free.
    pub(super) deadlines: u8,
    /// What fails in the user's program or in the system, and what arrives garbled.
    pub(super) failures: u8,
    /// Writes to the content.
    pub(super) writes: u8,
}

/// A deliberate mistake, to prove that the walk finds some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mistake {
    None,
    /// A swap is a store.
    SwapIsStore,
    /// Old accepts and writes again at its deadline, before it swapped.
    ThawBeforeSwap,
    /// Writers are held back only when the snapshot is sent.
    WritersRun,
    /// No pidfd: nobody is told of a death.
    DeathsUnseen,
    /// The requests that a process hands on are lost.
    HandedOnLost,
    /// Who drains is not sent with the content.
    DrainingForgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Config {
    pub(super) name: &'static str,
    pub(super) budget: Budget,
    pub(super) supervised: bool,
    pub(super) generations: u8,
    pub(super) mistake: Mistake,
}

/// What must happen at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Sometimes {
    Completes,
    RollsBack(Reason),
    Leaves(Reason),
    Refuses(Refusal),
    /// A remembered request is taken up after a roll-back.
    Retried,
    /// A remembered request is handed on and taken up by the new owner.
    HandedOn,
    /// A stop of a process that only seemed to own is handed on.
    StopHandedOn,
    ThirdServesWhileFirstDrains,
    TakesOver(Content),
    StopDuringFreeze,
    /// Old wanted to roll back and new had won.
    SwapLost,
    /// Old committed and fell silent; new's deadline came.
    DeadlineWon,
    SecondStopCuts,
    /// The service ends with its owner, after a generation that still drained.
    OwnerLeavesLast,
    OldestIsCut,
    SupervisorStartsAnother,
}

/// A promise that does not hold, and why.
pub(super) type Broken = (&'static str, String);

/// What a move shows that is no part of the world.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) sometimes: Vec<Sometimes>,
    pub(super) broken: Option<Broken>,
}

impl Notes {
    fn broken(&mut self, promise: &'static str, why: String) {
        self.broken.get_or_insert((promise, why));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Running,
    /// It lives and does nothing.
    Silent,
    Dead,
}

/// The content on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    Nothing,
    /// The first byte is sent.
    Sending(u8, u8),
    /// All of it can be read: the content, and who drains.
    Whole(u8, u8),
    /// It ends early.
    Ended,
}

/// One process; with it, the pair that it makes with its old one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Proc {
    pub(super) machine: Process,
    pub(super) life: Life,
    /// Actions of the last step that are not done yet.
    pub(super) pending: Vec<Action>,
    pub(super) old: Option<usize>,
    pub(super) new: Option<usize>,
    /// The word that this process shares with its old one.
    pub(super) word: Owner,
    /// Messages from old.
    from_old: Vec<Event>,
    /// Messages to old.
    to_old: Vec<Event>,
    stream: Stream,
    stillborn: bool,

    pub(super) accepts: bool,
    pub(super) writes: bool,
    pub(super) content: u8,
    polled: bool,
    /// Those who drain and whose end was not reported yet, one bit each.
    watches: u8,
    old_reported: bool,
    new_reported: bool,
    pub(super) handed_over: bool,
    /// Somebody waits for the answer.
    pub(super) asked: bool,
    /// A deadline or a second stop: it may leave before those who drain.
    hurried: bool,
    /// The supervisor has sent its stop.
    told_to_stop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Supervisor {
    Absent,
    Follows(usize),
    /// What it followed is dead: the rest is to go, then another is started.
    Clears,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) procs: Vec<Proc>,
    left: Budget,
    /// The last write that was acknowledged.
    pub(super) acknowledged: u8,
    supervisor: Supervisor,
    /// The service was told to stop, or its program ended.
    pub(super) stop: bool,
    pub(super) crashed: bool,
    /// A fault left nobody who could accept; nothing that flip can do.
    pub(super) excused: bool,
    /// A signal that was taken wants an upgrade, and none was started since.
    pub(super) owed: bool,
    /// Requests that were taken and not spawned for.
    credit: u8,
}

/// One atomic thing that can happen. A process is named by its place in the order of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The next action of the last step is done.
    Act(usize),
    /// The next action, `Spawn`, fails.
    SpawnFails(usize),
    /// The oldest message of a pair is read by its new side, or whoever has the channel from it.
    ReadFromOld {
        by: usize,
        pair: usize,
    },
    /// The oldest message of a pair is read by its old side.
    ReadFromNew {
        by: usize,
    },
    /// As these, but it arrives as nonsense.
    GarbledFromOld {
        by: usize,
    },
    GarbledFromNew {
        by: usize,
    },
    Happens(usize, Event),
    /// One of those who drain is seen to be gone.
    Gone {
        who: usize,
        seen_by: usize,
    },
    /// The last byte of the content is sent.
    Sent(usize),
    Write(usize),
    Crash(usize),
    FallSilent(usize),
    Resume(usize),
    /// The mistake.
    Thaw(usize),
    SupervisorStops(usize),
    SupervisorKills(usize),
    SupervisorStarts,
}

fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |b| mask & (1 << b) != 0)
}

impl Proc {
    fn start(machine: Process, old: Option<usize>) -> Proc {
        Proc {
            machine,
            life: Life::Running,
            pending: vec![],
            old,
            new: None,
            word: Owner::Old,
            from_old: vec![],
            to_old: vec![],
            stream: Stream::Nothing,
            stillborn: false,
            accepts: false,
            writes: false,
            content: 0,
            polled: false,
            watches: 0,
            old_reported: false,
            new_reported: false,
            handed_over: false,
            asked: false,
            hurried: false,
            told_to_stop: false,
        }
    }

    pub(super) fn lives(&self) -> bool {
        self.life != Life::Dead
    }

    fn is_idle(&self) -> bool {
        self.life == Life::Running && self.pending.is_empty()
    }

    fn is_new(&self) -> bool {
        matches!(self.machine.state, State::New(_))
    }
}

/// The states in which a process is what people who signal it mean by "the service".
fn owns(state: &State) -> bool {
    matches!(
        state,
        State::Old(
            Old::Starting
                | Old::Serving
                | Old::AwaitingHello
                | Old::AwaitingPrepared
                | Old::Frozen
                | Old::AwaitingServing
        )
    )
}

impl World {
    /// A process that was started cold and is about to serve.
    pub(super) fn new(config: &Config) -> World {
        let mut first = Proc::start(Process::cold(config.supervised, config.generations), None);
        first.accepts = true;
        first.writes = true;
        World {
            procs: vec![first],
            left: config.budget,
            acknowledged: 0,
            supervisor: if config.supervised { Supervisor::Follows(0) } else { Supervisor::Absent },
            stop: false,
            crashed: false,
            excused: false,
            owed: false,
            credit: 0,
        }
    }

    /// Whether this process accepts, or may come to.
    pub(super) fn is_viable(&self, p: usize) -> bool {
        let proc = &self.procs[p];
        if !proc.lives() {
            return false;
        }
        match &proc.machine.state {
            State::New(New::Leaving) => false,
            // It does not see the word before it has the offer.
            State::New(New::AwaitingOffer) => proc.from_old.is_empty() || proc.word != Owner::RolledBack,
            State::New(_) => proc.word != Owner::RolledBack,
            state @ State::Old(_) => owns(state) && proc.new.is_none_or(|n| self.procs[n].word != Owner::Serving),
        }
    }

    /// Whether somebody starts another process where this one dies.
    pub(super) fn is_supervised(&self) -> bool {
        self.supervisor != Supervisor::Absent
    }

    pub(super) fn has_viable(&self) -> bool {
        (0..self.procs.len()).any(|p| self.is_viable(p))
    }

    /// What can happen. The first so many need no fault and no request: what runs without any gets that far.
    pub(super) fn moves(&self, config: &Config, moves: &mut Vec<Move>) -> usize {
        moves.clear();
        let mut deadlines = vec![];
        for p in 0..self.procs.len() {
            self.moves_of(p, config, moves, &mut deadlines);
        }
        if matches!(self.supervisor, Supervisor::Clears) {
            for (p, proc) in self.procs.iter().enumerate() {
                if proc.is_idle() && !proc.told_to_stop {
                    moves.push(Move::SupervisorStops(p));
                }
            }
            if !self.stop && self.procs.iter().all(|p| !p.lives()) {
                moves.push(Move::SupervisorStarts);
            }
        }
        // Time passes where nothing else does.
        if moves.is_empty() {
            moves.append(&mut deadlines);
        }
        if moves.is_empty() && matches!(self.supervisor, Supervisor::Clears) {
            moves.extend((0..self.procs.len()).filter(|&p| self.procs[p].lives()).map(Move::SupervisorKills));
        }
        let free = moves.len();
        if self.left.deadlines > 0 {
            moves.append(&mut deadlines);
        }
        for p in 0..self.procs.len() {
            self.faults_of(p, config, moves);
        }
        free
    }

    fn moves_of(&self, p: usize, config: &Config, moves: &mut Vec<Move>, deadlines: &mut Vec<Move>) {
        let proc = &self.procs[p];
        if proc.life != Life::Running {
            return;
        }
        if let Some(n) = proc.new
            && matches!(self.procs[n].stream, Stream::Sending(..))
        {
            moves.push(Move::Sent(p));
        }
        if !proc.pending.is_empty() {
            moves.push(Move::Act(p));
            return;
        }
        // Messages.
        if !proc.handed_over && !proc.from_old.is_empty() {
            moves.push(Move::ReadFromOld { by: p, pair: p });
        }
        if !proc.is_new() && !proc.handed_over {
            for pair in bits(proc.watches).filter_map(|q| self.procs[q].new) {
                if pair != p && !self.procs[pair].from_old.is_empty() {
                    moves.push(Move::ReadFromOld { by: p, pair });
                }
            }
        }
        if let Some(n) = proc.new
            && !self.procs[n].to_old.is_empty()
        {
            moves.push(Move::ReadFromNew { by: p });
        }
        // Deaths.
        let mut unseen_death = false;
        if config.mistake != Mistake::DeathsUnseen {
            if let Some(n) = proc.new
                && !proc.new_reported
                && !proc.handed_over
                && !self.procs[n].lives()
            {
                unseen_death = true;
                let event = if self.procs[n].stillborn { Event::SpawnFailed } else { Event::NewDied };
                moves.push(Move::Happens(p, event));
            }
            if let Some(o) = proc.old
                && proc.is_new()
                && !proc.old_reported
                && !self.procs[o].lives()
            {
                unseen_death = true;
                let unread_offer = proc.machine.state == State::New(New::AwaitingOffer) && !proc.from_old.is_empty();
                if !unread_offer {
                    moves.push(Move::Happens(p, Event::OldDied));
                }
            }
        }
        for who in bits(proc.watches) {
            let heard = self.procs[who].new.is_none_or(|n| self.procs[n].from_old.is_empty());
            if heard && !self.procs[who].lives() {
                moves.push(Move::Gone { who, seen_by: p });
            }
        }
        // The user's program, and what brings the content.
        match &proc.machine.state {
            State::New(New::Initialising) => {
                moves.push(Move::Happens(p, Event::Touched));
            }
            State::New(New::AwaitingContent { .. }) => {
                if let Stream::Whole(_, drain) = proc.stream {
                    moves.push(Move::Happens(p, Event::Restored { draining: drain.count_ones() as u8 }));
                }
            }
            State::New(New::TakingOver { .. }) => match proc.stream {
                Stream::Whole(_, drain) => {
                    moves.push(Move::Happens(p, Event::Restored { draining: drain.count_ones() as u8 }));
                }
                Stream::Ended => moves.push(Move::Happens(p, Event::RestoreFailed)),
                Stream::Nothing | Stream::Sending(..) => {}
            },
            State::Old(Old::Draining { .. } | Old::Stopping { drained: false } | Old::Cutting { .. }) => {
                moves.push(Move::Happens(p, Event::Drained));
            }
            _ => {}
        }
        // A program that waits for its content may poll only then: see `faults_of`.
        if !proc.polled
            && let State::New(New::Initialising | New::AwaitingPolls) | State::Old(Old::Starting) = proc.machine.state
        {
            moves.push(Move::Happens(p, Event::Polled));
        }
        if proc.machine.deadline().is_some() && !unseen_death {
            deadlines.push(Move::Happens(p, Event::DeadlinePassed));
        }
    }

    fn faults_of(&self, p: usize, config: &Config, moves: &mut Vec<Move>) {
        let proc = &self.procs[p];
        if !proc.lives() {
            return;
        }
        if self.left.crashes > 0 {
            moves.push(Move::Crash(p));
        }
        if proc.life == Life::Silent {
            moves.push(Move::Resume(p));
            return;
        }
        if self.left.silences > 0 {
            moves.push(Move::FallSilent(p));
        }
        if self.left.writes > 0 && proc.writes {
            moves.push(Move::Write(p));
        }
        if let [Action::Spawn, ..] = proc.pending[..]
            && self.left.failures > 0
        {
            moves.push(Move::SpawnFails(p));
        }
        if !proc.is_idle() {
            return;
        }
        if !proc.polled
            && let State::New(New::AwaitingContent { .. } | New::TakingOver { .. }) = proc.machine.state
        {
            moves.push(Move::Happens(p, Event::Polled));
        }
        if self.left.asks > 0 {
            moves.push(Move::Happens(p, Event::UpgradeAsked));
        }
        if self.left.signals > 0 {
            moves.push(Move::Happens(p, Event::UpgradeSignalled));
        }
        if self.left.stops > 0 {
            moves.push(Move::Happens(p, Event::StopSignalled));
        }
        if let State::Old(Old::AwaitingServing) = proc.machine.state {
            moves.push(Move::Happens(p, Event::Serving));
            if config.mistake == Mistake::ThawBeforeSwap && !proc.accepts {
                moves.push(Move::Thaw(p));
            }
        }
        if let State::New(New::AwaitingCommit) = proc.machine.state {
            moves.push(Move::Happens(p, Event::Commit));
        }
        if self.left.failures == 0 {
            return;
        }
        match &proc.machine.state {
            State::New(New::AwaitingOffer) if !proc.from_old.is_empty() => {
                moves.push(Move::GarbledFromOld { by: p });
            }
            State::New(New::AwaitingOffer | New::Leaving) => {}
            State::New(state) => {
                moves.push(Move::Happens(p, Event::MainEnded));
                let old_is_gone = proc.old.is_some_and(|o| !self.procs[o].lives() && !proc.old_reported);
                if let (New::AwaitingContent { .. } | New::TakingOver { .. }, Stream::Whole(..)) = (state, proc.stream)
                    && !old_is_gone
                {
                    moves.push(Move::Happens(p, Event::RestoreFailed));
                }
            }
            state if owns(state) => {
                moves.push(Move::Happens(p, Event::MainEnded));
                if let Some(n) = proc.new {
                    if matches!(self.procs[n].stream, Stream::Sending(..)) {
                        moves.push(Move::Happens(p, Event::FreezeFailed));
                    }
                    if !self.procs[n].to_old.is_empty() {
                        moves.push(Move::GarbledFromNew { by: p });
                    }
                }
            }
            State::Old(_) => {}
        }
    }

    /// Makes a move that [`World::moves`] offered.
    pub(super) fn make(&mut self, a_move: Move, free: bool, config: &Config, notes: &mut Notes) {
        let mut fault = false;
        match a_move {
            Move::Act(p) => self.act(p, false, config, notes),
            Move::SpawnFails(p) => {
                self.left.failures -= 1;
                self.act(p, true, config, notes);
            }
            Move::ReadFromOld { by, pair } => {
                let event = self.procs[pair].from_old.remove(0);
                self.feed(by, event, config, notes);
            }
            Move::ReadFromNew { by } => {
                let new = self.procs[by].new.expect("it was offered");
                let event = self.procs[new].to_old.remove(0);
                self.feed(by, event, config, notes);
            }
            Move::GarbledFromOld { by } => {
                fault = true;
                self.left.failures -= 1;
                self.procs[by].from_old.remove(0);
                self.feed(by, Event::Garbled, config, notes);
            }
            Move::GarbledFromNew { by } => {
                fault = true;
                self.left.failures -= 1;
                let new = self.procs[by].new.expect("it was offered");
                self.procs[new].to_old.remove(0);
                self.feed(by, Event::Garbled, config, notes);
            }
            Move::Happens(p, event) => {
                if free && event == Event::DeadlinePassed && self.is_undisturbed(config) {
                    notes
                        .broken("messages_wake", format!("process {} waits for a deadline, and nothing failed", p + 1));
                }
                fault = self.pay(p, event, free);
                self.feed(p, event, config, notes);
            }
            Move::Gone { who, seen_by } => {
                self.procs[seen_by].watches &= !(1 << who);
                self.feed(seen_by, Event::DrainingGone, config, notes);
            }
            Move::Sent(p) => {
                let new = self.procs[p].new.expect("it was offered");
                let Stream::Sending(content, drain) = self.procs[new].stream else { unreachable!("it was offered") };
                self.procs[new].stream = Stream::Whole(content, drain);
                if config.mistake == Mistake::WritersRun {
                    self.procs[p].writes = false;
                }
            }
            Move::Write(p) => {
                self.left.writes -= 1;
                self.procs[p].content += 1;
                self.acknowledged = self.procs[p].content;
            }
            Move::Crash(p) => {
                fault = true;
                self.left.crashes -= 1;
                self.crashed = true;
                // Another one is started for an owner that crashes, sooner or later, by whoever supervises.
                if self.supervisor != Supervisor::Absent && self.is_viable(p) && !self.procs[p].is_new() {
                    self.excused = true;
                }
                self.die(p);
            }
            Move::FallSilent(p) => {
                self.left.silences -= 1;
                self.procs[p].life = Life::Silent;
            }
            Move::Resume(p) => self.procs[p].life = Life::Running,
            Move::Thaw(p) => (self.procs[p].accepts, self.procs[p].writes) = (true, true),
            Move::SupervisorStops(p) => {
                self.procs[p].told_to_stop = true;
                let stop = self.stop;
                self.feed(p, Event::StopSignalled, config, notes);
                self.stop = stop;
                self.excused = true;
            }
            Move::SupervisorKills(p) => self.die(p),
            Move::SupervisorStarts => {
                notes.sometimes.push(Sometimes::SupervisorStartsAnother);
                let left = self.left;
                *self = World::new(config);
                self.left = left;
                self.crashed = true;
            }
        }
        if self.stop || (fault && !self.has_viable()) {
            self.excused = true;
        }
        // What nobody else can see is done with what comes before it: to die in between is to die before or after.
        for p in 0..self.procs.len() {
            while let [Action::Refuse(_) | Action::ReportRolledBack(_) | Action::Cut | Action::SendDone, ..] =
                self.procs[p].pending[..]
            {
                self.act(p, false, config, notes);
            }
        }
        self.tidy();
    }

    /// Whether nothing failed so far.
    fn is_undisturbed(&self, config: &Config) -> bool {
        let faults = |b: Budget| (b.crashes, b.silences, b.deadlines, b.failures);
        faults(self.left) == faults(config.budget) && self.procs.iter().all(|p| !p.told_to_stop)
    }

    /// Takes an event from the budget, and says whether it is a fault.
    fn pay(&mut self, p: usize, event: Event, free: bool) -> bool {
        match event {
            Event::UpgradeAsked => self.left.asks -= 1,
            Event::UpgradeSignalled => self.left.signals -= 1,
            Event::StopSignalled => {
                self.left.stops -= 1;
                return true;
            }
            Event::MainEnded | Event::FreezeFailed => {
                self.left.failures -= 1;
                if event == Event::FreezeFailed {
                    let new = self.procs[p].new.expect("it was offered");
                    self.procs[new].stream = Stream::Ended;
                }
                return true;
            }
            Event::RestoreFailed if !free => {
                self.left.failures -= 1;
                return true;
            }
            Event::DeadlinePassed if !free => self.left.deadlines -= 1,
            Event::Polled => self.procs[p].polled = true,
            Event::OldDied => self.procs[p].old_reported = true,
            Event::NewDied | Event::SpawnFailed => self.procs[p].new_reported = true,
            _ => {}
        }
        false
    }

    /// One step of a machine, with what has to be true of it.
    fn feed(&mut self, p: usize, event: Event, config: &Config, notes: &mut Notes) {
        let holder = match self.procs[p].machine.state {
            State::New(New::AwaitingOffer) => None,
            State::New(_) => Some(p),
            State::Old(_) => self.procs[p].new,
        };
        let before = self.procs[p].machine.clone();
        let word_before = holder.map(|h| self.procs[h].word);
        if let Event::Restored { .. } = event {
            let Stream::Whole(content, drain) = self.procs[p].stream else { unreachable!("it was offered") };
            (self.procs[p].content, self.procs[p].watches) = (content, drain);
        }

        // Where nothing could be started there may be no word either.
        let word_before = word_before.filter(|_| event != Event::SpawnFailed);
        let word = word_before
            .map(|owner| ModelWord { word: SharedWord::new(owner), is_store: config.mistake == Mistake::SwapIsStore });
        let machine = &mut self.procs[p].machine;
        let step = catch_unwind(AssertUnwindSafe(|| match &word {
            Some(word) => machine.step(event, word),
            None => machine.step(event, &NoWord),
        }));
        let Ok(actions) = step else {
            return notes.broken("no_step_panics", format!("{event:?} in {before:?}"));
        };
        let word = word.map(|w| w.owner());
        if let (Some(holder), Some(word)) = (holder, word) {
            self.procs[holder].word = word;
        }
        if before.state != self.procs[p].machine.state
            && matches!(before.state, State::New(_))
            && !self.procs[p].is_new()
        {
            self.watch_old(p);
        }
        if event == Event::DeadlinePassed && before == self.procs[p].machine && actions.is_empty() {
            notes.broken("a_deadline_decides", format!("it changes nothing in {:?}", before.state));
        }
        self.account(p, event, &before, word_before, &actions, notes);
        self.check_answers(p, event, &before, word, &actions, notes);
        self.check_deaths(p, event, &before, word_before, &actions, notes);
        note_sometimes(event, &before, &actions, notes);
        self.procs[p].pending = actions;
    }

    /// From its step to owner on, the end of a living old one is the end of one that drains.
    fn watch_old(&mut self, p: usize) {
        if let Some(old) = self.procs[p].old
            && !self.procs[p].old_reported
        {
            self.procs[p].watches |= 1 << old;
        }
    }

    /// What the service owes to whoever signalled it, by where the signal arrived.
    fn account(
        &mut self,
        p: usize,
        event: Event,
        before: &Process,
        word: Option<Owner>,
        actions: &[Action],
        notes: &mut Notes,
    ) {
        let leaves = matches!(before.state, State::New(New::Leaving) | State::Old(Old::Gone));
        match event {
            Event::UpgradeSignalled if owns(&before.state) => {
                self.owed = true;
                self.credit += 1;
            }
            Event::UpgradeSignalled if matches!(before.state, State::New(_)) && !leaves => self.credit += 1,
            Event::UpgradeAsked => match actions {
                [Action::Refuse(_)] => {}
                [.., Action::Spawn] => {
                    self.procs[p].asked = true;
                    self.credit += 1;
                }
                _ if leaves => {}
                _ => notes.broken("the_truth_is_told", format!("a request in {:?} is not answered", before.state)),
            },
            Event::StopSignalled if owns(&before.state) => self.stop = true,
            Event::StopSignalled if matches!(before.state, State::New(New::TakingOver { .. })) => self.stop = true,
            Event::StopSignalled if matches!(before.state, State::New(_)) && word == Some(Owner::New) => {
                self.stop = true;
            }
            Event::MainEnded if owns(&before.state) && word != Some(Owner::Serving) => self.stop = true,
            _ => {}
        }
        if matches!(before.state, State::Old(Old::Stopping { .. }))
            && matches!(event, Event::StopSignalled | Event::DeadlinePassed)
        {
            self.procs[p].hurried = true;
        }
    }

    fn check_answers(
        &mut self,
        p: usize,
        event: Event,
        before: &Process,
        word: Option<Owner>,
        actions: &[Action],
        notes: &mut Notes,
    ) {
        for action in actions {
            match action {
                Action::HandOver if word != Some(Owner::Serving) => {
                    notes.broken("the_truth_is_told", format!("process {} says done, the word says {word:?}", p + 1));
                }
                Action::ReportRolledBack(Reason::SpawnFailed) if word.is_none() => {}
                Action::ReportRolledBack(_) if word != Some(Owner::RolledBack) => {
                    notes.broken("the_truth_is_told", format!("process {} says no, the word says {word:?}", p + 1));
                }
                Action::Refuse(refusal) => {
                    let fits = match refusal {
                        Refusal::Starting => {
                            matches!(before.state, State::New(_) | State::Old(Old::Starting))
                        }
                        Refusal::Busy => owns(&before.state),
                        Refusal::Stopping => {
                            matches!(before.state, State::Old(Old::Stopping { .. } | Old::Cutting { .. }))
                                && !self.procs[p].handed_over
                        }
                        Refusal::HandedOver => self.procs[p].handed_over,
                    };
                    if !fits {
                        notes.broken("the_truth_is_told", format!("{refusal:?} after {event:?} in {:?}", before.state));
                    }
                }
                _ => {}
            }
        }
    }

    /// A death decides at once, and leaves one successor.
    fn check_deaths(
        &mut self,
        p: usize,
        event: Event,
        before: &Process,
        word: Option<Owner>,
        actions: &[Action],
        notes: &mut Notes,
    ) {
        let proc = &self.procs[p];
        let state = &proc.machine.state;
        let undecided = match event {
            Event::NewDied | Event::SpawnFailed => {
                owns(&before.state)
                    && !actions.iter().any(|a| matches!(a, Action::HandOver | Action::ReportRolledBack(_)))
            }
            Event::OldDied => matches!(state, State::New(s) if !matches!(s, New::Leaving | New::TakingOver { .. })),
            _ => false,
        };
        if undecided {
            notes.broken("a_death_decides", format!("{event:?} in {:?} changes nothing", before.state));
        }
        let takes_over = event == Event::OldDied && *state != State::New(New::Leaving);
        if before.supervised && takes_over && word != Some(Owner::New) {
            notes.broken("one_owner", format!("process {} takes over where a supervisor starts another", p + 1));
        }
        let is_here = matches!(before.state, State::New(New::AwaitingPolls | New::AwaitingCommit));
        if is_here && actions.contains(&Action::Serve(Content::Fresh)) {
            notes.broken("acknowledged_writes_survive", format!("process {} has the content and drops it", p + 1));
        }
    }

    /// Does the next pending action of a process.
    fn act(&mut self, p: usize, fails: bool, config: &Config, notes: &mut Notes) {
        let action = self.procs[p].pending.remove(0);
        let new = self.procs[p].new;
        match action {
            Action::Spawn => {
                self.owed = false;
                if self.credit == 0 {
                    notes.broken("a_request_is_acted_on_once", format!("process {} starts one more", p + 1));
                }
                self.credit = self.credit.saturating_sub(1);
                let machine = Process::successor(config.supervised, config.generations);
                let mut child = Proc::start(machine, Some(p));
                child.to_old.push(Event::Hello);
                self.procs.push(child);
                let n = self.procs.len() - 1;
                self.procs[p].new = Some(n);
                self.procs[p].new_reported = false;
                if fails {
                    self.procs[n].stillborn = true;
                    self.die(n);
                }
            }
            Action::SendOffer => self.send_to_new(new, Event::Offer),
            Action::SendCommit => self.send_to_new(new, Event::Commit),
            Action::SendAgain if config.mistake == Mistake::HandedOnLost => {}
            Action::SendStop if config.mistake == Mistake::HandedOnLost => {}
            Action::SendAgain => self.send_to_new(new, Event::Again),
            Action::SendStop => self.send_to_new(new, Event::Stop),
            Action::SendPrepared => self.procs[p].to_old.push(Event::Prepared),
            Action::SendReady => self.procs[p].to_old.push(Event::Ready),
            Action::SendServing => self.procs[p].to_old.push(Event::Serving),
            Action::Freeze => {
                let proc = &mut self.procs[p];
                proc.accepts = false;
                proc.writes = config.mistake == Mistake::WritersRun;
                let drain = if config.mistake == Mistake::DrainingForgotten { 0 } else { proc.watches };
                let stream = Stream::Sending(proc.content, drain);
                if let Some(n) = new
                    && self.procs[n].lives()
                {
                    self.procs[n].stream = stream;
                }
            }
            Action::Thaw => {
                if new.is_none_or(|n| self.procs[n].word != Owner::RolledBack) {
                    notes.broken("one_owner", format!("process {} thaws, and the word does not say so", p + 1));
                }
                (self.procs[p].accepts, self.procs[p].writes) = (true, true);
            }
            Action::Kill => {
                let n = new.expect("only a process that was started is killed");
                self.die(n);
                self.procs[n].to_old.clear();
                self.procs[p].new = None;
            }
            Action::HandOver => {
                let proc = &mut self.procs[p];
                (proc.accepts, proc.writes, proc.content, proc.watches) = (false, false, 0, 0);
                (proc.handed_over, proc.asked) = (true, false);
                let n = new.expect("there is somebody to hand over to");
                // A dead one cannot be named to a supervisor; it goes on to follow this one, which ends with a failure.
                if self.supervisor == Supervisor::Follows(p) && self.procs[n].lives() {
                    self.supervisor = Supervisor::Follows(n);
                }
                notes.sometimes.push(Sometimes::Completes);
            }
            Action::ReportRolledBack(reason) => {
                self.failure_changed_nothing(p, notes);
                let proc = &mut self.procs[p];
                proc.asked = false;
                if proc.new.is_some_and(|n| self.procs[n].stillborn) {
                    self.procs[p].new = None;
                }
                notes.sometimes.push(Sometimes::RollsBack(reason));
            }
            Action::Refuse(refusal) => notes.sometimes.push(Sometimes::Refuses(refusal)),
            Action::Serve(content) => self.serve(p, content, notes),
            Action::Leave(reason) => {
                notes.sometimes.push(Sometimes::Leaves(reason));
                self.die(p);
            }
            Action::Stop => self.procs[p].accepts = false,
            Action::TellDraining => {
                for q in bits(self.procs[p].watches) {
                    self.send_to_draining(q, Event::Stop);
                }
            }
            Action::CutDraining => {
                for q in bits(self.procs[p].watches) {
                    self.send_to_draining(q, Event::Cut);
                }
            }
            Action::CutOldest => {
                notes.sometimes.push(Sometimes::OldestIsCut);
                if let Some(q) = bits(self.procs[p].watches).next() {
                    self.send_to_draining(q, Event::Cut);
                }
            }
            Action::Cut | Action::SendDone => {}
            Action::Exit => {
                let proc = &self.procs[p];
                // After a crash a fresh start may not know who drains; else the last to leave is the owner.
                let left: Vec<_> = (0..self.procs.len())
                    .filter(|&q| q != p && self.procs[q].lives())
                    .filter(|&q| !self.crashed || proc.watches & (1 << q) != 0)
                    .map(|q| q + 1)
                    .collect();
                if !proc.handed_over && !proc.hurried && !left.is_empty() {
                    notes.broken("stop_belongs_to_the_service", format!("its owner leaves before {left:?}"));
                }
                self.die(p);
            }
        }
    }

    fn serve(&mut self, p: usize, content: Content, notes: &mut Notes) {
        let old_lives = self.procs[p].old.is_some_and(|o| self.procs[o].lives());
        let proc = &mut self.procs[p];
        (proc.accepts, proc.writes) = (true, true);
        if content == Content::Fresh {
            proc.content = 0;
            self.acknowledged = 0;
            if old_lives {
                notes.broken("acknowledged_writes_survive", "a fresh start while old lives".into());
            }
        }
        let old = self.procs[p].old;
        if self.procs.iter().enumerate().any(|(q, proc)| proc.handed_over && proc.lives() && Some(q) != old) {
            notes.sometimes.push(Sometimes::ThirdServesWhileFirstDrains);
        }
    }

    fn failure_changed_nothing(&self, p: usize, notes: &mut Notes) {
        let proc = &self.procs[p];
        let new_lives = proc.new.is_some_and(|n| self.procs[n].lives());
        if !proc.accepts || !proc.writes || proc.content != self.acknowledged || proc.handed_over || new_lives {
            notes.broken(
                "failure_changes_nothing",
                format!(
                    "process {} rolled back; it accepts: {}, writes: {}, content {} of {}, new lives: {new_lives}",
                    p + 1,
                    proc.accepts,
                    proc.writes,
                    proc.content,
                    self.acknowledged
                ),
            );
        }
    }

    fn send_to_new(&mut self, new: Option<usize>, event: Event) {
        if let Some(n) = new {
            self.procs[n].from_old.push(event);
        }
    }

    fn send_to_draining(&mut self, q: usize, event: Event) {
        if self.procs[q].lives()
            && let Some(n) = self.procs[q].new
        {
            self.procs[n].to_old.push(event);
        }
    }

    fn die(&mut self, p: usize) {
        let proc = &mut self.procs[p];
        proc.life = Life::Dead;
        (proc.accepts, proc.writes, proc.asked) = (false, false, false);
        proc.pending.clear();
        if let Some(n) = proc.new
            && matches!(self.procs[n].stream, Stream::Sending(..) | Stream::Nothing)
        {
            self.procs[n].stream = Stream::Ended;
        }
        if self.supervisor == Supervisor::Follows(p) {
            self.supervisor = Supervisor::Clears;
            self.excused = true;
        }
    }

    /// Forgets what can make no difference any more, so that equal worlds are equal.
    fn tidy(&mut self) {
        for p in 0..self.procs.len() {
            let old = self.procs[p].old.filter(|&o| self.procs[o].lives());
            let old_reads = old.is_some();
            let old_decides = old.is_some_and(|o| !self.procs[o].handed_over && self.procs[o].new == Some(p));
            let read_elsewhere = self.procs[p].old.is_some_and(|o| {
                self.procs.iter().any(|r| {
                    let will = match r.stream {
                        Stream::Sending(_, drain) | Stream::Whole(_, drain) => drain,
                        Stream::Nothing | Stream::Ended => 0,
                    };
                    r.lives() && (r.watches | will) & (1 << o) != 0
                })
            });
            let proc = &mut self.procs[p];
            if !old_reads {
                proc.to_old.clear();
            }
            if (!proc.lives() || proc.handed_over) && !read_elsewhere {
                proc.from_old.clear();
            }
            if !(old_decides || proc.lives() && proc.is_new()) {
                proc.word = Owner::Old;
            }
            if !proc.lives() || !proc.is_new() {
                proc.stream = Stream::Nothing;
            }
            if !proc.lives() {
                let Proc { old, new, word, stillborn, .. } = *proc;
                let blank = Proc::start(Process::cold(false, 0), old);
                let from_old = std::mem::take(&mut proc.from_old);
                let to_old = std::mem::take(&mut proc.to_old);
                *proc = Proc { life: Life::Dead, new, word, from_old, to_old, stillborn, ..blank };
            }
        }
        // The last in the order of starts can be forgotten when nobody knows it.
        while let Some(last) = self.procs.last() {
            let n = self.procs.len() - 1;
            let known = self.procs.iter().any(|p| p.lives() && (p.new == Some(n) || p.watches & (1 << n) != 0));
            if last.lives() || known || n == 0 {
                break;
            }
            self.procs.pop();
            for proc in &mut self.procs {
                if proc.new == Some(n) {
                    proc.new = None;
                }
            }
        }
    }

    /// Who drains, as the owner counts and as it is.
    pub(super) fn miscounts(&self) -> Option<usize> {
        self.procs.iter().position(|p| p.is_idle() && u32::from(p.machine.draining) != p.watches.count_ones())
    }

    /// Whose state says that it accepts no more, and who does.
    pub(super) fn accepts_too_long(&self) -> Option<usize> {
        self.procs.iter().position(|p| p.is_idle() && p.accepts && !owns(&p.machine.state))
    }

    /// One process a line.
    pub(super) fn describe(&self) -> String {
        let mut lines = vec![];
        for (n, p) in self.procs.iter().enumerate() {
            let accepts = if p.accepts { ", accepts" } else { "" };
            let pending = if p.pending.is_empty() { String::new() } else { format!(", to do {:?}", p.pending) };
            let word = if p.old.is_some() { format!(", word with its old {:?}", p.word) } else { String::new() };
            lines.push(match p.life {
                Life::Dead => format!("process {}: dead", n + 1),
                life => format!("process {}: {life:?} {:?}{accepts}{pending}{word}", n + 1, p.machine),
            });
        }
        lines.push(format!(
            "acknowledged {}, stop {}, excused {}, owed {}, supervisor {:?}",
            self.acknowledged, self.stop, self.excused, self.owed, self.supervisor
        ));
        lines.join("\n  ")
    }

    /// A move as a line of a trace, told of the world before it.
    pub(super) fn tell(&self, a_move: Move) -> String {
        let name = |p: usize| format!("process {}", p + 1);
        let first = |queue: &[Event]| queue.first().map_or(String::new(), |e| format!("{e:?}"));
        match a_move {
            Move::Act(p) => format!("{}: does {:?}", name(p), self.procs[p].pending[0]),
            Move::SpawnFails(p) => format!("{}: Spawn, which fails", name(p)),
            Move::ReadFromOld { by, pair } => format!("{}: reads {}", name(by), first(&self.procs[pair].from_old)),
            Move::ReadFromNew { by } => {
                let new = self.procs[by].new.expect("it was offered");
                format!("{}: reads {}", name(by), first(&self.procs[new].to_old))
            }
            Move::GarbledFromOld { by } | Move::GarbledFromNew { by } => format!("{}: reads nonsense", name(by)),
            Move::Happens(p, event) => format!("{}: {event:?}", name(p)),
            Move::Gone { who, seen_by } => format!("{}: sees that {} is gone", name(seen_by), name(who)),
            Move::Sent(p) => format!("{}: all content is sent", name(p)),
            Move::Write(p) => format!("{}: acknowledges a write", name(p)),
            Move::Crash(p) => format!("{}: CRASHES", name(p)),
            Move::FallSilent(p) => format!("{}: FALLS SILENT", name(p)),
            Move::Resume(p) => format!("{}: runs again", name(p)),
            Move::Thaw(p) => format!("{}: thaws by mistake", name(p)),
            Move::SupervisorStops(p) => format!("the supervisor stops {}", name(p)),
            Move::SupervisorKills(p) => format!("the supervisor kills {}", name(p)),
            Move::SupervisorStarts => "the supervisor starts another".into(),
        }
    }
}

struct ModelWord {
    word: SharedWord,
    is_store: bool,
}

impl Word for ModelWord {
    fn swap(&self, from: Owner, to: Owner) -> Result<(), Owner> {
        if self.is_store {
            self.word.0.set(to);
            return Ok(());
        }
        self.word.swap(from, to)
    }

    fn owner(&self) -> Owner {
        self.word.owner()
    }
}

fn note_sometimes(event: Event, before: &Process, actions: &[Action], notes: &mut Notes) {
    use Sometimes as S;
    let does = |action| actions.contains(&action);
    let rolls_back = actions.iter().any(|a| matches!(a, Action::ReportRolledBack(_)));
    let serves = does(Action::Serve(Content::Restored));
    let mut note = |is: bool, what| {
        if is {
            notes.sometimes.push(what);
        }
    };
    note(rolls_back && does(Action::Spawn), S::Retried);
    let decided_by_new = matches!(event, Event::OldDied | Event::Restored { .. } | Event::RestoreFailed);
    for content in [Content::Restored, Content::Fresh] {
        note(decided_by_new && does(Action::Serve(content)), S::TakesOver(content));
    }
    note(event == Event::Again && does(Action::Spawn), S::HandedOn);
    note(event == Event::Stop && does(Action::Stop), S::StopHandedOn);
    note(event == Event::StopSignalled && before.state == State::Old(Old::Frozen) && rolls_back, S::StopDuringFreeze);
    note(event == Event::DeadlinePassed && serves, S::DeadlineWon);
    note(event == Event::StopSignalled && (does(Action::Cut) || does(Action::CutDraining)), S::SecondStopCuts);
    note(event == Event::DrainingGone && does(Action::Exit), S::OwnerLeavesLast);
    note(!matches!(event, Event::Serving | Event::Ready) && does(Action::HandOver), S::SwapLost);
}
