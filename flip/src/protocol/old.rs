//! The process that owns the service, gives it away, and leaves.

use super::{Action, Deadline, Event, Owner, Process, Reason, Refusal, State, Step, Word};

/// ```text
/// Starting ─Polled▶ Serving ─Upgrade▶ AwaitingHello ─Hello▶ AwaitingPrepared ─Prepared▶ Frozen ─Ready▶ AwaitingServing
///                      ▲                   └────────────────────┴───────────────────────┴────────────────┤
///                      └──────────────── swap to RolledBack, thaw, kill ◀── death, deadline, stop ───────┤
///                                                                                                Serving │
/// Serving ─Stop▶ Stopping ─Drained▶ Gone          Draining ─Drained▶ Gone ◀──────────────────────────────┘
///                    └──── second stop, deadline ──▶ Cutting ─▶ Gone
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Old {
    /// It owns and accepts, but its `main` is not through yet: an upgrade would offer half of it.
    Starting,
    /// It owns; nothing is under way.
    Serving,
    /// A new process was started.
    AwaitingHello,
    /// The offer is made; the user's `main` runs in the new process.
    AwaitingPrepared,
    /// Nothing is accepted or written; the content is on its way.
    Frozen,
    /// The word said `New` when we left it.
    AwaitingServing,
    /// The new process owns; what is open here ends.
    Draining { asked_to_stop: bool },
    /// The service ends; `drained`: nothing is open here, an earlier generation still drains.
    Stopping { drained: bool },
    /// What is open is being cut.
    Cutting { handed_over: bool },
    /// Exit was asked for.
    Gone,
}

impl Old {
    pub(super) fn deadline(&self) -> Option<Deadline> {
        match self {
            Old::AwaitingHello | Old::AwaitingPrepared => Some(Deadline::Ready),
            Old::Frozen => Some(Deadline::Freeze),
            Old::AwaitingServing => Some(Deadline::Serving),
            Old::Draining { .. } | Old::Stopping { .. } => Some(Deadline::Drain),
            Old::Cutting { .. } => Some(Deadline::Cut),
            Old::Starting | Old::Serving | Old::Gone => None,
        }
    }
}

impl Process {
    pub(super) fn step_old(&mut self, old: Old, event: Event, word: &dyn Word) -> Step {
        use Event as E;
        match old {
            Old::Starting => match event {
                E::Polled => self.owner(),
                E::UpgradeSignalled | E::Again => self.remember(Old::Starting),
                E::UpgradeAsked => (State::Old(Old::Starting), vec![Action::Refuse(Refusal::Starting)]),
                E::StopSignalled | E::Stop | E::MainEnded => self.stop_owner(),
                _ => (State::Old(Old::Starting), vec![]),
            },
            Old::Serving => match event {
                E::UpgradeAsked | E::UpgradeSignalled | E::Again => self.spawn(),
                E::StopSignalled | E::Stop | E::MainEnded => self.stop_owner(),
                _ => (State::Old(Old::Serving), vec![]),
            },
            state @ (Old::AwaitingHello | Old::AwaitingPrepared | Old::Frozen | Old::AwaitingServing) => {
                self.step_handoff(state, event, word)
            }
            Old::Draining { asked_to_stop } => match event {
                // Whoever signals a process that has handed over may have meant the service: the first changes nothing.
                E::StopSignalled if !asked_to_stop => (State::Old(Old::Draining { asked_to_stop: true }), vec![]),
                E::StopSignalled | E::Cut | E::DeadlinePassed => {
                    (State::Old(Old::Cutting { handed_over: true }), vec![Action::Cut])
                }
                E::Drained => (State::Old(Old::Gone), vec![Action::SendDone, Action::Exit]),
                E::UpgradeAsked => (State::Old(old), vec![Action::Refuse(Refusal::HandedOver)]),
                _ => (State::Old(old), vec![]),
            },
            Old::Stopping { drained } => match event {
                E::StopSignalled | E::DeadlinePassed if drained => {
                    (State::Old(Old::Gone), vec![Action::CutDraining, Action::Exit])
                }
                E::StopSignalled | E::DeadlinePassed => {
                    (State::Old(Old::Cutting { handed_over: false }), vec![Action::CutDraining, Action::Cut])
                }
                E::DrainingGone if drained && self.draining == 0 => (State::Old(Old::Gone), vec![Action::Exit]),
                E::Drained if self.draining == 0 => (State::Old(Old::Gone), vec![Action::Exit]),
                E::Drained => (State::Old(Old::Stopping { drained: true }), vec![]),
                E::UpgradeAsked => (State::Old(old), vec![Action::Refuse(Refusal::Stopping)]),
                _ => (State::Old(Old::Stopping { drained }), vec![]),
            },
            Old::Cutting { handed_over } => match event {
                E::Drained | E::DeadlinePassed if handed_over => {
                    (State::Old(Old::Gone), vec![Action::SendDone, Action::Exit])
                }
                E::Drained | E::DeadlinePassed => (State::Old(Old::Gone), vec![Action::Exit]),
                E::UpgradeAsked => {
                    let refusal = if handed_over { Refusal::HandedOver } else { Refusal::Stopping };
                    (State::Old(old), vec![Action::Refuse(refusal)])
                }
                _ => (State::Old(old), vec![]),
            },
            Old::Gone => (State::Old(Old::Gone), vec![]),
        }
    }

