//! The programs that are compared: how they are built, started, watched and ended.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::Scenario;
use crate::http::{Connection, FILL, Loss, TOUCH, WHOAMI};

pub struct Contender {
    pub name: &'static str,
    pub bin: &'static str,
    /// Whether its listener is inherited from the driver, because it does not pass one on itself.
    pub activated: bool,
    /// Whether the count is meant to survive.
    pub counts: bool,
    /// What kind of a large state it has in the scenario of that name, the only one that it takes part in.
    pub state: Option<&'static str>,
    pub note: &'static str,
}

impl Contender {
    pub fn takes_part(&self, scenario: Scenario) -> bool {
        scenario != Scenario::Connections && self.state.is_some() == (scenario == Scenario::State)
    }
}

/// What the others are compared with.
pub const FLOOR: &str = "floor";

/// Built by somebody else, from another state of the sources.
pub const OTHER: &str = "other";

/// Those with a large state.
pub const STATELESS: &str = "flip-stateless";
pub const VECTORS: &str = "flip-vectors";
pub const REGION: &str = "flip-region";
pub const PIPED: &str = "shellflip-vectors";

pub const CONTENDERS: &[Contender] = &[
    Contender {
        name: FLOOR,
        bin: "bench_floor",
        activated: false,
        counts: false,
        state: None,
        note: "posix_spawn, inherited listener, one byte through a pipe: no state, no checks, no deadline, no roll-back",
    },
    Contender {
        name: "flip",
        bin: "bench_flip",
        activated: false,
        counts: true,
        state: None,
        note: "listener and count handed over",
    },
    Contender {
        name: OTHER,
        bin: OTHER,
        activated: false,
        counts: true,
        state: None,
        note: "another build of the same program, as --other names it",
    },
    Contender {
        name: "ecdysis",
        bin: "bench_ecdysis",
        activated: false,
        counts: false,
        state: None,
        note: "1.1.1; hands over the listener, no state: the count starts anew",
    },
    Contender {
        name: "shellflip",
        bin: "bench_shellflip",
        activated: true,
        counts: true,
        state: None,
        note: "2.1.3; does less: passes no listener (serves on a descriptor inherited from the driver, as with socket \
               activation), copies the count without a freeze; its coordination socket is off, so that it need not fork",
    },
    Contender {
        name: STATELESS,
        bin: "bench_state",
        activated: false,
        counts: false,
        state: Some("none"),
        note: "the next one's program with an empty state",
    },
    Contender {
        name: VECTORS,
        bin: "bench_state",
        activated: false,
        counts: false,
        state: Some("vectors"),
        note: "flip, the state in vectors of 16 MiB, held still from freeze to commit",
    },
    Contender {
        name: REGION,
        bin: "bench_state",
        activated: false,
        counts: false,
        state: Some("region"),
        note: "flip, the state in one Region",
    },
    Contender {
        name: PIPED,
        bin: "bench_shellflip",
        activated: true,
        counts: false,
        state: Some("vectors"),
        note: "shellflip, the same vectors as they lie through its pipe; its pause is from the first byte until the new \
               process is ready, for what would be changed meanwhile would be lost",
    },
];

/// Builds the contenders. In one call of cargo, so that all of them get the same tokio and axum, with the same features: with
/// shellflip among them that is tokio's `full` and `test-util`.
pub fn build(contenders: &[&Contender]) -> Result<HashMap<String, PathBuf>, String> {
    let bins: Vec<_> = contenders.iter().map(|contender| contender.bin).filter(|bin| *bin != OTHER).collect();
    cargo_build(&["-p", "flip-tests", "--features", "peers"], &bins)
}

/// Has them lie in the page cache all alike: what was written at one go is mapped in larger pieces than what a linker wrote, and starts
/// a fifteenth faster.
pub fn copy(executables: &mut HashMap<String, PathBuf>) -> io::Result<TempDir> {
    let dir = TempDir::new()?;
    for (name, path) in executables {
        let copy = dir.path().join(name);
        std::fs::copy(&*path, &copy)?;
        *path = copy;
    }
    Ok(dir)
}

/// Builds programs of this workspace, optimised, into the target directory that this one came from.
pub fn cargo_build(what: &[&str], bins: &[&str]) -> Result<HashMap<String, PathBuf>, String> {
    // Ours is <target>/release/deps/restart-…, unless somebody moved it. This also finds a CARGO_TARGET_DIR again that is
    // relative to a directory which is no longer the current one.
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own.ancestors().nth(3).filter(|_| own.parent().is_some_and(|deps| deps.ends_with("deps")));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--message-format=json-render-diagnostics", "--manifest-path"]);
    cargo.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).args(what);
    if let Some(target) = target {
        cargo.arg("--target-dir").arg(target);
    }
    for bin in bins {
        cargo.args(["--bin", bin]);
    }
    let output = cargo.stderr(Stdio::inherit()).output().map_err(|error| format!("{cargo:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{cargo:?}: {}", output.status));
    }
    let executables = output.stdout.lines().map_while(Result::ok).filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(&line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    });
    Ok(executables.collect())
}

