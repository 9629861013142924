//! The content on its way: sections of frames on a stream socket, written and read by threads of their own.
//!
//! ```text
//! sizes: what is large in the states, long before the freeze, so that memory for it is ready then
//! header section: who drains, with their descriptors; the names of the states, in order
//! one section a state, then one or more a relay in which items wait
//! the trailer: without it the content is not whole; with it, old holds none of its exclusives any more
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{FILES, Passing};
use crate::handoff::{BULK, CHUNK, DESCRIPTORS, Room, Sink, Source, codec, cores};
use crate::live::{Hold, Looked};
use crate::memory;
use crate::protocol::{MESSAGE, Typed};
use crate::relay::Untaken;
use crate::shared::{Note, Shared};
use crate::sys::fd;
use crate::sys::spare::{Spare, append};

const TRAILER: &[u8] = b"flip: whole";
/// The most bytes in one frame.
const FRAME: usize = 1024 * 1024;
/// The most bytes of the header section.
const HEADER: usize = 4 * 1024 * 1024;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) draining: Vec<Earlier>,
    states: Vec<String>,
    /// How many sections there are, after those of the states, of items that nobody has taken.
    #[serde(default, skip_serializing_if = "is_zero")]
    relays: u32,
    /// The files of the old process's checkpoints, whose descriptors come last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoints: Option<Passing>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How many descriptors an [`Earlier`] has before those of its relays.
pub(crate) const EARLIER: usize = 4;

/// An earlier generation that drains: its channel, its pidfd, and its sockets for calls, connections and each relay travel
/// beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Earlier {
    pub(crate) pid: i32,
    pub(crate) generation: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) relays: Vec<Typed>,
}

impl Earlier {
    pub(crate) fn descriptors(&self) -> usize {
        EARLIER + self.relays.len()
    }
}

/// How much of the states is gone through in search of what is large.
const SEARCHED: usize = 4 * 1024 * 1024;
/// How long the new process waits to hear of it before it asks for the freeze without.
const SIZES_PATIENCE: Duration = Duration::from_secs(1);
/// How many sizes are sent.
const SIZES: usize = 64 * 1024;

/// What is large, before anything freezes. It may change until then: then the memory for it is not there, and no more.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sizes {
    bulks: Vec<u64>,
    /// The same of numbers, each with how many bytes they are aligned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<(u64, u8)>,
}

/// Only looks for what is large, and not for long.
struct Search {
    sizes: Sizes,
    left: usize,
}

impl Sink for Search {
    fn send(&mut self, bytes: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(())
    }

    fn is_search(&self) -> bool {
        true
    }

    fn found(&mut self, size: usize, align: usize) {
        match align {
            1 => self.sizes.bulks.push(size as u64),
            _ => self.sizes.numbers.push((size as u64, align as u8)),
        }
        if self.sizes.bulks.len() + self.sizes.numbers.len() == SIZES {
            self.left = 0;
        }
    }
}

/// Old's side, while new starts: says what is large in the states.
pub(crate) fn send_sizes(shared: &Shared, socket: BorrowedFd<'_>) {
    let mut search = Search { sizes: Sizes::default(), left: SEARCHED };
    // A panic comes again, and is reported, when the content itself is sent.
    let _ = crate::entry::shielded(|| {
        shared.states.all().iter().for_each(|state| state.search(&mut search));
        Ok(())
    });
    let writer = Writer { socket, shared };
    let sizes = codec::to_named(&search.sizes).map_err(io::Error::other);
    // Where it does not arrive the new process is gone, which is seen otherwise.
    let _ = sizes.and_then(|sizes| writer.frame(&sizes, &[])).and_then(|()| writer.end_section());
}

struct Writer<'a> {
    socket: BorrowedFd<'a>,
    shared: &'a Shared,
}

