//! Clients that nobody here wrote, through twenty restarts: they report nothing but success.
//!
//! Each runs until the restarts are done, and is told to end only then; between any two of them it was answered. One that is
//! not installed is skipped, which is said. Where `FLIP_CI` is set it is a failure, but for what takes long to build.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use flip_tests::{Chain, Exit, Process, Start};
use nix::sys::signal::Signal;
use serde_json::Value;

const RESTARTS: usize = 20;
/// How many connections those have that keep more than one.
const CLIENTS: u64 = 8;

/// Where a client is, which is installed in this way; `None`, if the test is to be skipped.
fn find(client: &str, install: &str) -> Option<PathBuf> {
    // Where .ci/run puts what is only for these tests, and `cargo install --root` what takes long.
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients/bin").join(client);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(client)).chain([own]).find(|path| path.is_file());
    if found.is_none() {
        skip(client, install);
    }
    found
}

fn skip(client: &str, install: &str) {
    let why = format!("{client} is not installed: {install}");
    // What takes long to build is nowhere a must.
    if install.starts_with("cargo install") { flip_tests::say_skipped(&why) } else { flip_tests::skip(&why) }
}

/// How a client that goes on without end is brought to it.
#[derive(Clone, Copy)]
enum End {
    /// By the interrupt key, at which it says what came of it.
    Interrupt,
    /// By a signal that nobody ignores in the background, as shells have it with the interrupt key's.
    Termination,
    /// It reads its standard input, which has the number of the process that serves at last.
    Input,
}

/// What a client that has ended said.
struct Report {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    /// How many the service has counted.
    visits: u64,
    /// The process that served at the end.
    served: i32,
}

/// A service under restarts, and its address.
struct Restarted {
    service: Chain,
    address: SocketAddr,
}

impl Restarted {
    fn start() -> Restarted {
        Restarted::start_as(env!("CARGO_BIN_EXE_web"))
    }