/// A contender that serves: whichever process of its chain does so now.
pub struct Running {
    pub contender: &'static Contender,
    pub address: SocketAddr,
    /// The process that serves.
    pub pid: Pid,
    /// A second one while a restart is under way, to be ended with the first.
    pub other: Option<Pid>,
    log: Arc<Mutex<Log>>,
}

/// What the processes of one chain wrote to their standard error.
#[derive(Default)]
struct Log {
    last_lines: VecDeque<String>,
    freezes: Vec<u64>,
}

impl Running {
    pub fn start(contender: &'static Contender, executable: &Path, resident: u64) -> io::Result<Running> {
        // The kernel's choice of a port. Where the contender binds for itself this only finds a free one.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let mut command = Command::new(executable);
        command.env("BENCH_ADDR", address.to_string()).env("BENCH_RESIDENT", resident.to_string());
        command.env("BENCH_STATE", contender.state.unwrap_or("none"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if contender.activated {
            // Inheritable until it is dropped below: this program starts one process at a time.
            fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
            command.env("BENCH_LISTENER", listener.as_raw_fd().to_string());
        }
        let listener = contender.activated.then_some(listener);
        let mut child = command.spawn()?;
        drop(listener);
        let log = Arc::new(Mutex::new(Log::default()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            // Ends with the last process of the chain.
            std::thread::spawn(move || follow(stderr, &log));
        }
        let pid = Pid::from_raw(child.id().cast_signed());
        let running = Running { contender, address, pid, other: None, log };
        let deadline = Instant::now() + Duration::from_secs(10);
        while running.serving_pid() != Ok(pid) {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} does not serve:\n{}", contender.name, running.last_lines())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(running)
    }

    /// Asks over a fresh connection who answers.
    pub fn serving_pid(&self) -> Result<Pid, Loss> {
        let mut connection = Connection::open(self.address)?;
        let answer = connection.exchange(WHOAMI)?;
        let whoami: serde_json::Value = serde_json::from_slice(answer.body).map_err(|_| Loss::Other)?;
        let pid = whoami["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).ok_or(Loss::Other)?;
        connection.close_at_once();
        Ok(Pid::from_raw(pid))
    }

    /// One visit, and the count that it was answered with.
    pub fn visit(&self) -> Result<u64, Loss> {
        let mut connection = Connection::open(self.address)?;
        let answer = connection.exchange(crate::http::ROOT)?;
        let count = std::str::from_utf8(answer.body).ok().and_then(|body| body.split([' ', ',']).nth(1)?.parse().ok());
        connection.close_at_once();
        count.ok_or(Loss::Other)
    }

    /// Makes the serving process as large as it was told to be when it was started.
    pub fn touch(&self) -> Result<(), Loss> {
        let request = if self.contender.state.is_some() { FILL } else { TOUCH };
        Connection::open(self.address)?.exchange_within(request, Duration::from_secs(120)).map(drop)
    }

    /// The resident memory of the serving process in bytes.
    pub fn resident(&self) -> Option<u64> {
        memory(self.pid, "VmRSS:")
    }

    /// The times from freeze to commit that were reported since the last call, in microseconds.
    pub fn take_freezes(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.log).freezes)
    }

    pub fn last_lines(&self) -> String {
        lock(&self.log).last_lines.iter().fold(String::new(), |text, line| text + "    " + line + "\n")
    }
}

/// What the kernel says in bytes about the memory of a process, as long as that is there; proc(5) has the fields.
pub fn memory(pid: Pid, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

impl Drop for Running {
    fn drop(&mut self) {
        for pid in [Some(self.pid), self.other].into_iter().flatten() {
            // One that is gone already, and reaped, is as good.
            let Ok(watch) = Watch::on(pid) else { continue };
            let _ = kill(pid, Signal::SIGKILL);
            watch.wait(Duration::from_secs(10));
        }
        reap();
    }
}

fn follow(stderr: ChildStderr, log: &Mutex<Log>) {
    const KEPT: usize = 20;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut log = lock(log);
        if let Some(freeze) = freeze_to_commit(&line) {
            log.freezes.push(freeze);
            continue;
        }
        if log.last_lines.len() == KEPT {
            log.last_lines.pop_front();
        }
        log.last_lines.push_back(line);
    }
}

/// Reads `… freeze to commit 123 us …`.
fn freeze_to_commit(line: &str) -> Option<u64> {
    line.split_once("freeze to commit ")?.1.split_once(" us")?.0.parse().ok()
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle that becomes readable when the process ends, reaped or not.
pub struct Watch(OwnedFd);

impl Watch {
    pub fn on(pid: Pid) -> io::Result<Watch> {
        // SAFETY: takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
        Ok(Watch(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("descriptors are small")) }))
    }

    /// When the process ended, unless it outlives the patience.
    pub fn wait(&self, patience: Duration) -> Option<Instant> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            // Rounded up, or the last millisecond would be a busy loop.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(1) => return Some(Instant::now()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Takes the exit statuses of whoever has ended. This program is their subreaper: a process whose predecessor is gone is
/// its child.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
