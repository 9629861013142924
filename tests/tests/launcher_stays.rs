//! A container's pid 1 stays the same process through upgrades and crashes, reaps what is left by any, and ends as the service does.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as SocketName, UnixDatagram, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flip_tests::places::{put, who_answers};
use flip_tests::{PATIENCE, Process};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");

/// A service under a launcher.
struct Launched {
    dir: TempDir,
    /// What was started: the launcher, or what gives it a namespace.
    child: Child,
    launcher: Pid,
}

fn start(words: &[&str], launcher: &str, start: &str) -> Launched {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &format!("tcp 127.0.0.1:0\nunix unix:{}", dir.path().join("a.sock").display()));
    std::fs::write(dir.path().join("start"), start).unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut words = words.iter().copied().chain([SOCKETS]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir(dir.path()).env("PWD", dir.path()).env("FLIP_LAUNCHER", launcher);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    ["NOTIFY_SOCKET", "FLIP_CHANNEL", "LISTEN_FDS"].iter().for_each(|name| {
        command.env_remove(name);
    });
    let child = command.process_group(0).spawn().unwrap();
    let launcher = Pid::from_raw(child.id() as i32);
    Launched { dir, child, launcher }
}

/// As pid 1 of a namespace of its own.
fn contained(how: &str) -> Option<Launched> {
    if !geteuid().is_root() {
        flip_tests::skip("only root has namespaces everywhere");
        return None;
    }
    let mut launched = start(&["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"], "auto", how);
    let parent = launched.launcher;
    // One that ends at once may have come and gone, and nothing is asked of it.
    let has_ended = || std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap().contains(") Z ");
    launched.launcher = launched.until("pid 1 is there", || {
        let child = children(parent).first().map(|child| child.0);
        child.or_else(|| has_ended().then_some(parent))
    });
    Some(launched)
}

/// Its children, and the state of each.
fn children(of: Pid) -> Vec<(Pid, char)> {
    let path = format!("/proc/{of}/task/{of}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let state = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        Some((Pid::from_raw(pid.parse().ok()?), state))
    };
    children.split_whitespace().filter_map(state).collect()
}

impl Launched {
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited until {what}:\n{}", self.log());
            std::thread::yield_now();
        }
    }

    fn address(&self) -> SocketAddr {
        self.until("it listens", || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(" has tcp at "))?;
            line.rsplit_once(' ')?.1.parse().ok()
        })
    }

    /// The process that answers, as it knows itself, once it is another one than before.
    fn answers(&self, before: i32) -> i32 {
        let address = self.address();
        self.until("another process answers", || Some(who_answers(address).ok()?.0).filter(|pid| *pid != before))
    }

    /// Waits until the launcher has both listeners, besides where it is told so.
    fn until_kept(&self) {
        self.until("it holds the listeners", || {
            let fds = std::fs::read_dir(format!("/proc/{}/fd", self.launcher)).ok()?.flatten();
            let is_socket = |fd: &std::fs::DirEntry| {
                fd.path().read_link().is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
            };
            (fds.filter(is_socket).count() == 3).then_some(())
        });
    }

    /// What a shell says that the process starts.
    fn ask(&self, pid: i32, question: &str) -> String {
        let path = self.dir.path().join(format!("{pid}.ask"));
        let mut stream = BufReader::new(self.until("it can be asked", || UnixStream::connect(&path).ok()));
        stream.get_mut().write_all(format!("{question}\n").as_bytes()).unwrap();
        let mut line = String::new();
        // One that kills the process has no answer.
        let _ = stream.read_line(&mut line);
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(self.launcher, signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // All of the namespace goes with its pid 1; otherwise those that are left are the launcher's, and it whoever's it is.
        let mut left = children(self.launcher);
        left.extend(children(Pid::from_raw(self.child.id() as i32)));
        let _ = self.child.kill();
        let _ = self.child.wait();
        for (pid, _) in left {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Connects again and again while this is done: nobody is refused.
fn refuses_nobody<T>(address: SocketAddr, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                TcpStream::connect(address).expect("the listener is there without a gap");
            }
        });
        let done_with = act();
        done.store(true, Ordering::SeqCst);
        clients.join().expect("nobody was refused");
        done_with
    })
}

