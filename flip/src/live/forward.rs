//! Calls from processes that drain, to the owner: each drains over a socket of its own, one packet a call, one an
//! answer, so that a slow owner delays no control message.
//!
//! The owner reads a call, applies it and answers it in one turn; a freeze waits for the end of the turn. So what is in
//! the socket was not applied, and the socket goes on to the next owner as it is: each call is applied at most once.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_listener::{Event, listener};
use nix::poll::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

use super::CallError;
use crate::handoff::codec;
use crate::log::say;
use crate::shared::Shared;
use crate::sys::fd::{self, EventFd};

/// What a buffer for calls must hold.
pub(crate) const BUFFER: usize = CALL + 1024;
/// The most bytes of an encoded call or answer: one packet, well below the default of `net.core.wmem_default`.
const CALL: usize = 128 * 1024;
/// How long an answer may wait for room in the socket of a process that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Request {
    id: u64,
    state: String,
    op: String,
    #[serde(with = "codec::bytes")]
    bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    id: u64,
    /// The error says why it was not applied, or nothing where that is unknown.
    result: Result<Bytes, Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bytes(#[serde(with = "codec::bytes")] Vec<u8>);

/// The side that drains.
pub(crate) struct Forwarder {
    queue: Mutex<Queue>,
    bell: EventFd,
}

#[derive(Default)]
struct Queue {
    out: VecDeque<Vec<u8>>,
    pending: HashMap<u64, Arc<Slot>>,
    next: u64,
    lost: bool,
}

#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Result<Vec<u8>, CallError>>>,
    done: Event,
}

impl Forwarder {
    /// Forwards over this socket from now on, on a thread of its own.
    pub(crate) fn start(socket: OwnedFd) -> std::io::Result<Arc<Forwarder>> {
        let bell = EventFd::new()?;
        let forwarder = Arc::new(Forwarder { queue: Mutex::default(), bell });
        fd::set_nonblocking(socket.as_fd(), true)?;
        let worker = Arc::clone(&forwarder);
        std::thread::Builder::new().name("flip-forward".into()).spawn(move || {
            worker.run(&socket);
            worker.lose();
        })?;
        Ok(forwarder)
    }

    /// A process that cannot forward: every call is lost.
    pub(crate) fn broken() -> std::io::Result<Arc<Forwarder>> {
        let bell = EventFd::new()?;
        Ok(Arc::new(Forwarder { queue: Mutex::new(Queue { lost: true, ..Queue::default() }), bell }))
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn forward(&self, state: &str, op: &str, bytes: Vec<u8>) -> Result<Vec<u8>, CallError> {
        let slot = Arc::new(Slot::default());
        {
            let mut queue = self.queue();
            if queue.lost {
                return Err(CallError::Lost);
            }
            let id = queue.next;
            queue.next += 1;
            let request = Request { id, state: state.to_owned(), op: op.to_owned(), bytes };
            let packet = codec::to_named(&request).map_err(|error| CallError::Refused(error.to_string()))?;
            if packet.len() > CALL {
                return Err(CallError::Refused(format!("it takes {} bytes, more than {CALL}", packet.len())));
            }
            queue.out.push_back(packet);
            queue.pending.insert(id, Arc::clone(&slot));
        }
        self.bell.ring();
        loop {
            listener!(slot.done => done);
            if let Some(answer) = slot.answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return answer;
            }
            done.await;
        }
    }

    fn run(&self, socket: &OwnedFd) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let wants_out = !self.queue().out.is_empty();
            let interest = if wants_out { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            let mut fds = [PollFd::new(socket.as_fd(), interest), PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            self.bell.clear();
            if self.send(socket).is_err() {
                return;
            }
            loop {
                match fd::recv(socket.as_fd(), &mut buffer) {
                    Ok(packet) if packet.is_eof() => return,
                    Ok(packet) => match codec::from_named::<Answer>(&buffer[..packet.len]) {
                        Ok(answer) => self.answer(
                            answer.id,
                            answer
                                .result
                                .map(|Bytes(bytes)| bytes)
                                .map_err(|why| why.map_or(CallError::Lost, CallError::Refused)),
                        ),
                        Err(_) => return,
                    },
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => return,
                }
            }
        }
    }

