//! Bytes that an upgrade does not copy.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use crate::live::{Hold, Holding};
use crate::sys::map::Memory;

/// Bytes that outlive the process without being copied: a growable buffer in memory that the new process maps, too.
///
/// A field of a state like any other. Where a `Vec<u8>` is sent through a socket during the freeze and is for a moment
/// there twice, of a `Region` only the length and a descriptor are sent, however long it is.
///
/// ```
/// use flip::{Handoff, Live, Region};
///
/// #[derive(Default, Handoff)]
/// struct Store {
///     entries: u64,
///     log: Region,
/// }
///
/// let store = Live::new(Store::default());
/// store.update(|store| {
///     store.entries += 1;
///     store.log.extend_from_slice(b"first entry\n")
/// })??;
/// // It derefs to a slice.
/// assert_eq!(store.read(|store| store.log.len())?, 12);
/// assert!(store.read(|store| store.log.starts_with(b"first"))?);
/// # Ok::<(), flip::BoxError>(())
/// ```
///
/// It takes a descriptor and at least a page of memory, from the first byte on: few large ones are better than many
/// small ones.
///
/// # Who may write
/// From the freeze on both processes have the same bytes before them, and the new one may still be rolled back. So none
/// writes until it is known who owns them: [`Live`](crate::Live) holds the writers of both. Whoever writes all the same,
/// as a [`migrate`](macro@crate::Handoff) function before that and a `Drop` in the old process after it may, writes into
/// a copy that is made then. In the new process the memory is mapped for reading only until it serves and somebody
/// borrows the bytes mutably: a stray write by a bug ends that process, and the old one goes on with its bytes.
///
/// # Errors
/// What needs more memory says so where there is none, and changes nothing then. For that reason there is no `Extend` and
/// no `Clone`, which could only panic. Like other memory it may be promised and turn out not to be there at the first
/// touch. It counts as a file of that length against `RLIMIT_FSIZE`, whose breach is the signal `SIGXFSZ`.
///
/// # Panics
/// A mutable borrow of the bytes where there is no memory for the copy that it needs (above), and the first one in a new
/// process where a security module forbids to write what was read until then.
///
/// # Caveats
/// - The memory grows by doubling and becomes no less: neither [`truncate`](Region::truncate) nor [`clear`](Region::clear)
///   gives any back, as another process may have it mapped. It is free when the region is dropped in all processes; for a
///   smaller one make a new one. Of a region without bytes nothing is handed over, and the memory is freed with the old process's.
/// - A freeze waits for the [`read`](crate::Live::read)s of a state with a region in it, and those that come during it wait
///   for its end: what they see does not change under them. Keep them short.
/// - A `Drop` that reads the bytes in the old process sees what the new one has made of them.
/// - It cannot travel in a [call](crate::Apply) unless it is empty.
/// - A process that is made by a bare `fork` has the same bytes, rather than a copy.
#[derive(Default)]
pub struct Region {
    /// There is none before the first byte.
    memory: Option<Memory>,
    /// At most the memory's size, and 0 where there is none.
    length: usize,
    /// Tells whose the bytes are, once another process may have the same memory.
    hold: OnceLock<Arc<Hold>>,
}

impl Region {
    /// Without bytes, and without memory for any.
    pub const fn new() -> Region {
        Region { memory: None, length: 0, hold: OnceLock::new() }
    }

    /// Without bytes, and with memory for at least so many.
    ///
    /// # Errors
    /// Where there is no memory, or no descriptor left.
    pub fn with_capacity(capacity: usize) -> io::Result<Region> {
        let mut region = Region::new();
        region.reserve(capacity)?;
        Ok(region)
    }

