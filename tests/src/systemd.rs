//! A real systemd beside whatever runs this machine: `tests/systemd/real-systemd` starts it, as process 1 of its own process
//! numbers, on the network of the machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::Client;
use crate::{Gate, PATIENCE};

/// The releases that differ in what they do with a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// Without `Type=notify-reload`.
    V252,
    V254,
    V257,
    /// As this is written, the newest.
    V262,
}

impl Release {
    /// Where Debian has it.
    fn suite(self) -> &'static str {
        match self {
            Release::V252 => "bookworm",
            Release::V254 => "bookworm-backports",
            Release::V257 => "trixie",
            Release::V262 => "forky",
        }
    }

    /// How a unit says that it reloads.
    pub fn reloads(self) -> &'static str {
        match self {
            Release::V252 => "Type=notify\nExecReload=/bin/kill -HUP $MAINPID",
            _ => "Type=notify-reload",
        }
    }

    /// `systemctl reload` returns when the reload is done.
    pub fn waits(self) -> bool {
        self != Release::V252
    }
}

/// One that runs, until the test process ends.
#[derive(Debug)]
pub struct Systemd {
    release: Release,
    name: String,
    target: PathBuf,
    /// Closed with this process, even if it is killed.
    _held: Option<ChildStdin>,
}

/// Exit status of the script: this machine cannot.
const CANNOT: i32 = 77;

