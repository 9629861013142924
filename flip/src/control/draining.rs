//! What the owner does for the generations that drain: applies their calls, takes their connections and the items of their
//! relays, on a thread that may run code of the user's.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::link::{Link, Received};
use crate::live::{BUFFER, Holding, serve_call};
use crate::log::say;
use crate::pass::Passed;
use crate::protocol::{Message, Typed};
use crate::relay::{DESCRIPTORS, Looked, Origin, Post, parcels};
use crate::shared::{Note, Shared};
use crate::sys::fd::{self, EventFd, PollEntry, poll};

/// How long the rest of a connection that was begun may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks for a free descriptor.
const AGAIN: Duration = Duration::from_millis(10);

/// The sockets of a generation that drains, until they are at their end.
pub(crate) struct Sockets {
    calls: Option<OwnedFd>,
    passes: Option<Link>,
    /// How many connections came without their descriptor.
    lost: u64,
    relays: Vec<Passing>,
}

/// A relay of a generation that drains.
struct Passing {
    name: String,
    origin: Arc<Origin>,
    link: Link,
}

impl Sockets {
    pub(crate) fn new(
        calls: OwnedFd,
        passes: OwnedFd,
        relays: impl IntoIterator<Item = (Typed, OwnedFd)>,
    ) -> std::io::Result<Sockets> {
        fd::set_nonblocking(calls.as_fd(), true)?;
        let relays = relays.into_iter().map(|(Typed { name, schema }, socket)| {
            Ok(Passing { name, origin: Origin::new(schema), link: Link::new(socket)? })
        });
        Ok(Sockets {
            calls: Some(calls),
            passes: Some(Link::new(passes)?),
            lost: 0,
            relays: relays.collect::<std::io::Result<_>>()?,
        })
    }

    fn are_at_their_end(&self) -> bool {
        self.calls.is_none() && self.passes.is_none() && self.relays.is_empty()
    }
}

impl Passing {
    /// Where its items go, if that is known; nothing where they never will.
    fn post(&self, shared: &Shared) -> Option<Option<Arc<Post>>> {
        match shared.relays.look_for(&self.name) {
            Looked::Declared(post) => post.has_room().map(|has_room| has_room.then_some(post)),
            Looked::Unknown => Some(None),
            Looked::Unwanted => None,
        }
    }

    /// Whoever passes has the next item back. What is on its way already is closed, and counted as far as it can be read: nobody else
    /// would ever read it. Where its relay is here, and dropped, it may be told.
    fn refuse(&mut self, shared: &Shared) -> usize {
        fd::shutdown(self.link.socket());
        let dropped = match shared.relays.look_for(&self.name) {
            Looked::Declared(post) if post.has_room().is_none() => Some(post),
            _ => None,
        };
        let mut count = 0;
        while let Ok(Some(received)) = self.link.receive() {
            let Message::Items(items) = received.message else { continue };
            match &dropped {
                Some(post) => post.push(parcels(items, received.fds, |_| Some(&self.origin)).unwrap_or_default()),
                None => count += items.len(),
            }
        }
        if count > 0 {
            say!(warn, "{count} items of the relay `{}` were on their way, and are not taken here: closed", self.name);
        }
        count
    }
}

/// Serves them until `stop` rings or the content is given away.
pub(crate) fn serve_draining(shared: &Shared, mut sockets: Vec<Sockets>, stop: &EventFd) {
    let mut buffer = vec![0; BUFFER];
    loop {
        // Whoever passes what nobody takes has it back; but not once the next owner has these sockets, too.
        let Some(turn_to_refuse) = turn(shared) else { return };
        for sockets in &mut sockets {
            sockets.relays.retain_mut(|passing| {
                let may_be_wanted = passing.post(shared).is_some();
                if !may_be_wanted {
                    passing.refuse(shared);
                }
                may_be_wanted && passing.link.is_open()
            });
        }
        drop(turn_to_refuse);
        let count = sockets.len();
        sockets.retain(|sockets| !sockets.are_at_their_end());
        if sockets.len() < count {
            shared.notes.send(Note::Passed);
        }
        if sockets.is_empty() {
            return;
        }
        // Before the look at who has room.
        shared.relays.bell().clear();
        let posts: Vec<Option<Arc<Post>>> =
            sockets.iter().flat_map(|sockets| &sockets.relays).map(|passing| passing.post(shared).flatten()).collect();
        let mut entries = vec![PollEntry::readable(stop.as_fd()), PollEntry::readable(shared.relays.bell().as_fd())];
        for Sockets { calls, passes, .. } in &sockets {
            entries.push(calls.as_ref().map_or(PollEntry::absent(), |calls| PollEntry::readable(calls.as_fd())));
            entries.push(passes.as_ref().map_or(PollEntry::absent(), |passes| PollEntry::readable(passes.socket())));
        }
        let relays = sockets.iter().flat_map(|sockets| &sockets.relays).zip(&posts);
        entries.extend(relays.map(|(passing, post)| match post {
            Some(_) => PollEntry::readable(passing.link.socket()),
            None => PollEntry::absent(),
        }));
        if let Err(error) = poll(&mut entries, None) {
            return say!(error, "draining processes are no longer served: {error}");
        }
        let ready: Vec<_> = entries.iter().map(PollEntry::is_ready).collect();
        if ready[0] {
            return;
        }
        let mut lacking = false;
        let (ready, ready_relays) = ready[2..].split_at(2 * sockets.len());
        for (sockets, ready) in sockets.iter_mut().zip(ready.chunks(2)) {
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
                if !fd::are_free(1) {
                    lacking = true;
                    continue;
                }
                let Some(_turn) = turn(shared) else { return };
                if let Err(error) = take_connection(shared, passes) {
                    // Between the look and the call others may have taken the last descriptor.
                    if passes.goes_on() {
                        sockets.lost += 1;
                        if sockets.lost.is_power_of_two() {
                            let lost = sockets.lost;
                            say!(
                                warn,
                                "no descriptor was free for a connection that a draining process passed: closed; {lost} so far"
                            );
                        }
                        continue;
                    }
                    if error.kind() != ErrorKind::UnexpectedEof {
                        say!(
                            warn,
                            "a draining process passed what is no connection, and serves what it still has to its end: {error}"
                        );
                    }
                    fd::shutdown(passes.socket());
                    sockets.passes = None;
                    shared.arrivals.source_ended();
                }
            }
        }
        let passing = sockets.iter_mut().flat_map(|sockets| &mut sockets.relays);
        for ((passing, post), ready) in passing.zip(posts).zip(ready_relays) {
            let Some(post) = post.filter(|_| *ready) else { continue };
            if !fd::are_free(DESCRIPTORS) {
                lacking = true;
                continue;
            }
            let Some(_turn) = turn(shared) else { return };
            if let Err(error) = take_items(passing, &post) {
                say!(
                    warn,
                    "a draining process passed what is no item of the relay `{}`, and keeps what it has not sent: {error}",
                    passing.name
                );
                passing.refuse(shared);
                passing.link.close();
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
        match shared.hold.admits() {
            Holding::Open => return Some(calling),
            Holding::Given => return None,
            Holding::Held | Holding::Frozen => drop(calling),
        }
        shared.hold.wait();
    }
}

/// One connection, whole.
fn take_connection(shared: &Shared, link: &mut Link) -> std::io::Result<()> {
    let Some(received) = take_message(link)? else {
        return if link.is_open() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) };
    };
    let (Message::Passed(passed), Some(socket)) = (received.message, received.fds.into_iter().next()) else {
        return Err(std::io::Error::other("a message that is no connection"));
    };
    let connection = Passed { socket, unread: passed.unread, kept: passed.kept };
    shared.arrivals.push(&passed.listener, connection);
    Ok(())
}

