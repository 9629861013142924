//! Under the supervisors that know nothing of an upgrade: runit, s6 and supervisord.

use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

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

const KINDS: [Kind; 3] = [
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

fn lives(pid: i32) -> bool {
    // One that has ended and is not reaped yet has no program.
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
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
        let output = File::create(&log).unwrap();
        let mut command = words(kind.start, dir.path());
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        match command.process_group(0).spawn() {
            Ok(child) => Some(Supervised { kind, dir, child }),
            Err(error) => {
                flip_tests::skip(&format!("{} is not on this machine: {error}", kind.name));
                None
            }
        }
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
        // A launcher that is killed ends its service; the supervisor does not start another one that it is dead before.
        let pid = words(self.kind.pid, self.dir.path()).output().ok();
        let pid = pid.and_then(|said| String::from_utf8(said.stdout).ok()?.trim().parse().ok());
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(pid) = pid.filter(|pid| *pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
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
    let (orphan, _) = whoami(address).unwrap();
    kill(Pid::from_raw(launcher), Signal::SIGKILL).unwrap();
    until("the service of a dead launcher has ended", || (!lives(orphan)).then_some(()));
    let (_, again) = service.serves(&[orphan]);
    let second =
        until("the supervisor has started another", || Some(service.pid()).filter(|pid| ![0, launcher].contains(pid)));

    service.says(kind.restart);
    let (address, last) = service.serves(&[again]);
    let third = service.pid();
    assert!(![launcher, second].contains(&third));
    service.says(kind.stop);
    until("all have ended", || (![third, last].into_iter().any(lives)).then_some(()));
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
