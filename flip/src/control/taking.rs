//! What the new process does: it serves with what it was given, or leaves and says why.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::SigSet;

use super::link::Link;
use super::{Draining, Earlier, LAST, STACK, SUCCEEDED, Thread, serve_draining, shortened};
use crate::entry;
use crate::listen::{InheritedSocket, Listeners};
use crate::live::Holding;
use crate::log::say;
use crate::phase::Phase;
use crate::pid_file::PidFile;
use crate::protocol::{Content, Deadline, Message, OLDEST, Offer, Reason};
use crate::shared::Start;
use crate::sys::fd::{self, EventFd, SharedWord};
use crate::sys::oom::First;
use crate::sys::spawn::Spawn;

impl Thread {
    pub(super) fn send_prepared(&mut self) {
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

    pub(super) fn serve(&mut self, content: Content) {
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
            let later = Arc::clone(&shared);
            shared.set_pid_file(PidFile::take_over(path, move |file| later.set_pid_file(Some(file))));
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
    pub(super) fn executable(&self) -> PathBuf {
        self.origin.directory.join(self.settings.executable.as_ref().unwrap_or(&self.origin.executable))
    }

    pub(super) fn have_listeners(&self) {
        if self.shared.listeners.get().is_none() {
            // Only this thread sets it, and only here or with the offer.
            let _ = self.shared.listeners.set(Listeners::cold(Arc::clone(&self.shared), vec![]));
        }
    }

    /// From here on this process accepts.
    pub(super) fn start_listeners(&mut self) {
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

    pub(super) fn send_serving(&mut self) {
        let Some(mut before) = self.before.take() else { return };
        before.link.send(&Message::Serving, vec![]);
        let (Some(pidfd), Some(calls), Some(passes)) = (before.pidfd, before.calls, before.passes) else { return };
        let (relays, sockets) = before.relays.into_iter().unzip();
        let earlier = Earlier { pid: before.pid, generation: self.generation() - 1, relays };
        self.draining.push(Draining { earlier, link: before.link, pidfd, calls, passes, relays: sockets });
        self.serve_draining();
    }

    /// Applies the calls and takes the connections of the draining generations, on a thread of its own.
    pub(super) fn serve_draining(&mut self) {
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
    pub(super) fn start_over(&mut self) -> ! {
        say!(warn, "the old process died before its content was here: starting over on its listeners");
        let error = self.try_start_over().expect_err("an exec that succeeds does not return");
        say!(error, "cannot start over: {error}");
        entry::end(1)
    }

    pub(super) fn try_start_over(&mut self) -> std::io::Result<std::convert::Infallible> {
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

    pub(super) fn leave(&mut self, reason: Reason) {
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
}
