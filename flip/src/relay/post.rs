//! The mailbox of one relay in one process, whatever its type, and the way from there to the owner.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
#[cfg(feature = "ws")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, IntoNotification, Listener, listener};
use nix::errno::Errno;

use super::parcel::DESCRIPTORS;
use super::{Origin, Parcel, Untaken, WhyNotPassed, is_stopping};
use crate::handoff::Schema;
use crate::live::Holding;
use crate::log::say;
use crate::protocol::{Message, packets};
use crate::shared::Shared;
use crate::sys::fd;

/// How many items may lie here or be on their way in.
const ROOM: usize = 64;
/// How many bytes of items go in one message, where there are several.
const BATCH: usize = 48 * 1024;
/// Between two tries to send where too many descriptors are on their way.
const AGAIN: Duration = Duration::from_millis(10);

pub(crate) struct Post {
    name: Arc<str>,
    schema: Arc<Schema>,
    origin: Arc<Origin>,
    /// The process that this belongs to; none in tests and tools.
    shared: Option<Arc<Shared>>,
    inner: Mutex<Inner>,
    /// Something arrived, or nothing will.
    arrived: Event,
    /// There is room for one more, or it goes elsewhere.
    room: Event,
    /// Something is to be sent, or nothing ever.
    leaving: Event,
    /// What becomes of an item that nobody takes: it is dropped where nothing is said.
    #[cfg(feature = "ws")]
    turn_away: OnceLock<fn(&Arc<Post>, Parcel)>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Parcel>,
    /// How many are being written for it.
    reserved: usize,
    out: Out,
    /// Every handle in this process is gone: nobody takes anything.
    abandoned: bool,
    lost: u64,
}

/// The way to the new process.
#[derive(Default)]
enum Out {
    #[default]
    None,
    Open {
        socket: Arc<OwnedFd>,
        leaving: VecDeque<(Parcel, Arc<Slot>)>,
    },
    Closed(Why),
}

/// Makes the reason, which is not to be copied.
type Why = fn() -> WhyNotPassed;
type Sent = Result<(), Why>;

/// What became of an item that is on its way.
#[derive(Default)]
struct Slot {
    sent: Mutex<Option<Sent>>,
    done: Event,
}

impl Slot {
    fn answer(&self, sent: Sent) {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        self.done.notify(usize::MAX);
    }
}

/// Where an item goes at this moment.
enum Way {
    Here,
    Out,
    Wait,
    Nowhere(WhyNotPassed),
}

pub(super) enum Taken<T> {
    Item(T),
    Nothing,
    /// There will be none.
    Over,
}

/// The handles of a relay, together: without any, nobody takes what is passed.
pub(crate) struct Receives(Arc<Post>);

impl Receives {
    pub(super) fn start(post: Arc<Post>) -> Arc<Receives> {
        Arc::new(Receives(post))
    }

    pub(super) fn post(&self) -> &Arc<Post> {
        &self.0
    }
}

impl Drop for Receives {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Post {
    pub(super) fn new(name: &str, schema: Arc<Schema>, shared: Option<Arc<Shared>>) -> Arc<Post> {
        Arc::new(Post {
            name: name.into(),
            origin: Origin::new(schema.encode()),
            schema,
            shared,
            inner: Mutex::default(),
            arrived: Event::new(),
            room: Event::new(),
            leaving: Event::new(),
            #[cfg(feature = "ws")]
            turn_away: OnceLock::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    pub(crate) fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref()
    }

    pub(super) fn arrived(&self) -> &Event {
        &self.arrived
    }

    fn holding(&self) -> Holding {
        self.shared.as_ref().map_or(Holding::Open, |shared| shared.hold.get())
    }

    fn is_stopping(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| is_stopping(shared))
    }

    // ---- what is passed

    fn way(&self, inner: &Inner) -> Way {
        match (self.holding(), &inner.out) {
            (Holding::Held | Holding::Frozen, _) | (Holding::Given, Out::None) => Way::Wait,
            (Holding::Open, _) if self.is_stopping() => Way::Nowhere(WhyNotPassed::Stopping),
            (Holding::Open, _) if inner.abandoned => Way::Nowhere(WhyNotPassed::Unwanted),
            (Holding::Open, _) => Way::Here,
            (Holding::Given, Out::Open { .. }) => Way::Out,
            (Holding::Given, Out::Closed(why)) => Way::Nowhere(why()),
        }
    }

    /// The right to put one item: whoever has one may hold its descriptors twice.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn place(self: &Arc<Self>) -> Result<Place, WhyNotPassed> {
        loop {
            listener!(self.room => room);
            {
                let mut inner = self.inner();
                let way = self.way(&inner);
                match way {
                    Way::Nowhere(why) => return Err(why),
                    Way::Here | Way::Out if inner.taken() < ROOM => {
                        inner.reserved += 1;
                        return Ok(Place { post: Arc::clone(self) });
                    }
                    _ => {}
                }
            }
            room.await;
        }
    }

