//! What an attribute, a builder and the environment can set.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::checkpoint::Aside;
use crate::error::Error;
use crate::sys::signal::TELL;

/// What the attribute's arguments become: plain data, so that an expansion can write it as a constant.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub upgrade: &'static str,
    pub stop: &'static [&'static str],
    pub ready: Ready,
    pub ready_timeout: Duration,
    pub freeze_timeout: Duration,
    pub quiesce_timeout: Duration,
    pub drain_timeout: Duration,
    pub generations: u8,
    pub state_limit: u64,
    pub executable: Option<&'static str>,
    pub pid_file: Option<&'static str>,
    pub launcher: Launcher,
    pub store: Store,
    pub checkpoint: Duration,
    pub runtime: Runtime,
}

impl Config {
    #[doc(hidden)]
    pub const NEW: Config = Config {
        upgrade: "SIGHUP",
        stop: &["SIGTERM", "SIGINT"],
        ready: Ready::Auto,
        ready_timeout: Duration::from_secs(60),
        freeze_timeout: Duration::from_secs(3),
        quiesce_timeout: Duration::from_millis(200),
        drain_timeout: Duration::from_secs(30),
        generations: 4,
        state_limit: u64::MAX,
        executable: None,
        pid_file: None,
        launcher: Launcher::Auto,
        store: Store::Listeners,
        checkpoint: Duration::from_secs(5),
        runtime: Runtime::NEW,
    };
}

/// When a new process has nothing left to do before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ready {
    /// When each managed listener was polled once, or dropped.
    Auto,
    /// When [`Handle::ready`](crate::Handle::ready) was called.
    Manual,
}

/// Whether the first process stays as a *launcher*: a small one that starts the service, is told who serves, forwards signals to that
/// process, reaps what is left by any, and ends with the service's status.
///
/// It keeps its pid whatever is upgraded, and holds the listeners: a service that dies is started again after a pause, and nobody is
/// refused meanwhile. The pause is 100 ms, doubled up to 10 s where that does not last a minute. A service that ends before one of its
/// processes has ever served, or with status 0, ends it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// As pid 1, which is a container's: its end would be the container's end. Where standard input is a terminal: the shell's prompt would
    /// come back at the first upgrade, and Ctrl-C reach nobody. And where the parent is known to wait for the process that it started, as
    /// runit, s6, supervisord and `docker run --init` do; [`containers`](crate::guide::containers) has their names.
    Auto,
    /// Always, for supervisors that cannot be told of another pid.
    On,
    /// Never.
    Off,
}

/// What is kept outside of the process, in systemd's store of descriptors (systemd.service(5), `FileDescriptorStoreMax=`) or in that of a
/// [launcher](Launcher), for the next process where there is none left that could hand over: after a crash, a SIGKILL, for want of memory, or
/// at a `systemctl restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Store {
    /// The listeners, with whoever waits in their queues.
    Listeners,
    /// Those, and *checkpoints* of every `Live<T>`: copies in memory, made from time to time where something has changed, at a stop, and of what
    /// an upgrade hands over.
    ///
    /// A cold start goes on from the newest that is whole, through the same matching as in a handoff, and says how old it is. It takes as much
    /// memory as two encoded states have. States with descriptors or a `Region` are left out, which is said.
    State,
}

/// What `#[tokio::main]` takes.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    pub flavor: Flavor,
    pub worker_threads: Option<usize>,
    pub start_paused: bool,
    pub name: Option<&'static str>,
    pub unhandled_panic: UnhandledPanic,
}

impl Runtime {
    #[doc(hidden)]
    pub const NEW: Runtime = Runtime {
        flavor: Flavor::MultiThread,
        worker_threads: None,
        start_paused: false,
        name: None,
        unhandled_panic: UnhandledPanic::Ignore,
    };
}

#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnhandledPanic {
    Ignore,
    ShutdownRuntime,
}

#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    CurrentThread,
    Local,
    MultiThread,
}

