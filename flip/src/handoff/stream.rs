//! Bytes and descriptors on their way: what the blocks write into and read from.
//!
//! The writing side gathers bytes and hands them on in chunks; a descriptor goes with, or before, the chunk in which
//! its number stands. The reading side takes every number it meets for a claim by a stranger.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::fd::{BorrowedFd, OwnedFd},
    str::Utf8Error,
    sync::Arc,
};

use bytemuck::{NoUninit, Pod};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    RestoreError, SaveError,
    codec::{self, NotRead, Scalar},
    room::Room,
};
use crate::{
    live::Hold,
    relay::Post,
    sys::{
        spare::{Spare, append},
        text::{self, Text},
    },
};

/// The most bytes that one call of [`Sink::send`] is given: what a processor's cache holds while they go through it.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The most descriptors that one call of [`Sink::send`] is given: the kernel's limit for one message, unix(7).
pub(crate) const DESCRIPTORS: usize = 253;

/// How deep values may lie in each other. A state that is deeper is refused, by both sides, before a stack overflows.
pub(crate) const DEPTH: usize = 128;

// What lets numbers go as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "flip's form of numbers is little-endian");

/// Elements that take no bytes and so could be claimed without end.
const EMPTY_ELEMENTS: u64 = 64 * 1024;
const TOO_MANY_EMPTY: &str = "more elements without bytes than flip takes";

/// From how many bytes on something is worth memory of its own, and a way past the buffers.
pub(crate) const BULK: usize = 1024 * 1024;

/// What a leaf of serde's gathers before it goes on as one piece.
const PIECE: usize = 64 * 1024;

/// From how many bytes on they are received where they will lie.
const DIRECT: usize = 64 * 1024;

/// Where a [`Saver`] sends to.
pub(crate) trait Sink {
    /// Sends all of `bytes` (at least one, at most [`CHUNK`]) together with `fds` (at most [`DESCRIPTORS`]).
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()>;

    /// Whether only the sizes of what is large are wanted.
    fn is_search(&self) -> bool {
        false
    }

    /// Takes note of something from [`BULK`] bytes on, and of how it lies in memory.
    fn found(&mut self, _size: usize, _align: usize) {}

    /// Which tells whether this process still owns what it sends.
    fn hold(&self) -> Option<&Arc<Hold>> {
        None
    }
}

/// Where a [`Restorer`] receives from.
pub(crate) trait Source {
    /// Appends what has arrived and says how many bytes; 0 is the end. Waits only while there is nothing at all.
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize>;

    /// The same into where it will lie, as far as that goes: what is many bytes long is spared a copy. A source that
    /// cannot says 0; what comes next is then received as usual.
    fn fill(&mut self, _: &mut Spare<'_>, _: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        Ok(0)
    }

    /// At least so many bytes of memory that was made ready before the freeze.
    fn room(&mut self, _size: usize, _align: usize) -> Option<Room> {
        None
    }

    /// Which tells whether this process owns what it has received.
    fn hold(&self) -> Option<&Arc<Hold>> {
        None
    }

    /// Which relay it comes through, if through one.
    fn post(&self) -> Option<&Arc<Post>> {
        None
    }
}

/// What a [`Restorer`] takes before it gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How deep values may lie in each other.
    pub(crate) depth: usize,
    /// How many bytes there may be in all.
    pub(crate) bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: DEPTH, bytes: u64::MAX }
    }
}

/// Takes values on the way to the new process. Only generated code calls it.
pub struct Saver<'a> {
    buffer: Vec<u8>,
    descriptors: Vec<BorrowedFd<'a>>,
    next_descriptor: u64,
    /// Absent where everything is to stay in `buffer`; then there can be no descriptors.
    sink: Option<&'a mut (dyn Sink + 'a)>,
    /// How many bytes went before those in `buffer`.
    passed: u64,
    depth: usize,
    empty_elements: u64,
}

