//! What the process was given: by whoever started it, and, in a new process, by the old one.
//!
//! Read once, before any thread and any user code exists. All of it is input from strangers.

use std::env;
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, rlim_t};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockType, getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, geteuid, getppid};

use super::fd;

/// The variable that names the channel: `pid:fd:inode`, where the process is the one that shall read it; then, if any,
/// `:signals`, a bit each from 1, that are blocked only until this process has its handlers. It may have others than the old one.
pub(crate) const CHANNEL: &str = "FLIP_CHANNEL";

/// The process that started this one and stays, where there is one: its number, in the environment of the service.
pub(crate) const LAUNCHER: &str = "FLIP_LAUNCHER";
/// What a launcher says to its service, and to nobody else.
const OF_THE_LAUNCHER: [&str; 3] = [LAUNCHER, "NOTIFY_SOCKET", "FDSTORE"];

/// How the process came into the world, so that each successor can come into the same one.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) args: Vec<OsString>,
    /// Absolute, with its symbolic links as they were written: an upgrade resolves them anew.
    pub(crate) executable: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) umask: Mode,
    pub(crate) limits: Vec<Limit>,
    /// What was blocked. In a successor this has the signals that its predecessor handles, too.
    pub(crate) mask: SigSet,
    /// What was open besides the standard streams, meant for this program by whoever started it: every later generation gets it,
    /// and nothing else that a library may have opened without CLOEXEC.
    pub(crate) descriptors: Vec<Kept>,
    /// There was a terminal that could hang up.
    pub(crate) terminal: bool,
    /// What was ignored, as nohup(1) does to SIGHUP. SIGPIPE is never in it: Rust ignores it before anybody can look.
    pub(crate) ignored: SigSet,
    /// How many filters of system calls the first process's threads began with, seccomp(2); not before Linux 5.11.
    pub(crate) filters: Option<u32>,
    /// What the launcher said, where there is one: not in the environment any more, and in that of each successor.
    pub(crate) launched: Vec<(OsString, OsString)>,
}

/// An open descriptor, and what was behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    number: RawFd,
    device: libc::dev_t,
    inode: libc::ino_t,
}

impl Kept {
    fn of(number: RawFd) -> Option<Kept> {
        // SAFETY: F_GETFD only asks, also about a number that is not open.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            return None;
        }
        // SAFETY: it was open a line above; should it be closed meanwhile, fstat(2) says so.
        let stat = nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(number) }).ok()?;
        Some(Kept { number, device: stat.st_dev, inode: stat.st_ino })
    }

    /// The descriptor's number, if what is behind it still is what was there at the start.
    pub(crate) fn still(&self) -> Option<RawFd> {
        Kept::of(self.number).filter(|now| now == self).map(|now| now.number)
    }
}

fn descriptors() -> Vec<Kept> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|number| *number > libc::STDERR_FILENO).filter_map(Kept::of).collect()
}

/// What setrlimit(2) sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) resource: Resource,
    pub(crate) soft: rlim_t,
    pub(crate) hard: rlim_t,
}

impl Origin {
    /// To be called before any thread exists, before a signal is blocked or handled, and before the user's code runs.
    pub(crate) fn capture() -> io::Result<Self> {
        let directory = working_directory()?;
        let link = std::fs::read_link("/proc/self/exe").ok();
        // The mask can only be read by setting it. Should another thread make a file right now, it is a private one.
        let mode = umask(Mode::from_bits_truncate(0o077));
        umask(mode);
        Ok(Self {
            args: env::args_os().collect(),
            executable: executable(exec_file_name(), &directory, link),
            directory,
            umask: mode,
            limits: limits(),
            mask: SigSet::thread_get_mask()?,
            descriptors: descriptors(),
            terminal: has_terminal(),
            ignored: ignored_signals(),
            filters: None,
            launched: Vec::new(),
        })
    }

    /// Whether this process belongs to a launcher.
    pub(crate) fn is_launched(&self) -> bool {
        !self.launched.is_empty()
    }