    /// How long it may become before it needs more memory.
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, Memory::size)
    }

    /// Makes room for so many bytes more, at least.
    ///
    /// # Errors
    /// Where there is no memory, or no descriptor left.
    pub fn reserve(&mut self, additional: usize) -> io::Result<()> {
        self.part()?;
        let least = self.length.checked_add(additional).ok_or(io::ErrorKind::OutOfMemory)?;
        match (&mut self.memory, NonZeroUsize::new(least)) {
            (Some(memory), _) => memory.grow(least),
            (None, Some(least)) => Memory::create(least).map(|memory| self.memory = Some(memory)),
            (None, None) => Ok(()),
        }
    }

    /// Appends.
    ///
    /// # Errors
    /// Where there is no memory, or no descriptor left; nothing is appended then.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.more(bytes.len(), |room| room.copy_from_slice(bytes))
    }

    /// Makes it so long: by `byte`s at the end, or by leaving off what is too much.
    ///
    /// # Errors
    /// Where there is no memory, or no descriptor left; it is as long as before then.
    pub fn resize(&mut self, length: usize, byte: u8) -> io::Result<()> {
        match length.checked_sub(self.length) {
            Some(more) => self.more(more, |room| room.fill(byte)),
            None => {
                self.truncate(length);
                Ok(())
            }
        }
    }

    /// Leaves off what is beyond `length`; does nothing where it is not longer. Keeps the memory.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Leaves off all bytes. Keeps the memory.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Makes it longer by `count` bytes, which lie there as they happen to be until `write` has written them.
    fn more(&mut self, count: usize, write: impl FnOnce(&mut [u8])) -> io::Result<()> {
        self.reserve(count)?;
        if let Some(memory) = &mut self.memory {
            write(&mut memory.bytes_mut()?[self.length..self.length + count]);
            self.length += count;
        }
        Ok(())
    }

    /// From now on another process may have the same memory; `hold` tells which of the two owns it.
    pub(crate) fn owned_under(&self, hold: &Arc<Hold>) {
        self.hold.get_or_init(|| Arc::clone(hold));
    }

    /// Before a write: goes on with a copy where the memory is another process's, which has it still or by now.
    fn part(&mut self) -> io::Result<()> {
        let owned = self.hold.get().is_none_or(|hold| matches!(hold.get(), Holding::Open | Holding::Frozen));
        if !owned && let Some(memory) = &self.memory {
            let size = NonZeroUsize::new(memory.size()).ok_or(io::ErrorKind::InvalidData)?;
            let mut own = Memory::create(size)?;
            own.bytes_mut()?[..self.length].copy_from_slice(&memory.bytes()[..self.length]);
            (self.memory, self.hold) = (Some(own), OnceLock::new());
        }
        Ok(())
    }

    /// The file of the memory, where there are bytes in it.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref().filter(|_| self.length > 0).map(Memory::as_fd)
    }

    /// What the old process has sent; both the file and the length are claims.
    ///
    /// # Errors
    /// `InvalidData` where it cannot be the memory of a region so long.
    pub(crate) fn received(file: OwnedFd, length: NonZeroUsize) -> io::Result<Region> {
        let memory = Memory::received(file, length)?;
        Ok(Region { memory: Some(memory), length: length.get(), hold: OnceLock::new() })
    }
}

/// Numbers and structs of plain data instead of bytes; with the feature `bytemuck`.
///
/// They lie there as in memory, aligned for every type whose alignment is at most a page. A new program with another
/// layout of the same type would misread them, and nothing can tell: give such a type `#[repr(C)]`, and a version.
///
/// ```
/// let mut region = flip::Region::new();
/// region.extend_from_items(&[1_u32, 2, 3])?;
/// region.as_items_mut::<u32>()?[1] = 20;
/// assert_eq!(region.as_items::<u32>()?, [1, 20, 3]);
/// // Twelve bytes are no whole number of `u64`.
/// assert!(region.as_items::<u64>().is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[cfg(feature = "bytemuck")]
impl Region {
    /// The bytes as items.
    ///
    /// # Errors
    /// `InvalidData` where they are no whole number of items, or are bytes and a `T` has no size or is aligned to more than a page.
    pub fn as_items<T: bytemuck::AnyBitPattern>(&self) -> io::Result<&[T]> {
        // Where there is no memory nothing is aligned.
        if self.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(self).map_err(|_| no_items::<T>(self.length))
    }

    /// The bytes as items that may be changed.
    ///
    /// # Errors
    /// As [`as_items`](Region::as_items) has them.
    pub fn as_items_mut<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&mut self) -> io::Result<&mut [T]> {
        if self.is_empty() {
            return Ok(&mut []);
        }
        let length = self.length;
        bytemuck::try_cast_slice_mut(self).map_err(|_| no_items::<T>(length))
    }

    /// Appends the bytes of the items.
    ///
    /// # Errors
    /// Where there is no memory, or no descriptor left; nothing is appended then.
    pub fn extend_from_items<T: bytemuck::NoUninit>(&mut self, items: &[T]) -> io::Result<()> {
        self.extend_from_slice(bytemuck::cast_slice(items))
    }
}