impl Systemd {
    /// The one of this release that the tests of a program share; with a `label` of its own, one that nobody else has.
    /// `None` where this machine cannot have one, which is said.
    ///
    /// `scratch` is cargo's directory for tests, `CARGO_TARGET_TMPDIR`.
    pub fn get(release: Release, label: &str, scratch: &str) -> Option<&'static Systemd> {
        static UP: Mutex<BTreeMap<String, Option<&'static Systemd>>> = Mutex::new(BTreeMap::new());
        let name = format!("flip-{}-{}{label}", std::process::id(), release.suite());
        let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
        *up.entry(name.clone()).or_insert_with(|| {
            let target = Path::new(scratch).parent().expect("it lies in the target directory").to_owned();
            let mut systemd = Systemd { release, name, target, _held: None };
            systemd.start().then(|| &*Box::leak(Box::new(systemd)))
        })
    }

    fn start(&mut self) -> bool {
        let up = self.script().args(["up", "--bind"]).arg(&self.target).output().expect("bash is there");
        let said = String::from_utf8_lossy(&up.stderr);
        match up.status.code() {
            Some(0) => {}
            Some(CANNOT) => {
                crate::skip(&format!("no systemd {:?} on this machine: {said}", self.release));
                return false;
            }
            code => panic!("real-systemd up: {code:?}: {said}"),
        }
        let mut down = Command::new("sh");
        let state = "${REAL_SYSTEMD_STATE:-/tmp/real-systemd-$(id -u)}/$REAL_SYSTEMD_NAME";
        let script = format!("read -r line; \"$0\" down; rm -rf \"{state}\"");
        down.args(["-c", &script, SCRIPT]).envs(self.environment());
        down.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self._held = down.spawn().expect("a shell is there").stdin;
        true
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        [("REAL_SYSTEMD_SUITE", self.release.suite().to_owned()), ("REAL_SYSTEMD_NAME", self.name.clone())]
    }

    fn script(&self) -> Command {
        let mut script = Command::new(SCRIPT);
        script.envs(self.environment()).stdin(Stdio::null());
        script
    }

    pub fn release(&self) -> Release {
        self.release
    }

    /// Runs a command inside, which ends in time.
    pub fn run(&self, command: &[&str]) -> Output {
        let limit = PATIENCE.as_secs().to_string();
        let output = self.script().args(["run", "--", "timeout", &limit]).args(command).output();
        let output = output.expect("bash is there");
        assert_ne!(output.status.code(), Some(124), "{command:?} hangs");
        output
    }

    /// What a command that succeeds says.
    pub fn says(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/real-systemd");

/// A service under it, with a directory of its own.
#[derive(Debug)]
pub struct Unit {
    systemd: &'static Systemd,
    name: String,
    dir: TempDir,
}

impl Unit {
    fn at(systemd: &'static Systemd) -> Unit {
        let scratch = systemd.target.join("tmp");
        let dir = tempfile::Builder::new().prefix("flip-").tempdir_in(scratch).expect("a directory for the test");
        let name = dir.path().file_name().expect("it has a name").to_string_lossy().to_lowercase();
        let name = format!("{}.service", name.trim_start_matches('.'));
        let unit = Unit { systemd, name, dir };
        unit.write("address", "127.0.0.1:0");
        unit
    }

    /// Of this executable, with these lines more. It is not started yet.
    pub fn new(systemd: &'static Systemd, executable: &str, lines: &[&str]) -> Unit {
        let unit = Unit::at(systemd);
        let at = unit.dir.path().display();
        let text = format!(
            "[Service]\n{}\nExecStart={executable}\nWorkingDirectory={at}\nStandardError=append:{at}/log\n\
             KillMode=mixed\nTimeoutStartSec=20s\nTimeoutStopSec=20s\n{}\n",
            systemd.release.reloads(),
            lines.join("\n")
        );
        unit.link(&text);
        unit
    }

    /// Of this text, which says all. It is not started yet.
    pub fn of(systemd: &'static Systemd, text: &str) -> Unit {
        let unit = Unit::at(systemd);
        unit.link(text);
        unit
    }

    fn link(&self, text: &str) {
        self.write(&self.name, text);
        self.systemd.says(&["systemctl", "--runtime", "link", &self.path(&self.name)]);
    }

    /// What systemd-run makes of this executable, with these properties: a unit without a file. It is started.
    pub fn run(systemd: &'static Systemd, executable: &str, properties: &[&str]) -> Unit {
        let unit = Unit::at(systemd);
        unit.may_be_written_by_everybody();
        let at = unit.dir.path().display();
        let mut all: Vec<_> = systemd.release.reloads().lines().map(str::to_owned).collect();
        all.extend([
            format!("WorkingDirectory={at}"),
            format!("StandardError=append:{at}/log"),
            format!("BindReadOnlyPaths={}", systemd.target.display()),
            format!("BindPaths={at}"),
        ]);
        all.extend(properties.iter().map(|property| (*property).to_owned()));
        let mut words = vec!["systemd-run", "--unit", &unit.name];
        words.extend(all.iter().flat_map(|property| ["-p", property]));
        words.push(executable);
        systemd.says(&words);
        unit
    }

    /// A socket unit of the service's name; it is started, and the service is not.
    pub fn socket(&self, text: &str) {
        let name = self.name.replace(".service", ".socket");
        self.write(&name, text);
        self.systemd.says(&["systemctl", "--runtime", "link", &self.path(&name)]);
        self.systemd.says(&["systemctl", "start", &name]);
    }

    /// Where a file of this name is in the service's directory.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A file in the service's directory.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the directory is there");
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn systemctl(&self, verb: &[&str]) -> Output {
        self.systemd.run(&[&["systemctl"], verb, &[&self.name]].concat())
    }

    /// As [`systemctl`](Self::systemctl), where it succeeds.
    pub fn does(&self, verb: &[&str]) {
        let output = self.systemctl(verb);
        assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn show(&self, property: &str) -> String {
        self.systemd.says(&["systemctl", "show", "-P", property, &self.name])
    }

    pub fn shows(&self, property: &str, value: &str) {
        assert_eq!(self.show(property), value, "{property} of {}", self.name);
    }

    /// It has this value for as long, whenever one looks.
    pub fn keeps(&self, property: &str, value: &str, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.shows(property, value);
        }
    }

    pub fn main_pid(&self) -> i32 {
        self.show("MainPID").parse().expect("a process has a number")
    }

    /// Every process of its control group.
    pub fn processes(&self) -> Vec<i32> {
        // The group goes with the last of them, cgroups(7).
        let script = "cat \"/sys/fs/cgroup/system.slice/$0/cgroup.procs\" 2> /dev/null || true";
        let listed = self.systemd.says(&["sh", "-c", script, &self.name]);
        listed.split_whitespace().map(|pid| pid.parse().expect("a process has a number")).collect()
    }

    /// A file of a process in /proc.
    pub fn proc(&self, pid: i32, file: &str) -> String {
        self.systemd.says(&["cat", &format!("/proc/{pid}/{file}")])
    }

    /// A gate in the service's directory that is shut from now on.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::shut(&self.dir.path().join(format!("{name}.gate")))
    }

    /// Waits until a property is as wanted, and gives it.
    pub fn until(&self, property: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.show(property);
            if wanted(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{property} of {} stays {value}", self.name);
        }
    }

    /// Has it reload; `systemctl` returns within this time.
    pub fn reload(&self, time: Duration) {
        let began = Instant::now();
        self.does(&["reload"]);
        assert!(began.elapsed() < time, "the reload took {:?}", began.elapsed());
    }

    /// What the service wrote to its standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until it has written this.
    pub fn until_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{} does not say {text:?}", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn may_be_written_by_everybody(&self) {
        use std::os::unix::fs::PermissionsExt;
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(self.dir.path(), everybody).expect("it is the test's own");
    }

    /// Whichever user and sandbox the unit has, the service finds its directory and its program, and may write.
    pub fn is_everybody_s(&self) {
        self.may_be_written_by_everybody();
        let (dir, target) = (self.dir.path().display(), self.systemd.target.display());
        self.adds(&format!("[Service]\nBindReadOnlyPaths={target}\nBindPaths={dir}\n"));
    }

    /// More lines of the unit, which have the last word.
    pub fn adds(&self, lines: &str) {
        let more = format!("/run/systemd/system/{}.d", self.name);
        let script = "mkdir -p \"$0\" && printf %s \"$1\" > \"$0/more.conf\" && systemctl daemon-reload";
        self.systemd.says(&["sh", "-c", script, &more, lines]);
    }

    /// What systemd wrote about it.
    pub fn journal(&self) -> String {
        self.systemd.says(&["journalctl", "--sync"]);
        self.systemd.says(&["journalctl", "--no-pager", "-o", "short-unix", "-u", &self.name])
    }

    /// Where the process that was started last is asked.
    pub fn address(&self) -> SocketAddr {
        let text = std::fs::read_to_string(self.path("bound")).expect("the service writes it before it is ready");
        text.trim().parse().expect("an address")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address()).expect("somebody listens")
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.name, self.log());
            let journal = self.systemd.run(&["journalctl", "--no-pager", "-o", "short-monotonic", "-u", &self.name]);
            eprintln!("{}", String::from_utf8_lossy(&journal.stdout));
        }
        // Whatever state a failed test left it in: nothing of it lives longer than the instance.
        let socket = self.name.replace(".service", ".socket");
        if Path::new(&self.path(&socket)).exists() {
            self.systemd.run(&["systemctl", "stop", &socket]);
        }
        self.systemd.run(&["systemctl", "--no-block", "kill", "-s", "KILL", &self.name]);
        self.systemd.run(&["systemctl", "--no-block", "stop", &self.name]);
    }
}