impl<'a> Saver<'a> {
    pub(crate) fn new(sink: &'a mut (dyn Sink + 'a)) -> Self {
        Self {
            buffer: Vec::with_capacity(CHUNK),
            descriptors: Vec::new(),
            next_descriptor: 0,
            sink: Some(sink),
            passed: 0,
            depth: 0,
            empty_elements: 0,
        }
    }

    /// For what is small as a rule: nothing is made ready.
    pub(crate) fn small(sink: &'a mut (dyn Sink + 'a)) -> Self {
        Self { sink: Some(sink), ..Self::in_memory() }
    }

    /// Keeps everything; [`into_bytes`](Self::into_bytes) gives it back.
    pub(crate) fn in_memory() -> Self {
        Self {
            buffer: Vec::new(),
            descriptors: Vec::new(),
            next_descriptor: 0,
            sink: None,
            passed: 0,
            depth: 0,
            empty_elements: 0,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    /// Sends what is left. Without it, the end is missing.
    pub(crate) fn finish(mut self) -> Result<(), SaveError> {
        self.flush()
    }

    #[cold]
    fn flush(&mut self) -> Result<(), SaveError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if self.buffer.is_empty() {
            debug_assert!(self.descriptors.is_empty(), "a descriptor is followed by its number");
            return Ok(());
        }
        sink.send(&self.buffer, &self.descriptors)
            .map_err(|error| SaveError::io("sending to the new process failed", error))?;
        self.passed += self.buffer.len() as u64;
        self.buffer.clear();
        self.descriptors.clear();
        Ok(())
    }

    /// How many bytes have been written.
    #[inline]
    pub(super) fn written(&self) -> u64 {
        self.passed + self.buffer.len() as u64
    }

    /// Counts `count` elements if they took no bytes since `before`, of which the other side takes only so many. Those of
    /// one type all take some, or none of them does.
    #[inline(always)]
    pub(super) fn elements_since(&mut self, before: u64, count: usize) -> Result<(), SaveError> {
        if self.written() == before && count > 0 { self.empty_elements_since(before, count) } else { Ok(()) }
    }

    #[cold]
    fn empty_elements_since(&mut self, before: u64, count: usize) -> Result<(), SaveError> {
        if !self.is_search() {
            self.empty_elements += count as u64;
            if self.empty_elements > EMPTY_ELEMENTS + before {
                return Err(SaveError::new(TOO_MANY_EMPTY));
            }
        }
        Ok(())
    }

    /// Makes room for `more` bytes in a chunk.
    #[inline(always)]
    fn room(&mut self, more: usize) -> Result<(), SaveError> {
        if self.buffer.len() + more > CHUNK { self.flush() } else { Ok(()) }
    }

    #[inline(always)]
    pub(super) fn scalar<T: Scalar>(&mut self, value: T) -> Result<(), SaveError> {
        // The longest is a 128-bit integer behind a byte that says so.
        self.room(17)?;
        codec::put(value, &mut self.buffer).map_err(SaveError::new)
    }

    #[inline]
    pub(super) fn length(&mut self, length: usize) -> Result<(), SaveError> {
        self.scalar(length as u64)
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.aligned(bytes, 1)
    }

    #[inline]
    fn aligned(&mut self, bytes: &[u8], align: usize) -> Result<(), SaveError> {
        if self.sink.is_some() && self.buffer.len() + bytes.len() > CHUNK {
            if bytes.len() >= BULK && self.is_search() {
                self.found(bytes.len(), align);
                return Ok(());
            }
            return self.long(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Whole chunks go from where they lie, without a copy.
    #[cold]
    fn long(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        let (first, rest) = bytes.split_at(bytes.len().min(CHUNK - self.buffer.len()));
        self.buffer.extend_from_slice(first);
        if rest.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let chunks = rest.chunks_exact(CHUNK);
        self.buffer.extend_from_slice(chunks.remainder());
        if let Some(sink) = &mut self.sink {
            for chunk in chunks {
                sink.send(chunk, &[]).map_err(|error| SaveError::io("sending to the new process failed", error))?;
                self.passed += chunk.len() as u64;
            }
        }
        Ok(())
    }

    fn is_search(&self) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.is_search())
    }

    fn found(&mut self, size: usize, align: usize) {
        if let Some(sink) = &mut self.sink {
            sink.found(size, align);
        }
    }

    /// Fixed-width numbers, which lie in memory as they go.
    #[inline]
    pub(super) fn packed<T: NoUninit>(&mut self, items: &[T]) -> Result<(), SaveError> {
        self.aligned(bytemuck::cast_slice(items), align_of::<T>())
    }

    /// Which tells whether this process still owns what it sends.
    pub(super) fn hold(&self) -> Option<&Arc<Hold>> {
        self.sink.as_ref().and_then(|sink| sink.hold())
    }

    #[inline]
    pub(super) fn text(&mut self, text: &str) -> Result<(), SaveError> {
        self.length(text.len())?;
        self.bytes(text.as_bytes())
    }

    /// The descriptor itself goes beside the bytes; among them stands only its number.
    pub(super) fn descriptor(&mut self, descriptor: BorrowedFd<'a>) -> Result<(), SaveError> {
        if self.sink.is_none() {
            return Err(SaveError::new("a descriptor cannot travel in a call or its answer"));
        }
        if self.descriptors.len() == DESCRIPTORS {
            self.flush()?;
        }
        self.descriptors.push(descriptor);
        let number = self.next_descriptor;
        self.next_descriptor += 1;
        self.scalar(number)
    }

    /// A value that only serde can write: pieces, each behind its length and whether another follows.
    pub(super) fn leaf<T: Serialize>(&mut self, value: &T) -> Result<(), SaveError> {
        if self.is_search() {
            // Not looked into; it counts as something, so that a search ends.
            return self.scalar(0u8);
        }
        let depth = DEPTH - self.depth;
        let mut pieces = Pieces { out: self, held: Vec::new(), failed: None };
        let written = codec::put_named(value, &mut pieces, depth);
        let Pieces { out, held, failed } = pieces;
        if let Some(error) = failed {
            return Err(error);
        }
        written.map_err(SaveError::new)?;
        out.scalar((held.len() as u64) << 1)?;
        out.bytes(&held)
    }

    /// The number of an enum's variant.
    #[doc(hidden)]
    #[inline]
    pub fn variant(&mut self, number: u32) -> Result<(), SaveError> {
        self.scalar(number)
    }

    #[doc(hidden)]
    #[inline]
    pub fn enter(&mut self) -> Result<(), SaveError> {
        if self.depth == DEPTH {
            return Err(SaveError::new(too_deep(DEPTH)));
        }
        self.depth += 1;
        Ok(())
    }

    #[doc(hidden)]
    #[inline]
    pub fn leave(&mut self) {
        self.depth -= 1;
    }
}

struct Pieces<'s, 'a> {
    out: &'s mut Saver<'a>,
    held: Vec<u8>,
    /// The codec keeps only the text of an error; the error itself waits here.
    failed: Option<SaveError>,
}

impl Write for Pieces<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.held.len() + bytes.len() > PIECE && !self.held.is_empty() {
            let header = (self.held.len() as u64) << 1 | 1;
            if let Err(error) = self.out.scalar(header).and_then(|()| self.out.bytes(&self.held)) {
                self.failed = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
            self.held.clear();
        }
        self.held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives values as they come from the old process. Only generated code calls it.
pub struct Restorer<'a> {
    buffer: Vec<u8>,
    position: usize,
    /// How many bytes went before those in `buffer`.
    passed: u64,
    descriptors: VecDeque<OwnedFd>,
    next_descriptor: u64,
    /// Absent where everything is in `buffer` from the start.
    source: Option<&'a mut (dyn Source + 'a)>,
    limits: Limits,
    depth: usize,
    empty_elements: u64,
    /// The bytes come out of a transcoder: they say what is there, and descriptors come as they are needed.
    matched: bool,
    /// What is left nobody wants.
    given_up: bool,
}

