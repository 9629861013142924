//! Memory that one process leaves to the next: a memfd that both map, one after the other.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::MFdFlags;
use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap, mprotect, mremap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use super::fd::memory_file;

/// A memory's size is a multiple of this; where pages are larger, the kernel rounds up once more.
const PAGE: usize = 4096;

/// What would keep a receiver from writing or growing. Added later, none forbids to write what is mapped: the
/// kernel refuses `F_SEAL_WRITE` while a mapping could become writable, see fcntl(2).
const IN_THE_WAY: SealFlag = SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_FUTURE_WRITE).union(SealFlag::F_SEAL_GROW);

/// A mapped memfd.
///
/// The file is never made shorter, because another process may have it mapped, and for that one an access beyond the
/// end would be a SIGBUS. It is not sealed: a seal stays, also when the process that it was for is rolled back.
#[derive(Debug)]
pub(crate) struct Memory {
    file: OwnedFd,
    at: NonNull<u8>,
    /// How much of the file is mapped.
    size: NonZeroUsize,
    writable: bool,
}

// SAFETY: the mapping belongs to the value and is the process's, not a thread's.
unsafe impl Send for Memory {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Memory {}

impl Memory {
    /// New memory, all of it zeros.
    ///
    /// # Errors
    /// Where there is not so much memory, or no descriptor left.
    pub(crate) fn create(least: NonZeroUsize) -> io::Result<Memory> {
        let size = rounded(least.get())?;
        let file = memory_file(c"flip-region", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, length(size)?)?;
        Memory::map(file, size, true)
    }

    /// What another process has written, all of its file, at first for reading only: as long as that process may go on
    /// with it, a stray write is a fault, and not a change that both see.
    ///
    /// # Errors
    /// `InvalidData` when it is no memfd, when it could not be written later, and when it is shorter than `claimed`.
    pub(crate) fn received(file: OwnedFd, claimed: NonZeroUsize) -> io::Result<Memory> {
        let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        // A file of a tmpfs is let through as well, and would do as well.
        let Ok(seals) = fcntl(&file, FcntlArg::F_GET_SEALS) else {
            return refused("it is not a memfd".into());
        };
        if SealFlag::from_bits_retain(seals).intersects(IN_THE_WAY) {
            return refused("it is sealed".into());
        }
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        if flags & OFlag::O_ACCMODE != OFlag::O_RDWR {
            return refused("it is not open for reading and writing".into());
        }
        let there = fstat(&file)?.st_size;
        match usize::try_from(there).ok().and_then(NonZeroUsize::new) {
            Some(size) if size >= claimed && isize::try_from(size.get()).is_ok() => Memory::map(file, size, false),
            _ => refused(format!("{claimed} bytes are claimed, and its file has {there}")),
        }
    }

    fn map(file: OwnedFd, size: NonZeroUsize, writable: bool) -> io::Result<Memory> {
        let access = if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: a new mapping wherever the kernel likes; nothing existing is replaced.
        let at = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Memory { file, at: at.cast(), size, writable })
    }

    pub(crate) fn size(&self) -> usize {
        self.size.get()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `at` is mapped for `size` bytes, at most `isize::MAX` by `rounded` and `received`, until drop or a call
        // that borrows mutably; the file is never made shorter. Of the processes that map it only the owner of the
        // content writes, through `bytes_mut`: `Live` keeps readers and writers of the old one away from the freeze on, and
        // `Region` gives a copy to who writes without owning, so that one that is rolled back has not written here. Such a one may see
        // what the old one writes from then on, for the moment until it is killed; what it makes of that reaches nobody.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.size.get()) }
    }

    /// Makes it writable, too, where it was not yet.
    ///
    /// # Errors
    /// What was received is a file that can be written: only a security module refuses.
    pub(crate) fn bytes_mut(&mut self) -> io::Result<&mut [u8]> {
        if !self.writable {
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: the range is a whole mapping of this value's, and gains a permission.
            unsafe { mprotect(self.at.cast(), self.size.get(), access) }?;
            self.writable = true;
        }
        // SAFETY: as in `bytes`; it is writable by the lines above, and borrowed mutably.
        Ok(unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.size.get()) })
    }

    /// Makes room for `least` bytes, or twice as many as there are, whichever is more. The bytes stay as they are.
    ///
    /// # Errors
    /// Where there is not so much memory; it is as before then.
    pub(crate) fn grow(&mut self, least: usize) -> io::Result<()> {
        if least <= self.size.get() {
            return Ok(());
        }
        let size = rounded(least.max(self.size.get().saturating_mul(2)))?;
        let length = length(size)?;
        // It is longer than what is mapped if an earlier call came only so far.
        if fstat(&self.file)?.st_size < length {
            ftruncate(&self.file, length)?;
        }
        // SAFETY: the range is a whole mapping of this value's, and borrowed mutably, so nothing points into it. It may be
        // moved, and is as before where it cannot be made longer, see mremap(2).
        let at = unsafe { mremap(self.at.cast(), self.size.get(), size.get(), MRemapFlags::MREMAP_MAYMOVE, None) }?;
        (self.at, self.size) = (at.cast(), size);
        Ok(())
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Nothing is given back but the mapping and the descriptor: another process may use the file by now.
        // SAFETY: mapped with this size, and no reference outlives the value.
        let unmapped = unsafe { munmap(self.at.cast(), self.size.get()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

/// The bytes that a memory file has, mapped to be written over: without a system call for each piece, and without a fault for each page.
pub(crate) struct Window {
    at: NonNull<u8>,
    size: NonZeroUsize,
}

impl Window {
    /// Over all that the file has now. Whoever makes it shorter meanwhile ends this process, with SIGBUS.
    ///
    /// # Errors
    /// It has nothing, or cannot be mapped.
    pub(crate) fn over(file: &File) -> io::Result<Window> {
        let size = usize::try_from(file.metadata()?.len()).ok().and_then(NonZeroUsize::new);
        let size = size.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (access, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE);
        // SAFETY: a new mapping wherever the kernel likes; nothing existing is replaced.
        let at = unsafe { mmap(None, size, access, flags, file, 0) }?;
        Ok(Window { at: at.cast(), size })
    }

    /// Writes what fits from this place on, and says how much.
    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) -> usize {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.size.get());
        let count = bytes.len().min(self.size.get() - at);
        // SAFETY: it is within the mapping, or its end.
        let to = unsafe { self.at.add(at) };
        // SAFETY: so many bytes are mapped from there on, and nothing in this process refers to them.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), count) };
        count
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and nothing refers to it.
        let unmapped = unsafe { munmap(self.at.cast(), self.size.get()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

/// The size of a memory for so many bytes; no slice is longer than `isize::MAX`.
fn rounded(least: usize) -> io::Result<NonZeroUsize> {
    let size = least.checked_next_multiple_of(PAGE).filter(|size| isize::try_from(*size).is_ok());
    size.and_then(NonZeroUsize::new).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

fn length(size: NonZeroUsize) -> io::Result<libc::off_t> {
    libc::off_t::try_from(size.get()).map_err(|_| io::ErrorKind::OutOfMemory.into())
}
