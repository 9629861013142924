//! Memory that is filled without having been zeroed before: what is received goes there once.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytemuck::Pod;

/// Room that is filled from its start on.
pub(crate) struct Spare<'v> {
    room: &'v mut [MaybeUninit<u8>],
    filled: usize,
}

impl<'v> Spare<'v> {
    /// Over bytes that are there already.
    pub(crate) fn over(bytes: &'v mut [u8]) -> Spare<'v> {
        let (start, length) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: the same memory, borrowed for as long; nobody but the methods below reaches it, and they write bytes alone.
        Spare { room: unsafe { std::slice::from_raw_parts_mut(start, length) }, filled: 0 }
    }

    /// How many bytes are still to be filled.
    pub(crate) fn left(&self) -> usize {
        self.room.len() - self.filled
    }

    /// Fills the next bytes with these, of which there are at most as many as are [left](Self::left).
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let room = &mut self.room[self.filled..][..bytes.len()];
        // SAFETY: as many bytes as there is room for, which nothing else can be reading.
        unsafe { room.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.filled += bytes.len();
    }

    /// Fills at most so many with what read(2) gives, and says how many.
    pub(crate) fn receive(&mut self, most: usize, from: BorrowedFd<'_>) -> io::Result<usize> {
        let room = &mut self.room[self.filled..];
        let count = most.min(room.len());
        // SAFETY: the kernel writes at most `count` bytes, for which there is room.
        let read = unsafe { libc::read(from.as_raw_fd(), room.as_mut_ptr().cast(), count) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        self.filled += read;
        Ok(read)
    }
}

/// Appends so many items that `fill` writes, all of them, as they lie in memory.
///
/// # Errors
/// Those of `fill`; then nothing is appended.
///
/// # Panics
/// When `fill` leaves some out.
pub(crate) fn append<T: Pod, E>(
    items: &mut Vec<T>,
    count: usize,
    fill: impl FnOnce(&mut Spare<'_>) -> Result<(), E>,
) -> Result<(), E> {
    items.reserve_exact(count);
    let room = &mut items.spare_capacity_mut()[..count];
    let length = size_of_val(room);
    // SAFETY: the same memory, as bytes that may not have been written.
    let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), length) };
    let start = room.as_ptr();
    let mut spare = Spare { room, filled: 0 };
    fill(&mut spare)?;
    // Another one could have been put in its place.
    assert!(spare.left() == 0 && spare.room.as_ptr() == start, "all of it is filled");
    // SAFETY: that was the room of `count` items after those that are there; all of its bytes were written, and any bytes are a `T`.
    unsafe { items.set_len(items.len() + count) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn items_are_appended_when_all_of_them_are_there() {
        let mut items = vec![1u32, 2];
        append(&mut items, 2, |spare| {
            spare.put(&3u32.to_ne_bytes());
            assert_eq!(spare.left(), 4);
            spare.put(&4u32.to_ne_bytes());
            Ok::<_, ()>(())
        })
        .unwrap();
        let failed = append(&mut items, 100, |spare| {
            spare.put(&[0; 7]);
            Err(())
        });
        assert_eq!(failed, Err(()));
        assert_eq!(items, [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_received_goes_where_it_will_lie() {
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"abcdef").unwrap();
        let mut bytes = [0; 5];
        let mut spare = Spare::over(&mut bytes);
        assert_eq!(spare.receive(2, read.as_fd()).unwrap(), 2);
        spare.put(b"-");
        assert_eq!(spare.receive(100, read.as_fd()).unwrap(), 2);
        assert_eq!((spare.left(), &bytes), (0, b"ab-cd"));
    }

    #[test]
    #[should_panic(expected = "all of it is filled")]
    fn what_is_not_filled_is_never_seen() {
        let appended = append(&mut Vec::<u8>::new(), 3, |spare| {
            spare.put(b"ab");
            Ok::<_, ()>(())
        });
        assert!(appended.is_err());
    }
}