impl<'a> Restorer<'a> {
    pub(crate) fn new(source: &'a mut (dyn Source + 'a), limits: Limits) -> Self {
        Self { source: Some(source), ..Self::from_bytes(Vec::new(), limits) }
    }

    pub(crate) fn from_bytes(bytes: Vec<u8>, limits: Limits) -> Self {
        Self {
            buffer: bytes,
            position: 0,
            passed: 0,
            descriptors: VecDeque::new(),
            next_descriptor: 0,
            source: None,
            limits,
            depth: 0,
            empty_elements: 0,
            matched: false,
            given_up: false,
        }
    }

    /// Reads what a [`Transcoder`](super::transcode::Transcoder) gives.
    pub(crate) fn matched(source: &'a mut (dyn Source + 'a), limits: Limits) -> Self {
        Self { matched: true, ..Self::new(source, limits) }
    }

    /// Where the two schemas differ, what need not be there, and what can be of two types, is behind a byte that says so.
    #[inline]
    pub(super) fn tag(&mut self, otherwise: u8) -> Result<u8, RestoreError> {
        if self.matched { self.scalar() } else { Ok(otherwise) }
    }

    /// The last value could not be read, and what is left of it nobody wants.
    #[cfg(feature = "ws")]
    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Nothing may be left that nobody asked for: it would have been meant for somebody.
    pub(crate) fn finish(self) -> Result<(), RestoreError> {
        if self.given_up {
            return Ok(());
        }
        match (self.rest().len(), self.descriptors.len()) {
            (0, 0) => Ok(()),
            (bytes, 0) => Err(RestoreError::new(format!("{bytes} bytes are left over"))),
            (_, descriptors) => Err(RestoreError::new(format!("{descriptors} descriptors are left over"))),
        }
    }

    #[inline]
    fn rest(&self) -> &[u8] {
        &self.buffer[self.position..]
    }

    /// How many bytes have been used up.
    #[inline]
    pub(super) fn consumed(&self) -> u64 {
        self.passed + self.position as u64
    }

    /// Waits for at least one byte more.
    #[cold]
    fn receive(&mut self) -> Result<(), RestoreError> {
        let Some(source) = &mut self.source else { return Err(ended()) };
        self.buffer.drain(..self.position);
        self.passed += self.position as u64;
        self.position = 0;
        let before = (self.buffer.len(), self.descriptors.len());
        source.receive(&mut self.buffer, &mut self.descriptors).map_err(not_received)?;
        // Out of a transcoder a descriptor may come without any byte.
        if (self.buffer.len(), self.descriptors.len()) == before {
            return Err(ended());
        }
        self.within_limit()
    }

    fn within_limit(&self) -> Result<(), RestoreError> {
        if self.passed + self.buffer.len() as u64 > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(RestoreError::new(format!(
                "there are more than {limit} bytes, which is the `state_limit` here"
            )));
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn scalar<T: Scalar>(&mut self) -> Result<T, RestoreError> {
        loop {
            match codec::take(self.rest()) {
                Ok((value, used)) => {
                    self.position += used;
                    return Ok(value);
                }
                // Only as much as the value needs is waited for: after the last one nothing may ever come.
                Err(NotRead::Short) => self.receive()?,
                Err(NotRead::Malformed(why)) => return Err(RestoreError::new(why)),
            }
        }
    }

    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, RestoreError> {
        let length: u64 = self.scalar()?;
        usize::try_from(length).map_err(|_| RestoreError::new(format!("a length of {length} is impossible")))
    }

    /// How many elements to make room for at once where `claimed` are announced: a claim is believed as far as the
    /// bytes that came could bear it out; the rest grows as it arrives.
    #[inline]
    pub(super) fn capacity<T>(&self, claimed: usize) -> usize {
        let seen = self.passed + self.buffer.len() as u64;
        let room = usize::try_from(seen).unwrap_or(usize::MAX).saturating_mul(4);
        claimed.min(room / size_of::<T>().max(1))
    }

    /// Makes room for `more` of `length` elements, and for as many as may be made room for, where that is a few times what
    /// there is: each growth is a copy.
    #[inline]
    pub(super) fn grow<T>(&self, items: &mut Vec<T>, length: usize, more: usize) {
        items.reserve_exact(self.growth::<T>(items.len(), items.capacity(), length, more));
    }

    /// How many more items there must be room for where there is none for `more`.
    #[inline]
    fn growth<T>(&self, there: usize, capacity: usize, length: usize, more: usize) -> usize {
        if capacity - there >= more {
            return 0;
        }
        let room = self.capacity::<T>(length);
        if room == length || room / 2 > there { room.saturating_sub(there) } else { 0 }
    }

    /// How many of the next items to read at once. First what is there, so that the rest can be received where it will lie;
    /// and as a rule no more than there is `spare` room for: the later it grows, the fewer growths there are.
    #[inline]
    fn step<T>(&self, left: usize, spare: usize) -> usize {
        let (there, most) = (self.rest().len() / size_of::<T>(), (CHUNK / size_of::<T>()).min(left));
        let most = if spare * size_of::<T>() >= DIRECT { most.min(spare) } else { most };
        if there > 0 { there.min(most) } else { most }
    }

    /// Counts an element that took no bytes since `before`; a length alone could claim any number of them. Where only
    /// what this process reads of them has no bytes, the transcoder counts those that the old process wrote.
    #[inline]
    pub(super) fn element_since(&mut self, before: u64) -> Result<(), RestoreError> {
        if self.consumed() == before && !self.matched {
            self.empty_elements += 1;
            if self.empty_elements > EMPTY_ELEMENTS + before {
                return Err(RestoreError::new(TOO_MANY_EMPTY));
            }
        }
        Ok(())
    }

    /// Fills all of `room`; what has not come goes there directly, where the source can.
    fn fill(&mut self, room: &mut Spare<'_>) -> Result<(), RestoreError> {
        while room.left() > 0 {
            let mut part = room.left().min(self.rest().len());
            if part > 0 {
                room.put(&self.rest()[..part]);
                self.position += part;
            } else {
                part = match &mut self.source {
                    Some(source) if room.left() >= DIRECT => {
                        source.fill(room, &mut self.descriptors).map_err(not_received)?
                    }
                    _ => 0,
                };
                self.passed += part as u64;
                self.within_limit()?;
                if part == 0 {
                    self.receive()?;
                }
            }
        }
        Ok(())
    }

    /// Gives some of the next `length` bytes, at least one, and says how many.
    pub(super) fn part(&mut self, length: usize, take: impl FnOnce(&[u8])) -> Result<u64, RestoreError> {
        while self.rest().is_empty() {
            self.receive()?;
        }
        let part = length.min(self.rest().len());
        take(&self.rest()[..part]);
        self.position += part;
        Ok(part as u64)
    }

    #[inline]
    pub(super) fn exact<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], RestoreError> {
        loop {
            if let Some(bytes) = self.rest().first_chunk::<SIZE>() {
                let bytes = *bytes;
                self.position += SIZE;
                return Ok(bytes);
            }
            self.receive()?;
        }
    }

    #[inline]
    pub(super) fn bytes(&mut self, length: usize) -> Result<Vec<u8>, RestoreError> {
        self.packed(length)
    }

    /// So many items in memory that was made ready before the freeze, with whatever lies there.
    fn room<T: Pod>(&mut self, length: usize) -> Option<Vec<T>> {
        let size = length.checked_mul(size_of::<T>()).filter(|&size| size >= BULK)?;
        self.source_room(size, align_of::<T>())?.into_vec(length)
    }

    /// At least so many bytes of it.
    pub(super) fn source_room(&mut self, size: usize, align: usize) -> Option<Room> {
        self.source.as_mut()?.room(size, align)
    }

    /// Which tells whether this process owns what it has received.
    pub(super) fn hold(&self) -> Option<&Arc<Hold>> {
        self.source.as_ref().and_then(|source| source.hold())
    }

    /// Which relay it comes through, if through one.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn post(&self) -> Option<&Arc<Post>> {
        self.source.as_ref().and_then(|source| source.post())
    }

    /// What [`Saver::packed`] wrote.
    #[inline]
    pub(super) fn packed<T: Pod>(&mut self, length: usize) -> Result<Vec<T>, RestoreError> {
        if let Some(mut items) = self.room(length) {
            self.fill(&mut Spare::over(bytemuck::cast_slice_mut(&mut items)))?;
            return Ok(items);
        }
        let mut items = Vec::with_capacity(self.capacity::<T>(length));
        while items.len() < length {
            // In steps: room that is made at once has left the processor's cache before it is filled.
            let step = self.step::<T>(length - items.len(), items.capacity() - items.len());
            self.grow(&mut items, length, step);
            append(&mut items, step, |room| self.fill(room))?;
        }
        Ok(items)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<String, RestoreError> {
        let length = self.length()?;
        // As a rule it lies there whole, and is looked at before it is copied. What is long is copied first, in pieces that
        // are looked at while they are in the processor's cache.
        let ascii = if length < BULK { text::ascii(self.rest(), length) } else { None };
        let text = match ascii {
            Some(text) => {
                self.position += length;
                text
            }
            // Not with its `Result`: that would take the text through memory in the other case, too.
            None => self.other_text(length)?,
        };
        Ok(text)
    }

    #[inline(never)]
    fn other_text(&mut self, length: usize) -> Result<String, RestoreError> {
        if length < BULK
            && let Some(bytes) = self.rest().get(..length)
        {
            let text = str::from_utf8(bytes)?.to_owned();
            self.position += length;
            return Ok(text);
        }
        let room = self.room(length);
        let mut text = Text::within(room.unwrap_or_else(|| Vec::with_capacity(self.capacity::<u8>(length))));
        while text.len() < length {
            let step = self.step::<u8>(length - text.len(), text.capacity() - text.len());
            text.reserve_exact(self.growth::<u8>(text.len(), text.capacity(), length, step));
            text.more(step, |room| self.fill(room))?;
        }
        Ok(text.finish()?)
    }

    pub(super) fn descriptor(&mut self) -> Result<OwnedFd, RestoreError> {
        if self.matched {
            // It comes with the bytes around it, which may have been there before.
            if self.descriptors.is_empty() {
                self.receive()?;
            }
            return self.descriptors.pop_front().ok_or_else(ended);
        }
        let number: u64 = self.scalar()?;
        if number != self.next_descriptor {
            return Err(RestoreError::new(format!(
                "descriptor {number} stands where {} belongs",
                self.next_descriptor
            )));
        }
        self.next_descriptor += 1;
        self.descriptors.pop_front().ok_or_else(|| RestoreError::new(format!("descriptor {number} did not arrive")))
    }

    /// What [`Saver::leaf`] wrote.
    pub(super) fn leaf<T: DeserializeOwned>(&mut self) -> Result<T, RestoreError> {
        let depth = self.limits.depth.saturating_sub(self.depth);
        let header: u64 = self.scalar()?;
        let length = usize::try_from(header >> 1).unwrap_or(usize::MAX);
        if header & 1 == 0
            && let Some(mut bytes) = self.rest().get(..length)
        {
            let value = codec::take_named(&mut bytes, depth).map_err(RestoreError::new)?;
            let left = bytes.len();
            self.position += length;
            return if left == 0 { Ok(value) } else { Err(leaf_goes_on()) };
        }
        let mut joined = Joined { input: self, left: length, more: header & 1 == 1, failed: None };
        let value = codec::take_named(&mut joined, depth);
        let Joined { left, more, failed, .. } = joined;
        if let Some(error) = failed {
            return Err(error);
        }
        let value = value.map_err(RestoreError::new)?;
        if left > 0 || more { Err(leaf_goes_on()) } else { Ok(value) }
    }

    /// The number of an enum's variant.
    #[doc(hidden)]
    #[inline]
    pub fn variant(&mut self) -> Result<u32, RestoreError> {
        self.scalar()
    }

    /// Says that no variant has this number.
    #[doc(hidden)]
    #[cold]
    pub fn no_variant<T>(&self, number: u32) -> RestoreError {
        RestoreError::new(format!("{} has no variant {number}", std::any::type_name::<T>()))
    }

    #[doc(hidden)]
    #[inline]
    pub fn enter(&mut self) -> Result<(), RestoreError> {
        if self.depth >= self.limits.depth {
            return Err(RestoreError::new(too_deep(self.limits.depth)));
        }
        self.depth += 1;
        Ok(())
    }

    #[doc(hidden)]
    #[inline]
    pub fn leave(&mut self) {
        self.depth -= 1;
    }
}