#[test]
fn pid_one_stays_through_upgrades_and_crashes() {
    let Some(mut service) = contained("") else { return };
    let address = service.address();
    let first = service.answers(0);
    assert_ne!(first, 1);
    service.until_kept();
    assert_eq!(service.ask(first, "echo $PPID; env | grep -c ^LISTEN_"), format!("{first} 0"));

    // An upgrade, as `docker kill -s HUP` asks for it.
    service.signal(Signal::SIGHUP);
    let second = service.answers(first);
    // The generation that came by it dies, and then the one that was started for it.
    let mut before = second;
    for _ in 0..2 {
        before = refuses_nobody(address, || {
            service.ask(before, "kill -KILL $PPID");
            service.answers(before)
        });
    }
    // Where the first of them was killed before the old process had heard of it, that one says that nobody owns the service.
    assert_eq!(service.log().matches("; it is started again in ").count(), 2, "{}", service.log());
    assert!(service.child.try_wait().unwrap().is_none(), "it is the same pid 1");
    service.signal(Signal::SIGHUP);
    let last = service.answers(before);

    // A grandchild whose parent has gone is pid 1's, and no zombie.
    service.ask(last, "(true & exec true) & wait");
    service.until("nobody but the service is left", || {
        matches!(children(service.launcher)[..], [(_, state)] if state != 'Z').then_some(())
    });
    assert!(service.dir.path().join("a.sock").exists());
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ended().code(), Some(0));
    assert!(!service.dir.path().join("a.sock").exists(), "a stop is one");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn container_ends_as_its_service_does() {
    let Some(mut failing) = contained("error") else { return };
    assert_eq!(failing.ended().code(), Some(1));
    assert!(!failing.log().contains("started again"), "{}", failing.log());
    let Some(mut exits) = contained("exit") else { return };
    assert_eq!(exits.ended().code(), Some(3));
}

#[test]
fn signal_to_the_launcher_s_group_is_heard_once() {
    let mut service = start(&[], "on", "");
    service.answers(0);
    // As supervisord's `stopasgroup` does: twice would cut what drains.
    killpg(service.launcher, Signal::SIGTERM).unwrap();
    assert_eq!(service.ended().code(), Some(0));
    assert_eq!(service.log().matches("SIGTERM from pid").count(), 1, "{}", service.log());
}

#[test]
fn whoever_started_the_launcher_is_told_by_it() {
    let name = format!("flip-test-{}-above", std::process::id());
    let above = UnixDatagram::bind_addr(&SocketName::from_abstract_name(&name).unwrap()).unwrap();
    above.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut service = start(&["env", &format!("NOTIFY_SOCKET=@{name}"), "WATCHDOG_USEC=400000"], "on", "");
    let hears = |wanted: &str| {
        loop {
            let mut buffer = [0; 4096];
            let length = above.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            // It keeps its pid, and its store is its own.
            assert!(!text.contains("MAINPID") && !text.contains("FDSTORE"), "{text}");
            if text.lines().any(|line| line.starts_with(wanted)) {
                break;
            }
        }
    };
    hears("READY=1");
    hears("WATCHDOG=1");
    let first = service.answers(0);
    service.signal(Signal::SIGHUP);
    hears("RELOADING=1");
    hears("READY=1");
    let second = service.answers(first);
    // Once the first has ended, nothing new comes of it.
    service.until("it has ended", || (!Path::new(&format!("/proc/{first}")).exists()).then_some(()));
    above.set_nonblocking(true).unwrap();
    while above.recv(&mut [0; 4096]).is_ok() {}
    above.set_nonblocking(false).unwrap();
    hears("WATCHDOG=1");
    assert_eq!(service.answers(first), second);
    service.signal(Signal::SIGTERM);
    hears("STOPPING=1");
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn whatever_a_service_is_told_by_reaches_it() {
    let mut service = start(&["env", "FLIP_UPGRADE=SIGALRM", "FLIP_STOP=SIGPWR"], "on", "");
    let first = service.answers(0);
    service.signal(Signal::SIGALRM);
    service.answers(first);
    service.signal(Signal::SIGPWR);
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn launcher_is_small_and_obeys_while_nobody_serves() {
    let mut service = start(&[], "on", "");
    let pid = service.answers(0);
    assert_ne!(pid, service.launcher.as_raw());
    service.until_kept();
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.launcher)).unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let own: u64 = own.split_whitespace().next().unwrap().parse().unwrap();
    assert!(own < 2048, "{own} kB");
    // The pauses grow, and a stop ends one.
    std::fs::write(service.dir.path().join("start"), "exit").unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    for said in ["status 137; it is started again in 100ms", "status 3; it is started again in 200ms", "again in 400ms"]
    {
        service.until(said, || service.log().contains(said).then_some(()));
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ended().code(), Some(3));
}

