//! Under the supervisors that know nothing of an upgrade: runit, daemontools, s6 and supervisord.

use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::{io, iter};

use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use super::{COUNTER, deployed, served_at, until, whoami};

/// How each is told what a person would tell it; `{}` is its directory.
struct Kind {
    name: &'static str,
    /// Where the file lies in its directory, and what the file is.
    file: (&'static str, &'static str),
    start: &'static [&'static str],
    /// The process that it has started, as it says.
    pid: &'static [&'static str],
    upgrade: &'static [&'static str],
    restart: &'static [&'static str],
    stop: &'static [&'static str],
    /// Ends the supervisor itself.
    quit: &'static [&'static str],
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "runit",
        file: ("run", include_str!("../../deploy/runit/run")),
        start: &["runsv", "{}"],
        pid: &["cat", "{}/supervise/pid"],
        upgrade: &["sv", "hup", "{}"],
        restart: &["sv", "-w", "30", "restart", "{}"],
        stop: &["sv", "-w", "30", "down", "{}"],
        quit: &["sv", "exit", "{}"],
    },
    Kind {
        name: "s6",
        file: ("run", include_str!("../../deploy/s6/run")),
        start: &["s6-supervise", "{}"],
        pid: &["s6-svstat", "-o", "pid", "{}"],
        upgrade: &["s6-svc", "-h", "{}"],
        restart: &["s6-svc", "-r", "-wr", "-T", "30000", "{}"],
        stop: &["s6-svc", "-d", "-wd", "-T", "30000", "{}"],
        quit: &["s6-svc", "-x", "-d", "{}"],
    },
    Kind {
        name: "supervisord",
        file: ("counter.conf", include_str!("../../deploy/supervisord.conf")),
        start: &["supervisord", "--nodaemon", "--configuration", "{}/supervisord.conf"],
        pid: &["supervisorctl", "-c", "{}/supervisord.conf", "pid", "counter"],
        upgrade: &["supervisorctl", "-c", "{}/supervisord.conf", "signal", "HUP", "counter"],
        restart: &["supervisorctl", "-c", "{}/supervisord.conf", "restart", "counter"],
        stop: &["supervisorctl", "-c", "{}/supervisord.conf", "stop", "counter"],
        quit: &["supervisorctl", "-c", "{}/supervisord.conf", "shutdown"],
    },
    Kind {
        name: "daemontools",
        // It has the same directory, and another `setuidgid`.
        file: ("run", include_str!("../../deploy/runit/run")),
        start: &["supervise", "{}"],
        pid: &["sh", "-c", "svstat {} | sed -n 's/.* up (pid \\([0-9]*\\)).*/\\1/p'"],
        upgrade: &["svc", "-h", "{}"],
        restart: &["svc", "-t", "{}"],
        stop: &["svc", "-d", "{}"],
        quit: &["svc", "-x", "-d", "{}"],
    },
];

/// What has the rest of supervisord's own configuration.
const SUPERVISORD: &str = "[unix_http_server]\nfile={}/control\n\
    [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
    [supervisorctl]\nserverurl=unix://{}/control\n\
    [supervisord]\nlogfile={}/supervisord.log\npidfile={}/supervisord.pid\n\
    [include]\nfiles={}/counter.conf\n";

struct Supervised {
    kind: &'static Kind,
    dir: TempDir,
    child: Child,
}

/// Who runs this program; one that has ended and is not reaped yet runs none.
fn running(program: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|runs| runs == program)).collect()
}

