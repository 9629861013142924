//! What whoever started the service is told, and what it keeps: nothing here changes what the service does.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::{Duration, Instant};

use super::{STACK, SUCCEEDED, Thread};
use crate::checkpoint::Checkpoints;
use crate::drain::counted;
use crate::listen::Listeners;
use crate::log::say;
use crate::phase::Phase;
use crate::privileges;
use crate::protocol::{Old, State};
use crate::sys::fd::{self, PollEntry};
use crate::systemd::Systemd;

/// How long the end of a process waits for its checkpoint.
const CHECKPOINT: Duration = Duration::from_secs(30);

impl Thread {
    /// The service serves, for the first time since whoever started it waits for that.
    pub(super) fn announce(&mut self) {
        if !std::mem::replace(&mut self.announced, true) {
            // Who came by an upgrade has said it.
            if self.last_upgrade.is_none() {
                let at = at(&self.listeners().places());
                say!(info, "generation {} (pid {}) serves{at}", self.generation(), std::process::id());
            }
            self.say_what_upgrades_lack();
            self.keep(false);
            self.tell(Systemd::ready);
        }
    }

    /// Nobody comes by a path any more, unless systemd has what is there for the next process.
    pub(super) fn unlink(&self, listeners: &Listeners) {
        // A launcher's store ends with it.
        if self.origin.is_launched() || !self.systemd.as_ref().is_some_and(Systemd::keeps) {
            listeners.unlink_owned();
        }
    }

    /// The listeners of this process go into systemd's store.
    pub(super) fn keep(&mut self, told: bool) {
        let mut before = self.listeners().stored_before();
        before.extend(self.shared.checkpoints.stored_before());
        if let Some(systemd) = &mut self.systemd {
            systemd.keep(before, told);
        }
    }

    fn store(&mut self) {
        let Some(listeners) = self.shared.listeners.get() else { return };
        let Some(systemd) = &mut self.systemd else { return };
        let (listeners, files) = (listeners.to_store(), self.shared.checkpoints.stored());
        let listeners = listeners.iter().map(|(name, socket)| (name.as_str(), socket.as_fd()));
        let files = files.iter().map(|(name, file)| (name.as_str(), file.as_fd()));
        systemd.store(&listeners.chain(files).collect::<Vec<_>>());
    }

    /// What the next process takes for stored is stored by this one.
    pub(super) fn store_in_time(&mut self) {
        if self.systemd.as_ref().is_some_and(Systemd::is_store_wanted) {
            self.store();
        }
    }

    /// From here on checkpoints are made, where they are wanted and can be kept.
    pub(super) fn begin_checkpoints(&mut self) {
        if std::mem::replace(&mut self.checkpoints_begun, true) {
            return;
        }
        match self.settings.checkpoint {
            Some(every) if self.systemd.as_ref().is_some_and(Systemd::has_store) => {
                Checkpoints::start(&self.shared, every);
            }
            wanted => {
                self.shared.checkpoints.forget();
                if wanted.is_some() {
                    say!(
                        info,
                        "no checkpoint is made: nobody who could keep it has started this service; systemd keeps it with \
                         FileDescriptorStoreMax=, and `launcher = on` does"
                    );
                }
            }
        }
    }

    /// The last checkpoint, or that of what was handed over. It runs code of the user's, so on a thread of its own; one more stop, and
    /// nobody waits for it any more.
    pub(super) fn end_checkpoints(&mut self) {
        if self.settings.checkpoint.is_none() || !self.checkpoints_begun {
            return;
        }
        if let Some(systemd) = &mut self.systemd {
            systemd.extend(CHECKPOINT);
        }
        let (shared, (done, is_done)) = (Arc::clone(&self.shared), channel::<()>());
        let started = std::thread::Builder::new().name("flip-checkpoint".into()).stack_size(STACK).spawn(move || {
            let _entered = shared.enter();
            if shared.phase.has_handed_off() {
                shared.checkpoints.leave();
            } else {
                shared.checkpoints.finish(&shared);
            }
            drop(done);
            shared.notes.bell().ring();
        });
        if let Err(error) = started {
            return say!(warn, "the last checkpoint is not made: {error}; the one before counts");
        }
        let until = Instant::now() + CHECKPOINT;
        let left = || until.saturating_duration_since(Instant::now());
        let mut is_told_again = false;
        while is_done.try_recv() == Err(TryRecvError::Empty) {
            if left().is_zero() || is_told_again {
                return say!(warn, "the last checkpoint is not whole; the one before counts");
            }
            let mut entries =
                [PollEntry::readable(self.shared.notes.bell().as_fd()), PollEntry::readable(self.signals.as_fd())];
            // What is sent to a process that has handed over is looked at when it is done.
            let count = if self.shared.phase.has_handed_off() { 1 } else { 2 };
            // Without memory to wait this goes on without.
            let _ = fd::poll(&mut entries[..count], Some(left()));
            self.shared.notes.bell().clear();
            while count == 2
                && let Some((signal, from)) = self.next_signal()
            {
                is_told_again |= self.settings.stop.contains(&signal) && !self.is_hang_up(signal, from);
            }
        }
    }

