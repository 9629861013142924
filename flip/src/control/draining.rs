//! What the owner does for the generations that drain: applies their calls and takes their connections, on a thread that
//! may run code of the user's.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::MutexGuard;
use std::time::Duration;

use super::link::Link;
use crate::live::{BUFFER, Holding, serve_call};
use crate::log::say;
use crate::pass::Passed;
use crate::protocol::Message;
use crate::shared::Shared;
use crate::sys::fd::{self, EventFd, PollEntry, poll};

/// How long the rest of a connection that was begun may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks for a free descriptor.
const AGAIN: Duration = Duration::from_millis(10);

/// The two sockets of a generation that drains, until they are at their end.
pub(crate) struct Sockets {
    calls: Option<OwnedFd>,
    passes: Option<Link>,
}

impl Sockets {
    pub(crate) fn new(calls: OwnedFd, passes: OwnedFd) -> std::io::Result<Sockets> {
        fd::set_nonblocking(calls.as_fd(), true)?;
        Ok(Sockets { calls: Some(calls), passes: Some(Link::new(passes)?) })
    }
}

/// Serves them until `stop` rings or the content is given away.
pub(crate) fn serve_draining(shared: &Shared, mut sockets: Vec<Sockets>, stop: &EventFd) {
    let mut buffer = vec![0; BUFFER];
    loop {
        sockets.retain(|sockets| sockets.calls.is_some() || sockets.passes.is_some());
        if sockets.is_empty() {
            return;
        }
        let mut entries = vec![PollEntry::readable(stop.as_fd())];
        for Sockets { calls, passes } in &sockets {
            entries.push(calls.as_ref().map_or(PollEntry::absent(), |calls| PollEntry::readable(calls.as_fd())));
            entries.push(passes.as_ref().map_or(PollEntry::absent(), |passes| PollEntry::readable(passes.socket())));
        }
        if let Err(error) = poll(&mut entries, None) {
            return say!(error, "draining processes are no longer served: {error}");
        }
        let ready: Vec<_> = entries.iter().map(PollEntry::is_ready).collect();
        if ready[0] {
            return;
        }
        let mut lacking = false;
        for (sockets, ready) in sockets.iter_mut().zip(ready[1..].chunks(2)) {
            if ready[0]
                && let Some(calls) = &sockets.calls
            {
                let Some(_turn) = turn(shared) else { return };
                if !serve_call(shared, calls, &mut buffer) {
                    // The control thread has a descriptor of it, too: without this the other side would wait.
                    fd::shutdown(calls.as_fd());
                    sockets.calls = None;
                }
            }
            if ready[1]
                && let Some(passes) = &mut sockets.passes
            {
                // The kernel closes a connection that it has no descriptor for (MSG_CTRUNC, recv(2)); it had better wait.
                if passes.socket().try_clone_to_owned().is_err() {
                    lacking = true;
                    continue;
                }
                let Some(_turn) = turn(shared) else { return };
                if let Err(error) = take_connection(shared, passes) {
                    if error.kind() != ErrorKind::UnexpectedEof {
                        say!(
                            warn,
                            "a draining process passed what is no connection, and closes what it still has: {error}"
                        );
                    }
                    fd::shutdown(passes.socket());
                    sockets.passes = None;
                    shared.arrivals.source_ended();
                }
            }
        }
        if lacking && !matches!(poll(&mut [PollEntry::readable(stop.as_fd())], Some(AGAIN)), Ok(0)) {
            return;
        }
    }
}

/// The right to read from these sockets: whoever freezes waits for the end of the turn, so that what is read is also done
/// with, and what is not read goes on to the next owner. `None` once that one has them.
fn turn(shared: &Shared) -> Option<MutexGuard<'_, ()>> {
    loop {
        let calling = shared.hold.calling();
        match shared.hold.get() {
            Holding::Open => return Some(calling),
            Holding::Given => return None,
            Holding::Held | Holding::Frozen => drop(calling),
        }
        shared.hold.wait();
    }
}

/// One connection, whole: where it takes several packets the rest of them is waited for.
fn take_connection(shared: &Shared, link: &mut Link) -> std::io::Result<()> {
    loop {
        let received = link.receive().map_err(std::io::Error::other)?;
        if let Some(received) = received {
            let (Message::Passed(passed), Some(socket)) = (received.message, received.fds.into_iter().next()) else {
                return Err(std::io::Error::other("a message that is no connection"));
            };
            let connection = Passed { socket, unread: passed.unread, kept: passed.kept };
            shared.arrivals.push(&passed.listener, connection);
            return Ok(());
        }
        if !link.is_open() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if !link.is_amid() {
            return Ok(());
        }
        // A freeze waits for this turn, and its sender may have been stopped in the middle.
        if poll(&mut [PollEntry::readable(link.socket())], Some(PATIENCE))? == 0 {
            return Err(std::io::Error::other("the rest of it does not come"));
        }
    }
}
