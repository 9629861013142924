//! Whom the kernel ends first where memory runs out: the new process, until it serves.
//!
//! `oom_score_adj` (proc(5)) may be lowered again by anybody, but not below what a process with CAP_SYS_RESOURCE has set last: a
//! service that drops that capability before it serves would be the first to go for ever. So it is set without.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

const SCORE: &str = "/proc/self/oom_score_adj";
const FIRST: &[u8] = b"1000";

/// This process goes first, until this is [over](First::over).
#[derive(Debug)]
pub(crate) struct First {
    /// Open from the start: after a change of user it could not be opened any more.
    score: File,
    before: Vec<u8>,
}

impl First {
    /// To be called while this process has one thread: capabilities are a thread's.
    ///
    /// # Errors
    /// Without `/proc`.
    pub(crate) fn begin() -> io::Result<First> {
        let score = File::options().read(true).write(true).open(SCORE)?;
        let mut before = [0; 8];
        let length = score.read_at(&mut before, 0)?;
        let first = First { score, before: before[..length].trim_ascii().to_vec() };
        let _without = Without::capability(RESOURCES);
        first.score.write_all_at(FIRST, 0)?;
        Ok(first)
    }

    /// As it was at the start.
    ///
    /// # Errors
    /// It is not allowed.
    pub(crate) fn over(self) -> io::Result<()> {
        self.score.write_all_at(&self.before, 0)
    }
}

/// What capget(2) and capset(2) take.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Sets {
    effective: u32,
    _permitted: u32,
    _inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two of each.
const VERSION: u32 = 0x2008_0522;
/// CAP_SYS_RESOURCE, capabilities(7).
const RESOURCES: u8 = 24;

/// A capability is not in effect until this is dropped.
pub(crate) struct Without([Sets; 2]);

impl Without {
    /// For this thread, by its number below 32. Nothing where it is not in effect.
    pub(crate) fn capability(number: u8) -> Option<Without> {
        let bit = 1 << number;
        let mut sets = [Sets::default(); 2];
        call(libc::SYS_capget, &mut sets).ok()?;
        let before = Without(sets);
        (sets[0].effective & bit != 0).then_some(())?;
        sets[0].effective &= !bit;
        call(libc::SYS_capset, &mut sets).ok()?;
        Some(before)
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        // It is among those that are permitted, so it may be in effect again.
        let _ = call(libc::SYS_capset, &mut self.0);
    }
}

fn call(number: libc::c_long, sets: &mut [Sets; 2]) -> Result<(), Errno> {
    let mut header = Header { version: VERSION, pid: 0 };
    // SAFETY: a header of this version goes with two sets, which the kernel reads or writes.
    Errno::result(unsafe { libc::syscall(number, &raw mut header, sets.as_mut_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_goes_first_for_a_while() {
        let score = || std::fs::read_to_string(SCORE).unwrap();
        let before = score();
        let first = First::begin().unwrap();
        assert_eq!(score().trim(), "1000");
        first.over().unwrap();
        assert_eq!(score(), before);
    }
}
