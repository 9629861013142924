//! The service under restart: where its binary is, how it is installed, asked, restarted and stopped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::Trouble;
use crate::family::Family;
use crate::load::{http_client, root_cause};

/// How often the demo looks whether something it waits for has happened.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How many lines of the service's log are shown when something went wrong.
const TAIL: usize = 40;

/// What the broken binary says before it exits with status 1.
const LAST_WORDS: &str = "config.toml: missing field `database_url`";

pub struct Service<'a> {
    family: &'a Family,
    dir: TempDir,
    good: PathBuf,
    url: String,
    http: reqwest::Client,
    patience: Duration,
}

/// The answer of `GET /whoami`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Who {
    pub pid: i32,
    pub generation: u64,
}

impl<'a> Service<'a> {
    /// Installs the binary in a directory of its own, starts it, and waits until it answers.
    pub async fn start(binary: &Path, patience: Duration, family: &'a Family) -> Result<Self, Trouble> {
        let dir = tempfile::Builder::new().prefix("flip-demo-").tempdir()?;
        let address = free_address()?;
        let url = format!("http://{address}");
        let service = Self { family, dir, good: binary.into(), url, http: http_client(false), patience };
        service.install_good()?;

        let log = File::create(service.log())?;
        let child = Command::new(service.installed())
            .arg("--listen")
            .arg(address.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // So that a Ctrl-C at the terminal reaches the demo alone, which then stops the service.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let pid = child.id().cast_signed();
        service
            .until(&format!("{} did not answer", binary.display()), async || match service.whoami().await {
                Ok(who) if who.pid == pid => Ok(Some(())),
                Ok(who) => Err(format!("pid {pid} was started, but {} answers", who.pid).into()),
                Err(_) if family.has_left(pid) => Err("the service ended at once".into()),
                Err(_) => Ok(None),
            })
            .await
            .map_err(|trouble| format!("{trouble}\n{}", service.log_tail()))?;
        Ok(service)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn whoami(&self) -> Result<Who, Trouble> {
        let answer: Value = serde_json::from_str(&self.get("/whoami").await?)?;
        let number = |name: &str| answer[name].as_u64().ok_or_else(|| format!("/whoami answered {answer}"));
        Ok(Who { pid: number("pid")?.try_into()?, generation: number("generation")? })
    }

    pub async fn total(&self) -> Result<u64, Trouble> {
        Ok(self.get("/total").await?.trim().parse()?)
    }

    /// Asks for a restart; it is done when a later generation answers under a pid of its own.
    pub async fn restart(&self, before: Who) -> Result<Who, Trouble> {
        signal(before.pid, Signal::SIGHUP)?;
        let what = format!("no new process answered, still generation {}, pid {}", before.generation, before.pid);
        self.until(&what, async || match self.whoami().await {
            Ok(now) if now.pid != before.pid && now.generation > before.generation => Ok(Some(now)),
            Err(_) if self.family.alive().is_empty() => Err("no process is left".into()),
            // A question without an answer is for the clients to count, not for this.
            _ => Ok(None),
        })
        .await
    }

    /// Asks for a restart while the installed binary is one that crashes, and puts the good one back. The process
    /// that ran before must go on. Returns what the broken binary said.
    pub async fn crash(&self, before: Who) -> Result<&'static str, Trouble> {
        let tried = self.install_broken()?;
        signal(before.pid, Signal::SIGHUP)?;
        let broken: i32 = self
            .until("the broken binary was never started", async || {
                // Written with its line end in one piece; before that there is nothing to parse.
                Ok(fs::read_to_string(&tried).ok().and_then(|pid| pid.strip_suffix('\n')?.parse().ok()))
            })
            .await?;
        self.until("the broken binary did not end", async || Ok(self.family.has_left(broken).then_some(()))).await?;
        self.family.pardon(broken);
        self.install_good()?;

        // The same process answers, and again a while later: a roll-back that is a slow death is none.
        for _ in 0..10 {
            let now = self.whoami().await.map_err(|why| format!("the broken binary took the service down: {why}"))?;
            if now != before {
                return Err(
                    format!("the broken binary should have changed nothing, but pid {} answers", now.pid).into()
                );
            }
            sleep(LOOK_EVERY * 5).await;
        }
        Ok(LAST_WORDS)
    }

    /// Waits until this generation is the only process left.
    pub async fn alone(&self, pid: i32) -> Result<(), Trouble> {
        self.until("old generations are still there", async || {
            Ok(self.family.alive().iter().all(|&other| other == pid).then_some(()))
        })
        .await
    }

    /// Stops the service in an orderly way.
    pub async fn stop(&self, pid: i32) -> Result<(), Trouble> {
        signal(pid, Signal::SIGTERM)?;
        self.until("SIGTERM did not end the service", async || Ok(self.family.has_left(pid).then_some(()))).await?;
        match self.family.end_of(pid) {
            Some(WaitStatus::Exited(_, 0)) => Ok(()),
            end => Err(format!("SIGTERM ended the service badly: {end:?}").into()),
        }
    }

    /// How many descriptors a process holds when nobody is connected. Connections that were just closed go a moment
    /// later, so this is the fewest that it was seen with.
    pub async fn idle_descriptors(&self, pid: i32) -> Option<usize> {
        let mut fewest = None;
        for _ in 0..20 {
            let now = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(Iterator::count);
            fewest = [fewest, now].into_iter().flatten().min();
            sleep(LOOK_EVERY * 5).await;
        }
        fewest
    }

    /// The last lines that all generations wrote.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let left_out = lines.len().saturating_sub(TAIL);
        let heading = match (lines.len(), left_out) {
            (0, _) => "The service wrote nothing to its log.",
            (_, 0) => "The service's log:",
            _ => "The end of the service's log:",
        };
        let quoted = lines[left_out..].iter().map(|line| format!("\n  │ {line}"));
        std::iter::once(heading.into()).chain(quoted).collect()
    }

