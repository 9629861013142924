//! The process that takes, from its start to its swap to `Serving`.

use super::{Action, Content, Deadline, Event, Old, Owner, Process, Reason, State, Step, Word};

/// ```text
/// AwaitingOffer ─Offer▶ Initialising ─Touched|Polled▶ AwaitingContent ─Restored▶ AwaitingPolls ─Polled▶ AwaitingCommit
///                            │OldDied                     │OldDied                   │OldDied               │ swap
///                            ▼ swap                       ▼ swap                     ▼ swap                 ▼
///                         serve, fresh                TakingOver ─────────────▶ serve, restored ◀───────────┘
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum New {
    /// Hello is sent.
    AwaitingOffer,
    /// The user's `main` runs up to its first touch or its first accept; old serves.
    Initialising,
    /// Prepared is sent; old freezes and sends.
    AwaitingContent { polled: bool },
    /// The content is here; some listener was not polled yet.
    AwaitingPolls,
    /// Ready is sent.
    AwaitingCommit,
    /// Old is dead and the word is ours; what it had sent is still being read.
    TakingOver { polled: bool },
    /// Exit was asked for.
    Leaving,
}

impl New {
    pub(super) fn deadline(&self) -> Option<Deadline> {
        match self {
            New::AwaitingOffer => Some(Deadline::Offer),
            New::AwaitingContent { .. } => Some(Deadline::Content),
            New::AwaitingCommit => Some(Deadline::Commit),
            // Here it is the user's program that takes its time; old has the deadline, and its death is seen.
            New::Initialising | New::AwaitingPolls | New::TakingOver { .. } | New::Leaving => None,
        }
    }
}

impl Process {
    pub(super) fn step_new(&mut self, new: New, event: Event, word: &dyn Word) -> Step {
        use Event as E;
        match (new, event) {
            (New::Leaving, _) => (State::New(New::Leaving), vec![]),

            (state, E::UpgradeSignalled | E::Again) => {
                self.again = true;
                (State::New(state), vec![])
            }
            (state, E::UpgradeAsked) => (State::New(state), vec![Action::Refuse(super::Refusal::Starting)]),

            // A program that cannot go on leaves; where old had already committed to it, old sees the death.
            (_, E::MainEnded) => leave(Reason::Failed),
            // Old is dead and nothing is served yet: there is nothing to drain.
            (New::TakingOver { .. }, E::StopSignalled) => leave(Reason::Stopped),
            // The stop of a process that has become the owner without noticing is a stop of the service.
            (_, E::StopSignalled) => match word.swap(Owner::New, Owner::Serving) {
                Ok(()) => {
                    self.again = false;
                    let (_, mut actions) = self.committed();
                    let (state, stop) = self.stop_owner();
                    actions.extend(stop);
                    (state, actions)
                }
                Err(_) => leave(Reason::Stopped),
            },

            (New::AwaitingOffer, E::Offer) => (State::New(New::Initialising), vec![]),
            (New::AwaitingOffer, E::Garbled) => leave(Reason::Garbled),
            (New::AwaitingOffer, E::DeadlinePassed) => leave(Reason::TooSlow(Deadline::Offer)),
            (New::AwaitingOffer, E::OldDied) if self.supervised => leave(Reason::OldDied),
            (New::AwaitingOffer, E::OldDied) => self.own(Content::Fresh, false),

            (New::Initialising, E::Touched) => prepared(false),
            (New::Initialising, E::Polled) => prepared(true),
            // Where old lives it is nonsense that it sent; where old is dead its death decides.
            (New::Initialising, E::RestoreFailed) => leave(Reason::Failed),
            (New::Initialising, E::OldDied) => match self.take_over(word) {
                Ok(()) => self.own(Content::Fresh, false),
                Err(reason) => leave(reason),
            },

            (New::AwaitingContent { .. }, E::Polled) => (State::New(New::AwaitingContent { polled: true }), vec![]),
            (New::AwaitingContent { polled: false }, E::Restored { draining }) => {
                self.draining = draining;
                (State::New(New::AwaitingPolls), vec![])
            }
            (New::AwaitingContent { polled: true }, E::Restored { draining }) => {
                self.draining = draining;
                ready()
            }
            // Where old lives it is content that does not decode; where old is dead its death decides.
            (New::AwaitingContent { .. }, E::RestoreFailed) => leave(Reason::Failed),
            (New::AwaitingContent { polled }, E::OldDied) => match self.take_over(word) {
                Ok(()) => (State::New(New::TakingOver { polled }), vec![]),
                Err(reason) => leave(reason),
            },
            (New::AwaitingContent { .. }, E::DeadlinePassed) => leave(Reason::TooSlow(Deadline::Content)),

            (New::TakingOver { .. }, E::Polled) => (State::New(New::TakingOver { polled: true }), vec![]),
            (New::TakingOver { polled }, E::Restored { draining }) => {
                self.draining = draining;
                self.own(Content::Restored, polled)
            }
            (New::TakingOver { polled }, E::RestoreFailed) => self.own(Content::Fresh, polled),

            (New::AwaitingPolls, E::Polled) => ready(),
            (New::AwaitingPolls, E::OldDied) => match self.take_over(word) {
                Ok(()) => self.own(Content::Restored, false),
                Err(reason) => leave(reason),
            },

            (New::AwaitingCommit, E::Commit) => match word.swap(Owner::New, Owner::Serving) {
                Ok(()) => self.committed(),
                Err(Owner::Old) => (State::New(New::AwaitingCommit), vec![]),
                Err(_) => leave(Reason::RolledBack),
            },
            (New::AwaitingCommit, E::OldDied) => match self.take_over(word) {
                Ok(()) => self.own(Content::Restored, true),
                Err(reason) => leave(reason),
            },
            // Old may have committed and been stopped before it could say so.
            (New::AwaitingCommit, E::DeadlinePassed) => match word.swap(Owner::New, Owner::Serving) {
                Ok(()) => self.committed(),
                Err(_) => leave(Reason::TooSlow(Deadline::Commit)),
            },

            (state, _) => (State::New(state), vec![]),
        }
    }

    /// Old is dead: what the word says decides, and a supervisor that will start another decides what it does not.
    fn take_over(&self, word: &dyn Word) -> Result<(), Reason> {
        if word.swap(Owner::New, Owner::Serving).is_ok() {
            return Ok(());
        }
        if self.supervised {
            return Err(Reason::OldDied);
        }
        word.swap(Owner::Old, Owner::Serving).map_err(|_| Reason::RolledBack)
    }

    fn committed(&mut self) -> Step {
        // The predecessor drains from now on, and answers to this process.
        self.draining = self.draining.saturating_add(1);
        let (state, mut actions) = self.own(Content::Restored, true);
        // Old closes its listeners only when it hears this, so it comes before whatever `own` starts next.
        actions.insert(1, Action::SendServing);
        (state, actions)
    }

    /// This process owns the service from here on.
    fn own(&mut self, content: Content, polled: bool) -> Step {
        let (state, actions) = if polled { self.owner() } else { (State::Old(Old::Starting), vec![]) };
        (state, [vec![Action::Serve(content)], actions].concat())
    }
}

fn prepared(polled: bool) -> Step {
    (State::New(New::AwaitingContent { polled }), vec![Action::SendPrepared])
}

fn ready() -> Step {
    (State::New(New::AwaitingCommit), vec![Action::SendReady])
}

fn leave(reason: Reason) -> Step {
    (State::New(New::Leaving), vec![Action::Leave(reason)])
}
