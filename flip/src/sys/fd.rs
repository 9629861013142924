//! Descriptors: the channel and what crosses it, wake-ups, process handles, the mapping of the owner word, and poll(2).

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::eventfd::EfdFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::Pid;

/// How many descriptors one message carries at most: the kernel's `SCM_MAX_FD`, see unix(7).
pub(crate) const MAX_FDS: usize = 253;

/// What a state's socket may hold in flight; the kernel takes less where `net.core.wmem_max` says so.
const STREAM_BUFFER: usize = 4 << 20;

/// The two ends of a channel: the first for the old process, the second for the new one.
///
/// The first has `SO_PASSCRED` from the start, so that every message on it says which process sent it: `SO_PEERCRED` of
/// a pair names whoever made the pair, which is the old process itself.
pub(crate) fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (old, new) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    setsockopt(&old, sockopt::PassCred, &true)?;
    Ok((old, new))
}

/// The two ends of a byte stream for the content, with send buffers as large as the system allows.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    setsockopt(&one, sockopt::SndBuf, &STREAM_BUFFER)?;
    setsockopt(&other, sockopt::SndBuf, &STREAM_BUFFER)?;
    Ok((one, other))
}

/// A datagram socket of Unix with a name that nobody else has, which the kernel makes up (unix(7), autobind).
pub(crate) fn autobound_datagram() -> io::Result<std::os::unix::net::UnixDatagram> {
    use nix::sys::socket::{UnixAddr, bind, socket};
    let made = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    bind(made.as_raw_fd(), &UnixAddr::new_unnamed())?;
    Ok(made.into())
}

/// Waits at most so long until something can be read, or the other end is closed.
///
/// # Errors
/// Those of poll(2).
pub(crate) fn is_readable_within(sock: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + time;
    loop {
        match poll(&mut [PollEntry::readable(sock)], Some(deadline.saturating_duration_since(Instant::now()))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ready => return ready.map(|ready| ready > 0),
        }
    }
}

/// Sends one message, or on a stream as much of it as fits, with the descriptors.
///
/// # Errors
/// `WouldBlock` from a nonblocking socket that is full. `InvalidInput` for more than [`MAX_FDS`] descriptors, and for no
/// bytes at all: on a packet socket that could not be told from its end, and a stream drops such a message's descriptors.
pub(crate) fn send(sock: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_both(sock, bytes, &[], fds)
}

/// The same of bytes that lie in two places. Sent one after the other they would wake a reader twice.
///
/// # Errors
/// As of [`send`].
pub(crate) fn send_both(sock: BorrowedFd<'_>, bytes: &[u8], more: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[] } else { &rights[..] };
    let parts = [io::IoSlice::new(bytes), io::IoSlice::new(more)];
    loop {
        match sendmsg::<()>(sock.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Ends a connection for whoever has one of its ends, in whatever process: who sends fails, who receives is at the end.
pub(crate) fn shutdown(sock: BorrowedFd<'_>) {
    // The other end may be gone already, which is as well.
    let _ = nix::sys::socket::shutdown(sock.as_raw_fd(), nix::sys::socket::Shutdown::Both);
}

/// One message as it arrived. Its descriptors are owned and `CLOEXEC`: dropping the packet closes them.
#[derive(Debug)]
pub(crate) struct Packet {
    /// How much of the caller's buffer was written.
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
    /// The sender as the kernel knows it; only on an end with `SO_PASSCRED`, and not for one in another pid namespace.
    pub(crate) pid: Option<Pid>,
    /// Bytes or descriptors did not fit (also when this process has no descriptors left): the message must not be used.
    pub(crate) truncated: bool,
}

impl Packet {
    /// The other end is closed: [`send`] never sends an empty message.
    pub(crate) fn is_eof(&self) -> bool {
        self.len == 0 && self.fds.is_empty() && !self.truncated
    }
}

/// Room for the largest set of descriptors and the sender's credentials, aligned as a `cmsghdr` must be.
#[repr(C)]
union Control {
    _align: mem::ManuallyDrop<[libc::cmsghdr; 0]>,
    bytes: [u8; CONTROL_LEN],
}

const CONTROL_LEN: usize = {
    // SAFETY: plain arithmetic on a length, see cmsg(3).
    let rights = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) };
    // SAFETY: as above.
    let credentials = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) };
    (rights + credentials) as usize
};

