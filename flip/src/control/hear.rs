//! What comes in from other threads, other processes and signals: each becomes an event, once what it brings has been looked at.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::link::Link;
use super::{Draining, Earlier, STACK, Thread, receive_and_restore};
use crate::config::Ready;
use crate::handle::UpgradeError;
use crate::listen::{InheritedSocket, Listeners};
use crate::log::say;
use crate::phase::Phase;
use crate::protocol::{Event, Hello, Message, OFFER_FIXED, OLDEST, Offer, Old, State, VERSION, Waiting};
use crate::relay::Looked;
use crate::shared::{Note, Start};
use crate::sys::fd::{Pidfd, SharedWord};
use crate::sys::{env, fd, signal};
use crate::systemd::Systemd;

impl Thread {
    pub(super) fn note(&mut self, note: Note) {
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
    pub(super) fn refuse_relays(&self) {
        let Some(before) = &self.before else { return };
        for (relay, socket) in &before.relays {
            if matches!(self.shared.relays.look_for(&relay.name), Looked::Unwanted) {
                fd::shutdown(socket.as_fd());
            }
        }
    }

    /// Old may freeze from here on: what was held back until then is said.
    pub(super) fn room_is_made(&mut self) {
        self.room_made = true;
        if self.touched.is_some() {
            self.step(Event::Touched);
        }
        self.look_whether_polled();
    }

    pub(super) fn look_whether_polled(&mut self) {
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
    pub(super) fn say_missing(&mut self) {
        let missing = self.waiting();
        self.send_before(Message::Missing(missing));
    }

    pub(super) fn waiting(&self) -> Waiting {
        let unpolled = match self.settings.ready {
            Ready::Auto => self.listeners().unpolled(),
            Ready::Manual => vec!["the call of Handle::ready".to_owned()],
        };
        Waiting { touched: self.touched.clone(), unpolled, opening: self.shared.awaited.get() }
    }

    /// Each that was sent, once, and who sent it.
    pub(super) fn next_signal(&mut self) -> Option<(Signal, signal::Sender)> {
        loop {
            let received = self.signals.read()?;
            if let Some(from) = self.sendings.heard(&received) {
                return Some((received.signal, from));
            }
        }
    }

    /// Whether this says that the terminal is gone, and with it whoever would look at a new process. The kernel says so, and a shell that
    /// ends tells its jobs itself.
    pub(super) fn is_hang_up(&self, signal: Signal, from: signal::Sender) -> bool {
        let by_the_kernel = matches!(from, signal::Sender::Kernel | signal::Sender::KernelByLauncher);
        signal == Signal::SIGHUP && (by_the_kernel || (self.origin.terminal && !env::has_terminal()))
    }

    pub(super) fn signalled(&mut self, signal: Signal, from: signal::Sender) {
        let by = match from {
            signal::Sender::Process(pid) if pid.as_raw() > 0 => format!("{signal} from pid {pid}"),
            signal::Sender::Process(_) => format!("{signal}"),
            signal::Sender::Kernel | signal::Sender::KernelByLauncher => format!("{signal} from the kernel"),
        };
        let is_upgrade = self.settings.upgrade == Some(signal);
        let hang_up = self.is_hang_up(signal, from);
        if hang_up && self.origin.ignored.contains(signal) {
            return say!(info, "{by}: ignored, as it was at the start (nohup(1))");
        }
        // What the kernel sends goes to all processes.
        let is_sent = from != signal::Sender::Kernel;
        if is_sent && self.systemd.as_ref().is_some_and(Systemd::is_behind) {
            // Whoever sent it was not told yet who serves, and means the service.
            say!(info, "{by}: passed on to the process that serves");
            return self.send_after(if is_upgrade && !hang_up { Message::Again } else { Message::Stop });
        }
        if hang_up && self.shared.phase.get().is_leaving() {
            // A shell that goes tells its jobs, and so does the kernel: nobody has lost patience.
            return say!(info, "{by}: this process leaves already");
        }
        if is_upgrade && !hang_up {
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

    pub(super) fn hear_before(&mut self) {
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

    pub(super) fn hear_after(&mut self) {
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

    pub(super) fn hear_draining(&mut self, index: usize) {
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
    pub(super) fn offered(&mut self, offer: Offer, mut fds: Vec<OwnedFd>) -> Result<(), String> {
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

    pub(super) fn restored(&mut self, earlier: Vec<Earlier>, fds: Vec<OwnedFd>) {
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
