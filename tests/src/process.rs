//! One process, held by its pidfd, and what /proc says about it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    Signal(Signal),
}

/// A process of a service. It is not killed when this is dropped: the [`Chain`](crate::Chain) does that.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// A process whose number cannot have come to mean another, because this test reaps it, or just heard from it.
    pub fn open(pid: i32) -> Process {
        // SAFETY: takes integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = Errno::result(fd).unwrap_or_else(|errno| panic!("process {pid} cannot be watched: {errno}"));
        // SAFETY: the call above has just opened it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        Process { pid, pidfd }
    }

    /// The number that no other process ever has; none where every handle of one has the same, before Linux 6.9.
    pub fn identity(&self) -> Option<u64> {
        let inode = |process: &Process| nix::sys::stat::fstat(&process.pidfd).expect("it is open").st_ino;
        Some(inode(self)).filter(|id| *id != inode(&Process::open(nix::unistd::getpid().as_raw())))
    }

    pub fn signal(&self, signal: Signal) {
        use std::os::fd::AsRawFd;
        // SAFETY: takes integers, and no information about the signal.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal as i32, std::ptr::null::<u8>(), 0)
        };
        Errno::result(sent).unwrap_or_else(|errno| panic!("{signal} cannot be sent to {}: {errno}", self.pid));
    }

    /// Whether it has ended; a zombie has.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end, at most so long; says whether it came.
    pub fn ends_within(&self, time: Duration) -> bool {
        let timeout = PollTimeout::try_from(time).expect("a few seconds fit");
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, timeout) {
                Ok(ready) => return ready == 1,
                Err(Errno::EINTR) => {}
                Err(errno) => panic!("poll of a pidfd: {errno}"),
            }
        }
    }

    /// How it ended, which takes the zombie away; the test must be its parent by now, and ask once.
    pub(crate) fn reap(&self) -> Exit {
        match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, status)) => Exit::Status(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal),
            other => panic!("process {} cannot be reaped: {other:?}", self.pid),
        }
    }

    /// A file of its directory in /proc.
    pub fn proc(&self, file: &str) -> Vec<u8> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A field of its status, such as `SigBlk`.
    pub fn status(&self, field: &str) -> String {
        let status = String::from_utf8(self.proc("status")).expect("the kernel writes text");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("the status has no {field}")).trim().to_owned()
    }

    /// Its open sockets, by the inode that each of them keeps in another process.
    pub fn sockets(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the process is there").flatten();
        // One that was closed meanwhile is not open.
        let targets = entries.filter_map(|entry| Some(entry.path().read_link().ok()?.to_string_lossy().into_owned()));
        targets.filter(|target| target.starts_with("socket:")).collect()
    }

    /// Its open descriptors: the number, and what is behind it. Inodes of sockets and pipes are replaced by nothing,
    /// as each generation has its own. What the kernel tells in files is not listed: it is only looked at.
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        let mut descriptors = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the process is there").flatten() {
            // One that was closed meanwhile is not open.
            let Ok(target) = entry.path().read_link() else { continue };
            let target = target.to_string_lossy();
            if target.starts_with("/proc/") || target.starts_with("/sys/") {
                continue;
            }
            let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind).to_owned();
            let number = entry.file_name().to_string_lossy().parse().expect("descriptors are numbers");
            descriptors.insert(number, kind);
        }
        descriptors
    }

    /// The names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("the process is there");
        let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
        // One that ended meanwhile has none.
        names.flatten().map(|name| name.trim_end().to_owned()).collect()
    }

    /// How many descriptors of each kind are open.
    pub fn descriptor_kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for kind in self.descriptors().into_values() {
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// The environment that it was started with.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let bytes = self.proc("environ");
        let variables = bytes.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
        variables
            .map(|variable| {
                let variable = String::from_utf8_lossy(variable);
                let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
                (name.to_owned(), value.to_owned())
            })
            .collect()
    }
}
