//! Connections at rest on their way from a process that drains to the owner: the socket, and what was read from it and
//! not yet parsed. Each drains over a socket of its own, so that a slow owner delays no control message.
//!
//! What the owner has not read when it hands over itself stays in the socket, which goes on to the next owner; what it
//! has read and not yet served, it passes on.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use event_listener::Event;

use crate::log::say;
use crate::protocol::{Message, PassedOn, packets};
use crate::sys::fd;

/// A connection between two requests.
pub(crate) struct Passed {
    pub(crate) socket: OwnedFd,
    pub(crate) unread: Vec<u8>,
    /// It had an answer before, so its client knows that it may be closed at any time.
    pub(crate) kept: bool,
}

/// What keeps a process alive until it is dropped.
pub(crate) type Alive = Box<dyn Send>;

/// The side that drains: sends on a thread of its own.
pub(crate) struct Passer(Mutex<Sender<(String, Passed, Alive)>>);

impl Passer {
    /// Passes over this socket from now on, to the process that has its other end.
    pub(crate) fn start(socket: OwnedFd) -> std::io::Result<Passer> {
        fd::set_nonblocking(socket.as_fd(), false)?;
        let (sender, receiver) = channel::<(String, Passed, Alive)>();
        std::thread::Builder::new().name("flip-pass".into()).spawn(move || {
            let mut lost = 0u64;
            for (listener, passed, alive) in receiver {
                if let Err(error) = send(&socket, listener, passed) {
                    if lost == 0 {
                        say!(warn, "connections cannot be passed to the new process and are closed: {error}");
                    }
                    lost += 1;
                }
                drop(alive);
            }
        })?;
        Ok(Passer(Mutex::new(sender)))
    }

    /// Passes a connection of this listener. What keeps the process alive for it is dropped once it is on its way.
    pub(crate) fn pass(&self, listener: &str, passed: Passed, alive: Alive) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread ends with the last sender.
        let _ = sender.send((listener.to_owned(), passed, alive));
    }
}

fn send(socket: &OwnedFd, listener: String, passed: Passed) -> std::io::Result<()> {
    let message = Message::Passed(PassedOn { listener, kept: passed.kept, unread: passed.unread });
    for (bytes, count) in packets(&message.encode(), 1) {
        let fds = [passed.socket.as_fd()];
        fd::send(socket.as_fd(), &bytes, &fds[..count])?;
    }
    Ok(())
}

/// The owner's side: what has arrived, by listener, until its server takes it.
#[derive(Default)]
pub(crate) struct Arrivals {
    /// Only of listeners that somebody serves.
    waiting: Mutex<HashMap<String, VecDeque<Passed>>>,
    /// How many processes may still pass some.
    sources: AtomicUsize,
    arrived: Event,
}

impl Arrivals {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, VecDeque<Passed>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on connections of this listener are taken.
    pub(crate) fn serve(&self, listener: &str) {
        self.waiting().entry(listener.to_owned()).or_default();
    }

    /// A connection has arrived. Where nobody serves its listener it is closed.
    pub(crate) fn push(&self, listener: &str, passed: Passed) {
        match self.waiting().get_mut(listener) {
            Some(queue) => queue.push_back(passed),
            None => return say!(warn, "a connection of {listener} was passed, and nobody serves that here: closed"),
        }
        self.arrived.notify(usize::MAX);
    }

    pub(crate) fn set_sources(&self, sources: usize) {
        self.sources.store(sources, Ordering::SeqCst);
        self.arrived.notify(usize::MAX);
    }

    /// One of them is at its end.
    pub(crate) fn source_ended(&self) {
        self.sources.fetch_sub(1, Ordering::SeqCst);
        self.arrived.notify(usize::MAX);
    }

    /// Resolves when nobody can pass any more.
    pub(crate) async fn exhausted(&self) {
        loop {
            event_listener::listener!(self.arrived => arrived);
            if self.sources.load(Ordering::SeqCst) == 0 {
                return;
            }
            arrived.await;
        }
    }

    pub(crate) fn try_next(&self, listener: &str) -> Option<Passed> {
        self.waiting().get_mut(listener)?.pop_front()
    }

    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self, listener: &str) -> Passed {
        loop {
            event_listener::listener!(self.arrived => arrived);
            if let Some(passed) = self.try_next(listener) {
                return passed;
            }
            arrived.await;
        }
    }
}
