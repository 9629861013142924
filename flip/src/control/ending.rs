//! How a process ends: what is open is waited for and reported, cut at last, and the last word said.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{LAST, Source, Thread};
use crate::drain::{Leaving, report_due};
use crate::entry;
use crate::log::say;
use crate::phase::Phase;
use crate::protocol::Deadline;
use crate::sys::signal;

impl Thread {
    /// From here on what is open here ends. The state has its deadline already.
    pub(super) fn begin_to_leave(&mut self) {
        let until = self.deadline.filter(|(deadline, _)| *deadline == Deadline::Drain).map(|(_, at)| at);
        // Nobody else sets it, and nobody leaves twice.
        let _ = self.shared.leaving.set(Leaving { until, open: self.shared.connections.len() });
        let now = Instant::now();
        self.report = Some((now + report_due(0), now, 0));
    }

    /// Says what is left, if it is time to.
    pub(super) fn report(&mut self) {
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
    pub(super) fn look_whether_all_is_done(&mut self) {
        let shared = &self.shared;
        if shared.lasting.is_open() && shared.connections.is_done() && self.draining.is_empty() {
            self.end_what_lasts();
        }
    }

    /// Nothing is accepted any more, and whoever waits for a phase looks again.
    pub(super) fn end_what_lasts(&self) {
        let shared = &self.shared;
        if shared.lasting.is_open() {
            shared.lasting.close();
            shared.phase.set(shared.phase.get());
            let listeners = self.listeners();
            listeners.close();
            self.unlink(&listeners);
        }
    }

    pub(super) fn stop(&mut self) {
        let shared = Arc::clone(&self.shared);
        if self.settings.checkpoint.is_some() && self.setup_done && !self.checkpoints_begun {
            // It serves already, though not all of it is ready.
            if !self.announced {
                self.keep(false);
            }
            self.begin_checkpoints();
        }
        self.store_in_time();
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

    pub(super) fn exit(&mut self) {
        let phase = self.shared.phase.get();
        self.end_checkpoints();
        if self.orphaned {
            say!(error, "the new process died as soon as it served: nobody owns the service");
            entry::end(1);
        }
        self.end_what_lasts();
        self.report = None;
        self.shared.remove_pid_file();
        if let Some(systemd) = self.systemd.as_mut().filter(|_| self.shared.phase.has_handed_off()) {
            // Who serves must be known before the process that said so is gone.
            systemd.finish(LAST);
            if systemd.is_behind() {
                // What it sent until now was meant for the service.
                signal::take_pending(&self.settings.signals());
                self.look_at(Source::Signals);
            }
        }
        if let Some(after) = &mut self.after {
            after.link.flush();
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
