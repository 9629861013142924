//! The process that starts the service and stays: pid 1 of a container, whose end would be the container's, or what a shell waits for.
//!
//! ```text
//!  launcher         ── starts ──▶ generation 1 ──▶ generation 2 …      each a child of the launcher's, which reaps all
//!      ▲  signals, forwarded ─────▶ whoever serves, with the sender's number
//!      └─ NOTIFY_SOCKET: MAINPID=, READY=1, STOPPING=1, FDSTORE=1      as systemd is told, by the same code
//! ```
//!
//! It is a service manager of one service, and speaks as systemd does: it is told who serves, keeps the listeners in a store, and passes
//! them to the next process where one dies. It has one thread, reads no configuration, and answers nobody.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, getppid, getsid};

use crate::config::Launcher;
use crate::error::Error;
use crate::log::say;
use crate::sys::env::{self, Origin};
use crate::sys::fd::{self, PollEntry};
use crate::sys::signal::{self, Sender, Signals};
use crate::sys::spawn;
use crate::systemd::Socket;

/// Before a service that died is started again; doubled each time. Meanwhile a new process of an upgrade, if there is one, says whether it has
/// taken over.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A service that has lasted so long begins with the first pause.
const LASTED: Duration = Duration::from_secs(60);
/// What the store holds.
const ROOM: usize = 1024;

/// Supervisors, and pid 1s of containers, that wait for the process they have started and know no other. The kernel keeps 15 bytes of a name.
const WAIT_FOR_THEIR_CHILD: [&str; 11] = [
    // runit; daemontools and its like; s6; OpenRC's supervise-daemon.
    "runsv",
    "supervise",
    "s6-supervise",
    "supervise-daemo",
    "supervisord",
    // `docker run --init` and `podman run --init` call theirs so.
    "tini",
    "tini-static",
    "docker-init",
    "catatonit",
    "podman-init",
    "dumb-init",
];

/// Becomes the launcher, where one is wanted, and then ends with the service's status. Returns where this process is the service.
///
/// To be called before any thread exists.
pub(crate) fn launch(wanted: Launcher) -> Result<Option<i32>, Error> {
    let wanted = match std::env::var("FLIP_LAUNCHER").as_deref() {
        // Of the launcher above.
        Ok(pid) if pid.parse::<i32>().is_ok() => return Ok(None),
        Ok("on") => Launcher::On,
        Ok("off") => Launcher::Off,
        Ok("auto") => Launcher::Auto,
        Ok(text) => return Err(Error::program(format!("FLIP_LAUNCHER={text:?} is none of auto, on and off"))),
        Err(_) => wanted,
    };
    let this = Pid::this();
    if std::env::var_os(env::CHANNEL).is_some()
        || match wanted {
            Launcher::Off => true,
            Launcher::On => false,
            Launcher::Auto => {
                let terminal = || io::stdin().is_terminal() && env::has_terminal();
                this.as_raw() != 1 && !terminal() && !is_waited_for(getppid())
            }
        }
    {
        return Ok(None);
    }
    let failed = |error: io::Error| Error::system("become the launcher", error);
    let mut keeper = Keeper::new().map_err(failed)?;
    keeper.run().map(Some).map_err(failed)
}

/// Whether the service does not get what the kernel has sent here: that a terminal hangs up, where this process leads its session
/// (credentials(7)); the keys of one and its size, where the service is in another process group; and whatever is no terminal's, such as
/// a timer that outlived execve(2), or the keys that the kernel tells pid 1 of (reboot(2), `CAD_OFF`).
fn is_for_this_alone(signal: Signal, service: Pid) -> bool {
    match signal {
        Signal::SIGHUP if getsid(None) == Ok(Pid::this()) => true,
        Signal::SIGHUP | Signal::SIGCONT => is_in_another_group(service),
        Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH => is_in_another_group(service) || !env::has_terminal(),
        _ => true,
    }
}

fn is_in_another_group(service: Pid) -> bool {
    getpgid(Some(service)).is_ok_and(|group| group != getpgrp())
}