    /// From the spawn to the new process's swap, or the roll-back.
    fn step_handoff(&mut self, old: Old, event: Event, word: &dyn Word) -> Step {
        use Event as E;
        match (&old, event) {
            (_, E::UpgradeAsked) => (State::Old(old), vec![Action::Refuse(Refusal::Busy)]),
            (_, E::UpgradeSignalled | E::Again) => self.remember(old),
            (_, E::StopSignalled | E::Stop) => self.stop_in_handoff(&old, word, true),
            (_, E::MainEnded) => self.stop_in_handoff(&old, word, false),

            (Old::AwaitingHello, E::Hello) => (State::Old(Old::AwaitingPrepared), vec![Action::SendOffer]),
            (Old::AwaitingPrepared, E::Prepared) => (State::Old(Old::Frozen), vec![Action::Freeze]),
            (Old::Frozen, E::Ready) => match word.swap(Owner::Old, Owner::New) {
                Ok(()) => (State::Old(Old::AwaitingServing), vec![Action::SendCommit]),
                // Nobody but a dead old's successor leaves `Old` before us.
                Err(_) => self.handed_over(),
            },
            (Old::AwaitingServing, E::Serving) if word.owner() == Owner::Serving => self.handed_over(),

            (_, E::SpawnFailed) => self.roll_back(&old, word, Reason::SpawnFailed),
            (_, E::FreezeFailed) => self.roll_back(&old, word, Reason::FreezeFailed),
            (_, E::NewDied) => self.roll_back(&old, word, Reason::NewDied),
            (_, E::DeadlinePassed) => {
                let deadline = old.deadline().expect("every state of a handoff has a deadline");
                self.roll_back(&old, word, Reason::TooSlow(deadline))
            }
            (_, E::Garbled | E::Hello | E::Prepared | E::Ready) => self.roll_back(&old, word, Reason::Garbled),
            _ => (State::Old(old), vec![]),
        }
    }

    /// A second request by signal waits, once, for whoever owns at the end.
    fn remember(&mut self, old: Old) -> Step {
        self.again = true;
        (State::Old(old), vec![])
    }

    /// Nothing is under way; a request that was remembered is taken up at once.
    pub(super) fn owner(&mut self) -> Step {
        if std::mem::take(&mut self.again) { self.spawn() } else { (State::Old(Old::Serving), vec![]) }
    }

    fn spawn(&mut self) -> Step {
        (State::Old(Old::AwaitingHello), vec![Action::Spawn])
    }

    /// Takes the handoff back: whether that is still possible, the word says.
    fn take_back(&mut self, old: &Old, word: &dyn Word, reason: Reason) -> Result<Vec<Action>, ()> {
        // Nobody was started, so nobody has the word, and there may not even be one.
        let alone = reason == Reason::SpawnFailed;
        if !alone
            && word.swap(Owner::Old, Owner::RolledBack).is_err()
            && word.swap(Owner::New, Owner::RolledBack).is_err()
        {
            return Err(());
        }
        let mut actions = vec![];
        if matches!(old, Old::Frozen | Old::AwaitingServing) {
            actions.push(Action::Thaw);
        }
        if !alone {
            actions.push(Action::Kill);
        }
        actions.push(Action::ReportRolledBack(reason));
        Ok(actions)
    }

    fn roll_back(&mut self, old: &Old, word: &dyn Word, reason: Reason) -> Step {
        match self.take_back(old, word, reason) {
            Ok(mut actions) => {
                let (state, more) = self.owner();
                actions.extend(more);
                (state, actions)
            }
            Err(()) => self.handed_over(),
        }
    }

    fn stop_in_handoff(&mut self, old: &Old, word: &dyn Word, signalled: bool) -> Step {
        match self.take_back(old, word, Reason::Stopped) {
            Ok(mut actions) => {
                let (state, stop) = self.stop_owner();
                actions.extend(stop);
                (state, actions)
            }
            Err(()) if signalled => {
                // Whoever sent the signal meant the service, and this process seemed to be it.
                self.again = false;
                let (state, mut actions) = self.handed_over();
                actions.push(Action::SendStop);
                (state, actions)
            }
            Err(()) => self.handed_over(),
        }
    }

    fn handed_over(&mut self) -> Step {
        let mut actions = vec![];
        // This one, those that drain, and the one that serves now. Not before it does: an upgrade that fails costs nobody
        // a connection.
        if u16::from(self.draining) + 2 > u16::from(self.generations) && self.draining > 0 {
            actions.push(Action::CutOldest);
        }
        self.draining = 0;
        actions.push(Action::HandOver);
        if std::mem::take(&mut self.again) {
            actions.push(Action::SendAgain);
        }
        (State::Old(Old::Draining { asked_to_stop: false }), actions)
    }

    /// The service ends: what is open here and in every earlier generation is drained first.
    pub(super) fn stop_owner(&mut self) -> Step {
        self.again = false;
        (State::Old(Old::Stopping { drained: false }), vec![Action::Stop, Action::TellDraining])
    }
}
