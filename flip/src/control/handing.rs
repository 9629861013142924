//! What the old process does: it starts the new one, freezes, hands over, or takes everything back and says why.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use super::link::Link;
use super::{After, Draining, Order, STACK, Thread, freeze_and_send, send_sizes};
use crate::config::Settings;
use crate::handle::{UpgradeError, Upgraded};
use crate::live::Forwarder;
use crate::log::say;
use crate::pass::Passer;
use crate::phase::Phase;
use crate::protocol::{Deadline, Event, Message, Offer, Reason, Typed, Waiting};
use crate::shared::Note;
use crate::sys::fd::{self, Pidfd, SharedWord};
use crate::sys::spawn::{Spawn, spawn};
use crate::systemd::Systemd;
use crate::{entry, memory};

impl Thread {
    pub(super) fn spawn(&mut self) {
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

    pub(super) fn try_spawn(&mut self) -> Result<(), String> {
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

    pub(super) fn mask(&self) -> Vec<i32> {
        self.origin.mask.iter().map(|signal| signal as i32).collect()
    }

    pub(super) fn send_offer(&mut self) -> std::io::Result<()> {
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
    pub(super) fn start_freezer(&self, content: OwnedFd) -> std::io::Result<Sender<Order>> {
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

    pub(super) fn freeze(&mut self) {
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

    pub(super) fn thaw(&mut self) {
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

    pub(super) fn kill(&mut self) {
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

    pub(super) fn report_rolled_back(&mut self, reason: Reason) {
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
    pub(super) fn reopen(&self) {
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

    pub(super) fn hand_over(&mut self) {
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
        // It is the new process's by now, which has put its own in this one's place, or waits for this one's lock.
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
                // Once the checkpoint of it is made.
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
            let outcome = if self.orphaned {
                let why = format!("the new process (pid {pid}) died as soon as it served: nobody owns the service");
                Err(UpgradeError::RolledBack(why))
            } else {
                Ok(Upgraded { pid: pid.as_raw(), generation: generation + 1 })
            };
            for reply in self.asked.drain(..) {
                reply.answer(outcome.clone());
            }
        }
    }
}

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
