//! Signals as something to poll, and to block until there is something to poll.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, pipe2};
use signal_hook_registry::{FORBIDDEN, SigId, register_sigaction, unregister};

/// By which a process is told something, signal(7): not what the kernel says of a fault, of a child, of a pipe or of a terminal's jobs. The
/// launcher forwards these, and no other may ask for an upgrade or a stop.
pub(crate) const TELL: [Signal; 13] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
];

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A process, by kill(2) and its like. 0 is one in another pid namespace.
    Process(Pid),
    /// The kernel, on its own account: a key, a terminal that hung up, a timer.
    Kernel,
    /// The same, where it told the launcher alone, which has forwarded it.
    KernelByLauncher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    pub(crate) from: Sender,
    /// What came [with it](queue).
    pub(crate) word: Option<i32>,
    /// When its handler ran, by CLOCK_MONOTONIC: however long it lay unread.
    pub(crate) at: Duration,
}

/// Handlers that turn signals into something to read. They share the registry with tokio's, so that both hear of each.
///
/// Dropping it takes the handlers away; the signal then does nothing, as the registry never gives back the default.
#[derive(Debug)]
pub(crate) struct Signals {
    pipe: OwnedFd,
    handlers: Vec<SigId>,
}

/// What a handler writes. Smaller than PIPE_BUF, so it arrives whole or not at all, see pipe(7).
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    /// In nanoseconds, which last for centuries.
    at: u64,
    signal: libc::c_int,
    code: libc::c_int,
    pid: libc::pid_t,
    word: i32,
}

impl Signals {
    /// # Errors
    /// `InvalidInput` for those that cannot or must not be caught, such as `SIGKILL` and `SIGSEGV`.
    pub(crate) fn install(signals: &[Signal]) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let write = Arc::new(write);
        let this = Pid::this();
        let mut installed = Self { pipe: read, handlers: Vec::new() };
        for signal in signals {
            if FORBIDDEN.contains(&(*signal as libc::c_int)) {
                let why = format!("{signal} cannot be handled");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let write = Arc::clone(&write);
            let action = move |info: &libc::siginfo_t| tell(write.as_fd(), this, info);
            // SAFETY: the action makes three system calls, keeps errno, and neither allocates, locks nor panics.
            let id = unsafe { register_sigaction(*signal as libc::c_int, action) }?;
            installed.handlers.push(id);
        }
        Ok(installed)
    }

    /// The next signal that has arrived, or none.
    pub(crate) fn read(&self) -> Option<Received> {
        let mut record = MaybeUninit::<Record>::uninit();
        let len = loop {
            let at = record.as_mut_ptr().cast();
            // SAFETY: `record` has room for as many bytes as are asked for.
            let len = unsafe { libc::read(self.pipe.as_raw_fd(), at, size_of::<Record>()) };
            match Errno::result(len) {
                Err(Errno::EINTR) => {}
                // Nothing there; nothing else can go wrong with a pipe of one's own.
                len => break len.ok()?,
            }
        };
        if len as usize != size_of::<Record>() {
            return None;
        }
        // SAFETY: all of it has been read, and any bits are valid integers.
        let Record { at, signal, code, pid, word } = unsafe { record.assume_init() };
        let from = if sent_by_process(code) { Sender::Process(Pid::from_raw(pid)) } else { Sender::Kernel };
        let word = (code == libc::SI_QUEUE).then_some(word);
        Some(Received { signal: Signal::try_from(signal).ok()?, from, word, at: Duration::from_nanos(at) })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.handlers.drain(..) {
            unregister(id);
        }
    }
}

/// Runs inside a signal handler, so only calls of signal-safety(7).
fn tell(pipe: BorrowedFd<'_>, installer: Pid, info: &libc::siginfo_t) {
    let errno = Errno::last_raw();
    // A child that was forked and has not yet executed has this handler and this pipe. What is sent to it (a key on the
    // terminal goes to both) must not count twice here.
    if Pid::this() == installer {
        // SAFETY: only such a signal says who sent it; the field is otherwise part of something else.
        let pid = if sent_by_process(info.si_code) { unsafe { info.si_pid() } } else { 0 };
        // SAFETY: as above.
        let word = if info.si_code == libc::SI_QUEUE { unsafe { info.si_value() }.sival_ptr.addr() as i32 } else { 0 };
        // This clock is always there, see clock_gettime(2).
        let at = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |at| Duration::from(at).as_nanos() as u64);
        let record = Record { at, signal: info.si_signo, code: info.si_code, pid, word };
        // SAFETY: writes the bytes of a value on this stack. A full pipe loses this one, behind thousands not yet read.
        unsafe { libc::write(pipe.as_raw_fd(), (&raw const record).cast(), size_of::<Record>()) };
    }
    Errno::set_raw(errno);
}

fn sent_by_process(code: libc::c_int) -> bool {
    matches!(code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL)
}