    fn send(&self, socket: &OwnedFd) -> std::io::Result<()> {
        let mut queue = self.queue();
        while let Some(packet) = queue.out.front() {
            match fd::send(socket.as_fd(), packet, &[]) {
                Ok(_) => drop(queue.out.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&self, id: u64, result: Result<Vec<u8>, CallError>) {
        if let Some(slot) = self.queue().pending.remove(&id) {
            *slot.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            slot.done.notify(usize::MAX);
        }
    }

    /// The owner is gone: what was asked may or may not have been applied.
    fn lose(&self) {
        let pending = {
            let mut queue = self.queue();
            queue.lost = true;
            queue.out.clear();
            std::mem::take(&mut queue.pending)
        };
        for slot in pending.into_values() {
            *slot.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Err(CallError::Lost));
            slot.done.notify(usize::MAX);
        }
    }
}

/// One call from a process that drains, in its turn; false when there will be no more on this socket.
pub(crate) fn serve_call(shared: &Shared, socket: &OwnedFd, buffer: &mut [u8]) -> bool {
    let packet = match fd::recv(socket.as_fd(), buffer) {
        Ok(packet) if packet.is_eof() => return false,
        Ok(packet) => packet,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    let Ok(request) = codec::from_named::<Request>(&buffer[..packet.len]) else {
        say!(error, "a draining process sent a call that does not decode; its further calls are refused");
        return false;
    };
    let result = match shared.states.find(&request.state) {
        None => Err(Some(format!("the owner has no state `{}`", request.state))),
        // A panic of the user's ends this call, as it would end the task that made it; how far it came is unknown.
        Some(state) => match catch_unwind(AssertUnwindSafe(|| state.apply(&request.op, &request.bytes))) {
            Ok(result) => result,
            Err(_) => Err(None),
        },
    };
    let mut answer = Answer { id: request.id, result: result.map(Bytes) };
    let mut packet = codec::to_named(&answer).unwrap_or_default();
    if packet.is_empty() || packet.len() > CALL {
        say!(
            error,
            "the answer to `{}` takes {} bytes, more than {CALL}: its caller does not get it",
            request.op,
            packet.len()
        );
        answer.result = Err(None);
        packet = codec::to_named(&answer).unwrap_or_default();
    }
    send_patiently(socket, &packet)
}

fn send_patiently(socket: &OwnedFd, packet: &[u8]) -> bool {
    loop {
        match fd::send(socket.as_fd(), packet, &[]) {
            Ok(_) => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                let patience = nix::poll::PollTimeout::try_from(PATIENCE).unwrap_or(nix::poll::PollTimeout::MAX);
                if !matches!(nix::poll::poll(&mut fds, patience), Ok(1..) | Err(nix::errno::Errno::EINTR)) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}

/// A call as it is sent.
#[cfg(feature = "fuzzing")]
pub(crate) fn request(id: u64, state: &str, op: &str, bytes: Vec<u8>) -> Vec<u8> {
    codec::to_named(&Request { id, state: state.to_owned(), op: op.to_owned(), bytes }).unwrap_or_default()
}

/// Reads a packet as an answer.
#[cfg(feature = "fuzzing")]
pub(crate) fn answers(packet: &[u8]) {
    drop(codec::from_named::<Answer>(packet));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;

    #[test]
    fn calls_and_answers_are_read_for_ever() {
        let request = Request { id: 3, state: "visits".into(), op: "Hit".into(), bytes: vec![1, 200] };
        let bytes = golden("call", &codec::to_named(&request).unwrap());
        let read: Request = codec::from_named(&bytes).unwrap();
        assert_eq!((read.id, &*read.state, &*read.op, &*read.bytes), (3, "visits", "Hit", &[1, 200][..]));
        for (name, result) in [
            ("answer", Ok(Bytes(vec![9]))),
            ("answer that says why not", Err(Some("why".to_owned()))),
            ("answer that is lost", Err(None)),
        ] {
            let bytes = golden(name, &codec::to_named(&Answer { id: 3, result: result.clone() }).unwrap());
            let read: Answer = codec::from_named(&bytes).unwrap();
            assert_eq!((read.id, read.result), (3, result));
        }
    }
}
