//! One checkpoint in a file that is nothing but memory. Two such files lie in the store and are written in turn: the one that is
//! not being written is whole.
//!
//! ```text
//!     0  "flip checkpoint\0"  version u32  attempts u32  sequence u64  time u64  states u64  index u64  sum u32  own sum u32
//!        the highest bit of `attempts`: it is set aside
//!  4096  the states, one behind the other
//!        the index: each one's name, schema and length
//! ```
//!
//! All numbers are little-endian. `time` is in milliseconds since 1970, `states` and `index` are lengths in bytes, the sums are
//! CRC-32 (ISO-HDLC) of everything from 4096 on and of the head before its own. A head of zeros: it is being written.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crc32fast::Hasher;
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use crate::handoff::{CHUNK, Sink, Source, codec};
use crate::live::State;
use crate::sys::map::Window;

const MAGIC: &[u8; 16] = b"flip checkpoint\0";
const VERSION: u32 = 1;
const HEAD: usize = 64;
const ASIDE: u32 = 1 << 31;
/// Where the states begin.
const BODY: u64 = 4096;
/// The most bytes of an index.
const INDEX: u64 = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// How many processes have ended while they restored it.
    pub(super) attempts: u32,
    /// It ended too many.
    pub(super) aside: bool,
    pub(super) sequence: u64,
    time: u64,
    states: u64,
    index: u64,
    sum: u32,
}

impl Head {
    pub(super) fn age(&self) -> Duration {
        UNIX_EPOCH
            .checked_add(Duration::from_millis(self.time))
            .and_then(|time| time.elapsed().ok())
            // The clock was set back.
            .unwrap_or_default()
    }

    fn encode(&self) -> [u8; HEAD] {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.attempts | if self.aside { ASIDE } else { 0 }).to_le_bytes());
        for number in [self.sequence, self.time, self.states, self.index] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.sum.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().expect("as many as the fields have")
    }

    fn decode(bytes: &[u8; HEAD]) -> Result<Head, Unfit> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(Unfit::Unwritten);
        }
        if !bytes.starts_with(MAGIC) {
            return Err(Unfit::Alien);
        }
        if word(16) != VERSION {
            return Err(Unfit::Version(word(16)));
        }
        if word(60) != crc32fast::hash(&bytes[..60]) {
            return Err(Unfit::Damaged("the sum of its head is wrong"));
        }
        let sequence = long(24);
        if sequence > u64::MAX / 2 {
            return Err(Unfit::Damaged("its number makes no sense"));
        }
        Ok(Head {
            attempts: word(20) & !ASIDE,
            aside: word(20) & ASIDE != 0,
            sequence,
            time: long(32),
            states: long(40),
            index: long(48),
            sum: word(56),
        })
    }

    pub(super) fn read(file: &File) -> Result<Head, Unfit> {
        let mut bytes = [0; HEAD];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Head::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => match file.metadata() {
                Ok(metadata) if metadata.len() == 0 => Err(Unfit::Unwritten),
                _ => Err(Unfit::Alien),
            },
            Err(error) => Err(Unfit::Unread(error)),
        }
    }

    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.encode(), 0)
    }

    /// Notes how many have tried, and what became of it. Where that cannot be noted the next process does not know of it, and tries once
    /// more.
    pub(super) fn note(self, attempts: u32, aside: bool, file: &File) {
        let _ = Head { attempts, aside, ..self }.write(file);
    }
}