/// The word beside a signal that the kernel has sent. No process has this number.
pub(crate) const BY_THE_KERNEL: i32 = -1;

/// Sends a signal with a word beside it, sigqueue(3).
///
/// # Errors
/// As kill(2), or `ENOSYS` and `EPERM` by a filter of system calls which knows only that one. Where too many signals wait already
/// (`RLIMIT_SIGPENDING`) it arrives all the same, without the word and without a sender.
pub(crate) fn queue(to: Pid, signal: Signal, word: i32) -> Result<(), Errno> {
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(word as usize) };
    // SAFETY: takes integers; nobody takes this one for a pointer.
    Errno::result(unsafe { libc::sigqueue(to.as_raw(), signal as libc::c_int, value) }).map(drop)
}

/// Has this thread take what was sent to the process and waits for another one to run: the kernel looks for that where a thread's mask
/// changes. These are unblocked afterwards.
pub(crate) fn take_pending(handled: &[Signal]) {
    let handled: SigSet = handled.iter().copied().collect();
    // Both fail for arguments that make no sense, and for nothing else.
    let _ = handled.thread_block();
    let _ = handled.thread_unblock();
}

/// Lets the signals through to the calling thread, and to those that it starts; one that was held back arrives before
/// this returns.
pub(crate) fn unblock(signals: &SigSet) -> io::Result<()> {
    Ok(signals.thread_unblock()?)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;
    use crate::sys::fd::{PollEntry, poll};

    // Handlers are the whole process's: each test has a signal that no other one uses.

    fn now() -> Duration {
        clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
    }

    fn wait(signals: &Signals) -> Received {
        loop {
            if let Some(received) = signals.read() {
                return received;
            }
            poll(&mut [PollEntry::readable(signals.as_fd())], None).unwrap();
        }
    }

    #[test]
    fn signal_of_a_process_arrives_with_its_sender() {
        let signals = Signals::install(&[Signal::SIGUSR1, Signal::SIGUSR2]).unwrap();
        assert_eq!(signals.read(), None);
        let from = Sender::Process(Pid::this());
        let mut before = now();
        let mut heard = |signal, word| {
            let received = wait(&signals);
            assert!((before..=now()).contains(&received.at), "{received:?}");
            before = received.at;
            assert_eq!(received, Received { signal, from, word, at: received.at });
        };
        raise(Signal::SIGUSR2).unwrap();
        heard(Signal::SIGUSR2, None);
        nix::sys::signal::kill(Pid::this(), Signal::SIGUSR1).unwrap();
        heard(Signal::SIGUSR1, None);
        for word in [0, 1, 4_194_304, i32::MAX, -1] {
            queue(Pid::this(), Signal::SIGUSR1, word).unwrap();
            heard(Signal::SIGUSR1, Some(word));
        }
        assert_eq!(signals.read(), None);
    }

    #[test]
    fn signal_of_the_kernel_is_told_from_a_process_s() {
        let signals = Signals::install(&[Signal::SIGALRM]).unwrap();
        let soon = libc::timeval { tv_sec: 0, tv_usec: 1 };
        let timer = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: soon };
        // SAFETY: a valid timer, and no room for the old one.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) }, 0);
        let received = wait(&signals);
        assert_eq!((received.signal, received.from, received.word), (Signal::SIGALRM, Sender::Kernel, None));
    }

    #[test]
    fn every_reader_hears_of_it_until_dropped() {
        let one = Signals::install(&[Signal::SIGURG]).unwrap();
        let two = Signals::install(&[Signal::SIGURG]).unwrap();
        raise(Signal::SIGURG).unwrap();
        assert!(one.read().is_some() && two.read().is_some());
        drop(one);
        raise(Signal::SIGURG).unwrap();
        assert!(two.read().is_some());
        assert!(two.read().is_none());
    }

    #[test]
    fn blocked_signal_waits() {
        let signals = Signals::install(&[Signal::SIGWINCH]).unwrap();
        let set = SigSet::from(Signal::SIGWINCH);
        set.thread_block().unwrap();
        raise(Signal::SIGWINCH).unwrap();
        assert_eq!(signals.read(), None);
        unblock(&set).unwrap();
        assert!(signals.read().is_some());
    }

    #[test]
    fn handler_keeps_errno_even_when_the_pipe_is_full() {
        let signals = Signals::install(&[Signal::SIGIO]).unwrap();
        for _ in 0..1 << 16 {
            Errno::set_raw(12345);
            raise(Signal::SIGIO).unwrap();
        }
        assert_eq!(Errno::last_raw(), 12345);
        let mut count = 0;
        while signals.read().is_some() {
            count += 1;
        }
        assert!((1..1 << 16).contains(&count), "{count}");
    }

    #[test]
    fn what_cannot_be_caught_is_refused() {
        for signal in [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGSEGV] {
            let refused = Signals::install(&[Signal::SIGTSTP, signal]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