    /// What came from an earlier generation, in front of what comes later.
    pub(super) fn fill(&self, parcels: Vec<Parcel>) {
        self.inner().queue.extend(parcels);
        self.arrived.notify(usize::MAX);
    }

    /// An item of an earlier generation.
    pub(crate) fn push(self: &Arc<Self>, parcels: Vec<Parcel>) {
        let mut inner = self.inner();
        if inner.abandoned {
            drop(inner);
            return self.close_unwanted(parcels);
        }
        inner.queue.extend(parcels);
        drop(inner);
        self.arrived.notify(usize::MAX);
    }

    pub(super) fn take(&self) -> Taken<Parcel> {
        let mut inner = self.inner();
        match self.holding() {
            Holding::Given => return Taken::Over,
            Holding::Held | Holding::Frozen => return Taken::Nothing,
            Holding::Open => {}
        }
        let was_full = inner.taken() >= ROOM;
        match inner.queue.pop_front() {
            Some(parcel) => {
                drop(inner);
                self.room.notify(1.additional());
                if let Some(shared) = self.shared.as_ref().filter(|_| was_full) {
                    shared.relays.bell().ring();
                }
                Taken::Item(parcel)
            }
            None if self.is_stopping() => Taken::Over,
            None => Taken::Nothing,
        }
    }

    #[cfg(test)]
    pub(crate) fn lost(&self) -> u64 {
        self.inner().lost
    }

    /// An item cannot be read, and is closed.
    pub(crate) fn lose(&self, why: &str) {
        let lost = {
            let mut inner = self.inner();
            inner.lost += 1;
            inner.lost
        };
        // The first says why; of many the rest says how many.
        if lost.is_power_of_two() {
            say!(warn, "an item of the relay `{}` cannot be read and is closed ({lost} so far): {why}", self.name);
        }
    }

    /// What waits for whoever takes over, in parts.
    pub(crate) fn untaken(&self) -> io::Result<Vec<(Untaken, Vec<OwnedFd>)>> {
        Untaken::of(&self.name, &self.inner().queue)
    }

    // ---- what becomes of the process

    /// Whether items from earlier generations are taken now; nothing where none ever will be.
    pub(crate) fn has_room(&self) -> Option<bool> {
        let inner = self.inner();
        (!inner.abandoned).then(|| inner.taken() < ROOM)
    }

    pub(super) fn wake(&self) {
        self.room.notify(usize::MAX);
        self.arrived.notify(usize::MAX);
    }

    fn abandon(self: &Arc<Self>) {
        let unwanted = {
            let mut inner = self.inner();
            inner.abandoned = true;
            std::mem::take(&mut inner.queue)
        };
        let Some(shared) = &self.shared else { return };
        shared.relays.bell().ring();
        // What waits here when this process is not the owner is somebody else's already.
        if shared.hold.get() == Holding::Open && !shared.phase.get().is_leaving() {
            self.close_unwanted(unwanted);
        }
        self.wake();
    }