    pub(super) fn say_what_upgrades_lack(&self) {
        if self.settings.upgrade.is_some() {
            for advice in privileges::advice(
                &self.executable(),
                &self.origin.directory,
                self.settings.pid_file.as_deref(),
                self.origin.filters,
            ) {
                say!(warn, "{advice}");
            }
        }
    }

    /// Tells the supervisor something, with the status of the service.
    pub(super) fn tell(&mut self, tell: impl FnOnce(&mut Systemd, &str)) {
        if self.systemd.is_some() {
            let status = self.status();
            if let Some(systemd) = &mut self.systemd {
                tell(systemd, &status);
            }
        }
    }

    /// Tells the supervisor who serves.
    pub(super) fn tell_new_main(&mut self) {
        let Some(after) = &self.after else { return };
        // A dead owner is nobody that a supervisor could be told of: it is to start another.
        self.orphaned = after.pidfd.is_dead();
        let Some(systemd) = &mut self.systemd else { return };
        if self.orphaned {
            return systemd.ready("the new process died as soon as it served: nobody owns the service");
        }
        let generation = self.shared.generation() + 1;
        let draining = earlier_drain(self.draining.len() + 1);
        let status = format!("generation {generation} serves; {draining}; {SUCCEEDED}");
        systemd.handed_over(after.pid, &after.pidfd, &status);
    }

    /// The service in a line.
    pub(super) fn status(&self) -> String {
        let (shared, generation) = (&self.shared, self.generation());
        let does = if matches!(shared.phase.get(), Phase::Stopping | Phase::Cut) { "stops" } else { "serves" };
        let open = counted(shared.connections.len(), "connection");
        let mut parts = vec![format!("generation {generation} {does}; {open}")];
        if matches!(self.process.state, State::Old(Old::AwaitingHello | Old::AwaitingPrepared | Old::Frozen)) {
            parts.push(format!("generation {} starts", generation + 1));
        }
        if !self.draining.is_empty() {
            parts.push(earlier_drain(self.draining.len()));
        }
        parts.extend(self.last_upgrade.clone());
        parts.join("; ")
    }

    /// What systemd is told every now and then.
    pub(super) fn look_after_systemd(&mut self) {
        let now = Instant::now();
        let Some(systemd) = &mut self.systemd else { return };
        let is_status_due = systemd.is_status_due(now);
        if systemd.is_store_due(now) && !self.shared.phase.get().is_leaving() {
            self.store();
        }
        let Some(systemd) = &mut self.systemd else { return };
        systemd.extend_again(now);
        if systemd.is_heartbeat_due(now) {
            // What a freeze holds up is not a hang of the user's, and has a deadline of its own.
            match self.shared.phase.get() {
                Phase::Serving if !self.shared.hold.is_paused() => systemd.heartbeat_by(|| self.shared.beat()),
                _ => systemd.heartbeat(),
            }
        }
        if is_status_due {
            self.tell(Systemd::status);
        }
    }
}

/// ` at 127.0.0.1:8080, unix:/run/app.sock and 3 more`.
fn at(places: &[String]) -> String {
    const NAMED: usize = 4;
    match places {
        [] => String::new(),
        all if all.len() <= NAMED => format!(" at {}", all.join(", ")),
        all => format!(" at {} and {} more", all[..NAMED].join(", "), all.len() - NAMED),
    }
}

fn earlier_drain(count: usize) -> String {
    if count == 1 { "1 earlier generation drains".to_owned() } else { format!("{count} earlier generations drain") }
}