/// Receives one message into `buf`. A nonblocking socket without one says `WouldBlock`.
pub(crate) fn recv(sock: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Packet> {
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: a msghdr of zeros is a valid one: no address, no parts, no control data.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_LEN as _;

    let len = loop {
        // SAFETY: the header points to `buf` and to `control` with their true lengths, and both outlive the call.
        let len = unsafe { libc::recvmsg(sock.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(len) {
            Err(Errno::EINTR) => {}
            len => break len? as usize,
        }
    };

    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let mut packet = Packet { len, fds: Vec::new(), pid: None, truncated };
    // SAFETY: recvmsg has set msg_controllen to what it wrote into `control`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while let Some(at) = NonNull::new(next) {
        // SAFETY: the CMSG macros only give headers that lie whole inside the control data.
        let cmsg = unsafe { at.read() };
        // SAFETY: the data follows its header inside `control`.
        let data = unsafe { libc::CMSG_DATA(at.as_ptr()) };
        // SAFETY: plain arithmetic on a length.
        #[allow(clippy::unnecessary_cast, reason = "narrower with some C libraries")]
        let data_len = (cmsg.cmsg_len as usize).saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (cmsg.cmsg_level, cmsg.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for i in 0..data_len / size_of::<RawFd>() {
                    // SAFETY: `i` counts the descriptors within this header's data.
                    let place = unsafe { data.cast::<RawFd>().add(i) };
                    // SAFETY: in bounds by the line above; cmsg data promises no alignment.
                    let fd = unsafe { place.read_unaligned() };
                    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows its number.
                    packet.fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data_len >= size_of::<libc::ucred>() => {
                // SAFETY: the guard has checked that a whole ucred is there; it may be unaligned.
                let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                packet.pid = (credentials.pid > 0).then(|| Pid::from_raw(credentials.pid));
            }
            _ => {}
        }
        // SAFETY: `at` came from this header's control data.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, at.as_ptr()) };
    }
    Ok(packet)
}

/// Note that the flag belongs to the open file: it changes for every process that holds it.
/// Whether this process may have so many descriptors more, at this moment.
pub(crate) fn are_free(count: usize) -> bool {
    let Ok(first) = EventFd::new() else { return false };
    (1..count).map(|_| first.as_fd().try_clone_to_owned()).collect::<io::Result<Vec<_>>>().is_ok()
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

pub(crate) fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    #[allow(clippy::useless_conversion, reason = "narrower on some targets")]
    Ok(u64::from(fstat(fd)?.st_ino))
}

pub(crate) fn is_socket(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK)
}

/// The effective user of the process that connected to or made this Unix socket, as of then.
pub(crate) fn peer_uid(fd: BorrowedFd<'_>) -> io::Result<libc::uid_t> {
    Ok(getsockopt(&fd, sockopt::PeerCredentials)?.uid())
}

/// The process that made the other end of this Unix socket, if it is still there.
///
/// # Errors
/// `ESRCH` when it is gone. Its number could have come to mean another process by then: good enough to wait for a death
/// that has not happened yet, not to send a signal.
pub(crate) fn peer(fd: BorrowedFd<'_>) -> io::Result<Pidfd> {
    Pidfd::open(Pid::from_raw(getsockopt(&fd, sockopt::PeerCredentials)?.pid()))
}

/// Whether a packet waits to be read; the end of the other side is none.
pub(crate) fn has_unread(sock: BorrowedFd<'_>) -> bool {
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    nix::sys::socket::recv(sock.as_raw_fd(), &mut [0], peek).is_ok_and(|len| len > 0)
}

/// Wakes the control thread from anywhere: rung by any thread, readable until cleared.
#[derive(Debug)]
pub(crate) struct EventFd(nix::sys::eventfd::EventFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(nix::sys::eventfd::EventFd::from_flags(flags)?))
    }

    pub(crate) fn ring(&self) {
        // The only failure of a live one is a counter that is full, and then it is ringing already.
        while self.0.write(1) == Err(Errno::EINTR) {}
    }

    pub(crate) fn clear(&self) {
        // One that was not rung says EAGAIN, and is as clear as can be.
        while self.0.read() == Err(Errno::EINTR) {}
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How long to wait for somebody to reap a dead process. Who has to act on its death knows that it is dead, and waits no longer.
const STATUS_PATIENCE: Duration = Duration::from_millis(20);

/// `struct pidfd_info` in its first version, linux/pidfd.h.
#[derive(Default)]
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

nix::ioctl_readwrite!(pidfd_get_info, 0xff, 11, PidfdInfo);

/// A process by handle: unlike its number, it never comes to mean another one. Readable once the process has died.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl Pidfd {
    /// Only without a race where the process cannot have been reaped: for oneself, or for one's own child.
    pub(crate) fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: takes two integers, see pidfd_open(2).
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just opened this descriptor for us; it is CLOEXEC by itself.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// What a stranger calls one.
    ///
    /// # Errors
    /// `EBADF` when it is something else.
    pub(crate) fn received(fd: OwnedFd) -> io::Result<Self> {
        let pidfd = Self(fd);
        match pidfd.send(0) {
            // Dead, or another user's by now.
            Err(Errno::ESRCH | Errno::EPERM) => Ok(pidfd),
            sent => Ok(sent.map(|()| pidfd)?),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(self.send(signal as libc::c_int)?)
    }

    fn send(&self, signal: libc::c_int) -> Result<(), Errno> {
        let fd = self.0.as_raw_fd();
        // SAFETY: takes integers and a null siginfo, which means as kill(2) would, see pidfd_send_signal(2).
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<libc::siginfo_t>(), 0) };
        Errno::result(sent).map(drop)
    }

    /// Also true of one that has died and was not reaped yet.
    pub(crate) fn is_dead(&self) -> bool {
        let mut entry = [PollEntry::readable(self.0.as_fd())];
        // Without memory for a poll nobody can say; a living process is the answer that starts nothing.
        poll(&mut entry, Some(Duration::ZERO)).is_ok() && entry[0].is_ready()
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Blocks until the process is dead: then the kernel has released what it held.
    pub(crate) fn wait(&self) {
        let mut entry = [PollEntry::readable(self.0.as_fd())];
        while poll(&mut entry, None).is_err() || !entry[0].is_ready() {
            // poll(2) fails for lack of memory, which may pass.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a process that was killed to be dead, and leaves no zombie where it was reparented to this process
    /// (the init of a namespace, or a subreaper). Usually somebody else is its parent, and reaps it. Says how it ended, where that can
    /// be had.
    pub(crate) fn reap(&self) -> Option<String> {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let mut entry = [PollEntry::readable(self.0.as_fd())];
        // One that is stuck in the kernel must not hold up whoever goes on serving.
        poll(&mut entry, Some(Duration::from_millis(500))).ok().filter(|ready| *ready > 0)?;
        match waitid(Id::PIDFd(self.0.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, status)) => Some(format!("exit status {status}")),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(signal.to_string()),
            // ECHILD: it is not ours to reap.
            _ => self.exit_status(),
        }
    }

    /// How a process ended whose parent is another one.
    fn exit_status(&self) -> Option<String> {
        let status = self.status_of_zombie().or_else(|| self.status_of_reaped())?;
        match libc::WIFSIGNALED(status) {
            true => Signal::try_from(libc::WTERMSIG(status)).ok().map(|signal| signal.to_string()),
            false => Some(format!("exit status {}", libc::WEXITSTATUS(status))),
        }
    }

    /// As /proc has it until somebody reaps the process, proc_pid_stat(5). For whoever may not know it is 0, which therefore says nothing.
    fn status_of_zombie(&self) -> Option<i32> {
        // -1 once it is reaped; as long as it is not, nobody else has its number.
        let number = || -> Option<i32> {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
            let number = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
            (number > 0).then_some(number)
        };
        let pid = number()?;
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The name, which may have anything in it, is the second field and in brackets; the status is the 52nd.
        let behind_name = stat.rsplit(|byte| *byte == b')').next()?;
        let status = std::str::from_utf8(behind_name).ok()?.split_ascii_whitespace().nth(49)?.parse().ok()?;
        (status != 0 && number() == Some(pid)).then_some(status)
    }

    /// As `PIDFD_GET_INFO` has it afterwards (ioctl_pidfd(2)), from Linux 6.15 on.
    fn status_of_reaped(&self) -> Option<i32> {
        // Its parent reaps it in a moment, and not before that does the kernel say it.
        let deadline = Instant::now() + STATUS_PATIENCE;
        let mut entry = [PollEntry::absent()];
        entry[0].raw.fd = self.0.as_raw_fd();
        while !entry[0].hung_up() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            poll(&mut entry, Some(left)).ok()?;
        }
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the kernel writes at most the size that is part of the request's number, which is this struct's.
        unsafe { pidfd_get_info(self.0.as_raw_fd(), &raw mut info) }.ok()?;
        (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
    }
}

impl From<OwnedFd> for Pidfd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file that is nothing but memory, for the time that somebody holds or maps it.
pub(crate) fn memory_file(name: &CStr, flags: MFdFlags) -> io::Result<OwnedFd> {
    // Where vm.memfd_noexec is 2 only this one is allowed; kernels before 6.3 do not know it.
    match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        file => Ok(file?),
    }
}

/// Locks a file for this process, where no other has it so (fcntl(2), advisory record locks). That ends with the process, or as soon as it
/// closes any descriptor of the file.
pub(crate) fn lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
        Err(Errno::EACCES | Errno::EAGAIN) => Ok(false),
        locked => Ok(locked.map(|_| true)?),
    }
}