    /// The launcher that this process belongs to.
    pub(crate) fn launcher(&self) -> Option<Pid> {
        let (_, number) = self.launched.iter().find(|(name, _)| name == LAUNCHER)?;
        number.to_str()?.parse().ok().map(Pid::from_raw)
    }

    /// A variable of the environment, or of what the launcher said.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        let said = self.launched.iter().find(|(known, _)| known == name);
        said.map(|(_, value)| value.clone()).or_else(|| env::var_os(name))
    }
}

/// `$PWD` where it is true, since it keeps the symbolic links through which a release directory is entered.
fn working_directory() -> io::Result<PathBuf> {
    let identity = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
    if let Some(pwd) = env::var_os("PWD").map(PathBuf::from)
        && pwd.is_absolute()
        && matches!((identity(&pwd), identity(Path::new("."))), (Ok(pwd), Ok(here)) if pwd == here)
    {
        return Ok(pwd);
    }
    // A directory that has been removed is no reason not to serve; an upgrade will name it if it does not come back.
    env::current_dir().or_else(|_| std::fs::read_link("/proc/self/cwd").map(without_deleted))
}

/// The path that the kernel was given. What `argv[0]` says is up to whoever started the process, and
/// `/proc/self/exe` has its symbolic links resolved.
fn exec_file_name() -> Option<PathBuf> {
    // SAFETY: takes an integer and reads the vector that the kernel left on the stack, see getauxval(3).
    let at = unsafe { libc::getauxval(libc::AT_EXECFN) };
    let at = ptr::with_exposed_provenance::<libc::c_char>(at as usize);
    if at.is_null() {
        return None;
    }
    // SAFETY: the kernel has put a terminated string there, which lives as long as the process.
    let name = unsafe { CStr::from_ptr(at) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

fn executable(given: Option<PathBuf>, directory: &Path, link: Option<PathBuf>) -> PathBuf {
    // fexecve(3) names a descriptor, which means nothing to a successor.
    let by_descriptor = |path: &Path| path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    let absolute = given.as_ref().map(|path| normal(&directory.join(path)));
    match (absolute, link) {
        (Some(path), _) if !by_descriptor(&path) && path.exists() => path,
        (_, Some(link)) if link.exists() => link,
        // A memfd has no path, but the running image can be executed once more.
        (_, Some(link)) if link.as_os_str().as_bytes().starts_with(b"/memfd:") => PathBuf::from("/proc/self/exe"),
        (_, Some(link)) => without_deleted(link),
        // Without /proc: the best that is known, and exec's error names it.
        (Some(path), None) => path,
        (None, None) => PathBuf::from("/proc/self/exe"),
    }
}

/// Without `.` components. `..` stays: what it means depends on symbolic links.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// The kernel marks the links of removed files; an upgrade wants what is installed under the name.
fn without_deleted(link: PathBuf) -> PathBuf {
    let mut bytes = link.into_os_string().into_vec();
    if bytes.ends_with(b" (deleted)") {
        bytes.truncate(bytes.len() - b" (deleted)".len());
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn limits() -> Vec<Limit> {
    use Resource::*;
    [
        RLIMIT_AS,
        RLIMIT_CORE,
        RLIMIT_CPU,
        RLIMIT_DATA,
        RLIMIT_FSIZE,
        RLIMIT_LOCKS,
        RLIMIT_MEMLOCK,
        RLIMIT_MSGQUEUE,
        RLIMIT_NICE,
        RLIMIT_NOFILE,
        RLIMIT_NPROC,
        RLIMIT_RSS,
        RLIMIT_RTPRIO,
        RLIMIT_RTTIME,
        RLIMIT_SIGPENDING,
        RLIMIT_STACK,
    ]
    .into_iter()
    // One that this kernel does not know is not set in a successor either.
    .filter_map(|resource| getrlimit(resource).ok().map(|(soft, hard)| Limit { resource, soft, hard }))
    .collect()
}

fn ignored_signals() -> SigSet {
    let mut ignored = *SigSet::empty().as_ref();
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: a null action changes nothing; `action` has room for the answer.
        let known = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
        // The C library keeps two for itself, and does not answer for them.
        if known == 0 {
            // SAFETY: sigaction has succeeded, so it has filled it in.
            let action = unsafe { action.assume_init() };
            if action.sa_sigaction == libc::SIG_IGN {
                // SAFETY: an initialised set, and a signal in its range.
                unsafe { libc::sigaddset(&raw mut ignored, signal) };
            }
        }
    }
    // SAFETY: an initialised set.
    unsafe { SigSet::from_sigset_t_unchecked(ignored) }
}

/// How many filters of system calls are set for this thread, where the kernel says it.
pub(crate) fn filters() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")?.trim().parse().ok())
}

/// Whether this process has a controlling terminal that is still there, tty(4).
pub(crate) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Takes what a service manager passed, sd_listen_fds(3): descriptors from 3 on, each with its name, and the variables that say so,
/// so that no program started from here takes them for its own.
///
/// To be called once, before any thread exists: afterwards the environment must not be written to.
pub(crate) fn take_passed() -> Vec<(String, OwnedFd)> {
    let passed = claim_passed(|name| env::var_os(name), Pid::this());
    for name in ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: no other thread reads the environment, since none exists: the entry calls this first of all.
        #[expect(clippy::disallowed_methods, reason = "as for the channel")]
        unsafe {
            env::remove_var(name);
        }
    }
    passed.unwrap_or_else(|why| {
        crate::log::say!(warn, "sockets that were passed are not used: {why}");
        Vec::new()
    })
}

/// Takes what a launcher says to its service, so that no program started from here takes itself for that: one that uses flip, too, would
/// speak for the service, and leave what it believes to lie in the store. Nothing, where it was said to another process.
///
/// To be called once, before any thread exists: afterwards the environment must not be written to.
pub(crate) fn take_launched(is_successor: bool) -> Vec<(OsString, OsString)> {
    let number = env::var(LAUNCHER).ok().and_then(|number| number.parse::<libc::pid_t>().ok());
    // `on` and its like are whoever starts this program's to say, and to all of it.
    let Some(number) = number else { return Vec::new() };
    let said = OF_THE_LAUNCHER.iter().filter_map(|name| Some((name.into(), env::var_os(name)?))).collect();
    for name in OF_THE_LAUNCHER {
        // SAFETY: no other thread reads the environment, since none exists: the entry calls this first of all.
        #[expect(clippy::disallowed_methods, reason = "as for the channel")]
        unsafe {
            env::remove_var(name);
        }
    }
    // A successor is given it by its predecessor, and becomes the launcher's child a moment after it runs.
    if is_successor || number == getppid().as_raw() { said } else { Vec::new() }
}

/// What the variables say about this process, or why it cannot be true.
fn claim_passed(variable: impl Fn(&str) -> Option<OsString>, pid: Pid) -> Result<Vec<(String, OwnedFd)>, String> {
    let number = |name: &str| {
        let Some(value) = variable(name) else { return Ok(None) };
        let number =
            value.to_str().filter(|text| text.bytes().all(|b| b.is_ascii_digit())).and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| format!("{name}={} is no number", value.display()))
    };
    let Some(count) = number("LISTEN_FDS")?.filter(|count: &RawFd| *count > 0) else { return Ok(Vec::new()) };
    // The launcher cannot write the number of a process that it has not made yet; its child knows it by being that.
    let is_launched = number(LAUNCHER).ok().flatten() == Some(getppid().as_raw());
    match number("LISTEN_PID")? {
        None if is_launched => {}
        // They were another process's: whoever started this one left the variables standing.
        Some(named) if named != pid.as_raw() => return Ok(Vec::new()),
        None => return Err(format!("LISTEN_FDS={count} without LISTEN_PID")),
        Some(_) => {}
    }
    let names = variable("LISTEN_FDNAMES").and_then(|names| names.into_string().ok());
    let mut names = names.as_deref().map(|names| names.split(':'));
    let first = libc::STDERR_FILENO + 1;
    let mut passed = Vec::new();
    for number in first..first.saturating_add(count) {
        let name =
            names.as_mut().and_then(Iterator::next).filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
        // SAFETY: F_GETFD only asks whether the number is open.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            // What was opened before is still somebody's; those behind it cannot be told from others any more.
            crate::log::say!(warn, "LISTEN_FDS={count}, and descriptor {number} (`{name}`) is not open");
            break;
        }
        // SAFETY: it is open, and whoever started this process says that it is for it alone.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        if fd::is_socket(descriptor.as_fd()) || name.starts_with("flip") {
            // It goes to the next generation with the listener or the state, and to no other program.
            let _ = fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        passed.push((name, descriptor));
    }
    Ok(passed)
}

