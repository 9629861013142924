//! The handoff, as one page. No IO, clock, thread or runtime: `event → next state + actions`.
//!
//! ```text
//!        old                                     new
//!  Serving ── Spawn ─────────────────────────▶ AwaitingOffer
//!  AwaitingHello ◀──────────────────── Hello ──   │
//!      └─ Offer (listeners, schemas, word) ────▶ Initialising        the user's main runs, old serves
//!  AwaitingPrepared ◀───────────── Prepared ──    │                  content touched, or every listener polled
//!      └─ Freeze; content on its own socket ───▶ AwaitingContent
//!  Frozen ◀─────────────────────────── Ready ──  (AwaitingPolls)     content restored and every listener polled
//!      └─ swap Old → New; Commit ──────────────▶ AwaitingCommit
//!  AwaitingServing ◀───────────────── Serving ── swap New → Serving; Serve
//!      └─ hand over                             Serving
//!  Draining ── Done ─────────────────────────▶   …
//! ```
//!
//! * **Who may accept**: old until it froze, again after a roll-back; new from its swap to `Serving`.
//! * **Who may hold what only one can**: old until it has sent all of the content; then new, as long as it lives, which opens it
//!   before `Ready`; old again once new is dead.
//! * **Messages only wake**: what happened is what the word says. A message lost with its sender changes nothing.
//! * **Death is an event in every state**, seen by a pidfd; an end-of-file means nothing.
//! * **A failure is a death**: a new process that cannot go on leaves a text (its last words) and exits.
//! * **Deadlines** are asked for ([`Process::deadline`]), and arrive as the event [`Event::DeadlinePassed`].
//! * **What the machines rely on** is written in `tests/world.rs`: the contract of whoever drives them.
//!
//! After [`Action::Serve`] the new process is an owner like any other and can itself become old.

mod message;
mod new;
mod old;
#[cfg(test)]
mod tests;
mod word;

pub(crate) use message::*;
pub(crate) use new::New;
pub(crate) use old::Old;
pub(crate) use word::{NoWord, Owner, Word};

/// One process of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) state: State,
    /// A second request to upgrade arrived by signal and waits for whoever owns at the end.
    again: bool,
    /// Somebody starts another process when this one dies without a successor.
    supervised: bool,
    /// Earlier generations that still drain and answer to this process.
    draining: u8,
    /// How many generations may live after an upgrade, the one that serves included.
    generations: u8,
}

/// Which half of the page a process is on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// It takes: from its start to its swap to `Serving`.
    New(New),
    /// It owns, gives, or leaves.
    Old(Old),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Event {
    /// Somebody who waits for the answer wants an upgrade.
    UpgradeAsked,
    /// A signal wants an upgrade; nobody can be answered.
    UpgradeSignalled,
    /// A signal wants the service to stop.
    StopSignalled,
    /// The user's `main` returned, or a parameter could not be provided.
    MainEnded,

    /// The state's content is needed, before anything else is.
    Touched,
    /// Every managed listener was polled once or dropped; nothing is left to do before serving.
    Polled,
    /// The content arrived whole, and what only one process may hold is open here; so many earlier generations come with it.
    Restored { draining: u8 },
    /// The content cannot be had: it ended early, did not decode, or what only one process may hold cannot be opened.
    RestoreFailed,
    /// The new process could not be started.
    SpawnFailed,
    /// The snapshot could not be taken or sent, or what only one process may hold not be closed.
    FreezeFailed,
    /// The last connection is done and `main` has returned.
    Drained,

    /// New is there and speaks a version that old speaks.
    Hello,
    /// Old's offer is there.
    Offer,
    /// New wants the content.
    Prepared,
    /// New has the content and is ready to serve.
    Ready,
    /// The word may have become `New`.
    Commit,
    /// The word may have become `Serving`.
    Serving,
    /// From the previous owner: a request to upgrade that it remembered.
    Again,
    /// From the previous owner: a stop that it was asked for while it still seemed to own; or from the owner, to those
    /// who drain: the service stops.
    Stop,
    /// From the owner, to those who drain: cut what is left.
    Cut,
    /// The other process sent what makes no sense here, or an unknown version.
    Garbled,

    /// The new process is dead (the successor of this one).
    NewDied,
    /// The old process is dead (the predecessor of this one).
    OldDied,
    /// One of the earlier generations that drain is gone.
    DrainingGone,
    /// The deadline that the state asked for has passed.
    DeadlinePassed,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Start the installed binary with a fresh channel and a fresh word.
    Spawn,
    /// Send listeners, schemas, the word and our pidfd.
    SendOffer,
    /// Stop accepting and dispatching, hold back writers, snapshot all states in one cut, send, and close what only one process
    /// may hold.
    Freeze,
    /// Wake new: the word says `New`.
    SendCommit,
    /// Accept, dispatch and write again.
    Thaw,
    /// Kill the new process and forget it; once it is dead, open again what was closed for it.
    Kill,
    /// Close the listeners, give up the content, resolve `Shutdown`, answer whoever asked.
    HandOver,
    /// Answer whoever asked: the upgrade did not happen.
    ReportRolledBack(Reason),
    /// Answer this request alone.
    Refuse(Refusal),
    /// Tell the new owner of the remembered request.
    SendAgain,
    /// Tell the new owner that the service is to stop.
    SendStop,

    /// Tell old that the content is wanted.
    SendPrepared,
    /// Tell old that nothing is missing any more.
    SendReady,
    /// `listen` on what is new, accept, dispatch, write: this process owns the service.
    Serve(Content),
    /// Wake old: the word says `Serving`.
    SendServing,
    /// Exit without having served; old goes on, or a supervisor does.
    Leave(Reason),

    /// Stop accepting for good and resolve `Shutdown`: the service ends.
    Stop,
    /// Tell every draining generation that the service ends.
    TellDraining,
    /// Cut what drains, here and in every earlier generation.
    CutDraining,
    /// Cut the oldest draining generations: there are too many.
    CutOldest,
    /// Drop `main` and every connection that is left, and report them.
    Cut,
    /// Tell the owner that nothing is left here.
    SendDone,
    /// End the process.
    Exit,
}