impl Writer<'_> {
    fn end_section(&self) -> io::Result<()> {
        self.put(&[0; 8])
    }

    /// All of it, and never with a signal: the program may have left SIGPIPE at its default.
    fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[fd::send(self.socket, bytes, &[])?..];
        }
        Ok(())
    }

    fn frame(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() && fds.is_empty() {
            return Ok(());
        }
        let mut frame = [0; 8];
        frame[..4].copy_from_slice(&u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
        frame[4..].copy_from_slice(&u32::try_from(fds.len()).map_err(io::Error::other)?.to_le_bytes());
        // The descriptors go with the first byte of the frame.
        let sent = fd::send_both(self.socket, &frame, bytes, fds)?;
        self.put(frame.get(sent..).unwrap_or_default())?;
        self.put(&bytes[sent.saturating_sub(frame.len())..])
    }
}

impl Writer<'_> {
    /// All of a section.
    fn section(&mut self, bytes: &[u8], fds: &[impl AsFd]) -> io::Result<()> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        fds.chunks(DESCRIPTORS).try_for_each(|fds| self.send(&[], fds))?;
        bytes.chunks(CHUNK).try_for_each(|bytes| self.send(bytes, &[]))?;
        self.end_section()
    }
}

impl Sink for Writer<'_> {
    fn hold(&self) -> Option<&Arc<Hold>> {
        Some(&self.shared.hold)
    }

    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.frame(bytes, fds)?;
        self.shared.progress.mark();
        Ok(())
    }
}

/// Later than any freeze lasts.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(24 * 3600)
}

/// Old's side, on a thread of its own: waits for what runs, holds writers back, sends everything, and closes what only one
/// process may hold.
///
/// # Errors
/// What failed, and in which state.
pub(crate) fn freeze_and_send(
    shared: &Shared,
    attempt: u64,
    socket: BorrowedFd<'_>,
    draining: Vec<(Earlier, Vec<OwnedFd>)>,
    quiesce: Duration,
) -> Result<(), String> {
    // An accept is one system call; whoever is inside leaves by itself.
    let deadline = Instant::now().checked_add(quiesce).unwrap_or_else(far_away);
    shared.accepting.wait_empty(deadline);
    // Requests that were being read when the freeze began are dispatched, and then count as handlers that run.
    shared.dispatching.wait_empty(deadline);
    shared.handlers.wait_idle(deadline);
    let states = shared.states.all();
    // A roll-back may have come and gone meanwhile: then nothing is held back any more.
    if !shared.freeze.hold_back(attempt, &shared.hold) {
        return Ok(());
    }
    shared.awaited.set(attempt, "a call from an earlier generation to be applied".to_owned());
    drop(shared.hold.calling());
    if !shared.states.settle(shared, attempt) || !shared.exclusives.settle(shared, attempt) {
        return Ok(());
    }

    let mut writer = Writer { socket, shared };
    let lost = |error: io::Error| format!("the new process does not take the content: {error}");
    let (draining, fds): (Vec<_>, Vec<_>) = draining.into_iter().unzip();
    let (checkpoints, files) = shared.checkpoints.passing().unzip();
    let files = files.iter().flatten().map(AsFd::as_fd);
    let fds: Vec<_> = fds.iter().flatten().map(AsFd::as_fd).chain(files).collect();
    // Nobody takes or passes anything meanwhile.
    let untaken: io::Result<Vec<_>> = shared.relays.all().iter().map(|relay| relay.untaken()).collect();
    let untaken = untaken.map_err(|error| format!("what waits in a relay cannot be sent: {error}"))?;
    let untaken: Vec<_> = untaken.into_iter().flatten().collect();
    let header = Header {
        draining,
        states: states.iter().map(|state| state.name().to_owned()).collect(),
        relays: u32::try_from(untaken.len()).map_err(|error| error.to_string())?,
        checkpoints,
    };
    let header = codec::to_named(&header).map_err(|error| error.to_string())?;
    writer.section(&header, &fds).map_err(lost)?;
    for state in states {
        state.save(&mut writer)?;
        writer.end_section().map_err(lost)?;
    }
    for (untaken, fds) in untaken {
        untaken.encode().and_then(|bytes| writer.section(&bytes, &fds)).map_err(lost)?;
    }
    // While new still decodes, and as late as can be: what fails before this has closed nothing.
    if !shared.exclusives.close_all(shared, attempt)? {
        // The trailer would say that nothing is open here.
        return Ok(());
    }
    let checkpoints = &shared.checkpoints;
    checkpoints.after(shared, attempt, || writer.send(TRAILER, &[]).and_then(|()| writer.end_section())).map_err(lost)
}