/// How this process was started.
#[derive(Debug)]
pub(crate) enum Inherited {
    /// By no old process.
    Cold,
    /// The variable is there but not meant for this process. Says why, in one sentence.
    Stray(String),
    /// By an old process, to which this leads; it has blocked these signals for the time being.
    Channel(OwnedFd, SigSet),
}

/// Takes the channel out of the environment, so that no program started from here finds it.
///
/// To be called once, before any thread exists: afterwards the environment must not be written to.
pub(crate) fn take_channel() -> Inherited {
    let Some(value) = env::var_os(CHANNEL) else { return Inherited::Cold };
    // SAFETY: no other thread reads the environment, since none exists: the entry calls this first of all.
    #[expect(clippy::disallowed_methods, reason = "the one place, before any thread")]
    unsafe {
        env::remove_var(CHANNEL);
    }
    verify(&value, Pid::this())
}

/// What of a channel's name does not hold for this process. A descriptor that is not the channel is somebody else's,
/// and stays as it is.
pub(crate) fn verify(value: &OsStr, pid: Pid) -> Inherited {
    match claim(value, pid) {
        Ok((channel, held)) => Inherited::Channel(channel, held),
        Err(why) => Inherited::Stray(format!("{CHANNEL}={} is not for this process: {why}", value.display())),
    }
}

