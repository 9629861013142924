//! The writing side: it gathers bytes and hands them on in chunks; a descriptor goes with, or before, the chunk in which its number
//! stands.

use std::{
    io::{self, Write},
    os::fd::BorrowedFd,
    sync::Arc,
};

use bytemuck::NoUninit;
use serde::Serialize;

use super::{
    SaveError,
    codec::{self, Scalar},
    stream::{BULK, CHUNK, DEPTH, DESCRIPTORS, EMPTY_ELEMENTS, PIECE, Sink, TOO_MANY_EMPTY, too_deep},
};
use crate::{live::Hold, sys::text};

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
        if let Some(short) = text::short(text.as_bytes()) {
            self.room(short.len())?;
            let end = self.buffer.len() + 1 + text.len();
            self.buffer.extend_from_slice(&short);
            self.buffer.truncate(end);
            return Ok(());
        }
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