struct Reader<'a> {
    socket: File,
    shared: &'a Shared,
    section_ended: bool,
    /// How many bytes of the current frame have not been read.
    left: usize,
    /// The old process closed its end.
    ended: bool,
    /// Memory for what is large, as long as it is to be, that of each alignment together, the smallest first.
    room: Vec<Room>,
    /// Old has not said what is large in time.
    sizes_to_come: bool,
}

impl Reader<'_> {
    /// Goes to the next section; what was wanted of this one has been read.
    fn end_section(&mut self) -> io::Result<()> {
        let (mut bytes, mut fds) = (Vec::new(), VecDeque::new());
        if self.receive(&mut bytes, &mut fds)? > 0 || !fds.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a section goes on after its state"));
        }
        self.section_ended = false;
        Ok(())
    }

    /// Reads what is left of the section, so that the next one can begin.
    fn skip_section(&mut self) -> io::Result<()> {
        let (mut bytes, mut fds) = (Vec::new(), VecDeque::new());
        while !self.section_ended {
            bytes.clear();
            fds.clear();
            self.receive(&mut bytes, &mut fds)?;
        }
        self.section_ended = false;
        Ok(())
    }

    fn read_exactly(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let result = self.socket.read_exact(bytes);
        self.ended |= result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        result
    }

    /// Reads the head of the next frame, and takes the descriptors that come with it.
    fn begin_frame(&mut self, fds: &mut VecDeque<OwnedFd>) -> io::Result<()> {
        let mut frame = [0; 8];
        let first = match fd::recv(self.socket.as_fd(), &mut frame) {
            // What its end says when the old process died with something unread there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.ended = true;
                return Err(error);
            }
            first => first?,
        };
        if first.is_eof() {
            self.ended = true;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if first.truncated {
            return invalid("descriptors were lost on the way: is the limit reached?");
        }
        let have = first.len;
        self.read_exactly(&mut frame[have..])?;
        let [a, b, c, d, e, f, g, h] = frame;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if first.fds.len() != u32::from_le_bytes([e, f, g, h]) as usize || length > FRAME {
            return invalid("a frame of the content makes no sense");
        }
        let none = first.fds.is_empty();
        fds.extend(first.fds);
        self.left = length;
        self.section_ended = length == 0 && none;
        Ok(())
    }

    /// Goes to where there are bytes, past frames of descriptors alone, or to the end of the section.
    fn seek_bytes(&mut self, fds: &mut VecDeque<OwnedFd>) -> io::Result<()> {
        while self.left == 0 && !self.section_ended {
            self.begin_frame(fds)?;
        }
        Ok(())
    }

    /// Makes memory ready, as far as there is any, and as far as old says in time what for.
    fn make_room(&mut self) -> io::Result<()> {
        // A silent old process is not waited for here: the deadline for the content decides about it.
        self.sizes_to_come = !fd::is_readable_within(self.socket.as_fd(), SIZES_PATIENCE)?;
        if self.sizes_to_come { Ok(()) } else { self.fill_room() }
    }

    fn fill_room(&mut self) -> io::Result<()> {
        let (sizes, _) = self.section(HEADER)?;
        let sizes: Sizes = codec::from_named(&sizes).map_err(io::Error::other)?;
        let sizes = sizes.bulks.into_iter().map(|size| (size, 1)).chain(sizes.numbers).take(SIZES);
        let large: Vec<_> = sizes.filter(|(size, _)| *size >= BULK as u64).collect();
        if large.is_empty() {
            return Ok(());
        }
        // All that is believed before it is there, in sum.
        let mut left = (memory::left() / 4 * 3).min(self.shared.state_limit.load(Ordering::Relaxed));
        for (size, align) in large {
            // Beyond that, what comes brings its memory with it.
            let Some(rest) = left.checked_sub(size) else { break };
            left = rest;
            let Some(room) = usize::try_from(size).ok().and_then(|size| Room::new(size, align.into())) else { break };
            self.room.push(room);
        }
        touch(&mut self.room);
        self.room.sort_by_key(|room| (room.align(), room.size()));
        Ok(())
    }

    fn section(&mut self, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (mut bytes, mut fds) = (Vec::new(), VecDeque::new());
        while self.receive(&mut bytes, &mut fds)? > 0 {
            if bytes.len() > limit {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a section is too long"));
            }
        }
        self.section_ended = false;
        Ok((bytes, fds.into()))
    }
}