    fn close_unwanted(self: &Arc<Self>, unwanted: impl IntoIterator<Item = Parcel>) {
        let mut count = 0;
        for parcel in unwanted {
            count += 1;
            self.turn_away(parcel);
        }
        if count > 0 {
            say!(warn, "{count} items of the relay `{}` were passed, and nobody takes them here: closed", self.name);
        }
    }

    #[cfg(feature = "ws")]
    fn turn_away(self: &Arc<Self>, parcel: Parcel) {
        if let Some(turn_away) = self.turn_away.get() {
            turn_away(self, parcel);
        }
    }

    #[cfg(not(feature = "ws"))]
    #[allow(clippy::unused_self, reason = "it may know what to do, where there are WebSockets")]
    fn turn_away(self: &Arc<Self>, _: Parcel) {}

    /// What is to become of items that nobody takes.
    #[cfg(feature = "ws")]
    pub(crate) fn turns_away_by(&self, turn_away: fn(&Arc<Post>, Parcel)) {
        // Whoever comes second says the same.
        let _ = self.turn_away.set(turn_away);
    }

    /// From here on items go to the new process over this socket, or back to whoever passes them where there is none.
    pub(crate) fn open(self: &Arc<Self>, socket: Option<OwnedFd>) {
        // The new process never writes to it, and closes its side where it has no such relay.
        let wanted = |socket: &OwnedFd| !fd::is_readable_within(socket.as_fd(), Duration::ZERO).unwrap_or(true);
        let opened = socket.filter(wanted).map(|socket| {
            let (socket, post) = (Arc::new(socket), Arc::clone(self));
            self.inner().out = Out::Open { socket: Arc::clone(&socket), leaving: VecDeque::new() };
            std::thread::Builder::new().name("flip-relay".into()).spawn(move || post.send(&socket))
        });
        if let Some(Ok(_)) = opened {
            return;
        }
        if let Some(Err(error)) = opened {
            say!(warn, "items of the relay `{}` cannot be passed to the new process: {error}", self.name);
        }
        self.close(|| WhyNotPassed::Unwanted);
    }

    /// Whether items go to the new process, as far as is known.
    #[cfg(feature = "ws")]
    pub(crate) fn leads_out(&self) -> bool {
        matches!(self.inner().out, Out::Open { .. })
    }

    pub(super) fn give_up(self: &Arc<Self>) {
        let (given, is_wanted) = {
            let mut inner = self.inner();
            let is_wanted = !matches!(inner.out, Out::Closed(_));
            (std::mem::take(&mut inner.queue), is_wanted)
        };
        // What the new process has no relay for it has closed: these are the last that are open.
        if !is_wanted {
            given.into_iter().for_each(|parcel| self.turn_away(parcel));
        }
        self.wake();
    }

    pub(super) fn stop(&self) {
        self.close(|| WhyNotPassed::Stopping);
    }

    /// What waits for the new process waits no longer.
    #[cfg(feature = "ws")]
    pub(crate) fn wait_no_longer(&self) {
        if self.leads_out() {
            self.close(|| WhyNotPassed::NotTaken);
        }
    }

    /// Nothing goes out any more: what was to goes back.
    fn close(&self, why: Why) {
        let before = std::mem::replace(&mut self.inner().out, Out::Closed(why));
        if let Out::Open { socket, leaving } = before {
            // Whoever sends may be waiting for a reader that does not come.
            fd::shutdown(socket.as_fd());
            leaving.into_iter().for_each(|(_, slot)| slot.answer(Err(why)));
        }
        self.leaving.notify(usize::MAX);
        self.wake();
    }

    /// Sends what is to leave, in batches, until nothing is any more.
    fn send(&self, socket: &OwnedFd) {
        loop {
            listener!(self.leaving => more);
            let Some(batch) = self.next_batch() else { return };
            if batch.is_empty() {
                more.wait();
                continue;
            }
            let sent = send_batch(socket, &batch);
            let why = self.why_closed();
            for (_, slot) in &batch {
                slot.answer(if sent.is_ok() { Ok(()) } else { Err(why) });
            }
            match sent {
                Ok(()) => drop(self.room.notify(batch.len().additional())),
                Err(_) => return self.close(why),
            }
        }
    }