fn claim(value: &OsStr, pid: Pid) -> Result<(OwnedFd, SigSet), String> {
    let (named, number, inode, held) = value.to_str().and_then(parse).ok_or("it is not pid:fd:inode")?;
    if named != pid.as_raw() {
        return Err(format!("it names process {named}, and this is {pid}"));
    }
    // Standard streams are never made by an old process, and owning one would close it for everybody else.
    if number <= libc::STDERR_FILENO {
        return Err(format!("descriptor {number} is a standard stream"));
    }
    // SAFETY: F_GETFD only asks whether the number is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(format!("descriptor {number} is not open"));
    }
    // SAFETY: it is open, and without threads nobody can close it while this function borrows it.
    let channel = unsafe { BorrowedFd::borrow_raw(number) };
    if !fd::is_socket(channel) {
        return Err(format!("descriptor {number} is not a socket"));
    }
    let say = |errno: Errno| format!("descriptor {number} does not say what it is: {errno}");
    if sockopt_domain(channel).map_err(say)? != AddressFamily::Unix as libc::c_int
        || getsockopt(&channel, sockopt::SockType).map_err(say)? != SockType::SeqPacket
    {
        return Err(format!("descriptor {number} is another kind of socket"));
    }
    let is = fd::inode(channel).map_err(|e| format!("descriptor {number} does not say what it is: {e}"))?;
    if is != inode {
        return Err(format!("descriptor {number} is inode {is}, not {inode}"));
    }
    let peer = fd::peer_uid(channel).map_err(|e| format!("descriptor {number} has no peer: {e}"))?;
    if peer != geteuid().as_raw() {
        return Err(format!("descriptor {number} leads to a process of user {peer}"));
    }
    fcntl(channel, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(say)?;
    // SAFETY: the old process opened it for this process alone, as pid and inode prove, and its name has been removed.
    Ok((unsafe { OwnedFd::from_raw_fd(number) }, held))
}

