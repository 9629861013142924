//! Connections at rest on their way from a process that drains to the owner: the socket, and what was read from it and
//! not yet parsed. Each drains over a socket of its own, so that a slow owner delays no control message.
//!
//! What the owner has not read when it hands over itself stays in the socket, which goes on to the next owner; what it
//! has read and not yet served, it passes on.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_listener::Event;
use nix::errno::Errno;

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

/// Called when it is known what became of a connection: nothing of one that is on its way, and itself where it has to be served
/// here. Dropped with whatever keeps this process alive for it.
pub(crate) type Told = Box<dyn FnOnce(Option<Passed>) + Send>;

/// How long until a socket that takes no more descriptors may take one.
const AGAIN: Duration = Duration::from_millis(10);

/// The side that drains: sends on a thread of its own.
pub(crate) struct Passer {
    sender: Mutex<Sender<(String, Passed, Told)>>,
    /// The other side takes no more.
    broken: Arc<AtomicBool>,
}

impl Passer {
    /// Passes over this socket from now on, to the process that has its other end.
    pub(crate) fn start(socket: OwnedFd) -> std::io::Result<Passer> {
        fd::set_nonblocking(socket.as_fd(), false)?;
        let (sender, receiver) = channel::<(String, Passed, Told)>();
        let broken = Arc::new(AtomicBool::new(false));
        let breaks = Arc::clone(&broken);
        std::thread::Builder::new().name("flip-pass".into()).spawn(move || {
            for (listener, passed, told) in receiver {
                let left =
                    if breaks.load(Ordering::SeqCst) { Some(passed) } else { send(&socket, listener, passed, &breaks) };
                told(left);
            }
        })?;
        Ok(Passer { sender: Mutex::new(sender), broken })
    }

    /// Passes a connection of this listener.
    pub(crate) fn pass(&self, listener: &str, passed: Passed, told: Told) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread ends with the last sender.
        let _ = sender.send((listener.to_owned(), passed, told));
    }

    /// Whether it has ended: what was not passed by then is served here.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

/// The connection, where it could not be sent. A message of which the other side has a part is none to it.
fn send(socket: &OwnedFd, listener: String, passed: Passed, broken: &AtomicBool) -> Option<Passed> {
    let Passed { socket: connection, unread, kept } = passed;
    let mut message = Message::Passed(PassedOn { listener, kept, unread });
    for (bytes, count) in packets(&message.encode(), 1) {
        let fds = [connection.as_fd()];
        while let Err(error) = fd::send(socket.as_fd(), &bytes, &fds[..count]) {
            // More are on their way than a process may have open (unix(7)): those that arrive are counted no more.
            if error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32) {
                std::thread::sleep(AGAIN);
                continue;
            }
            broken.store(true, Ordering::SeqCst);
            say!(warn, "connections cannot be passed to the new process any more, and end in this one: {error}");
            let Message::Passed(PassedOn { unread, .. }) = &mut message else { unreachable!("it was made above") };
            return Some(Passed { socket: connection, unread: std::mem::take(unread), kept });
        }
    }
    None
}

/// The owner's side: what has arrived, by listener, until its server takes it.
#[derive(Default)]
pub(crate) struct Arrivals {
    waiting: Mutex<Waiting>,
    /// How many processes may still pass some.
    sources: AtomicUsize,
    arrived: Event,
}

#[derive(Default)]
struct Waiting {
    /// Of every listener that this process has and that may yet be served: its server may begin long after the old process has
    /// passed what it had.
    queues: HashMap<String, Queue>,
    /// What the old process calls a listener that has another name here.
    renamed: HashMap<String, String>,
}

#[derive(Default)]
struct Queue {
    served: bool,
    passed: VecDeque<Passed>,
}

impl Arrivals {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process has a listener of this name, and so has the old one, under one of `others`.
    pub(crate) fn expect(&self, listener: &str, others: impl IntoIterator<Item = String>) {
        let mut waiting = self.waiting();
        waiting.queues.entry(listener.to_owned()).or_default();
        for other in others {
            waiting.renamed.insert(other, listener.to_owned());
        }
    }