    async fn get(&self, path: &str) -> Result<String, Trouble> {
        let answer =
            async { self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?.text().await };
        answer.await.map_err(|error| format!("GET {path}: {}", root_cause(&error)).into())
    }

    /// Looks again and again until there is an answer, or too much time has passed.
    async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Option<T>, Trouble>,
    ) -> Result<T, Trouble> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(format!("{what} within {} s", self.patience.as_secs_f64()).into());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn installed(&self) -> PathBuf {
        self.dir.path().join("counter")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn install_good(&self) -> Result<(), Trouble> {
        self.install(|path| fs::copy(&self.good, path).map(drop))
            .map_err(|error| format!("cannot install {}: {error}", self.good.display()).into())
    }

    /// Returns the file in which the broken binary leaves its pid when it was started.
    fn install_broken(&self) -> Result<PathBuf, Trouble> {
        let tried = self.dir.path().join("tried");
        let script = format!(
            "#!/bin/sh\n\
             echo \"thread 'main' panicked at src/main.rs:14:9:\" >&2\n\
             echo '{LAST_WORDS}' >&2\n\
             echo $$ > '{}'\n\
             exit 1\n",
            tried.display()
        );
        self.install(|path| {
            fs::write(path, script)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        })?;
        Ok(tried)
    }

    /// As every installer does it: beside the old file, then renamed over it. A running program cannot be written to.
    fn install(&self, write: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
        let beside = self.dir.path().join("counter.new");
        write(&beside)?;
        fs::rename(beside, self.installed())
    }
}

/// The `counter` to run: built by cargo if the demo was started by cargo, so that it is never an old one; otherwise the
/// one beside the demo.
pub async fn find_counter() -> Result<PathBuf, Trouble> {
    let demo = std::env::current_exe()?;
    let beside = demo.with_file_name("counter");
    let cargo = std::env::var_os("CARGO");
    if cargo.is_none() && beside.exists() {
        return Ok(beside);
    }
    // The folder that cargo puts a profile's programs in has the profile's name, but for one.
    let profile = match demo.parent().and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = tokio::process::Command::new(cargo.unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "flip-examples", "--bin", "counter", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("there is no {}, and cargo cannot be run: {error}", beside.display()))?;
    if !built.status.success() {
        return Err("cargo could not build `counter`".into());
    }
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| "cargo did not say where it put `counter`".into())
}

/// An address that nobody uses: the kernel picks the port. It is free again when the service binds it.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn signal(pid: i32, signal: Signal) -> Result<(), Trouble> {
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("{signal} to pid {pid}: {error}").into())
}

/// The resident memory of a process in bytes.
pub fn resident(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