/// Whether whoever started this process waits for it, and has no way to learn of another.
fn is_waited_for(parent: Pid) -> bool {
    // Of a parent that is not to be seen nothing is known.
    let read = |file: &str| std::fs::read(format!("/proc/{parent}/{file}")).unwrap_or_default();
    waits_for_its_child(&read("comm"), &read("cmdline"))
}

/// By the name of a process and its arguments, as proc(5) has them.
fn waits_for_its_child(name: &[u8], arguments: &[u8]) -> bool {
    let is_known = |name: &[u8]| WAIT_FOR_THEIR_CHILD.iter().any(|known| known.as_bytes() == name);
    let name = name.trim_ascii_end();
    // Python that was asked to run a script is called Python.
    let mut words = arguments.split(|byte| *byte == 0).skip(1).filter(|word| !word.starts_with(b"-"));
    let script = words.next().and_then(|path| path.rsplit(|byte| matches!(byte, b'/' | b'.')).next());
    is_known(name) || (name.starts_with(b"python") && script.is_some_and(is_known))
}

struct Keeper {
    origin: Origin,
    signals: Signals,
    notify: UnixDatagram,
    /// Where whoever started this process wants to be told.
    above: Option<Socket>,
    store: BTreeMap<String, Vec<OwnedFd>>,
    service: Service,
    /// One of its processes has served.
    ready: bool,
}

enum Service {
    /// This process serves, or is about to.
    Runs { pid: Pid, since: Instant, pause: Duration, stops: bool },
    /// It has died, with this status, and is started again then.
    Died { status: i32, at: Instant, pause: Duration },
}

impl Keeper {
    fn new() -> io::Result<Keeper> {
        let origin = Origin::capture()?;
        let passed = env::take_passed();
        nix::sys::prctl::set_child_subreaper(true)?;
        let mut handled = signal::TELL.to_vec();
        handled.push(Signal::SIGCHLD);
        let signals = Signals::install(&handled)?;
        // A name that the kernel makes up (unix(7), autobind); whoever speaks there is known by its credentials.
        let notify = fd::autobound_datagram()?;
        setsockopt(&notify, sockopt::PassCred, &true)?;
        notify.set_nonblocking(true)?;
        let above = std::env::var_os("NOTIFY_SOCKET").and_then(|name| Socket::open(&name, "systemd").ok());
        let mut store = BTreeMap::<_, Vec<_>>::new();
        for (name, fd) in passed {
            store.entry(name).or_default().push(fd);
        }
        let died = Service::Died { status: 0, at: Instant::now(), pause: FIRST_PAUSE };
        Ok(Keeper { origin, signals, notify, above, store, service: died, ready: false })
    }

    fn run(&mut self) -> io::Result<i32> {
        self.start(FIRST_PAUSE)?;
        loop {
            let pause = match &self.service {
                Service::Runs { .. } => None,
                Service::Died { at, .. } => Some(at.saturating_duration_since(Instant::now())),
            };
            let mut entries = [PollEntry::readable(self.signals.as_fd()), PollEntry::readable(self.notify.as_fd())];
            if let Err(error) = fd::poll(&mut entries, pause) {
                // For lack of memory, which may pass.
                say!(error, "the launcher cannot wait and tries again: {error}");
                std::thread::sleep(FIRST_PAUSE);
            }
            // What was said comes before who has died, so that the one that it named is known.
            self.hear();
            if let Some(status) = self.obey(None) {
                return Ok(status);
            }
            if let Some(status) = self.reap() {
                return Ok(status);
            }
            if let Service::Died { status, at, pause } = self.service
                && at <= Instant::now()
                && let Err(error) = self.start(pause)
            {
                say!(error, "the service cannot be started again, which is tried again in {pause:?}: {error}");
                self.service =
                    Service::Died { status, at: Instant::now() + pause, pause: (pause * 2).min(LONGEST_PAUSE) };
            }
        }
    }