/// Writes to all of the memory. The kernel gives it then, which takes longer than the content does on its way: so it is done
/// before the freeze, by several threads, while the old process still serves.
fn touch(room: &mut [Room]) {
    std::thread::scope(|scope| {
        for some in room.chunks_mut(room.len().div_ceil(cores()).max(1)) {
            let touch = move || some.iter_mut().for_each(Room::touch);
            // Where no thread can be had it is done when the content comes.
            let _ = std::thread::Builder::new().name("flip-touch".into()).spawn_scoped(scope, touch);
        }
    });
}

impl Source for Reader<'_> {
    fn hold(&self) -> Option<&Arc<Hold>> {
        Some(&self.shared.hold)
    }

    fn receive(&mut self, buffer: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        self.seek_bytes(fds)?;
        let length = self.left;
        append(buffer, length, |room| self.fill(room, fds).map(drop))?;
        Ok(length)
    }

    fn fill(&mut self, room: &mut Spare<'_>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        self.seek_bytes(fds)?;
        let length = room.left().min(self.left);
        let mut left = length;
        while left > 0 {
            match room.receive(left, self.socket.as_fd()) {
                Ok(0) => {
                    self.ended = true;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(count) => left -= count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.left -= length;
        self.shared.progress.mark();
        Ok(length)
    }

    fn room(&mut self, size: usize, align: usize) -> Option<Room> {
        let at = self.room.partition_point(|room| (room.align(), room.size()) < (align, size));
        // Not much more than is needed: it is kept as long as the value.
        let fits = self.room.get(at).is_some_and(|room| room.align() == align && room.size() - size <= size / 8);
        fits.then(|| self.room.remove(at))
    }
}

/// New's side, on a thread of its own: restores each state as it arrives, opens what old has closed, and tells the control
/// thread.
pub(crate) fn receive_and_restore(shared: &Arc<Shared>, socket: OwnedFd) {
    let (socket, room) = (File::from(socket), Vec::new());
    let mut reader = Reader { socket, shared, section_ended: false, left: 0, ended: false, room, sizes_to_come: false };
    let made = reader.make_room();
    // Until then nothing is to freeze, and where it failed there is nothing to wait for.
    shared.notes.send(Note::RoomMade);
    let note = match made.map_err(cut).and_then(|()| crate::entry::shielded(|| receive(shared, &mut reader))) {
        Ok((header, fds)) => Note::Restored(header, fds),
        Err(text) if reader.ended => Note::ContentEnded(text),
        Err(text) => Note::RestoreFailed(text),
    };
    shared.notes.send(note);
}

fn cut(error: io::Error) -> String {
    format!("the content of the old process is not whole: {error}")
}

fn receive(shared: &Shared, reader: &mut Reader<'_>) -> Result<(Vec<Earlier>, Vec<OwnedFd>), String> {
    if reader.sizes_to_come {
        reader.skip_section().map_err(cut)?;
    }
    let (header, mut fds) = reader.section(HEADER).map_err(cut)?;
    let header: Header =
        codec::from_named(&header).map_err(|error| format!("the content's header does not decode: {error}"))?;
    let drain = header.draining.iter().map(Earlier::descriptors).sum::<usize>();
    if fds.len() != drain + if header.checkpoints.is_some() { FILES } else { 0 } {
        return Err("the content's header has the wrong number of descriptors".to_owned());
    }
    if let (Some(passing), Ok(files)) = (header.checkpoints, fds.split_off(drain).try_into()) {
        shared.checkpoints.inherit(passing, files);
    }
    let limit = usize::try_from(shared.state_limit.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
    let mut early = Vec::new();
    for name in &header.states {
        match shared.states.look_for(name) {
            Looked::Declared(state) => {
                // Who declares states has started the runtime.
                let _entered = shared.enter();
                state.restore(reader)?;
                reader.end_section().map_err(cut)?;
            }
            // `main` may be waiting for one that comes later, and asks for this one only then.
            Looked::Unknown => {
                // What was made ready is of no use to it.
                reader.room = Vec::new();
                let (bytes, fds) = reader.section(limit).map_err(|error| {
                    if error.kind() == io::ErrorKind::FileTooLarge {
                        return format!("{name}: there are more than {limit} bytes, which is the `state_limit` here");
                    }
                    cut(error)
                })?;
                early.push((name, Early { bytes, fds, hold: Arc::clone(&shared.hold) }));
            }
            // Those were reported when `main` had all of its parameters.
            Looked::Unwanted => reader.skip_section().map_err(cut)?,
        }
    }
    // What nobody needed.
    reader.room = Vec::new();
    for _ in 0..header.relays {
        let (bytes, fds) = reader.section(MESSAGE).map_err(cut)?;
        let (relay, parcels) = Untaken::decode(&bytes, fds)?;
        shared.relays.restored(relay, parcels);
    }
    let (trailer, _) = reader.section(TRAILER.len()).map_err(cut)?;
    if trailer != TRAILER {
        return Err("the content of the old process ends in an unknown way".to_owned());
    }
    {
        let _entered = shared.enter();
        shared.exclusives.open_all(shared)?;
    }
    while !early.is_empty() {
        // Whichever is asked for first: the others may never be, as long as that one has no content.
        let names: Vec<_> = early.iter().map(|(name, _)| name.as_str()).collect();
        let (at, state) = shared.states.wait_for_any(&names);
        let (_, mut section) = early.remove(at);
        if let Some(state) = state {
            let _entered = shared.enter();
            state.restore(&mut section)?;
        }
    }
    Ok((header.draining, fds))
}

/// The content of a state that nobody has asked for yet.
struct Early {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    hold: Arc<Hold>,
}

impl Source for Early {
    fn hold(&self) -> Option<&Arc<Hold>> {
        Some(&self.hold)
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let length = self.bytes.len();
        bytes.append(&mut self.bytes);
        fds.extend(self.fds.drain(..));
        Ok(length)
    }
}

/// The header section where nobody drains.
#[cfg(feature = "fuzzing")]
pub(crate) fn header(states: &[&str]) -> Vec<u8> {
    let states = states.iter().map(|name| (*name).to_owned()).collect();
    codec::to_named(&Header { states, ..Header::default() }).unwrap_or_default()
}

/// What comes before it.
#[cfg(feature = "fuzzing")]
pub(crate) fn sizes(bulks: &[u64]) -> Vec<u8> {
    codec::to_named(&Sizes { bulks: bulks.to_vec(), ..Sizes::default() }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;
    use crate::handoff::Schema;
    use crate::{Handoff, Live};

    #[test]
    fn what_comes_before_the_states_is_read_for_ever() {
        let bytes =
            golden("content sizes", &codec::to_named(&Sizes { bulks: vec![1 << 20, 5], numbers: vec![] }).unwrap());
        assert_eq!(codec::from_named::<Sizes>(&bytes).unwrap().bulks, [1 << 20, 5]);
        let draining = vec![Earlier { pid: 4711, generation: 2, relays: vec![] }];
        let header = Header { draining, states: vec!["visits".to_owned()], relays: 0, checkpoints: None };
        let bytes = golden("content header", &codec::to_named(&header).unwrap());
        let read: Header = codec::from_named(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{header:?}"));
        assert_eq!(golden("content trailer", TRAILER), TRAILER);

        let sizes = Sizes { bulks: vec![], numbers: vec![(1 << 21, 8), (7, 1)] };
        let bytes = golden("content sizes of numbers", &codec::to_named(&sizes).unwrap());
        assert_eq!(codec::from_named::<Sizes>(&bytes).unwrap().numbers, sizes.numbers);
        let talks = Typed { name: "talks".to_owned(), schema: vec![3, 4] };
        let header = Header {
            draining: vec![Earlier { pid: 4711, generation: 2, relays: vec![talks] }],
            relays: 2,
            checkpoints: serde_json::from_str(r#"{"names":["flip-1","flip-2"],"sequence":300}"#).unwrap(),
            ..Header::default()
        };
        let bytes = golden("content header with relays and checkpoints", &codec::to_named(&header).unwrap());
        let read: Header = codec::from_named(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{header:?}"));
    }

    #[test]
    fn frames_are_read_for_ever() {
        let (ours, theirs) = fd::stream_pair().unwrap();
        let shared = Shared::new(true).unwrap();
        let mut writer = Writer { socket: ours.as_fd(), shared: &shared };
        writer.send(b"abc", &[ours.as_fd()]).unwrap();
        writer.end_section().unwrap();
        let mut sent = vec![0; 19];
        File::from(theirs).read_exact(&mut sent).unwrap();
        golden("content frame and end of section", &sent);
    }

    fn reader(shared: &Shared, socket: OwnedFd) -> Reader<'_> {
        let socket = File::from(socket);
        Reader { socket, shared, section_ended: false, left: 0, ended: false, room: vec![], sizes_to_come: false }
    }

    fn sizes(reader: &Reader<'_>) -> Vec<usize> {
        reader.room.iter().map(Room::size).collect()
    }

    fn section(shared: &Shared, socket: BorrowedFd<'_>, bytes: &[u8]) {
        let writer = Writer { socket, shared };
        bytes.chunks(FRAME).try_for_each(|bytes| writer.frame(bytes, &[])).unwrap();
        writer.end_section().unwrap();
    }

    #[test]
    fn what_is_announced_is_believed_within_the_limit() {
        let shared = Shared::new(false).unwrap();
        shared.state_limit.store(5 << 20, Ordering::Relaxed);
        for (bulks, numbers, made) in [
            (vec![2 << 20, 3 << 20], vec![], vec![2 << 20, 3 << 20]),
            // All of them together.
            (vec![2 << 20; 8], vec![(2 << 20, 8)], vec![2 << 20; 2]),
            (vec![2 << 20], vec![(3 << 20, 4), (1 << 20, 8)], vec![2 << 20, 3 << 20]),
            (vec![6 << 20, 1 << 20], vec![], vec![]),
            // Small ones are none of those that are worth it.
            (vec![1; 1000], vec![(1, 8); 1000], vec![]),
            (vec![u64::MAX], vec![], vec![]),
            // Nothing is aligned like that.
            (vec![], vec![(2 << 20, 5), (2 << 20, 0)], vec![]),
        ] {
            let (ours, theirs) = fd::stream_pair().unwrap();
            section(&shared, ours.as_fd(), &codec::to_named(&Sizes { bulks, numbers }).unwrap());
            let mut reader = reader(&shared, theirs);
            reader.make_room().unwrap();
            assert_eq!(sizes(&reader), made);
        }
    }

    #[test]
    fn what_nobody_has_asked_for_yet_is_limited_too() {
        let shared = Shared::new(false).unwrap();
        shared.state_limit.store(1 << 20, Ordering::Relaxed);
        let (ours, theirs) = fd::stream_pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let header = Header { states: vec!["later".into()], ..Header::default() };
                section(&shared, ours.as_fd(), &codec::to_named(&header).unwrap());
                let writer = Writer { socket: ours.as_fd(), shared: &shared };
                while writer.frame(&[7; FRAME], &[]).is_ok() {}
            });
            let error = receive(&shared, &mut reader(&shared, theirs)).map(|_| ()).unwrap_err();
            assert_eq!(error, "later: there are more than 1048576 bytes, which is the `state_limit` here");
        });
    }

    /// Old has what one has, and new takes it as the other.
    fn room_is_used<Old: Handoff + Send + Sync + 'static, New: Handoff + Send + Sync + 'static>(old: Old) {
        let (here, there) = (Shared::new(true).unwrap(), Shared::new(false).unwrap());
        let _ours = Live::declare("state", old, &here);
        let _theirs = Live::<New>::expect("state", Schema::of::<New>().plan(&Schema::of::<Old>()).unwrap(), &there);
        let (ours, theirs) = fd::stream_pair().unwrap();
        here.freeze.begin(1, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send_sizes(&here, ours.as_fd());
                freeze_and_send(&here, 1, ours.as_fd(), vec![], Duration::ZERO).unwrap();
            });
            let mut reader = reader(&there, theirs);
            reader.make_room().unwrap();
            assert_eq!(sizes(&reader), [2 << 20, 3 << 20, 4 << 20, 8 << 20]);
            reader.section(HEADER).unwrap();
            there.states.find("state").unwrap().restore(&mut reader).unwrap();
            assert!(reader.room.is_empty());
            reader.skip_section().unwrap();
            reader.section(TRAILER.len()).unwrap();
        });
    }

    #[test]
    fn large_collections_become_another_release_s() {
        #[derive(Handoff)]
        struct Old {
            total: u32,
            gone: String,
            name: String,
        }
        #[derive(Handoff)]
        struct New {
            name: String,
            #[handoff(alias = "total")]
            count: u64,
            #[handoff(default = 7)]
            more: u8,
        }
        const COUNT: u32 = 40_000;
        let name = |number: u32| format!("{number:030}");
        let (here, there) = (Shared::new(true).unwrap(), Shared::new(false).unwrap());
        let olds: Vec<_> = (0..COUNT).map(|total| Old { total, gone: "gone".repeat(5), name: name(total) }).collect();
        let _ours = Live::declare("state", olds, &here);
        let plan = Schema::of::<Vec<New>>().plan(&Schema::of::<Vec<Old>>()).unwrap();
        let theirs = Live::<Vec<New>>::expect("state", plan, &there);
        let (ours, socket) = fd::stream_pair().unwrap();
        here.freeze.begin(1, None);
        std::thread::scope(|scope| {
            scope.spawn(|| freeze_and_send(&here, 1, ours.as_fd(), vec![], Duration::ZERO).unwrap());
            receive(&there, &mut reader(&there, socket)).unwrap();
        });
        let check = |news: &Vec<New>| {
            assert_eq!(news.len(), COUNT as usize);
            for (number, new) in (0..COUNT).zip(news) {
                assert_eq!((&new.name, new.count, new.more), (&name(number), number.into(), 7));
            }
        };
        theirs.read(check).unwrap();
    }

    #[test]
    fn what_was_made_ready_is_used() {
        #[derive(Handoff)]
        struct One {
            bytes: Vec<u8>,
            gone: u8,
            numbers: Vec<u64>,
            shares: Vec<f32>,
            text: String,
        }
        #[derive(Handoff)]
        struct Two {
            bytes: Vec<u8>,
            numbers: Vec<u64>,
            shares: Vec<f32>,
            text: String,
        }
        let one = || {
            let (numbers, shares) = (vec![8; 1 << 20], vec![0.5; 1 << 20]);
            One { bytes: vec![7; 3 << 20], gone: 1, numbers, shares, text: "t".repeat(2 << 20) }
        };
        room_is_used::<One, One>(one());
        room_is_used::<One, Two>(one());
    }
}