/// Why a file cannot be restored.
#[derive(Debug)]
pub(super) enum Unfit {
    /// Nothing was ever written, or whoever wrote it did not come to the end.
    Unwritten,
    Alien,
    Version(u32),
    Damaged(&'static str),
    Unread(io::Error),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Unwritten => f.write_str("nothing whole was written"),
            Unfit::Alien => f.write_str("it is none of flip's"),
            Unfit::Version(version) => {
                write!(f, "it has version {version} of the format, and this flip reads {VERSION}")
            }
            Unfit::Damaged(what) => write!(f, "it is not whole: {what}"),
            Unfit::Unread(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    states: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    name: String,
    schema: Vec<u8>,
    length: u64,
}

/// States that are in a file, and no checkpoint yet.
pub(super) struct Draft {
    index: Vec<u8>,
    states: u64,
    time: SystemTime,
    /// Unmapped when writers write again: that takes its time as well.
    window: Option<Window>,
}

/// A file that is ready to be written.
pub(super) struct Blank {
    file: Arc<File>,
    /// What it had before, to be written over; what is longer goes behind that. Where it cannot be mapped all of it does.
    window: Option<Window>,
}

impl Blank {
    /// To be called before anybody waits: mapping takes its time.
    pub(super) fn of(file: &Arc<File>) -> Blank {
        // Where a limit of files' sizes (`ulimit -f`) is reached, writing is to fail, and not to end the process.
        let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
        Blank { file: Arc::clone(file), window: Window::over(file).ok() }
    }

    /// Writes the states, as they are now; gives up where `is_wanted` says so.
    pub(super) fn write(self, states: &[Arc<dyn State>], is_wanted: &dyn Fn() -> bool) -> Result<Draft, String> {
        let Blank { file, window } = self;
        let failed = |error: io::Error| format!("it cannot be written: {error}");
        file.write_all_at(&[0; HEAD], 0).map_err(failed)?;
        let mut writer = Writer { file: &file, window, at: BODY, is_wanted };
        let mut index = Index { states: vec![] };
        for state in states {
            let from = writer.at;
            state.save(&mut writer)?;
            let (name, schema) = (state.name().to_owned(), state.schema().encode());
            index.states.push(Entry { name, schema, length: writer.at - from });
        }
        let states = writer.at - BODY;
        let index = codec::to_named(&index).map_err(|error| error.to_string())?;
        Ok(Draft { index, states, time: SystemTime::now(), window: writer.window })
    }
}

impl Draft {
    /// Makes it a checkpoint.
    pub(super) fn seal(self, file: &File, sequence: u64, is_wanted: &dyn Fn() -> bool) -> io::Result<Head> {
        // Before the file may become shorter.
        drop(self.window);
        file.write_all_at(&self.index, BODY + self.states)?;
        let index = self.index.len() as u64;
        let end = BODY + self.states + index;
        let sum = sum(file, BODY, end, is_wanted)?;
        if file.metadata()?.len() > end {
            // It was longer once, and its memory goes back.
            file.set_len(end)?;
        }
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let head = Head { attempts: 0, aside: false, sequence, time, states: self.states, index, sum };
        head.write(file)?;
        Ok(head)
    }
}

struct Writer<'a> {
    file: &'a File,
    window: Option<Window>,
    at: u64,
    is_wanted: &'a dyn Fn() -> bool,
}

impl Sink for Writer<'_> {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !fds.is_empty() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a descriptor cannot be stored"));
        }
        if !(self.is_wanted)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let over = self.window.as_mut().map_or(0, |window| window.put(self.at, bytes));
        self.file.write_all_at(&bytes[over..], self.at + over as u64)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn sum(file: &File, mut at: u64, end: u64, is_wanted: &dyn Fn() -> bool) -> io::Result<u32> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; CHUNK];
    while at < end {
        if !is_wanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let piece = &mut piece[..usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK))];
        file.read_exact_at(piece, at)?;
        hasher.update(piece);
        at += piece.len() as u64;
    }
    Ok(hasher.finalize())
}

/// A checkpoint that is whole.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) file: Arc<File>,
    pub(super) head: Head,
    /// Each state with the place where it begins.
    states: Vec<(Entry, u64)>,
}