#[test]
fn program_that_the_service_starts_is_none_of_the_launcher_s() {
    let mut service = start(&[], "on", "");
    let mut pid = service.answers(0);
    for generation in ["first", "second"] {
        assert_eq!(service.ask(pid, "env | grep -cE '^(FLIP_LAUNCHER|NOTIFY_SOCKET|FDSTORE)'"), "0", "{generation}");
        // It uses flip as well, and is the launcher's child as soon as the shell has gone.
        let start = format!(
            "mkdir {generation} && cd {generation} && echo \"unix unix:$PWD/b.sock\" > places && \
             {{ {SOCKETS} < /dev/null > log 2>&1 & echo $!; }}"
        );
        let beside = Pid::from_raw(service.ask(pid, &start).parse().unwrap());
        let dir = service.dir.path().join(generation);
        let said = |what: &str| std::fs::read_to_string(dir.join("log")).is_ok_and(|log| log.contains(what));
        service.until("it is ready", || said("is ready").then_some(()));
        assert!(dir.join("b.sock").exists());
        kill(beside, Signal::SIGTERM).unwrap();
        service
            .until("it is reaped", || children(service.launcher).iter().all(|child| child.0 != beside).then_some(()));
        assert!(!dir.join("b.sock").exists(), "nobody keeps it for a next one");
        service.signal(Signal::SIGHUP);
        pid = service.answers(pid);
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ended().code(), Some(0));
}

/// Under a shell of this name, which waits for what it has started, as it was asked to by these arguments.
fn under(dir: &TempDir, name: &str, arguments: &[&str]) -> Launched {
    let shell = dir.path().join(name);
    std::fs::copy("/bin/sh", &shell).unwrap();
    let mut words = vec![shell.to_str().unwrap()];
    words.extend(arguments);
    let mut launched = start(&words, "auto", "");
    let above = launched.launcher;
    launched.answers(0);
    launched.launcher = children(above)[0].0;
    launched
}

#[test]
fn whoever_waits_for_what_it_has_started_waits_for_the_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("supervisord");
    std::fs::write(&script, "\"$1\"; exit $?").unwrap();
    let waits = ["-c", "\"$0\"; exit $?"];
    let by_name = [
        "runsv",
        "supervise",
        "s6-supervise",
        "supervise-daemon",
        "tini",
        "tini-static",
        "docker-init",
        "catatonit",
        "podman-init",
        "dumb-init",
    ];
    let by_name = by_name.into_iter().map(|name| (name, &waits[..]));
    for (name, arguments) in by_name.chain([("python3", &[script.to_str().unwrap()][..])]) {
        let mut service = under(&dir, name, arguments);
        let first = service.answers(0);
        assert_ne!(first, service.launcher.as_raw(), "{name} has the service itself");
        service.signal(Signal::SIGHUP);
        service.answers(first);
        assert!(service.child.try_wait().unwrap().is_none(), "{name} has ended");
        service.signal(Signal::SIGTERM);
        assert_eq!(service.ended().code(), Some(0), "{name}");
    }
    // Nothing is known of any other.
    let mut service = under(&dir, "runs", &waits);
    assert_eq!(service.answers(0), service.launcher.as_raw());
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn service_of_a_launcher_that_is_killed_stops() {
    let mut service = start(&[], "on", "");
    let address = service.address();
    let first = service.answers(0);
    service.signal(Signal::SIGHUP);
    let pid = Process::open(service.answers(first));
    service.signal(Signal::SIGKILL);
    assert_eq!(service.ended().signal(), Some(Signal::SIGKILL as i32));
    let stops = pid.ends_within(PATIENCE);
    if !stops {
        pid.signal(Signal::SIGKILL);
    }
    assert!(stops, "it serves for nobody:\n{}", service.log());
    let log = service.log();
    assert!(log.contains("the launcher was killed: the service stops") && !log.contains("systemd"), "{log}");
    assert!(!service.dir.path().join("a.sock").exists() && TcpStream::connect(address).is_err());
}