/// Digits only, where a number's own parser would let a sign pass. The process writes its number with leading zeros.
fn parse(value: &str) -> Option<(libc::pid_t, RawFd, u64, SigSet)> {
    let mut parts = value.split(':');
    let mut digits = || parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let (pid, fd, inode) = (digits()?.parse().ok()?, digits()?.parse().ok()?, digits()?.parse().ok()?);
    let held: u64 = match parts.next() {
        None => 0,
        Some(held) => Some(held).filter(|held| held.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?,
    };
    let held = Signal::iterator().filter(|signal| held & bit(*signal as libc::c_int) != 0).collect();
    parts.next().is_none().then_some((pid, fd, inode, held))
}

/// A signal as the kernel counts it in a set.
pub(super) fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// `SO_DOMAIN`, which nix does not have.
fn sockopt_domain(sock: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    use std::os::fd::AsRawFd;
    let mut domain: libc::c_int = 0;
    let mut len = size_of_val(&domain) as libc::socklen_t;
    let (at, len) = ((&raw mut domain).cast(), &raw mut len);
    // SAFETY: writes one int, for which there is room.
    let asked = unsafe { libc::getsockopt(sock.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN, at, len) };
    Errno::result(asked)?;
    Ok(domain)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{SockFlag, socketpair};

    use super::*;

    const PID: i32 = 4711;

    fn stray(value: impl AsRef<OsStr>) -> String {
        match verify(value.as_ref(), Pid::from_raw(PID)) {
            Inherited::Stray(why) => why,
            other => panic!("{:?} was taken for {other:?}", value.as_ref()),
        }
    }

    fn name(fd: &impl AsFd) -> String {
        let fd = fd.as_fd();
        format!("{PID}:{}:{}", fd.as_raw_fd(), fd::inode(fd).unwrap())
    }

    fn is_open(fd: &impl AsFd) -> bool {
        fd::inode(fd.as_fd()).is_ok()
    }

    #[test]
    fn channel_is_taken_and_stays_in_this_process() {
        let (_old, new) = fd::seqpacket_pair().unwrap();
        fcntl(&new, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let inode = fd::inode(new.as_fd()).unwrap();
        let padded = format!("{PID:010}:{}:{inode}:{}", new.as_raw_fd(), bit(libc::SIGHUP) | bit(libc::SIGUSR2));
        // The claim takes it over from here, as execve would have made it do.
        let number = std::os::fd::IntoRawFd::into_raw_fd(new);
        let Inherited::Channel(channel, held) = verify(padded.as_ref(), Pid::from_raw(PID)) else { panic!("{padded}") };
        assert_eq!(held, SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR2]));
        assert_eq!(channel.as_raw_fd(), number);
        assert_eq!(fcntl(&channel, FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
    }

    #[test]
    fn garbage_is_a_stray() {
        for garbage in [
            "",
            ":",
            "::",
            "1:2",
            "a:b:c",
            "4711:3:4:5:6",
            "4711:3:4:x",
            "4711:3:4:-1",
            "4711:-3:4",
            "+4711:3:4",
            "4711: 3:4",
            "4711:3:",
        ] {
            assert!(stray(garbage).ends_with("it is not pid:fd:inode"), "{garbage}");
        }
        stray(OsStr::from_bytes(b"\xff:3:4"));
        stray("4711:99999999999999999999:4");
        stray("4711:3:99999999999999999999999");
    }

    #[test]
    fn channel_of_another_process_is_a_stray() {
        let (_old, new) = fd::seqpacket_pair().unwrap();
        let why = stray(name(&new).replacen("4711", "4712", 1));
        assert!(why.ends_with("it names process 4712, and this is 4711"), "{why}");
        assert!(is_open(&new));
    }

    #[test]
    fn closed_descriptor_is_a_stray() {
        // Far above what is open, so that no other test opens it in between.
        assert!(stray("4711:1000000:4").ends_with("descriptor 1000000 is not open"));
    }

    #[test]
    fn standard_streams_are_strays() {
        assert!(stray("4711:2:4").ends_with("is a standard stream"));
    }

    #[test]
    fn other_descriptors_are_strays_and_stay_open() {
        let file = File::open("/dev/null").unwrap();
        assert!(stray(name(&file)).ends_with("is not a socket"));
        assert!(is_open(&file));

        let (pipe, _write) = nix::unistd::pipe().unwrap();
        assert!(stray(name(&pipe)).ends_with("is not a socket"));
        assert!(is_open(&pipe));

        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(stray(name(&stream)).ends_with("is another kind of socket"));
        assert!(is_open(&stream));

        let (datagram, _other) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC).unwrap();
        assert!(stray(name(&datagram)).ends_with("is another kind of socket"));
        assert!(is_open(&datagram));

        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(stray(name(&tcp)).ends_with("is another kind of socket"));
        assert!(is_open(&tcp));
    }

    #[test]
    fn other_channel_under_the_same_number_is_a_stray() {
        let (_old, new) = fd::seqpacket_pair().unwrap();
        let why = stray(format!("{}0", name(&new)));
        assert!(why.contains(" is inode "), "{why}");
        assert!(is_open(&new));
    }

    #[test]
    fn sockets_of_another_process_and_nonsense_are_none() {
        let claim = |variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
            claim_passed(value, Pid::from_raw(PID)).map(|passed| passed.len())
        };
        assert_eq!(claim(&[]), Ok(0));
        assert_eq!(claim(&[("LISTEN_FDS", "0"), ("LISTEN_PID", "x")]), Ok(0));
        assert_eq!(claim(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "1")]), Ok(0));
        for (variables, why) in [
            (&[("LISTEN_FDS", "2")][..], "without LISTEN_PID"),
            (&[("LISTEN_FDS", "-2"), ("LISTEN_PID", "4711")], "LISTEN_FDS=-2 is no number"),
            (&[("LISTEN_FDS", "99999999999"), ("LISTEN_PID", "4711")], "is no number"),
            (&[("LISTEN_FDS", "2"), ("LISTEN_PID", "me")], "LISTEN_PID=me is no number"),
        ] {
            assert!(claim(variables).unwrap_err().contains(why), "{variables:?}");
        }
    }

    #[test]
    fn executable_keeps_its_links_and_loses_its_dots() {
        let dir = tempfile::tempdir().unwrap();
        let (release, current) = (dir.path().join("v1"), dir.path().join("current"));
        std::fs::create_dir(&release).unwrap();
        std::fs::write(release.join("svc"), "").unwrap();
        std::os::unix::fs::symlink(&release, &current).unwrap();
        let found = |given: &str| executable(Some(given.into()), &current, Some(release.join("svc")));
        assert_eq!(found("./svc"), current.join("svc"));
        assert_eq!(found("../current/./svc"), current.join("../current/svc"));
        assert_eq!(found(current.join("svc").to_str().unwrap()), current.join("svc"));
    }

    #[test]
    fn executable_without_a_path_is_found_by_its_image() {
        let given = |path: &str, link: &str| executable(Some(path.into()), Path::new("/"), Some(link.into()));
        assert_eq!(given("/dev/fd/5", "/bin/sh"), Path::new("/bin/sh"));
        assert_eq!(given("/proc/self/fd/5", "/bin/sh"), Path::new("/bin/sh"));
        assert_eq!(given("/nowhere/svc", "/bin/sh"), Path::new("/bin/sh"));
        assert_eq!(given("/nowhere/svc", "/nowhere/svc (deleted)"), Path::new("/nowhere/svc"));
        assert_eq!(given("/dev/fd/5", "/memfd:svc (deleted)"), Path::new("/proc/self/exe"));
        assert_eq!(executable(Some("svc".into()), Path::new("/nowhere"), None), Path::new("/nowhere/svc"));
    }

    #[test]
    fn origin_is_what_this_process_was_given() {
        let origin = Origin::capture().unwrap();
        assert!(origin.args.iter().eq(env::args_os().collect::<Vec<_>>().iter()));
        assert!(origin.executable.is_absolute());
        let same = |a: &Path, b: &Path| a.canonicalize().unwrap() == b.canonicalize().unwrap();
        assert!(same(&origin.executable, &env::current_exe().unwrap()));
        assert!(same(&origin.directory, Path::new(".")));
        let files = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(origin.limits.contains(&Limit { resource: Resource::RLIMIT_NOFILE, soft: files.0, hard: files.1 }));
        assert_eq!(origin.limits.len(), 16);
    }
}
