//! The blocks, the derive and the schemas together; what only one file is about is tested there.

mod block;
mod call;
mod derive;
mod descriptor;
mod hostile;
mod matching;
mod mismatch;
mod reference;
mod region;
mod spread;

use std::{
    collections::VecDeque,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::{stream::DESCRIPTORS, *};
use crate::{Handoff, sys::spare::Spare};

/// Keeps what is sent, chunk by chunk, with duplicates of the descriptors.
#[derive(Default)]
pub(super) struct Kept {
    chunks: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Give at most so many bytes at a time.
    dribble: Option<usize>,
    /// Give what is long without the way through a buffer.
    direct: bool,
    /// How many bytes went that way.
    filled: usize,
}

impl Kept {
    fn bytes(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|(bytes, _)| bytes).copied().collect()
    }
}

impl Sink for Kept {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(!bytes.is_empty() && bytes.len() <= CHUNK, "a chunk of {} bytes", bytes.len());
        assert!(fds.len() <= DESCRIPTORS, "{} descriptors at once", fds.len());
        let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<_>>()?;
        self.chunks.push_back((bytes.to_vec(), fds));
        Ok(())
    }
}

impl Source for Kept {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let Some((chunk, with)) = self.chunks.front_mut() else { return Ok(0) };
        let some = chunk.len().min(self.dribble.unwrap_or(usize::MAX));
        bytes.extend(chunk.drain(..some));
        fds.extend(with.drain(..));
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        Ok(some)
    }

    fn fill(&mut self, room: &mut Spare<'_>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        if !self.direct {
            return Ok(0);
        }
        let whole = self.dribble;
        self.dribble = Some(room.left().min(whole.unwrap_or(usize::MAX)));
        let mut piece = Vec::new();
        let length = self.receive(&mut piece, fds)?;
        self.dribble = whole;
        room.put(&piece);
        self.filled += length;
        Ok(length)
    }
}

fn sent<T: Handoff>(value: &T) -> Kept {
    let mut kept = Kept::default();
    save(value, &mut kept).unwrap();
    kept
}

fn received<T: Handoff>(mut kept: Kept) -> Result<T, RestoreError> {
    let mut input = Restorer::new(&mut kept, Limits::default());
    let value = restore(&mut input)?;
    input.finish()?;
    Ok(value)
}

/// Through a sink and a source: whole, directly, and in parts that end inside of most things.
fn round_trip<T: Handoff>(value: &T) -> T {
    let mut dribbling = sent(value);
    dribbling.dribble = Some(if dribbling.bytes().len() < 10_000 { 1 } else { 4093 });
    received::<T>(dribbling).unwrap();
    received::<T>(Kept { direct: true, ..sent(value) }).unwrap();
    received(sent(value)).unwrap()
}

/// Small random numbers that are the same in every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn of(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // The first ones of two neighbours are alike.
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}