    fn start(&mut self, pause: Duration) -> io::Result<()> {
        let name = self.notify.local_addr()?;
        let name = name.as_abstract_name().map(String::from_utf8_lossy).unwrap_or_default();
        let variables: [(&str, OsString); 3] = [
            ("NOTIFY_SOCKET", format!("@{name}").into()),
            ("FDSTORE", ROOM.to_string().into()),
            ("FLIP_LAUNCHER", Pid::this().to_string().into()),
        ];
        let kept = self.store.iter().flat_map(|(name, fds)| fds.iter().map(move |fd| (name.as_str(), fd.as_fd())));
        // A watchdog of this process's hears of the service, whose number it is not told; another's is nobody's, sd_watchdog_enabled(3).
        let this = Pid::this().to_string();
        let watched = std::env::var_os("WATCHDOG_PID").is_none_or(|pid| *pid == *this);
        let less = ["SYSTEMD_EXEC_PID", if watched { "WATCHDOG_PID" } else { "WATCHDOG_USEC" }];
        let pid = spawn::start_child(&self.origin, &variables, &less, &kept.collect::<Vec<_>>())?;
        self.service = Service::Runs { pid, since: Instant::now(), pause, stops: false };
        Ok(())
    }

    /// What the service says, sd_notify(3).
    fn hear(&mut self) {
        let mut buffer = [0; 8192];
        while let Ok(mut packet) = fd::recv(self.notify.as_fd(), &mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..packet.len]).into_owned();
            let fields = || text.lines().filter_map(|line| line.split_once('='));
            let field = |wanted: &str| fields().find(|(name, _)| *name == wanted).map(|(_, value)| value);
            let Some(from) = packet.pid else { continue };
            let next = field("MAINPID").and_then(|pid| pid.parse().ok()).map(Pid::from_raw);
            if let Service::Runs { pid, .. } = self.service
                && from == pid
                && let Some(next) = next.filter(|next| *next != pid)
                && is_alive(pid)
            {
                // What was sent before that was said is for the process that has said it: where the sender told both, that one knows.
                // Once it is gone, it is for the next; so is what the kernel has sent, and who ends may not hear.
                self.obey(Some(next));
            }
            match &mut self.service {
                Service::Runs { pid, stops, since, .. } if from == *pid => {
                    self.ready |= field("READY").is_some();
                    *stops |= field("STOPPING").is_some();
                    if let Some(next) = next.filter(|next| next != pid) {
                        (*pid, *since) = (next, Instant::now());
                    }
                }
                // The new process of an upgrade, whose old one has died: it has the service.
                Service::Died { pause, .. } if next == Some(from) && is_child(from) => {
                    let pause = *pause;
                    self.service = Service::Runs { pid: from, since: Instant::now(), pause, stops: false };
                }
                _ => continue,
            }
            let name = field("FDNAME").unwrap_or("stored");
            if field("FDSTOREREMOVE").is_some() {
                self.store.remove(name);
            } else if field("FDSTORE").is_some() {
                if packet.truncated || (self.store.len() == ROOM && !self.store.contains_key(name)) {
                    say!(warn, "the launcher has no room for `{name}`: a process that dies leaves it to nobody");
                } else {
                    self.store.insert(name.to_owned(), std::mem::take(&mut packet.fds));
                }
            }
            self.pass_on(&text);
        }
    }

    /// What whoever started this process is told of it as well.
    fn pass_on(&mut self, said: &str) {
        const PASSED_ON: [&str; 7] =
            ["READY", "RELOADING", "MONOTONIC_USEC", "STOPPING", "STATUS", "EXTEND_TIMEOUT_USEC", "WATCHDOG"];
        let Some(above) = &mut self.above else { return };
        let is_passed_on = |line: &&str| line.split_once('=').is_some_and(|(name, _)| PASSED_ON.contains(&name));
        match &said.lines().filter(is_passed_on).collect::<Vec<_>>()[..] {
            [] => {}
            // It comes again, and is not to stand in the way of what does not.
            [heartbeat] if heartbeat.starts_with("WATCHDOG=") => above.mention(heartbeat),
            lines => above.say(lines.join("\n")),
        }
    }

    /// Forwards signals; gives a status where there is nobody who could be told to stop.
    fn obey(&mut self, next: Option<Pid>) -> Option<i32> {
        while let Some(received) = self.signals.read() {
            let signal = received.signal;
            if signal == Signal::SIGCHLD {
                continue;
            }
            match &mut self.service {
                Service::Runs { pid, stops, .. } => {
                    // With the number of its sender, who may have told the service as well.
                    let (to, word) = match received.from {
                        Sender::Process(sender) => (*pid, sender.as_raw()),
                        Sender::Kernel if is_for_this_alone(signal, *pid) => {
                            (next.unwrap_or(*pid), signal::BY_THE_KERNEL)
                        }
                        Sender::Kernel | Sender::KernelByLauncher => continue,
                    };
                    // Whatever becomes of it now, it is not wanted again.
                    *stops |= signal == Signal::SIGTERM;
                    if signal::queue(to, signal, word).is_err() {
                        // A filter of system calls forbids that, and maybe not this; or it is dead, which is seen next.
                        let _ = kill(to, signal);
                    }
                }
                Service::Died { status, .. }
                    if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)
                        || (signal == Signal::SIGHUP
                            && received.from == Sender::Kernel
                            && !self.origin.ignored.contains(signal)) =>
                {
                    return Some(*status);
                }
                Service::Died { .. } => {}
            }
        }
        None
    }

    /// Takes whoever has ended; gives the status to end with, where that was the service's end.
    fn reap(&mut self) -> Option<i32> {
        loop {
            let (gone, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, status),
                // As a shell would say it.
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
                Ok(_) | Err(_) => continue,
            };
            // Its last words may name who comes next.
            self.hear();
            let Service::Runs { pid, since, pause, stops } = self.service else { continue };
            if gone != pid {
                continue;
            }
            if status == 0 || stops || !self.ready {
                return Some(status);
            }
            let (pause, next) = pauses(pause, since.elapsed());
            say!(
                error,
                "the service (pid {pid}) has died with status {status}; it is started again in {pause:?}, with its listeners"
            );
            self.service = Service::Died { status, at: Instant::now() + pause, pause: next };
        }
    }
}