impl Supervised {
    /// `None` where it is not on this machine, which is said.
    fn start(kind: &'static Kind) -> Option<Supervised> {
        if !Uid::effective().is_root() {
            flip_tests::skip("the services of these files become another user, which takes root");
            return None;
        }
        // Everybody may see this one, and so may the user whom the service becomes.
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let at = dir.path().display().to_string();
        let program = dir.path().join("counter");
        fs::copy(COUNTER, &program).unwrap();
        let (file, text) = kind.file;
        let text = deployed(text, program.to_str().unwrap());
        let (log, path) = (dir.path().join("log"), dir.path().join(file));
        // supervisord alone does not leave the output to whom it has it from.
        let text =
            text.replace("redirect_stderr=true", &format!("redirect_stderr=true\nstdout_logfile={}", log.display()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("supervisord.conf"), SUPERVISORD.replace("{}", &at)).unwrap();
        match spawn(kind, dir.path()) {
            Ok(child) => Some(Supervised { kind, dir, child }),
            Err(error) => {
                flip_tests::skip(&format!("{} is not on this machine: {error}", kind.name));
                None
            }
        }
    }

    fn program(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("counter")
    }

    /// From the next start on.
    fn listens_at(&self, address: SocketAddr) {
        let path = self.dir.path().join(self.kind.file.0);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn says(&self, what: &[&str]) -> String {
        let output = words(what, self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{what:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The process that the supervisor takes for the service.
    fn pid(&self) -> i32 {
        self.says(self.kind.pid).trim().parse().unwrap_or(0)
    }

    /// Where the process that was started last serves, and which one that is; once it is another one than those.
    fn serves(&self, than: &[i32]) -> (SocketAddr, i32) {
        until("a new process serves", || {
            let address = served_at(&self.log())?;
            let pid = whoami(address).ok()?.0;
            (!than.contains(&pid)).then_some((address, pid))
        })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}:\n{}", self.kind.name, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A launcher may be about to start one.
        let program = self.program();
        let left = iter::from_fn(|| Some(running(&program)).filter(|left| !left.is_empty()));
        for pid in left.take(1000).flatten() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn spawn(kind: &Kind, dir: &Path) -> io::Result<Child> {
    let output = File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = words(kind.start, dir);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0).spawn()
}

fn words(words: &[&str], dir: &Path) -> Command {
    let dir = dir.to_str().unwrap();
    let mut command = Command::new(words[0]);
    command.args(words[1..].iter().map(|word| word.replace("{}", dir)));
    command
}

fn hits(address: SocketAddr, connection: &mut Option<Http>) -> Result<(), Lost> {
    let mut http = match connection.take() {
        Some(http) => http,
        None => Http::open(address)?,
    };
    let answer = http.exchange("POST", "/hit")?;
    assert_eq!(answer.status, 200, "{answer:?}");
    if !answer.last {
        *connection = Some(http);
    }
    Ok(())
}

fn goes_on(kind: &'static Kind) {
    let Some(mut service) = Supervised::start(kind) else { return };
    let (address, first) = service.serves(&[]);
    let launcher = service.pid();
    assert_ne!(launcher, first, "it knows its supervisor by name, and stays");

    // Upgrades under load: nothing fails, nothing is lost, and the supervisor sees none of it.
    let shared = Shared::default();
    let tally = thread::scope(|scope| {
        let mut load = Load::new(&shared);
        let mut kept = None;
        load.client(scope, move |_, _| hits(address, &mut kept));
        load.client(scope, move |_, _| hits(address, &mut None));
        for generation in 2..5 {
            service.says(kind.upgrade);
            until("the next generation serves", || {
                whoami(address).is_ok_and(|(_, answers)| answers == generation).then_some(())
            });
            assert_eq!(service.pid(), launcher);
        }
        load.stop()
    });
    assert!(!tally.has_lost() && tally.answered > 0, "{tally}");
    let total = Http::open(address).unwrap().exchange("GET", "/total").unwrap().body;
    assert_eq!(total.trim(), tally.answered.to_string(), "each is counted once");

    // A crash: the launcher starts another one, and who comes meanwhile waits.
    let (crashed, _) = whoami(address).unwrap();
    let shared = Shared::default();
    thread::scope(|scope| {
        let mut load = Load::new(&shared);
        load.client(scope, |_, _| Ok(TcpStream::connect(address).map(drop)?));
        kill(Pid::from_raw(crashed), Signal::SIGKILL).unwrap();
        until("another one serves", || whoami(address).is_ok_and(|(pid, _)| pid != crashed).then_some(()));
        let tally = load.stop();
        assert!(!tally.has_lost(), "{tally}");
    });
    assert_eq!(service.pid(), launcher);

    // The launcher dies: nothing is left of its service, and the supervisor starts anew.
    let before = running(&service.program());
    kill(Pid::from_raw(launcher), Signal::SIGKILL).unwrap();
    until("the service of a dead launcher has ended", || {
        let now = running(&service.program());
        (!before.iter().any(|pid| now.contains(pid))).then_some(())
    });
    let (_, again) = service.serves(&before);
    let second =
        until("the supervisor has started another", || Some(service.pid()).filter(|pid| ![0, launcher].contains(pid)));

    service.says(kind.restart);
    let (address, last) = service.serves(&[again]);
    let third =
        until("the supervisor knows it", || Some(service.pid()).filter(|pid| ![0, launcher, second].contains(pid)));

    // The supervisor dies: its service goes on, and stands in the way of the next supervisor's until somebody stops it.
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    service.listens_at(address);
    service.child = spawn(kind, service.dir.path()).unwrap();
    until("the next one's service finds the address in use", || {
        service.log().contains("the address is in use").then_some(())
    });
    assert_eq!(whoami(address).unwrap().0, last);
    kill(Pid::from_raw(third), Signal::SIGTERM).unwrap();
    let (now, _) = service.serves(&[last]);
    assert_eq!(now, address);

    service.says(kind.stop);
    until("all have ended", || running(&service.program()).is_empty().then_some(()));
    assert!(matches!(whoami(address), Err(Lost(Loss::Refused, _))), "a stop is one");
    service.says(kind.quit);
    until("the supervisor ends", || service.child.try_wait().unwrap());
}

#[test]
fn runit() {
    goes_on(&KINDS[0]);
}

#[test]
fn s6() {
    goes_on(&KINDS[1]);
}

#[test]
fn supervisord() {
    goes_on(&KINDS[2]);
}

#[test]
fn daemontools() {
    goes_on(&KINDS[3]);
}