/// What is in force: the program's configuration, overridden by the environment.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `None`: an upgrade is an orderly stop.
    pub(crate) upgrade: Option<Signal>,
    /// The signal that the program names, which still arrives where upgrades are off.
    pub(crate) upgrade_signal: Signal,
    pub(crate) stop: Vec<Signal>,
    pub(crate) ready: Ready,
    pub(crate) ready_timeout: Duration,
    pub(crate) freeze_timeout: Duration,
    pub(crate) quiesce_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) generations: u8,
    pub(crate) state_limit: u64,
    pub(crate) executable: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    /// An upgrade looks first whether there is memory for a second process.
    pub(crate) checks_memory: bool,
    pub(crate) supervised: bool,
    /// How often a checkpoint is made, where they are wanted.
    pub(crate) checkpoint: Option<Duration>,
    pub(crate) aside: Aside,
}

impl Settings {
    /// `variable` looks a variable of the environment up.
    ///
    /// # Errors
    /// A value that cannot be read, by the name of its variable or argument.
    pub(crate) fn new(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, Error> {
        let time = |name: &str, default: Duration| match variable(name) {
            None => Ok(default),
            Some(text) => duration(&text)
                .ok_or_else(|| Error::program(format!("{name}={text:?} is not a time: write 500ms, 30s, 5m or 1h"))),
        };
        let upgrade_text = variable("FLIP_UPGRADE").filter(|text| !text.is_empty());
        let off = upgrade_text.as_deref() == Some("off");
        let upgrade_signal = match upgrade_text.as_deref() {
            Some(text) if !off => signal("FLIP_UPGRADE", text)?,
            _ => signal("upgrade", config.upgrade)?,
        };
        let stop = match variable("FLIP_STOP") {
            Some(text) => text.split(',').map(|name| signal("FLIP_STOP", name.trim())).collect::<Result<_, _>>()?,
            None => config.stop.iter().map(|name| signal("stop", name)).collect::<Result<Vec<_>, _>>()?,
        };
        if stop.contains(&upgrade_signal) {
            return Err(Error::program(format!("{upgrade_signal} cannot mean both upgrade and stop")));
        }
        let ready = match variable("FLIP_READY").as_deref() {
            None => config.ready,
            Some("auto") => Ready::Auto,
            Some("manual") => Ready::Manual,
            Some(text) => return Err(Error::program(format!("FLIP_READY={text:?} is neither auto nor manual"))),
        };
        let generations = match variable("FLIP_GENERATIONS") {
            None => config.generations,
            Some(text) => text
                .parse()
                .map_err(|_| Error::program(format!("FLIP_GENERATIONS={text:?} is not a number from 2 to 255")))?,
        };
        if generations < 2 {
            return Err(Error::program("generations must be at least 2: the old one and the new one"));
        }
        let state_limit = match variable("FLIP_STATE_LIMIT") {
            None => config.state_limit,
            Some(text) => size(&text).ok_or_else(|| {
                Error::program(format!(
                    "FLIP_STATE_LIMIT={text:?} is not a size: write 512MiB, 4GiB or a number of bytes"
                ))
            })?,
        };
        let supervised = match variable("FLIP_SUPERVISED").as_deref() {
            Some("yes") => true,
            Some("no") => false,
            Some(text) => return Err(Error::program(format!("FLIP_SUPERVISED={text:?} is neither yes nor no"))),
            // systemd.exec(5): it sets INVOCATION_ID for every unit it starts, NOTIFY_SOCKET for those that notify.
            None => variable("NOTIFY_SOCKET").is_some() || variable("INVOCATION_ID").is_some(),
        };
        let checks_memory = match variable("FLIP_MEMORY").as_deref() {
            None | Some("check") => true,
            Some("ignore") => false,
            Some(text) => return Err(Error::program(format!("FLIP_MEMORY={text:?} is neither check nor ignore"))),
        };
        let keeps_state = match variable("FLIP_STORE").as_deref() {
            None => config.store == Store::State,
            Some("listeners") => false,
            Some("state") => true,
            Some(text) => return Err(Error::program(format!("FLIP_STORE={text:?} is neither listeners nor state"))),
        };
        let checkpoint = time("FLIP_CHECKPOINT", config.checkpoint)?;
        if checkpoint.is_zero() {
            return Err(Error::program("checkpoint must be longer than no time: it is how often one is made"));
        }
        let aside = match variable("FLIP_ASIDE").as_deref() {
            None => Aside::Keep,
            Some("restore") => Aside::Restore,
            Some("drop") => Aside::Drop,
            Some(text) => return Err(Error::program(format!("FLIP_ASIDE={text:?} is neither restore nor drop"))),
        };
        Ok(Settings {
            upgrade: (!off).then_some(upgrade_signal),
            upgrade_signal,
            stop,
            ready,
            ready_timeout: time("FLIP_READY_TIMEOUT", config.ready_timeout)?,
            freeze_timeout: time("FLIP_FREEZE_TIMEOUT", config.freeze_timeout)?,
            quiesce_timeout: time("FLIP_QUIESCE_TIMEOUT", config.quiesce_timeout)?,
            drain_timeout: time("FLIP_DRAIN_TIMEOUT", config.drain_timeout)?,
            generations,
            state_limit,
            executable: variable("FLIP_EXECUTABLE").or(config.executable.map(str::to_owned)).map(PathBuf::from),
            pid_file: variable("FLIP_PID_FILE").or(config.pid_file.map(str::to_owned)).map(PathBuf::from),
            checks_memory,
            supervised,
            checkpoint: keeps_state.then_some(checkpoint),
            aside,
        })
    }

    /// Every signal that flip handles.
    pub(crate) fn signals(&self) -> Vec<Signal> {
        let mut signals = vec![self.upgrade_signal];
        signals.extend(&self.stop);
        signals.sort();
        signals.dedup();
        signals
    }
}

fn signal(argument: &str, name: &str) -> Result<Signal, Error> {
    let signal: Signal = name.parse().map_err(|_| {
        Error::program(format!("{argument}: {name:?} is not a signal: write SIGHUP, SIGUSR2 and so on"))
    })?;
    if !TELL.contains(&signal) {
        let all = TELL.map(|signal| signal.as_str()).join(", ");
        return Err(Error::program(format!(
            "{argument}: {signal} is not for telling a process something; these are: {all}"
        )));
    }
    Ok(signal)
}

/// `4GiB`, `500MiB`, or a number of bytes.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// `500ms`, `30s`, `5m`, `1h`; a bare number would leave the unit to guessing.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = match &text[digits..] {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::new(&Config::NEW, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_variable_overrides_the_argument_of_its_name() {
        assert_eq!(settings(&[]).unwrap().drain_timeout, Duration::from_secs(30));
        assert_eq!(settings(&[("FLIP_STATE_LIMIT", "3GiB")]).unwrap().state_limit, 3 << 30);
        assert_eq!(settings(&[("FLIP_STATE_LIMIT", "17")]).unwrap().state_limit, 17);
        assert!(settings(&[("FLIP_STATE_LIMIT", "3GB")]).is_err());
        assert_eq!(settings(&[("FLIP_DRAIN_TIMEOUT", "5m")]).unwrap().drain_timeout, Duration::from_secs(300));
        assert_eq!(settings(&[("FLIP_UPGRADE", "SIGUSR2")]).unwrap().upgrade, Some(Signal::SIGUSR2));
        assert_eq!(settings(&[("FLIP_UPGRADE", "off")]).unwrap().upgrade, None);
        assert_eq!(settings(&[("FLIP_STOP", "SIGQUIT, SIGTERM")]).unwrap().stop, [Signal::SIGQUIT, Signal::SIGTERM]);
    }

    #[test]
    fn a_value_that_cannot_be_read_is_named() {
        for (name, value) in [
            ("FLIP_READY_TIMEOUT", "60"),
            ("FLIP_FREEZE_TIMEOUT", "soon"),
            ("FLIP_DRAIN_TIMEOUT", "99999999999999999h"),
            ("FLIP_UPGRADE", "HUPP"),
            ("FLIP_STOP", "SIGKILL"),
            ("FLIP_READY", "maybe"),
            ("FLIP_GENERATIONS", "1000"),
            ("FLIP_SUPERVISED", "1"),
            ("FLIP_MEMORY", "much"),
            ("FLIP_STORE", "all"),
            ("FLIP_CHECKPOINT", "5"),
            ("FLIP_ASIDE", "away"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        assert!(settings(&[("FLIP_UPGRADE", "SIGTERM")]).unwrap_err().to_string().contains("both"));
        assert!(settings(&[("FLIP_GENERATIONS", "1")]).is_err());
    }
}