/// One message of items.
fn take_items(passing: &mut Passing, post: &Arc<Post>) -> std::io::Result<()> {
    let Some(received) = take_message(&mut passing.link)? else { return Ok(()) };
    let items = match received.message {
        Message::Items(items) => parcels(items, received.fds, |_| Some(&passing.origin)),
        _ => None,
    };
    post.push(items.ok_or_else(|| std::io::Error::other("a message that makes no sense"))?);
    Ok(())
}

/// One message, if any is there: where it takes several packets the rest of them is waited for.
fn take_message(link: &mut Link) -> std::io::Result<Option<Received>> {
    loop {
        let received = link.receive().map_err(std::io::Error::other)?;
        if received.is_some() || !link.is_amid() {
            return Ok(received);
        }
        if !link.is_open() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // A freeze waits for this turn, and its sender may have been stopped in the middle.
        if poll(&mut [PollEntry::readable(link.socket())], Some(PATIENCE))? == 0 {
            return Err(std::io::Error::other("the rest of it does not come"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;
    use crate::protocol::{Item, PassedOn, packets};
    use crate::relay::Relay;

    #[test]
    fn items_behind_a_message_that_is_none_are_counted() {
        let shared = Shared::new(true).unwrap();
        let relay = Relay::<u8>::declare("numbers", &shared);
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        let mut passing =
            Passing { name: "numbers".into(), origin: Origin::new(vec![]), link: Link::new(ours).unwrap() };
        let mut passes = Link::new(theirs).unwrap();
        passes.send(&Message::Ready, vec![]);
        for count in [1, 2] {
            passes.send(&Message::Items((0..count).map(|_| Item { bytes: vec![1], descriptors: 0 }).collect()), vec![]);
        }
        take_items(&mut passing, relay.post()).unwrap_err();
        assert_eq!(passing.refuse(&shared), 3);
        assert!(!passing.link.is_open());
    }

    #[test]
    fn connection_without_a_descriptor_costs_no_other() {
        // Descriptors run out for nobody else.
        if !fd::is_alone("control::draining::tests::connection_without_a_descriptor_costs_no_other") {
            return;
        }
        let shared = Shared::new(true).unwrap();
        shared.arrivals.expect("http", []);
        let (old, new) = fd::seqpacket_pair().unwrap();
        let mut link = Link::new(new).unwrap();
        let pass = |unread: &[u8]| {
            let (connection, peer) = std::os::unix::net::UnixStream::pair().unwrap();
            let unread = unread.to_vec();
            let message = Message::Passed(PassedOn { listener: "http".into(), kept: true, unread });
            for (bytes, count) in packets(&message.encode(), 1) {
                fd::send(old.as_fd(), &bytes, &[connection.as_fd()][..count]).unwrap();
            }
            peer
        };
        let mut lost = pass(b"lost");
        let next = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, next.as_raw_fd() as u64, limits.1).unwrap();
        assert!(take_connection(&shared, &mut link).is_err() && link.goes_on() && link.is_open());
        setrlimit(Resource::RLIMIT_NOFILE, limits.0, limits.1).unwrap();
        assert_eq!(std::io::Read::read(&mut lost, &mut [0]).unwrap(), 0);
        // One that takes several packets, too.
        let unread = vec![7; 100_000];
        let _peers = [pass(b"next"), pass(&unread)];
        for expected in [&b"next"[..], &unread] {
            take_connection(&shared, &mut link).unwrap();
            assert!(shared.arrivals.try_next("http").unwrap().unread == expected);
        }
        // What makes no sense ends it.
        fd::send(old.as_fd(), b"what", &[]).unwrap();
        assert!(take_connection(&shared, &mut link).is_err() && !link.goes_on() && !link.is_open());
    }
}