    /// Where nothing is said about it, the new process has closed it.
    fn why_closed(&self) -> Why {
        if let Out::Closed(why) = self.inner().out { why } else { || WhyNotPassed::Unwanted }
    }

    /// What goes in one message, in order; nothing where nothing ever will.
    fn next_batch(&self) -> Option<Vec<(Parcel, Arc<Slot>)>> {
        let mut inner = self.inner();
        let Out::Open { leaving, .. } = &mut inner.out else { return None };
        let (mut batch, mut bytes, mut fds) = (Vec::new(), 0, 0);
        while let Some((parcel, _)) = leaving.front() {
            bytes += parcel.bytes.len();
            fds += parcel.fds.len();
            if !batch.is_empty() && (bytes > BATCH || fds > DESCRIPTORS) {
                break;
            }
            batch.extend(leaving.pop_front());
        }
        Some(batch)
    }
}

impl Inner {
    fn taken(&self) -> usize {
        let leaving = if let Out::Open { leaving, .. } = &self.out { leaving.len() } else { 0 };
        self.reserved + self.queue.len() + leaving
    }
}

/// Room for one item.
pub(super) struct Place {
    post: Arc<Post>,
}

impl Place {
    /// # Cancel safety
    /// Dropped before it is on its way, the item is dropped, too.
    pub(super) async fn put(self, parcel: Parcel) -> Result<(), WhyNotPassed> {
        let post = Arc::clone(&self.post);
        let mut parcel = Some(parcel);
        let leaves = loop {
            listener!(post.room => changed);
            {
                let mut inner = post.inner();
                let way = post.way(&inner);
                match way {
                    Way::Nowhere(why) => return Err(why),
                    Way::Wait => {}
                    Way::Here => {
                        inner.queue.extend(parcel.take());
                        drop(inner);
                        post.arrived.notify(usize::MAX);
                        return Ok(());
                    }
                    Way::Out => {
                        let slot = Arc::new(Slot::default());
                        if let Out::Open { leaving, .. } = &mut inner.out {
                            leaving.extend(parcel.take().map(|parcel| (parcel, Arc::clone(&slot))));
                        }
                        drop(inner);
                        post.leaving.notify(usize::MAX);
                        break Leaves { post: &post, slot };
                    }
                }
            }
            changed.await;
        };
        // It counts as what leaves from here on.
        drop(self);
        loop {
            listener!(leaves.slot.done => done);
            if let Some(sent) = *leaves.slot.sent.lock().unwrap_or_else(PoisonError::into_inner) {
                return sent.map_err(|why| why());
            }
            done.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.post.inner().reserved -= 1;
        self.post.room.notify(1.additional());
    }
}

/// Waits for an item to be sent, and takes it back where nobody waits any more.
struct Leaves<'p> {
    post: &'p Post,
    slot: Arc<Slot>,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if let Out::Open { leaving, .. } = &mut self.post.inner().out {
            leaving.retain(|(_, slot)| !Arc::ptr_eq(slot, &self.slot));
        }
    }
}

fn send_batch(socket: &OwnedFd, batch: &[(Parcel, Arc<Slot>)]) -> io::Result<()> {
    let message = Message::Items(batch.iter().map(|(parcel, _)| parcel.item()).collect()).encode();
    let fds: Vec<_> = batch.iter().flat_map(|(parcel, _)| &parcel.fds).map(AsFd::as_fd).collect();
    let mut rest = &fds[..];
    for (bytes, count) in packets(&message, fds.len()) {
        let (now, later) = rest.split_at(count);
        rest = later;
        loop {
            match fd::send(socket.as_fd(), &bytes, now) {
                Ok(_) => break,
                // More are on their way than a process may have open (unix(7)): those that arrive are counted no more.
                Err(error) if error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32) => std::thread::sleep(AGAIN),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