/// Gives it back.
pub(crate) fn unlock(file: BorrowedFd<'_>) {
    // Of a file that is open this cannot fail.
    let _ = fcntl(file, FcntlArg::F_SETLK(&whole(libc::F_UNLCK)));
}

/// The other process that has it locked.
pub(crate) fn locked_by(file: BorrowedFd<'_>) -> io::Result<Option<Pid>> {
    let mut lock = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then(|| Pid::from_raw(lock.l_pid)))
}

/// A lock of all of a file.
fn whole(kind: i32) -> libc::flock {
    let kind = libc::c_short::try_from(kind).expect("the kinds of locks are small numbers");
    let whence = libc::c_short::try_from(libc::SEEK_SET).expect("so are these");
    libc::flock { l_type: kind, l_whence: whence, l_start: 0, l_len: 0, l_pid: 0 }
}

/// One word of memory that two processes share; what its values mean is the protocol's business. It begins as 0.
///
/// The memory cannot shrink under a mapping: the seals see to it, and [`SharedWord::map`] takes nothing without them.
/// So the other process can write any value, but cannot make reading one a SIGBUS.
#[derive(Debug)]
pub(crate) struct SharedWord(NonNull<AtomicU32>);

// SAFETY: the mapping belongs to the value and is the process's, not a thread's.
unsafe impl Send for SharedWord {}
// SAFETY: it is only ever accessed as an atomic.
unsafe impl Sync for SharedWord {}