#[cfg(feature = "bytemuck")]
fn no_items<T>(length: usize) -> io::Error {
    let (name, size, align) = (std::any::type_name::<T>(), size_of::<T>(), align_of::<T>());
    let why = format!("{length} bytes are no items of {name}, each {size} bytes long and aligned to {align}");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory.bytes()[..self.length])
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.part().expect("there is memory for a copy of what another process owns");
        match &mut self.memory {
            Some(memory) => {
                let bytes = memory.bytes_mut().expect("a file that is open for writing can be mapped for it");
                &mut bytes[..self.length]
            }
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for Region {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Appends; each `write` takes all that it is given, or nothing.
impl io::Write for Region {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TryFrom<&[u8]> for Region {
    type Error = io::Error;

    fn try_from(bytes: &[u8]) -> io::Result<Region> {
        let mut region = Region::new();
        region.extend_from_slice(bytes)?;
        Ok(region)
    }
}

impl PartialEq for Region {
    fn eq(&self, other: &Region) -> bool {
        **self == **other
    }
}

impl Eq for Region {}

/// Only how long it is: the bytes may be many, and nobody's business in a log.
impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("len", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use nix::sys::stat::fstat;

    use super::*;

    fn region(bytes: &[u8]) -> Region {
        Region::try_from(bytes).unwrap()
    }

    #[test]
    fn empty_one_needs_nothing() {
        let mut region = Region::with_capacity(0).unwrap();
        region.extend_from_slice(b"").unwrap();
        region.resize(0, 1).unwrap();
        region.clear();
        region.truncate(0);
        assert!(region.is_empty() && region.iter_mut().next().is_none());
        assert!(region.memory.is_none());
        assert_eq!(region, Region::default());
    }

    #[test]
    fn growth_keeps_the_bytes() {
        let mut region = Region::new();
        let mut expected = Vec::new();
        for turn in 0..=255_u8 {
            let piece = vec![turn; 100 * usize::from(turn) + 1];
            region.extend_from_slice(&piece).unwrap();
            expected.extend(piece);
            assert!(region.len() <= region.capacity());
        }
        assert_eq!(*region, *expected);
        // A few doublings, not one growth a piece.
        assert!(region.capacity() < 2 * expected.len(), "{} for {}", region.capacity(), expected.len());
    }

    #[test]
    fn room_is_made_once() {
        let mut region = Region::with_capacity(1 << 20).unwrap();
        assert_eq!((region.len(), region.capacity()), (0, 1 << 20));
        region.reserve(1 << 20).unwrap();
        let at = region.as_ptr();
        region.resize(1 << 20, 7).unwrap();
        assert_eq!((region.as_ptr(), region.capacity()), (at, 1 << 20));
        region.reserve(1).unwrap();
        assert_eq!(region.capacity(), 2 << 20);
        assert!(region.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn written_bytes_are_appended() {
        let mut region = region(b"a");
        write!(region, "{} and {}", 1, 2).unwrap();
        region.flush().unwrap();
        assert_eq!(&*region, b"a1 and 2");
        region[0] = b'b';
        assert_eq!(region.as_ref(), b"b1 and 2");
    }

    #[test]
    fn what_was_left_off_does_not_come_back() {
        let mut region = region(b"123456");
        region.truncate(9);
        assert_eq!(&*region, b"123456");
        region.truncate(4);
        region.resize(2, b'x').unwrap();
        region.resize(5, b'x').unwrap();
        assert_eq!(&*region, b"12xxx");
        region.clear();
        assert!(region.is_empty());
        region.resize(6, 0).unwrap();
        assert_eq!(&*region, [0; 6]);
    }

    /// For whoever has it mapped, what lies beyond the end of a file is a SIGBUS.
    #[test]
    fn file_is_never_made_shorter() {
        let mut region = region(&[1; 100_000]);
        let length = |region: &Region| fstat(region.memory.as_ref().unwrap()).unwrap().st_size;
        let before = length(&region);
        region.truncate(10);
        region.clear();
        region.resize(3, 0).unwrap();
        assert_eq!(length(&region), before);

        // It was made longer, and the mapping was not.
        let file = std::fs::File::from(region.file().unwrap().try_clone_to_owned().unwrap());
        file.set_len(8 << 20).unwrap();
        region.reserve(200_000).unwrap();
        assert_eq!(length(&region), 8 << 20);
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        for much in [usize::MAX, usize::MAX - 5, usize::MAX / 2, isize::MAX as usize - 3] {
            let mut region = region(b"12345");
            assert!(region.reserve(much).is_err());
            assert!(region.resize(much, 0).is_err());
            assert!(Region::with_capacity(much).is_err());
            assert_eq!((&*region, region.capacity()), (&b"12345"[..], 4096));
            region.extend_from_slice(b"6").unwrap();
            assert_eq!(&*region, b"123456");
        }
    }

    #[test]
    fn equal_bytes_are_equal_whatever_the_memory() {
        let mut one = Region::with_capacity(100_000).unwrap();
        one.extend_from_slice(b"12").unwrap();
        assert_eq!(one, region(b"12"));
        assert_ne!(one, region(b"13"));
        one.clear();
        assert_eq!(one, Region::new());
    }

    #[test]
    fn log_says_how_long_it_is() {
        assert_eq!(format!("{:?}", region(b"secret")), "Region { len: 6, .. }");
    }

    #[cfg(feature = "bytemuck")]
    #[test]
    fn items_are_their_bytes() {
        let mut region = Region::new();
        assert_eq!(region.as_items::<u64>().unwrap(), [0; 0]);
        assert_eq!(region.as_items_mut::<u64>().unwrap(), [0; 0]);
        let items = [[1_u64, 2], [u64::MAX, 4]];
        region.extend_from_items(&items).unwrap();
        assert_eq!(region.len(), 32);
        assert_eq!(region[..8], 1_u64.to_ne_bytes());
        region.as_items_mut::<[u64; 2]>().unwrap()[0][1] = 3;
        assert_eq!(region.as_items::<[u64; 2]>().unwrap(), [[1, 3], [u64::MAX, 4]]);
        assert_eq!(region.as_items::<u128>().unwrap().len(), 2);

        region.extend_from_slice(&[0]).unwrap();
        let error = region.as_items::<u64>().unwrap_err();
        assert_eq!(error.to_string(), "33 bytes are no items of u64, each 8 bytes long and aligned to 8");
        assert!(region.as_items_mut::<u64>().is_err());
        assert!(region.as_items::<()>().is_err());
    }
}