    fn start_as(program: &str) -> Restarted {
        let service = Start::new(program).start();
        let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
        Restarted { service, address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn visits(&self) -> u64 {
        let total = Http::open(self.address).and_then(|mut http| http.exchange("GET", "/total")).unwrap().body;
        total.split(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until some more visits are counted, so that the client is in the midst of it.
    fn goes_on(&self) {
        let before = self.visits();
        self.service.until("the client is answered", || self.visits() > before + 2 * CLIENTS);
    }

    fn upgrade(&mut self) {
        let old = self.service.upgrade().unwrap();
        // Nobody keeps it: what was kept goes on in the new process.
        assert_eq!(self.service.exit(&old), Exit::Status(0));
    }

    /// Restarts the service under a client that visits it all the while.
    fn under(mut self, client: &mut Command, end: End) -> Report {
        let said = |name: &str| self.service.dir().join(name);
        let (stdout, stderr) = (said("client.out"), said("client.err"));
        client.stdin(Stdio::piped()).stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let mut child = Killed(client.spawn().unwrap());
        for _ in 0..RESTARTS {
            self.goes_on();
            self.upgrade();
        }
        self.goes_on();
        let read = |path: &Path| String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        let ended = child.0.try_wait().unwrap();
        assert!(ended.is_none(), "it ended before the last restart: {}{}", read(&stdout), read(&stderr));
        match end {
            End::Interrupt => Process::open(child.0.id().cast_signed()).signal(Signal::SIGINT),
            End::Termination => Process::open(child.0.id().cast_signed()).signal(Signal::SIGTERM),
            End::Input => {
                let mut input = child.0.stdin.take().unwrap();
                write!(input, "{}", self.service.owner().pid).unwrap();
            }
        }
        let mut status = None;
        self.service.until("the client ends", || {
            status = child.0.try_wait().unwrap();
            status.is_some()
        });
        let report = Report {
            status: status.unwrap(),
            stdout: read(&stdout),
            stderr: read(&stderr),
            visits: self.visits(),
            served: self.service.owner().pid,
        };
        self.service.stop();
        println!("{}{}", report.stdout, report.stderr.lines().take(10).collect::<Vec<_>>().join("\n"));
        report
    }
}

/// A client, which does not outlive a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Where it has ended already, that is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Report {
    fn ended_well(&self) {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
    }

    /// The answers that a client counted are those that the service did, but for those that were on their way when the client
    /// was told to end.
    fn agrees(&self, answered: u64) {
        let visits = self.visits;
        assert!((answered..=answered + CLIENTS).contains(&visits), "{answered} answers, {visits} visits");
    }
}

/// The number behind these words.
fn number_behind(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    let digits = rest.trim_start();
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

/// One connection for all of it, and each answer is reported as it comes.
#[test]
fn curl() {
    let Some(curl) = find("curl", "apt-get install curl") else { return };
    let service = Restarted::start();
    let mut client = Command::new(curl);
    client.args(["-sS", "-X", "POST", "-o", "/dev/null", "-w", "%{stderr}%{http_code} %{num_connects}\n"]);
    client.arg(service.url("/visit?[1-1000000000]"));
    let report = service.under(&mut client, End::Termination);
    assert_eq!(report.status.signal(), Some(Signal::SIGTERM as i32), "{}", report.status);
    let (lines, _) = report.stderr.rsplit_once('\n').unwrap();
    let mut lines = lines.lines();
    assert_eq!(lines.next(), Some("200 1"));
    let mut answered = 1;
    for line in lines {
        assert_eq!(line, "200 0", "after {answered} answers");
        answered += 1;
    }
    report.agrees(answered);
}

fn wrk(fresh: bool) {
    let Some(wrk) = find("wrk", "apt-get install wrk") else { return };
    let service = Restarted::start();
    let script = service.service.dir().join("post.lua");
    std::fs::write(&script, "wrk.method = 'POST'\n").unwrap();
    let mut client = Command::new(wrk);
    client.args(["-t", "2", "-c", &CLIENTS.to_string(), "-d", "10m", "--timeout", "30s", "-s"]).arg(script);
    if fresh {
        client.args(["-H", "Connection: close"]);
    }
    client.arg(service.url("/visit"));
    let report = service.under(&mut client, End::Interrupt);
    report.ended_well();
    for bad in ["Socket errors", "Non-2xx"] {
        assert!(!report.stdout.contains(bad), "{}", report.stdout);
    }
    let line = report.stdout.lines().find(|line| line.contains(" requests in ")).unwrap();
    report.agrees(number_behind(line, "").unwrap());
}

#[test]
fn wrk_with_kept_connections() {
    wrk(false);
}

#[test]
fn wrk_with_fresh_connections() {
    wrk(true);
}

fn hey(fresh: bool) {
    let Some(hey) = find("hey", "apt-get install hey") else { return };
    let service = Restarted::start();
    let mut client = Command::new(hey);
    client.args(["-z", "10m", "-c", &CLIENTS.to_string(), "-t", "30", "-m", "POST"]);
    if fresh {
        client.arg("-disable-keepalive");
    }
    client.arg(service.url("/visit"));
    let report = service.under(&mut client, End::Interrupt);
    report.ended_well();
    let (_, codes) = report.stdout.split_once("Status code distribution:\n").unwrap();
    let codes = codes.trim();
    assert!(codes.starts_with("[200]") && codes.lines().count() == 1, "{codes}");
    report.agrees(number_behind(codes, "[200]").unwrap());
}

#[test]
fn hey_with_kept_connections() {
    hey(false);
}

#[test]
fn hey_with_fresh_connections() {
    hey(true);
}

fn oha(fresh: bool) {
    let Some(oha) = find("oha", "cargo install --locked oha --root target/tmp/clients") else { return };
    let service = Restarted::start();
    let mut client = Command::new(oha);
    client.args(["--no-tui", "--output-format", "json", "-z", "10m", "-c", &CLIENTS.to_string(), "-m", "POST"]);
    if fresh {
        client.arg("--disable-keepalive");
    }
    client.arg(service.url("/visit"));
    let report = service.under(&mut client, End::Interrupt);
    report.ended_well();
    let said: Value = serde_json::from_str(&report.stdout).unwrap();
    let mut errors = said["errorDistribution"].as_object().unwrap().clone();
    // Those that were on their way when it was told to end.
    let on_their_way = errors.remove("aborted due to deadline").map_or(0, |count| count.as_u64().unwrap());
    assert!(errors.is_empty() && on_their_way <= CLIENTS, "{}", said["errorDistribution"]);
    let codes = said["statusCodeDistribution"].as_object().unwrap();
    assert_eq!(codes.keys().collect::<Vec<_>>(), ["200"]);
    report.agrees(codes["200"].as_u64().unwrap());
}

#[test]
fn oha_with_kept_connections() {
    oha(false);
}

#[test]
fn oha_with_fresh_connections() {
    oha(true);
}

/// A client in Python with what it imports; `None`, if the test is to be skipped.
fn python(module: &str) -> Option<Command> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/real_clients/{module}_client.py"));
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients/python/bin/python");
    let python = [own, "python3".into()].into_iter().find(|python| {
        let has = Command::new(python).arg("-c").arg(format!("import {module}")).stderr(Stdio::null()).status();
        has.is_ok_and(|status| status.success())
    });
    if python.is_none() {
        skip(module, &format!("pip install {module}"));
    }
    let mut client = Command::new(python?);
    client.arg(script);
    Some(client)
}

/// Its connections, too, stay the same.
#[test]
fn aiohttp() {
    let Some(mut client) = python("aiohttp") else { return };
    let service = Restarted::start();
    client.arg(service.url("/visit"));
    let report = service.under(&mut client, End::Input);
    report.ended_well();
    let said: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(said["failed"], serde_json::json!([]));
    assert_eq!(said["opened"], CLIENTS, "connections were closed");
    report.agrees(said["answered"].as_u64().unwrap());
}

/// Its WebSockets move each time, to the process that serves, and each message is answered once.
#[test]
fn websockets() {
    let Some(mut client) = python("websockets") else { return };
    let service = Restarted::start_as(env!("CARGO_BIN_EXE_ws"));
    client.arg(format!("ws://{}/", service.address));
    let report = service.under(&mut client, End::Input);
    report.ended_well();
    let said: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(said["failed"], serde_json::json!([]));
    // One that a process has not taken before it is replaced itself goes on to the next, and is in one process less.
    assert_eq!(said["last"], serde_json::json!([report.served]));
    report.agrees(said["answered"].as_u64().unwrap());
}

/// HTTP/2. It makes no connection in the place of one that takes no more requests (nghttp2's issue 1197), so it sends all
/// that a connection is for at once, and runs again and again. Nor does it send again what was refused before anybody had
/// looked at it, as others do; so the service has no state, and refuses nothing.
#[test]
fn h2load() {
    let Some(h2load) = find("h2load", "apt-get install nghttp2-client") else { return };
    let mut service = Start::new(env!("CARGO_BIN_EXE_late")).start();
    let url = format!("http://{}/", service.line(" is ready at ").rsplit_once(' ').unwrap().1);
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for streams in [1, 20] {
            let (count, h2load, url) = (8 * streams, &h2load, &url);
            load.client(scope, move |_, _| {
                let mut client = Command::new(h2load);
                client.args(["-c", "8", "-m", &streams.to_string(), "-n", &count.to_string()]).arg(url);
                let output = client.output()?;
                let said = String::from_utf8_lossy(&output.stdout);
                let good = format!(
                    "{count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: {count} 2xx, "
                );
                if said.contains(&good) { Ok(()) } else { Err(Lost(Loss::Wrong, said.into_owned())) }
            });
        }
        for _ in 0..RESTARTS {
            let before = shared.answered();
            service.until("it ends well", || shared.answered() > before || shared.first_loss().is_some());
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    service.stop();
}