const WORD_LEN: NonZeroUsize = NonZeroUsize::new(size_of::<AtomicU32>()).expect("four is not zero");

impl SharedWord {
    /// Makes the word, and gives the descriptor that lets another process map it.
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let file = memory_file(c"flip-owner", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        // Written, not only given a length: the page exists from here on, so no later access can fail for want of memory.
        nix::unistd::write(&file, &0_u32.to_ne_bytes())?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(Self::required_seals() | SealFlag::F_SEAL_SEAL))?;
        Ok((Self::map_file(file.as_fd())?, file))
    }

    /// Maps a word that another process made.
    ///
    /// # Errors
    /// `InvalidData` when it is anything but a sealed memfd of one word.
    pub(crate) fn map(file: OwnedFd) -> io::Result<Self> {
        let refused = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_err(|_| refused("the owner word is not a memfd"))?;
        if !SealFlag::from_bits_retain(seals).contains(Self::required_seals()) {
            return Err(refused("the owner word is not sealed"));
        }
        // After the seals were seen: from here on the length cannot change.
        if usize::try_from(fstat(&file)?.st_size) != Ok(WORD_LEN.get()) {
            return Err(refused("the owner word has not the length of a word"));
        }
        Self::map_file(file.as_fd())
    }

    fn required_seals() -> SealFlag {
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
    }

    fn map_file(file: BorrowedFd<'_>) -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel likes; nothing existing is replaced.
        let at = unsafe { mmap(None, WORD_LEN, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self(at.cast()))
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped until drop, aligned to a page, and the seals keep its page in the file; all access, also the
        // other process's, is atomic.
        unsafe { self.0.as_ref() }
    }

    /// Swaps `from` for `to`, or says what is there instead. What either side wrote before is seen by whoever reads it.
    pub(crate) fn compare_exchange(&self, from: u32, to: u32) -> Result<(), u32> {
        self.word().compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).map(drop)
    }

    pub(crate) fn load(&self) -> u32 {
        self.word().load(Ordering::SeqCst)
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: mapped by `map_file` with this length, and no reference outlives the value.
        let unmapped = unsafe { munmap(self.0.cast(), WORD_LEN.get()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

/// One descriptor to wait for, or none: a set of fixed places, where some are empty at times, needs no bookkeeping.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct PollEntry<'fd> {
    raw: libc::pollfd,
    fd: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollEntry<'fd> {
    pub(crate) fn readable(fd: BorrowedFd<'fd>) -> Self {
        Self::new(fd.as_raw_fd(), libc::POLLIN)
    }

    pub(crate) fn writable(fd: BorrowedFd<'fd>) -> Self {
        Self::new(fd.as_raw_fd(), libc::POLLOUT)
    }

    /// Never ready.
    pub(crate) fn absent() -> Self {
        Self::new(-1, 0)
    }

    fn new(fd: RawFd, events: libc::c_short) -> Self {
        Self { raw: libc::pollfd { fd, events, revents: 0 }, fd: PhantomData }
    }

    /// After [`poll`]: nothing more will come; of a process, that it has been reaped.
    pub(crate) fn hung_up(&self) -> bool {
        self.raw.revents & libc::POLLHUP != 0
    }

    /// After [`poll`]: what was asked for can be done without waiting, or the other end is gone.
    pub(crate) fn is_ready(&self) -> bool {
        self.raw.revents != 0
    }
}

/// Waits until an entry is ready or the time is over, and says how many are. `None` waits for ever.
///
/// A signal ends the wait with 0 entries ready: the caller looks at its clock on every turn in any case.
pub(crate) fn poll(entries: &mut [PollEntry<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    // Nanoseconds, as poll(2)'s milliseconds would either spin through the last one or oversleep it.
    let timeout = timeout
        .map(|t| libc::timespec { tv_sec: t.as_secs().min(i32::MAX as u64) as _, tv_nsec: t.subsec_nanos() as _ });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let raw = entries.as_mut_ptr().cast::<libc::pollfd>();
    // SAFETY: PollEntry is a pollfd by its repr, the length is the slice's, and a null mask leaves signals as they are.
    let ready = unsafe { libc::ppoll(raw, entries.len() as libc::nfds_t, timeout, ptr::null()) };
    match Errno::result(ready) {
        Ok(ready) => Ok(ready as usize),
        Err(Errno::EINTR) => {
            // The kernel leaves the answers of the last turn standing when it is interrupted.
            entries.iter_mut().for_each(|entry| entry.raw.revents = 0);
            Ok(0)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a test has this process for itself, which limits and the like are of. Where it has not, it is run in one of its own.
#[cfg(test)]
pub(crate) fn is_alone(test: &str) -> bool {
    const ALONE: &str = "FLIP_TEST_ALONE";
    let is_alone = std::env::var_os(ALONE).is_some();
    if !is_alone {
        let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
        let ran = itself.args([test, "--exact", "--test-threads=1"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }
    is_alone
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A socket pair's end, to be sent, and the other, which reads end-of-file once every copy of the first is closed.
    fn watched() -> (OwnedFd, UnixStream) {
        let (sent, watch) = UnixStream::pair().unwrap();
        (sent.into(), watch)
    }

    fn is_held(mut watch: &UnixStream) -> bool {
        watch.set_nonblocking(true).unwrap();
        matches!(watch.read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits, since a process that another test is starting has a copy of every descriptor until it executes.
    fn all_closed(mut watch: &UnixStream) -> bool {
        watch.set_nonblocking(false).unwrap();
        watch.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        matches!(watch.read(&mut [0]), Ok(0))
    }

    fn is_cloexec(fd: BorrowedFd<'_>) -> bool {
        fcntl(fd, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0
    }

    #[test]
    fn packet_carries_bytes_descriptors_and_sender() {
        let (old, new) = seqpacket_pair().unwrap();
        assert!(is_cloexec(old.as_fd()) && is_cloexec(new.as_fd()));
        let (sent, watch) = watched();
        assert_eq!(send(new.as_fd(), b"hello", &[sent.as_fd(), old.as_fd()]).unwrap(), 5);
        drop(sent);

        let mut buf = [0; 16];
        let packet = recv(old.as_fd(), &mut buf).unwrap();
        assert_eq!(&buf[..packet.len], b"hello");
        assert_eq!(packet.pid, Some(Pid::this()));
        assert!(!packet.truncated && !packet.is_eof());
        assert_eq!(packet.fds.len(), 2);
        assert!(packet.fds.iter().all(|fd| is_cloexec(fd.as_fd())));
        assert_eq!(inode(packet.fds[1].as_fd()).unwrap(), inode(old.as_fd()).unwrap());
        assert!(is_held(&watch));
        drop(packet);
        assert!(all_closed(&watch));
    }

    #[test]
    fn only_the_old_end_hears_who_sends() {
        let (old, new) = seqpacket_pair().unwrap();
        send(old.as_fd(), b"offer", &[]).unwrap();
        assert_eq!(recv(new.as_fd(), &mut [0; 16]).unwrap().pid, None);
    }

    #[test]
    fn largest_set_of_descriptors_arrives_whole() {
        let (old, new) = seqpacket_pair().unwrap();
        let (sent, watch) = watched();
        send(new.as_fd(), b"x", &[sent.as_fd(); MAX_FDS]).unwrap();
        let packet = recv(old.as_fd(), &mut [0; 1]).unwrap();
        assert_eq!((packet.fds.len(), packet.truncated, packet.pid), (MAX_FDS, false, Some(Pid::this())));
        drop((packet, sent));
        assert!(all_closed(&watch));
    }

    #[test]
    fn what_would_look_like_the_end_is_not_sent() {
        let (old, _new) = seqpacket_pair().unwrap();
        assert_eq!(send(old.as_fd(), b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let many = [old.as_fd(); MAX_FDS + 1];
        assert_eq!(send(old.as_fd(), b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn truncated_bytes_are_said_and_their_descriptors_closed() {
        let (old, new) = seqpacket_pair().unwrap();
        let (sent, watch) = watched();
        send(new.as_fd(), b"much too long", &[sent.as_fd()]).unwrap();
        drop(sent);
        let packet = recv(old.as_fd(), &mut [0; 4]).unwrap();
        assert!(packet.truncated && packet.fds.len() == 1);
        drop(packet);
        assert!(all_closed(&watch));
    }

    #[test]
    fn truncated_descriptors_are_said_and_closed() {
        // Descriptors run out for nobody else.
        if !is_alone("sys::fd::tests::truncated_descriptors_are_said_and_closed") {
            return;
        }
        let (old, new) = seqpacket_pair().unwrap();
        let (sent, watch) = watched();
        send(new.as_fd(), b"x", &[sent.as_fd(); 5]).unwrap();
        let next = File::open("/dev/null").unwrap();
        let limit = next.as_raw_fd() as u64 + 2;
        drop(next);
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit).unwrap();

        let packet = recv(old.as_fd(), &mut [0; 16]).unwrap();
        assert!(packet.truncated);
        assert_eq!(packet.fds.len(), 2);
        drop((packet, sent));
        assert!(all_closed(&watch));
    }

    #[test]
    fn nonblocking_says_would_block_and_a_closed_end_is_the_end() {
        let (old, new) = seqpacket_pair().unwrap();
        set_nonblocking(old.as_fd(), true).unwrap();
        assert_eq!(recv(old.as_fd(), &mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        set_nonblocking(new.as_fd(), true).unwrap();
        let full = std::iter::repeat_with(|| send(new.as_fd(), &[0; 1024], &[])).find_map(Result::err);
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(new);
        set_nonblocking(old.as_fd(), false).unwrap();
        while recv(old.as_fd(), &mut [0; 1024]).unwrap().len > 0 {}
        assert!(recv(old.as_fd(), &mut [0; 1]).unwrap().is_eof());
        // And sending to nobody is an error, not a signal.
        assert_eq!(send(old.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn stream_carries_descriptors_with_its_first_bytes() {
        let (one, other) = stream_pair().unwrap();
        assert!(is_cloexec(one.as_fd()) && is_cloexec(other.as_fd()));
        let (sent, _watch) = watched();
        send(one.as_fd(), b"abc", &[sent.as_fd()]).unwrap();
        let mut buf = [0; 2];
        let first = recv(other.as_fd(), &mut buf).unwrap();
        assert_eq!((first.len, first.fds.len(), first.truncated), (2, 1, false));
        let rest = recv(other.as_fd(), &mut buf).unwrap();
        assert_eq!((rest.len, rest.fds.len()), (1, 0));
    }

    #[test]
    fn sockets_are_told_from_files() {
        let (old, _new) = seqpacket_pair().unwrap();
        assert!(is_socket(old.as_fd()));
        assert!(!is_socket(File::open("/dev/null").unwrap().as_fd()));
        assert_eq!(peer_uid(old.as_fd()).unwrap(), nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn event_stays_rung_until_cleared() {
        let event = EventFd::new().unwrap();
        let rung = || poll(&mut [PollEntry::readable(event.as_fd())], Some(Duration::ZERO)).unwrap() == 1;
        assert!(!rung());
        event.ring();
        event.ring();
        assert!(rung() && rung());
        event.clear();
        assert!(!rung());
        event.clear();
    }

    #[test]
    fn poll_answers_by_place() {
        let (old, new) = seqpacket_pair().unwrap();
        send(new.as_fd(), b"x", &[]).unwrap();
        let mut entries = [
            PollEntry::absent(),
            PollEntry::readable(new.as_fd()),
            PollEntry::readable(old.as_fd()),
            PollEntry::writable(new.as_fd()),
        ];
        assert_eq!(poll(&mut entries, None).unwrap(), 2);
        assert_eq!(entries.map(|entry| entry.is_ready()), [false, false, true, true]);
        // The other end's going away is readiness too.
        drop(old);
        let mut gone = [PollEntry::readable(new.as_fd())];
        assert_eq!(poll(&mut gone, None).unwrap(), 1);
    }

    #[test]
    fn poll_waits_no_less_than_asked() {
        let time = Duration::from_micros(1500);
        let start = Instant::now();
        assert_eq!(poll(&mut [PollEntry::absent()], Some(time)).unwrap(), 0);
        assert!(start.elapsed() >= time);
        // The longest time is a valid one.
        let event = EventFd::new().unwrap();
        event.ring();
        assert_eq!(poll(&mut [PollEntry::readable(event.as_fd())], Some(Duration::MAX)).unwrap(), 1);
    }

    #[test]
    fn handle_signals_its_process_and_knows_its_death() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let handle = Pidfd::open(Pid::from_raw(child.id() as i32)).unwrap();
        let other = handle.try_clone().unwrap();
        assert!(is_cloexec(handle.as_fd()));
        assert!(!handle.is_dead());
        handle.signal(Signal::SIGTERM).unwrap();
        other.wait();
        assert!(handle.is_dead());
        child.wait().unwrap();
        assert!(other.is_dead());
        assert_eq!(other.signal(Signal::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    /// A child of a process that never looks, and which stays a zombie for as long as that lives.
    #[test]
    fn status_of_a_process_that_nobody_reaps_is_known() {
        for (ends, status) in [("exit 7", "exit status 7"), ("kill -KILL $$", "SIGKILL")] {
            // The parent knows nothing of a child once it is another program, and that one says so.
            let child = format!("sh -c 'read line; {ends}' <&3 & echo $!");
            let script = format!("exec 3<&0; {child}; exec sh -c 'echo is another; exec sleep 1000'");
            let piped = std::process::Stdio::piped;
            let mut parent =
                std::process::Command::new("sh").args(["-c", &script]).stdin(piped()).stdout(piped()).spawn().unwrap();
            let mut lines = io::BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
            let handle = Pidfd::open(Pid::from_raw(lines.next().unwrap().parse().unwrap())).unwrap();
            assert_eq!(lines.next().unwrap(), "is another");
            parent.stdin.take().unwrap().write_all(b"go\n").unwrap();
            handle.wait();
            let known = handle.reap();
            parent.kill().unwrap();
            parent.wait().unwrap();
            assert_eq!(known.as_deref(), Some(status));
        }
    }

    #[test]
    fn two_mappings_are_one_word() {
        let (one, file) = SharedWord::create().unwrap();
        assert!(is_cloexec(file.as_fd()));
        let two = SharedWord::map(file).unwrap();
        assert_eq!((one.load(), two.load()), (0, 0));
        assert_eq!(one.compare_exchange(0, 1), Ok(()));
        assert_eq!(two.compare_exchange(0, 3), Err(1));
        assert_eq!(two.compare_exchange(1, 2), Ok(()));
        drop(two);
        assert_eq!(one.load(), 2);
    }

    #[test]
    fn one_swap_wins() {
        let (word, _file) = SharedWord::create().unwrap();
        let wins = std::thread::scope(|scope| {
            let swaps: Vec<_> = (1..=8)
                .map(|to| {
                    scope.spawn({
                        let word = &word;
                        move || word.compare_exchange(0, to)
                    })
                })
                .collect();
            swaps.into_iter().map(|swap| swap.join().unwrap()).filter(Result::is_ok).count()
        });
        assert_eq!(wins, 1);
    }

    #[test]
    fn word_cannot_shrink_grow_or_lose_its_seals() {
        let (_word, file) = SharedWord::create().unwrap();
        let file = File::from(file);
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 20).is_err());
        assert!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)).is_err());
    }

    #[test]
    fn forged_words_are_refused() {
        let memfd = |bytes: &[u8], seals| {
            let file = memfd_create(c"forged", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
            File::from(file.try_clone().unwrap()).write_all(bytes).unwrap();
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            file
        };
        let sealed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        SharedWord::map(memfd(&[0; 4], sealed)).unwrap();

        let why = |file| SharedWord::map(file).unwrap_err().to_string();
        assert!(why(memfd(&[0; 4], SealFlag::empty())).contains("not sealed"));
        assert!(why(memfd(&[0; 4], SealFlag::F_SEAL_GROW)).contains("not sealed"));
        assert!(why(memfd(&[], sealed)).contains("length"));
        assert!(why(memfd(&[0; 3], sealed)).contains("length"));
        assert!(why(memfd(&[0; 5000], sealed)).contains("length"));
        let mut plain = tempfile::tempfile().unwrap();
        plain.write_all(&[0; 4]).unwrap();
        let refused = why(plain.into());
        assert!(refused.contains("not a memfd") || refused.contains("not sealed"), "{refused}");
        let (socket, _) = seqpacket_pair().unwrap();
        assert!(why(socket).contains("not a memfd"));
    }
}