/// Where an owner's content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Content {
    /// All of it came from old.
    Restored,
    /// Old died before it had given any: `init` or `Default`, on old's listeners.
    Fresh,
}

/// Why a handoff did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The new process could not be started.
    SpawnFailed,
    /// The new process ended; its last words say why.
    NewDied,
    /// It took longer than this deadline allows.
    TooSlow(Deadline),
    /// The snapshot failed.
    FreezeFailed,
    /// The other process broke the protocol.
    Garbled,
    /// The service was told to stop.
    Stopped,
    /// The old process died, and a supervisor starts another.
    OldDied,
    /// The old process took the handoff back.
    RolledBack,
    /// The user's program could not go on.
    Failed,
}

/// Why a request is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// This process is not ready itself yet.
    Starting,
    /// Another upgrade is in progress.
    Busy,
    /// The service stops.
    Stopping,
    /// Another process owns the service.
    HandedOver,
}

/// What a state waits for at most so long; the durations are the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Old: from spawn to Prepared (`ready_timeout`).
    Ready,
    /// Old: from freeze to commit (`freeze_timeout`, longer only while bytes arrive).
    Freeze,
    /// Old: from the commit to `Serving`.
    Serving,
    /// New: from its start to the offer.
    Offer,
    /// New: from Prepared to the content, longer only while bytes arrive.
    Content,
    /// New: from Ready to the commit.
    Commit,
    /// Both: until what is open is cut (`drain_timeout`).
    Drain,
    /// Both: after the cut, until the process ends whoever blocks.
    Cut,
}

type Step = (State, Vec<Action>);

impl Process {
    /// A process that nobody hands over to.
    pub(crate) fn cold(supervised: bool, generations: u8) -> Process {
        Process { state: State::Old(Old::Starting), again: false, supervised, draining: 0, generations }
    }

    /// A process that was started to take over.
    pub(crate) fn successor(supervised: bool, generations: u8) -> Process {
        Process { state: State::New(New::AwaitingOffer), ..Process::cold(supervised, generations) }
    }

    /// One step. `word` is the word of the handoff that this process is in, or [`NoWord`].
    pub(crate) fn step(&mut self, event: Event, word: &dyn Word) -> Vec<Action> {
        // Who has the content watches those who drain, also before it owns.
        if event == Event::DrainingGone {
            self.draining = self.draining.saturating_sub(1);
        }
        let (state, actions) = match self.state.clone() {
            State::New(new) => self.step_new(new, event, word),
            State::Old(old) => self.step_old(old, event, word),
        };
        self.state = state;
        actions
    }

    /// What the state waits for at most so long. Staying with the same deadline keeps its time running.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::New(new) => new.deadline(),
            State::Old(old) => old.deadline(),
        }
    }
}