impl Checkpoint {
    pub(super) fn read(file: &Arc<File>) -> Result<Checkpoint, Unfit> {
        let head = Head::read(file)?;
        let end = BODY.checked_add(head.states).and_then(|end| end.checked_add(head.index));
        let there = file.metadata().map_err(Unfit::Unread)?;
        let end = end.filter(|end| *end <= there.len() && head.index <= INDEX);
        let end = end.ok_or(Unfit::Damaged("it is cut short"))?;
        // What was written is there; what is not would be read for as long as its length says, stat(2).
        if there.blocks().saturating_mul(512) < end {
            return Err(Unfit::Damaged("it has holes"));
        }
        if sum(file, BODY, end, &|| true).map_err(Unfit::Unread)? != head.sum {
            return Err(Unfit::Damaged("the sum of its bytes is wrong"));
        }
        let mut index = vec![0; usize::try_from(head.index).unwrap_or_default()];
        file.read_exact_at(&mut index, end - head.index).map_err(Unfit::Unread)?;
        let index: Index = codec::from_named(&index).map_err(|_| Unfit::Damaged("its index does not decode"))?;
        let mut at = BODY;
        let mut states = vec![];
        for entry in index.states {
            let length = entry.length;
            states.push((entry, at));
            at = at.checked_add(length).ok_or(Unfit::Damaged("its index makes no sense"))?;
        }
        if at != BODY + head.states {
            return Err(Unfit::Damaged("its index makes no sense"));
        }
        Ok(Checkpoint { file: Arc::clone(file), head, states })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.states.iter().map(|(entry, _)| entry.name.as_str())
    }

    /// The schema of the state of this name, and what it is restored from.
    pub(super) fn find(&self, name: &str) -> Option<(Vec<u8>, Stored)> {
        let (entry, at) = self.states.iter().find(|(entry, _)| entry.name == name)?;
        let stored = Stored { file: Arc::clone(&self.file), at: *at, end: at + entry.length };
        Some((entry.schema.clone(), stored))
    }
}

/// One state of a checkpoint.
pub(crate) struct Stored {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Source for Stored {
    fn receive(&mut self, bytes: &mut Vec<u8>, _: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let count = usize::try_from(self.end - self.at).map_or(CHUNK, |left| left.min(CHUNK));
        let had = bytes.len();
        bytes.resize(had + count, 0);
        self.file.read_exact_at(&mut bytes[had..], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The schema and the bytes of each state of a file that has these and whose sums are right.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzed(states: &[u8], index: &[u8]) -> Vec<(Vec<u8>, Stored)> {
    let written = || -> io::Result<File> {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = File::from(nix::sys::memfd::memfd_create(c"fuzzed", flags)?);
        let body = [states, index].concat();
        file.write_all_at(&body, BODY)?;
        let (states, index, sum) = (states.len() as u64, index.len() as u64, crc32fast::hash(&body));
        Head { attempts: 0, aside: false, sequence: 1, time: 0, states, index, sum }.write(&file)?;
        Ok(file)
    };
    let file = Arc::new(written().expect("there is memory"));
    let Ok(checkpoint) = Checkpoint::read(&file) else { return Vec::new() };
    checkpoint.names().filter_map(|name| checkpoint.find(name)).collect()
}

/// These states, and an index that has one of them.
#[cfg(feature = "fuzzing")]
pub(crate) fn seed(states: &[u8], name: &str, schema: &[u8], length: usize) -> Vec<u8> {
    let (name, schema) = (name.to_owned(), schema.to_vec());
    let index = Index { states: vec![Entry { name, schema, length: length as u64 }] };
    [states, &codec::to_named(&index).expect("it can be written")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;

    #[test]
    fn head_is_read_for_ever() {
        let head = Head { attempts: 1, aside: false, sequence: 2, time: 3, states: 4, index: 5, sum: 6 };
        let bytes = golden("checkpoint head", &head.encode());
        assert_eq!(Head::decode(&bytes.try_into().unwrap()).unwrap(), head);
        let aside = Head { aside: true, ..head };
        let bytes = golden("checkpoint head, set aside", &aside.encode());
        assert_eq!(Head::decode(&bytes.try_into().unwrap()).unwrap(), aside);
    }
}