    /// From here on connections of this listener are taken.
    pub(crate) fn serve(&self, listener: &str) {
        self.waiting().queues.entry(listener.to_owned()).or_default().served = true;
    }

    /// Somebody accepts from this listener. Who does so without a server has nothing to do with what others began.
    pub(crate) fn accepts(&self, listener: &str) {
        let gone = {
            let mut waiting = self.waiting();
            if waiting.queues.get(listener).is_none_or(|queue| queue.served) {
                return;
            }
            waiting.queues.remove(listener)
        };
        refuse(listener, gone);
    }

    /// The listener is gone.
    pub(crate) fn forget(&self, listener: &str) {
        let gone = self.waiting().queues.remove(listener);
        refuse(listener, gone);
    }

    /// A connection has arrived. Where nobody will ever serve its listener it is closed.
    pub(crate) fn push(&self, listener: &str, passed: Passed) {
        let mut waiting = self.waiting();
        let Waiting { queues, renamed } = &mut *waiting;
        let here = renamed.get(listener).map_or(listener, String::as_str);
        match queues.get_mut(here) {
            Some(queue) => queue.passed.push_back(passed),
            None => {
                drop(waiting);
                return refuse(listener, Some(Queue { served: false, passed: VecDeque::from([passed]) }));
            }
        }
        drop(waiting);
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
        self.waiting().queues.get_mut(listener)?.passed.pop_front()
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

fn refuse(listener: &str, queue: Option<Queue>) {
    let count = queue.map_or(0, |queue| queue.passed.len());
    if count > 0 {
        say!(warn, "{count} connections of {listener} were passed, and nobody serves that here: closed");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn passed() -> (Passed, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Passed { socket: ours.into(), unread: vec![], kept: true }, theirs)
    }

    #[test]
    fn connection_that_cannot_be_passed_comes_back_whole() {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        let passer = Passer::start(ours).unwrap();
        let (tell, told) = channel();
        let pass = |unread: Vec<u8>| {
            let (connection, peer) = passed();
            let tell = tell.clone();
            let told = move |back: Option<Passed>| tell.send(back.map(|back| (back.unread, peer))).unwrap();
            passer.pass("http", Passed { unread, ..connection }, Box::new(told));
        };
        pass(vec![1]);
        assert!(told.recv().unwrap().is_none() && !passer.is_broken());
        fd::shutdown(theirs.as_fd());
        let long: Vec<_> = (0..200_000).map(|n| n as u8).collect();
        for unread in [long, vec![2]] {
            pass(unread.clone());
            let (back, mut peer) = told.recv().unwrap().unwrap();
            assert!(back == unread && passer.is_broken());
            assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn connection_waits_for_a_server_that_comes_later() {
        let arrivals = Arrivals::default();
        arrivals.expect("http", ["web".to_owned()]);
        arrivals.push("web", passed().0);
        arrivals.push("http", passed().0);
        arrivals.serve("http");
        arrivals.accepts("http");
        assert!(arrivals.try_next("http").is_some() && arrivals.try_next("http").is_some());
        assert!(arrivals.try_next("http").is_none());
    }

    #[test]
    fn connection_that_nobody_will_serve_is_closed() {
        let arrivals = Arrivals::default();
        let is_closed = |mut peer: UnixStream| {
            peer.set_nonblocking(true).unwrap();
            std::io::Read::read(&mut peer, &mut [0]).ok() == Some(0)
        };
        arrivals.expect("http", []);
        for give_up in [Arrivals::accepts, Arrivals::forget] {
            arrivals.expect("http", []);
            let (connection, peer) = passed();
            arrivals.push("http", connection);
            give_up(&arrivals, "http");
            assert!(is_closed(peer));
            let (connection, peer) = passed();
            arrivals.push("http", connection);
            assert!(is_closed(peer));
        }
    }
}