/// How long it is until a service that has lasted so long is started again, and until the next one is that dies.
fn pauses(pause: Duration, lasted: Duration) -> (Duration, Duration) {
    let pause = if lasted > LASTED { FIRST_PAUSE } else { pause };
    (pause, (pause * 2).min(LONGEST_PAUSE))
}

/// Whether it is a child of this process, and not anybody who says so.
fn is_child(pid: Pid) -> bool {
    look_at(pid).is_ok()
}

/// Whether it is one that has not ended.
fn is_alive(pid: Pid) -> bool {
    look_at(pid) == Ok(WaitStatus::StillAlive)
}

fn look_at(child: Pid) -> nix::Result<WaitStatus> {
    waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_its_child_is_known_by_its_name() {
        assert!(waits_for_its_child(b"runsv\n", b"runsv\0counter\0"));
        assert!(waits_for_its_child(b"supervise-daemo\n", b""));
        assert!(WAIT_FOR_THEIR_CHILD.iter().all(|name| name.len() <= 15), "the kernel has no longer ones");
        for arguments in [
            "/usr/bin/python3\0/usr/bin/supervisord\0-n\0",
            "python\0-u\0supervisord\0",
            "python3\0-m\0supervisor.supervisord\0",
        ] {
            assert!(waits_for_its_child(b"python3.11\n", arguments.as_bytes()), "{arguments}");
            assert!(!waits_for_its_child(b"vim\n", arguments.as_bytes()), "{arguments}");
        }
        for (name, arguments) in [
            ("", ""),
            ("systemd\n", "/sbin/init\0"),
            ("sh\n", "sh\0runsv\0"),
            ("runsvdir\n", "runsvdir\0"),
            ("python3\n", "python3\0"),
            ("python3\n", "python3\0app.py\0supervisord\0"),
        ] {
            assert!(!waits_for_its_child(name.as_bytes(), arguments.as_bytes()), "{name}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_begin_again() {
        let mut pause = FIRST_PAUSE;
        let grown = std::iter::repeat_with(|| {
            let (now, next) = pauses(pause, LASTED);
            pause = next;
            now.as_millis()
        });
        let grown: Vec<_> = grown.take(9).collect();
        assert_eq!(grown, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        let second = Duration::from_secs(1);
        assert_eq!(pauses(pause, LASTED + second), (FIRST_PAUSE, FIRST_PAUSE * 2));
    }
}
