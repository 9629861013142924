//! All generations of the service, as children of the demo.
//!
//! A new generation is started by the one before it and so is no child of the demo; but when its parent is gone it is
//! given to the nearest process that adopts orphans (PR_SET_CHILD_SUBREAPER, prctl(2)), which the demo is. So all of
//! them can be counted, waited for, and in the end ended, by pid.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long processes that were asked to stop may take until they are killed.
const GRACE: Duration = Duration::from_secs(3);

pub struct Family {
    /// How each child that is gone went.
    gone: RefCell<BTreeMap<i32, WaitStatus>>,
    /// Those that were meant to leave badly. They may become children, and be reaped, only later.
    pardoned: RefCell<BTreeSet<i32>>,
}

impl Family {
    pub fn adopt() -> nix::Result<Self> {
        prctl::set_child_subreaper(true)?;
        Ok(Self { gone: RefCell::default(), pardoned: RefCell::default() })
    }

    /// The pids of the children that are still there.
    pub fn alive(&self) -> Vec<i32> {
        self.reap();
        children()
    }

    /// Whether this process has ended, whoever its parent is.
    pub fn has_left(&self, pid: i32) -> bool {
        self.reap();
        match stat(pid) {
            // A child that is shown as ended and was not reaped still has threads that end: its status is yet to come.
            Some((state, parent)) => state == 'Z' && parent != std::process::id(),
            None => true,
        }
    }

    /// How the process ended, if it was a child and has ended.
    pub fn end_of(&self, pid: i32) -> Option<WaitStatus> {
        self.reap();
        self.gone.borrow().get(&pid).copied()
    }

    /// Takes a child out of the account of those that left badly: it was meant to.
    pub fn pardon(&self, pid: i32) {
        self.pardoned.borrow_mut().insert(pid);
    }

    /// The children that left with anything but exit status 0, as sentences.
    pub fn left_badly(&self) -> Vec<String> {
        self.reap();
        let describe = |(pid, status): (&i32, &WaitStatus)| match *status {
            WaitStatus::Exited(_, 0) => None,
            WaitStatus::Exited(_, code) => Some(format!("pid {pid} left with status {code}")),
            WaitStatus::Signaled(_, signal, _) => Some(format!("pid {pid} was ended by {signal}")),
            _ => None,
        };
        let pardoned = self.pardoned.borrow();
        self.gone.borrow().iter().filter(|(pid, _)| !pardoned.contains(pid)).filter_map(describe).collect()
    }

    fn reap(&self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return,
                Ok(status) => {
                    if let Some(pid) = status.pid() {
                        self.gone.borrow_mut().insert(pid.as_raw(), status);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return, // ECHILD: nobody left
            }
        }
    }
}

impl Drop for Family {
    /// Asks every child to stop, and kills those that do not. Looks again each time: who loses its parent meanwhile
    /// is a child from then on.
    fn drop(&mut self) {
        let (start, mut asked) = (Instant::now(), Vec::new());
        loop {
            let alive = self.alive();
            if alive.is_empty() {
                return;
            }
            let patient = start.elapsed() < GRACE;
            for pid in alive {
                // A child that is gone by now is a zombie until it is reaped, so the pid is nobody else's.
                if !patient {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                } else if !asked.contains(&pid) {
                    kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
                    asked.push(pid);
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// All processes whose parent is this one, those included that have ended and are not reaped yet.
fn children() -> Vec<i32> {
    let me = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| stat(pid).is_some_and(|(_, parent)| parent == me))
        .collect()
}

/// State and parent of a process, from proc_pid_stat(5). The name before them is in parentheses and may hold any.
fn stat(pid: i32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
