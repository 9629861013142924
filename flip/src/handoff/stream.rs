//! Bytes and descriptors on their way: what both sides agree on. `saver.rs` writes, `restorer.rs` reads.

use std::{
    collections::VecDeque,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

#[cfg(doc)]
use super::{Restorer, Saver};
use super::{room::Room, spread::Stretch};
use crate::{live::Hold, relay::Post, sys::spare::Spare};

/// The most bytes that one call of [`Sink::send`] is given: what a processor's cache holds while they go through it.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The most descriptors that one call of [`Sink::send`] is given: the kernel's limit for one message, unix(7).
pub(crate) const DESCRIPTORS: usize = 253;

/// How deep values may lie in each other. A state that is deeper is refused, by both sides, before a stack overflows.
pub(crate) const DEPTH: usize = 128;

// What lets numbers go as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "flip's form of numbers is little-endian");

/// Elements that take no bytes and so could be claimed without end.
pub(super) const EMPTY_ELEMENTS: u64 = 64 * 1024;
pub(super) const TOO_MANY_EMPTY: &str = "more elements without bytes than flip takes";

/// From how many bytes on something is worth memory of its own, and a way past the buffers.
pub(crate) const BULK: usize = 1024 * 1024;

/// What a leaf of serde's gathers before it goes on as one piece.
pub(super) const PIECE: usize = 64 * 1024;

/// From how many bytes on they are received where they will lie.
pub(super) const DIRECT: usize = 64 * 1024;

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

    /// Cuts off whole elements of the collection that comes now, of which `left` are to come: see
    /// [`Restorer::cut`]. For a source whose bytes are not those that the types here would have written.
    fn cut(&mut self, _left: usize, _spare: Vec<u8>) -> Option<Stretch> {
        None
    }

    /// Takes back so many elements that were cut off.
    fn put_back(&mut self, _bytes: &[u8], _count: usize) {}

    /// Which tells whether this process owns what it has received.
    fn hold(&self) -> Option<&Arc<Hold>> {
        None
    }

    /// Which relay it comes through, if through one.
    fn post(&self) -> Option<&Arc<Post>> {
        None
    }
}

/// What a [`Restorer`] takes before it gives up, and who may help it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How deep values may lie in each other.
    pub(crate) depth: usize,
    /// How many bytes there may be in all.
    pub(crate) bytes: u64,
    /// How many threads may read one collection.
    pub(crate) readers: usize,
    /// About how many bytes of it one of them is given at a time.
    pub(crate) stretch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: DEPTH, bytes: u64::MAX, readers: 1, stretch: CHUNK }
    }
}

#[cold]
pub(super) fn too_deep(depth: usize) -> String {
    format!("values lie more than {depth} deep in each other")
}
