//! The reading side: it takes every number it meets for a claim by a stranger.

use std::{
    collections::VecDeque,
    io::{self, Read},
    mem,
    os::fd::OwnedFd,
    str::Utf8Error,
    sync::Arc,
};

use bytemuck::Pod;
use serde::de::DeserializeOwned;

use super::{
    RestoreError,
    codec::{self, NotRead, Scalar},
    matching::Plan,
    room::Room,
    spread::Stretch,
    stream::{BULK, CHUNK, DIRECT, EMPTY_ELEMENTS, Limits, Source, TOO_MANY_EMPTY, too_deep},
    transcode::{Element, Transcoder},
};
use crate::{
    live::Hold,
    relay::Post,
    sys::{
        spare::{Spare, append},
        text::{self, Text},
    },
};

/// In how many parts an element may come that is cut off.
const PARTS: usize = 8;

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
    /// Why nothing more came, when it was looked for ahead.
    failed: Option<RestoreError>,
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
            failed: None,
        }
    }

    /// Reads what a [`Transcoder`](super::transcode::Transcoder) gives.
    pub(crate) fn matched(source: &'a mut (dyn Source + 'a), limits: Limits) -> Self {
        Self { matched: true, ..Self::new(source, limits) }
    }

    /// Reads what lies so deep in other values.
    pub(super) fn at_depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Whether nothing is left, and all was wanted.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest().is_empty() && self.descriptors.is_empty() && !self.given_up
    }

    pub(super) fn is_matched(&self) -> bool {
        self.matched
    }

    /// Whether what comes next can be cut off here, if it is an element.
    #[inline]
    pub(super) fn is_at_boundary(&self) -> bool {
        !self.matched || self.rest().is_empty()
    }

    pub(super) fn readers(&self) -> usize {
        self.limits.readers
    }

    /// About how many bytes are cut off at a time, where several threads may read.
    #[inline]
    pub(super) fn stretch(&self) -> Option<u64> {
        (self.limits.readers > 1 && self.source.is_some()).then_some(self.limits.stretch as u64)
    }

    /// Cuts off whole elements, at least one and at most `left`: those that have come, as far as they are one stretch. Waits only
    /// where none has. None where the next one has to be read in place.
    pub(super) fn cut(&mut self, plan: &Plan, element: Element, left: usize, mut spare: Vec<u8>) -> Option<Stretch> {
        // An element that comes in many parts is not gone over again for each of them.
        for _ in 0..PARTS {
            let (start, mut end, mut count) = (self.position, self.position, 0);
            let mut over = Transcoder::over(self.take_what_is_there(), plan);
            while count < left && end - start < self.limits.stretch {
                match over.element(element) {
                    // One without bytes is for who counts them, and one that is large is copied only to where it stays.
                    Some(at) if at > end && at - start <= self.limits.stretch.saturating_mul(2) => {
                        (end, count) = (at, count + 1);
                    }
                    _ => break,
                }
            }
            self.buffer = over.into_input().buffer;
            if count > 0 {
                spare.clear();
                spare.extend_from_slice(&self.buffer[start..end]);
                self.position = end;
                let (plan, limits, depth, made) = (None, self.limits, self.depth, 0);
                return Some(Stretch { bytes: spare, count, plan, limits, depth, made });
            }
            if self.rest().len() >= self.limits.stretch {
                return None;
            }
            match self.receive_more() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    // Whoever reads in place comes to it, if nothing else is said before.
                    self.failed = Some(error);
                    return None;
                }
            }
        }
        None
    }

    /// The buffer, with a reader of its own that gets no more than that, and no descriptors.
    fn take_what_is_there(&mut self) -> Restorer<'static> {
        let limits = Limits { readers: 1, bytes: u64::MAX, ..self.limits };
        let mut there = Restorer::from_bytes(mem::take(&mut self.buffer), limits).at_depth(self.depth);
        there.position = self.position;
        there
    }

    /// The same where the source has to do it.
    pub(super) fn cut_by_source(&mut self, left: usize, spare: Vec<u8>) -> Option<Stretch> {
        self.source.as_mut()?.cut(left, spare)
    }

    /// So many bytes that were made for it have gone another way.
    pub(super) fn pass(&mut self, count: u64) {
        self.passed += count;
    }

    /// Takes back so many elements, which were cut off last, in these bytes.
    pub(super) fn put_back(&mut self, bytes: &[u8], count: usize) {
        match &mut self.source {
            Some(source) if self.matched => source.put_back(bytes, count),
            _ => {
                if let Some(position) = self.position.checked_sub(bytes.len()) {
                    // They are still there.
                    self.position = position;
                    return;
                }
                self.passed = self.consumed() - bytes.len() as u64;
                self.buffer.splice(..self.position, bytes.iter().copied());
                self.position = 0;
            }
        }
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
        if let Some(error) = self.failed {
            return Err(error);
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
        if self.receive_more()? { Ok(()) } else { Err(ended()) }
    }

    /// The same; false where none comes.
    fn receive_more(&mut self) -> Result<bool, RestoreError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let Some(source) = &mut self.source else { return Ok(false) };
        self.buffer.drain(..self.position);
        self.passed += self.position as u64;
        self.position = 0;
        let before = (self.buffer.len(), self.descriptors.len());
        source.receive(&mut self.buffer, &mut self.descriptors).map_err(not_received)?;
        // Out of a transcoder a descriptor may come without any byte.
        let more = (self.buffer.len(), self.descriptors.len()) != before;
        self.within_limit().map(|()| more)
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

    /// Whether some took no bytes.
    pub(super) fn has_empty_elements(&self) -> bool {
        self.empty_elements > 0
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
                    Some(source) if room.left() >= DIRECT && self.failed.is_none() => {
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

    /// What is short, as it is as a rule, into its caller.
    #[inline(always)]
    pub(super) fn text(&mut self) -> Result<String, RestoreError> {
        if let Some((length, rest)) = self.rest().split_first()
            && let Some(text) = text::short_ascii(rest, usize::from(*length))
        {
            self.position += 1 + text.len();
            return Ok(text);
        }
        self.long_text()
    }

    #[inline(never)]
    fn long_text(&mut self) -> Result<String, RestoreError> {
        let length = self.length()?;
        // As a rule it lies there whole, and is looked at before it is copied. What is long is copied first, in pieces that
        // are looked at while they are in the processor's cache.
        if length < BULK
            && let Some(text) = text::ascii(self.rest(), length)
        {
            self.position += length;
            return Ok(text);
        }
        self.other_text(length)
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