#[cold]
fn too_deep(depth: usize) -> String {
    format!("values lie more than {depth} deep in each other")
}

#[cold]
fn not_received(error: io::Error) -> RestoreError {
    match error.downcast::<RestoreError>() {
        Ok(error) => error,
        Err(error) => RestoreError::io("receiving from the old process failed", error),
    }
}

#[cold]
fn ended() -> RestoreError {
    RestoreError::new("the bytes end inside it")
}

#[cold]
fn leaf_goes_on() -> RestoreError {
    RestoreError::new("bytes are left over")
}

impl From<Utf8Error> for RestoreError {
    #[cold]
    fn from(error: Utf8Error) -> Self {
        RestoreError::new(format!("text that is not text: {error}"))
    }
}

struct Joined<'s, 'a> {
    input: &'s mut Restorer<'a>,
    left: usize,
    more: bool,
    failed: Option<RestoreError>,
}

impl Joined<'_, '_> {
    fn advance(&mut self) -> Result<(), RestoreError> {
        while self.left == 0 && self.more {
            let header: u64 = self.input.scalar()?;
            self.left = usize::try_from(header >> 1).unwrap_or(usize::MAX);
            self.more = header & 1 == 1;
        }
        while self.left > 0 && self.input.rest().is_empty() {
            self.input.receive()?;
        }
        Ok(())
    }
}

impl Read for Joined<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.advance() {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        let part = into.len().min(self.left).min(self.input.rest().len());
        into[..part].copy_from_slice(&self.input.rest()[..part]);
        self.input.position += part;
        self.left -= part;
        Ok(part)
    }
}
