//! What this process tells systemd about the service, by sd_notify(3). Outside of systemd there is no `NOTIFY_SOCKET`, and
//! none of this.
//!
//! ```text
//!        old, which systemd takes for the service        new
//!  RELOADING=1 ── spawn ────────────────────────────▶    silent
//!        …  WATCHDOG=1                                   …
//!  MAINPID=new READY=1 ◀───────────────── Serving ──     WATCHDOG=1, STATUS=
//!  BARRIER=1
//!        silent; exit, once that is lifted               RELOADING=1 or STOPPING=1, in its turn
//! ```
//!
//! * **One process speaks**, the one that systemd takes for the service: with `NotifyAccess=main`, the default, it does not
//!   hear anybody else, and where it does (`all`) a `STOPPING=1` of one that drains would end the service.
//! * **The last word of the old process is one datagram**, `MAINPID=` and `READY=1`. In two, the second would be dropped,
//!   because whoever says it is not the service any more, and the reload would never end.
//! * **After every `RELOADING=1` comes a `READY=1`**, whatever becomes of the upgrade: without it a reload may never end. There
//!   is no word for one that failed; `STATUS=` has it, in the same datagram.
//! * **What flip waits for, systemd waits for**: its time limits are extended to flip's, so that it is flip that gives up.

mod socket;
mod unit;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

pub(crate) use self::socket::Socket;
pub(crate) use self::unit::Wants;
use crate::log::say;
use crate::sys::env::LAUNCHER;
use crate::sys::fd::{self, Pidfd, PollEntry};

/// How often the number of connections in the status is looked at.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// How often it is repeated that something takes its time: where a reload begins with a command (`ExecReload=`), systemd counts
/// anew when that has ended, and forgets what it was told before. Shorter than any time limit that makes sense.
const EXTEND_EVERY: Duration = Duration::from_secs(1);
/// systemd drops a datagram of more than 4096 bytes with all that is in it.
const STATUS_LENGTH: usize = 1024;
/// systemd is told by the old process who comes next, in the same moment in which that one serves.
const STORE_LATER: Duration = Duration::from_secs(1);
/// systemd is behind.
const STORE_AGAIN: Duration = Duration::from_millis(100);
/// How long systemd may be behind with the last word.
const BEHIND: Duration = Duration::from_secs(5);
/// How much longer than flip systemd waits.
const LONGER: Duration = Duration::from_secs(2);

pub(crate) struct Systemd {
    socket: Socket,
    /// systemd takes this process for the service.
    speaks: bool,
    /// What was said last.
    status: String,
    /// When the status is looked at again.
    status_due: Instant,
    busy: Option<Busy>,
    watchdog: Option<Watchdog>,
    store: Option<Store>,
    /// Lifted when systemd has dealt with the last word of this process.
    barrier: Barrier,
    barred: Instant,
}

enum Barrier {
    /// There is no last word yet.
    None,
    /// As soon as there is room for it.
    Wanted,
    /// Readable when it is lifted.
    Down(PipeReader),
    /// Or nobody listens.
    Lifted,
}

/// Something takes its time, and systemd is to wait for it.
struct Busy {
    until: Instant,
    due: Instant,
}

/// systemd's store of descriptors: what lies there is passed to the next process after a death or a restart, systemd.service(5).
struct Store {
    /// How much it holds; before systemd 254 nobody says it, nor whether there is one.
    room: Option<usize>,
    names: BTreeSet<String>,
    /// When it is looked at next; never before this process has its listeners.
    due: Option<Instant>,
    warned: bool,
}

/// systemd ends a service that says nothing for as long as `WatchdogSec=`.
struct Watchdog {
    /// A part of that: what answers late by the others is in time.
    every: Duration,
    due: Instant,
    /// The runtime was asked and has not answered.
    asked: bool,
}

impl Systemd {
    /// Nothing, where nobody asked to be told. `variable` looks a variable of the environment up.
    pub(crate) fn new(variable: impl Fn(&str) -> Option<OsString>) -> Option<Systemd> {
        let name = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        // Another word than a number is said to a program that has no launcher yet.
        let number = variable(LAUNCHER).and_then(|number| number.to_str()?.parse::<i32>().ok());
        let listener = if number.is_some() { "the launcher" } else { "systemd" };
        let socket = match Socket::open(&name, listener) {
            Ok(socket) => socket,
            Err(error) => {
                say!(warn, "{listener} does not hear this service: NOTIFY_SOCKET={}: {error}", name.display());
                return None;
            }
        };
        let now = Instant::now();
        let every = watchdog(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref());
        let watchdog = every.map(|every| Watchdog { every, due: now, asked: false });
        // What a service starts finds its variables, and is not what has the store, systemd.exec(5).
        let main = variable("SYSTEMD_EXEC_PID");
        let is_main = main.as_ref().is_none_or(|main| **main == *std::process::id().to_string());
        let room = variable("FDSTORE").filter(|_| is_main).and_then(|room| room.to_str()?.parse().ok());
        // Other supervisors that are told something have no store, and this one says with it that it is systemd.
        let has_store = room.is_some_and(|room| room > 0) || (room.is_none() && is_main && main.is_some());
        let store = has_store.then(|| Store { room, names: BTreeSet::new(), due: None, warned: false });
        let (status, barrier) = (String::new(), Barrier::None);
        Some(Systemd {
            socket,
            speaks: false,
            status,
            status_due: now,
            busy: None,
            watchdog,
            store,
            barrier,
            barred: now,
        })
    }

    // ---- what is said

    /// This process is the service from here on.
    pub(crate) fn begin(&mut self) {
        let now = Instant::now();
        self.speaks = true;
        self.status_due = now + STATUS_EVERY;
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.due = now + watchdog.every;
        }
    }

    /// It is being started, which may take so long.
    pub(crate) fn starting(&mut self, time: Duration) {
        self.begin();
        let text = self.busy(time);
        self.say(text, "starting");
    }

    /// The process that was the service is dead.
    pub(crate) fn take_over(&mut self) {
        self.begin();
        self.say(format!("MAINPID={}", std::process::id()), "");
    }

    pub(crate) fn ready(&mut self, status: &str) {
        self.busy = None;
        self.say("READY=1".to_owned(), status);
    }

    /// A new process is about to be started, and serves within this time or not at all.
    pub(crate) fn reloading(&mut self, time: Duration, status: &str) {
        // Only with a time that is later than its own request systemd takes it for the answer to that.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let text = format!("RELOADING=1\nMONOTONIC_USEC={}\n{}", now.as_micros(), self.busy(time));
        self.say(text, status);
    }

    /// The new process is the service from here on.
    pub(crate) fn handed_over(&mut self, pid: Pid, pidfd: &Pidfd, status: &str) {
        let mut text = format!("MAINPID={pid}\n");
        if let Some(id) = identity(pidfd) {
            // So that a number which came to mean another process is not believed; before 257 nobody looks at it.
            let _ = writeln!(text, "MAINPIDFDID={id}");
        }
        if self.watchdog.is_some() {
            text.push_str("WATCHDOG=1\n");
        }
        text.push_str("READY=1");
        self.say(text, status);
        self.busy = None;
        self.speaks = false;
        (self.barrier, self.barred) = (Barrier::Wanted, Instant::now());
        self.bar();
    }

    fn bar(&mut self) {
        if matches!(self.barrier, Barrier::Wanted) {
            self.barrier = match self.socket.bar() {
                Ok(read) => Barrier::Down(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Barrier::Wanted,
                // Nobody listens, or for want of descriptors: at the end it is asked once more.
                Err(_) => Barrier::None,
            };
        }
    }

    /// systemd may still take this process for the service, which it is not any more.
    pub(crate) fn is_behind(&self) -> bool {
        // One that reads nothing for so long never will.
        matches!(self.barrier, Barrier::Wanted | Barrier::Down(_)) && self.barred.elapsed() < BEHIND
    }

    /// What becomes readable when systemd knows who serves, until it was [seen](Self::knows).
    pub(crate) fn barrier(&self) -> Option<BorrowedFd<'_>> {
        if let Barrier::Down(read) = &self.barrier { Some(read.as_fd()) } else { None }
    }

    /// systemd knows who serves.
    pub(crate) fn knows(&mut self) {
        self.barrier = Barrier::Lifted;
    }

    /// The service ends, within this time.
    pub(crate) fn stopping(&mut self, time: Duration, status: &str) {
        let text = format!("STOPPING=1\n{}", self.busy(time));
        self.say(text, status);
    }

    /// What goes on takes so much longer.
    pub(crate) fn extend(&mut self, time: Duration) {
        let text = self.busy(time);
        self.say(text, "");
    }

    fn busy(&mut self, time: Duration) -> String {
        let now = Instant::now();
        // What lies beyond the clock's end is said once.
        self.busy = now.checked_add(time).map(|until| Busy { until, due: now + EXTEND_EVERY });
        extension(time)
    }

    pub(crate) fn status(&mut self, status: &str) {
        if self.speaks && line(status) != self.status {
            self.status = line(status);
            self.socket.mention(&format!("STATUS={}", self.status));
        }
    }

    fn say(&mut self, mut text: String, status: &str) {
        if !self.speaks {
            return;
        }
        if !status.is_empty() {
            self.status = line(status);
            let _ = write!(text, "\nSTATUS={}", self.status);
        }
        self.socket.say(text);
    }

    /// Nothing more will be said here: waits until what was has been dealt with, or so long.
    pub(crate) fn finish(&mut self, time: Duration) {
        match &self.barrier {
            Barrier::None | Barrier::Wanted => self.socket.finish(time),
            // Without memory to wait, this process ends all the same.
            Barrier::Down(read) => drop(fd::poll(&mut [PollEntry::readable(read.as_fd())], Some(time))),
            Barrier::Lifted => {}
        }
    }

    // ---- what is kept

    /// From here on this process keeps its listeners in the store, where these names are from the process before. `told`: systemd is only
    /// now told that this process is the service, and does not hear it before.
    pub(crate) fn keep(&mut self, names: Vec<String>, told: bool) {
        if let Some(store) = &mut self.store {
            store.names = names.into_iter().collect();
            store.due = Some(Instant::now() + if told { STORE_LATER } else { Duration::ZERO });
        }
    }

    /// Whether there is a store for what is left at a stop.
    pub(crate) fn keeps(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.room.is_some())
    }

    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Something is to go there, sooner or later.
    pub(crate) fn is_store_wanted(&self) -> bool {
        self.speaks && self.store.as_ref().is_some_and(|store| store.due.is_some())
    }

    pub(crate) fn is_store_due(&mut self, now: Instant) -> bool {
        self.speaks && self.store.as_mut().is_some_and(|store| store.due.take_if(|due| *due <= now).is_some())
    }

    /// Makes the store hold these, and nothing else of flip's.
    pub(crate) fn store(&mut self, wanted: &[(&str, BorrowedFd<'_>)]) {
        let Some(store) = &mut self.store else { return };
        if let Some(room) = store.room.filter(|room| *room < wanted.len())
            && !std::mem::replace(&mut store.warned, true)
        {
            let count = wanted.len();
            say!(
                warn,
                "the store of descriptors has room for {room}, and there are {count} descriptors to keep: write FileDescriptorStoreMax={count}"
            );
        }
        let mut all = true;
        let gone: Vec<_> =
            store.names.iter().filter(|name| wanted.iter().all(|(known, _)| known != name)).cloned().collect();
        for name in gone {
            if self.socket.give(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]) {
                store.names.remove(&name);
            } else {
                all = false;
            }
        }
        for (name, fd) in wanted.iter().filter(|(name, _)| !store.names.contains(*name)).collect::<Vec<_>>() {
            // Without FDPOLL=0 systemd would look at each, and remove what it takes for dead.
            if self.socket.give(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[*fd]) {
                store.names.insert((*name).to_owned());
            } else {
                all = false;
            }
        }
        if !all {
            store.due = Some(Instant::now() + STORE_AGAIN);
        }
    }

    // ---- what is due

    pub(crate) fn due(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.due);
        let busy = self.busy.as_ref().map(|busy| busy.due);
        let store = self.store.as_ref().and_then(|store| store.due);
        [watchdog, busy, store, Some(self.status_due)].into_iter().flatten().min().filter(|_| self.speaks)
    }

    pub(crate) fn is_status_due(&mut self, now: Instant) -> bool {
        let is_due = self.speaks && self.status_due <= now;
        if is_due {
            self.status_due = now + STATUS_EVERY;
            // Listeners may have come and gone.
            if let Some(store) = self.store.as_mut().filter(|store| !store.names.is_empty()) {
                store.due = Some(now);
            }
        }
        is_due
    }

    /// Repeats that what goes on takes its time, where it still does.
    pub(crate) fn extend_again(&mut self, now: Instant) {
        let Some(busy) = self.busy.as_mut().filter(|busy| self.speaks && busy.due <= now) else { return };
        busy.due = now + EXTEND_EVERY;
        let left = busy.until.saturating_duration_since(now);
        if left.is_zero() {
            self.busy = None;
        } else {
            self.socket.mention(&extension(left));
        }
    }

    /// Whether the watchdog is to hear something.
    pub(crate) fn is_heartbeat_due(&mut self, now: Instant) -> bool {
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| self.speaks && watchdog.due <= now) else {
            return false;
        };
        watchdog.due = now + watchdog.every;
        true
    }

    /// Lets the watchdog hear something once the runtime has answered. It is asked by `ask`, unless it is being asked already,
    /// which says whether there is one.
    pub(crate) fn heartbeat_by(&mut self, ask: impl FnOnce() -> bool) {
        match &mut self.watchdog {
            Some(watchdog) if watchdog.asked => {}
            Some(watchdog) if ask() => watchdog.asked = true,
            _ => self.heartbeat(),
        }
    }

    pub(crate) fn heartbeat_answered(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.asked = false;
        }
        self.heartbeat();
    }

    pub(crate) fn heartbeat(&mut self) {
        if self.speaks && self.watchdog.is_some() {
            self.socket.mention("WATCHDOG=1");
        }
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        self.socket.wants_to_write() || matches!(self.barrier, Barrier::Wanted)
    }

    pub(crate) fn flush(&mut self) {
        self.socket.flush();
        self.bar();
    }
}

impl AsFd for Systemd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a unit should say, as far as a process that it started can know.
pub(crate) fn advice(variable: impl Fn(&str) -> Option<OsString>, pid: u32, wants: Wants) -> Vec<String> {
    // Only a process that a unit has started is that unit's: a terminal is somewhere below one as well.
    let is_main = variable("SYSTEMD_EXEC_PID").is_some_and(|main| *main == *pid.to_string());
    let lines = if is_main { unit::advice(&variable, wants) } else { vec![] };
    who_is_heard(variable, pid).into_iter().chain(lines).collect()
}

/// Whether systemd knows this process for the service, and hears it.
fn who_is_heard(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Option<String> {
    // Which process the variables around it were made for, see systemd.exec(5).
    let main = variable("SYSTEMD_EXEC_PID")?.to_str()?.parse::<u32>().ok()?;
    match (variable("NOTIFY_SOCKET").is_some(), main == pid) {
        (false, true) => Some(
            "systemd does not learn of a new process and will end it with the old one: write Type=notify-reload into the \
             unit, or before systemd 253 Type=notify and ExecReload=kill -HUP $MAINPID"
                .to_owned(),
        ),
        (true, false) => Some(format!(
            "systemd takes pid {main} for the service and does not hear this one, pid {pid}: write ExecStart= so that it \
             starts the program itself, or have the script before it end with exec"
        )),
        _ => None,
    }
}

/// How often the watchdog hears something, if it is this process that it listens to.
fn watchdog(time: Option<&OsStr>, pid: Option<&OsStr>) -> Option<Duration> {
    let time = time?.to_str().and_then(|time| time.parse().ok()).filter(|time| *time > 0);
    let Some(time) = time else {
        say!(warn, "WATCHDOG_USEC is not a time: the watchdog hears nothing");
        return None;
    };
    // Without a process it is for whoever reads it, as in sd_watchdog_enabled(3).
    let is_ours = pid.is_none_or(|pid| *pid == *std::process::id().to_string());
    is_ours.then(|| Duration::from_micros(time) / 4)
}

fn extension(time: Duration) -> String {
    let time = u64::try_from(time.saturating_add(LONGER).as_micros()).unwrap_or(u64::MAX);
    format!("EXTEND_TIMEOUT_USEC={time}")
}

/// A process by a number that no other one ever has. Kernels before 6.9 have none: every handle has the same inode there.
fn identity(pidfd: &Pidfd) -> Option<u64> {
    let own = fd::inode(Pidfd::open(Pid::this()).ok()?.as_fd()).ok()?;
    fd::inode(pidfd.as_fd()).ok().filter(|id| *id != own)
}

/// A line is a field.
fn line(text: &str) -> String {
    let mut text = text.replace(char::is_control, " ");
    if let Some(end) = (0..=STATUS_LENGTH).rev().find(|end| text.is_char_boundary(*end)) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    struct Listens {
        socket: UnixDatagram,
        dir: tempfile::TempDir,
    }

    impl Listens {
        fn new() -> Listens {
            let dir = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Listens { socket, dir }
        }

        fn service(&self, variables: &[(&str, &str)]) -> Systemd {
            let notify = self.dir.path().join("notify").into_os_string();
            let value =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
            let mut systemd =
                Systemd::new(|name| if name == "NOTIFY_SOCKET" { Some(notify.clone()) } else { value(name) }).unwrap();
            systemd.begin();
            systemd
        }

        /// All that has been said, without what differs each time.
        fn heard(&self) -> Vec<String> {
            let mut buffer = [0; 5000];
            let mut heard = vec![];
            while let Ok(len) = self.socket.recv(&mut buffer) {
                let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
                let lines = text.lines().filter(|line| !line.starts_with("MONOTONIC_USEC="));
                heard.push(lines.collect::<Vec<_>>().join(" "));
            }
            heard
        }
    }

    #[test]
    fn old_process_ends_with_one_datagram_and_is_silent_from_then_on() {
        let listens = Listens::new();
        let mut old = listens.service(&[("WATCHDOG_USEC", "1000000")]);
        old.ready("serves");
        old.reloading(Duration::from_secs(8), "upgrades");
        let pid = Pid::this();
        old.handed_over(pid, &Pidfd::open(pid).unwrap(), "handed over");
        old.status("drains");
        old.stopping(Duration::ZERO, "stops");
        old.heartbeat_answered();
        assert_eq!(old.due(), None);
        assert_eq!(
            listens.heard(),
            [
                "READY=1 STATUS=serves".to_owned(),
                "RELOADING=1 EXTEND_TIMEOUT_USEC=10000000 STATUS=upgrades".to_owned(),
                // A handle of one's own has the inode that every handle has where there is no number.
                format!("MAINPID={pid} WATCHDOG=1 READY=1 STATUS=handed over"),
                "BARRIER=1".to_owned(),
            ]
        );
    }

    #[test]
    fn what_takes_its_time_is_said_again_until_it_is_over() {
        let listens = Listens::new();
        let mut service = listens.service(&[]);
        service.reloading(Duration::from_secs(8), "upgrades");
        let first = service.due().unwrap();
        service.extend_again(first - Duration::from_millis(1));
        assert_eq!(listens.heard(), ["RELOADING=1 EXTEND_TIMEOUT_USEC=10000000 STATUS=upgrades"]);
        service.extend_again(first);
        let heard = listens.heard();
        assert!(heard.len() == 1 && heard[0].starts_with("EXTEND_TIMEOUT_USEC="), "{heard:?}");
        assert_eq!(service.due(), Some(first + EXTEND_EVERY));
        service.ready("serves");
        assert_eq!(service.due(), Some(service.status_due));
        service.extend_again(first + EXTEND_EVERY);
        assert_eq!(listens.heard(), ["READY=1 STATUS=serves"]);

        service.stopping(Duration::from_secs(8), "stops");
        // In vain: whatever waits for it has its own end.
        service.extend_again(first + Duration::from_secs(60));
        assert_eq!(listens.heard().len(), 1);
        assert_eq!(service.due(), Some(service.status_due));
    }

    #[test]
    fn a_status_is_one_short_line_and_said_when_it_changes() {
        let listens = Listens::new();
        let mut service = listens.service(&[]);
        service.status("a\nREADY=1");
        service.status("a\nREADY=1");
        service.status(&"ä".repeat(5000));
        let heard = listens.heard();
        assert_eq!(heard[0], "STATUS=a READY=1");
        assert_eq!(heard.len(), 2);
        assert!(heard[1].len() <= STATUS_LENGTH + "STATUS=".len() && heard[1].ends_with('ä'));
    }

    #[test]
    fn the_watchdog_hears_of_a_runtime_that_answers_and_of_none_that_does_not() {
        let listens = Listens::new();
        let service = listens.service(&[("WATCHDOG_USEC", "4000000"), ("WATCHDOG_PID", "")]);
        assert_eq!(service.due(), Some(service.status_due));
        let mut service = listens.service(&[("WATCHDOG_USEC", "4000000")]);
        let first = service.due().unwrap();
        assert!(!service.is_heartbeat_due(first - Duration::from_millis(1)));
        assert!(service.is_heartbeat_due(first));
        service.heartbeat_by(|| true);
        // Asked once, and not again before it has answered.
        assert!(service.is_heartbeat_due(first + Duration::from_secs(60)));
        service.heartbeat_by(|| panic!("it is being asked"));
        assert!(listens.heard().is_empty());
        service.heartbeat_answered();
        assert_eq!(listens.heard(), ["WATCHDOG=1"]);
        // Where there is no runtime, whoever keeps the time answers.
        service.heartbeat_by(|| false);
        assert_eq!(listens.heard(), ["WATCHDOG=1"]);
    }

    #[test]
    fn the_watchdog_of_another_process_and_nonsense_are_none() {
        let watchdog = |time: &str, pid: Option<&str>| watchdog(Some(time.as_ref()), pid.map(AsRef::as_ref));
        let this = std::process::id().to_string();
        assert_eq!(watchdog("2000000", None), Some(Duration::from_millis(500)));
        assert_eq!(watchdog("2000000", Some(&this)), Some(Duration::from_millis(500)));
        assert_eq!(watchdog("2000000", Some("1")), None);
        for nonsense in ["0", "-1", "", "1s"] {
            assert_eq!(watchdog(nonsense, None), None, "{nonsense}");
        }
        assert_eq!(extension(Duration::MAX), format!("EXTEND_TIMEOUT_USEC={}", u64::MAX));
    }

    #[test]
    fn store_is_that_of_the_process_that_systemd_has_started() {
        let listens = Listens::new();
        let this = std::process::id().to_string();
        let service = |variables: &[(&str, &str)]| listens.service(variables);
        assert!(service(&[("FDSTORE", "8")]).keeps());
        assert!(service(&[("FDSTORE", "8"), ("SYSTEMD_EXEC_PID", &this)]).keeps());
        assert!(service(&[("FDSTORE", "8"), ("SYSTEMD_EXEC_PID", "1")]).store.is_none());
        assert!(service(&[("SYSTEMD_EXEC_PID", &this)]).store.is_some(), "before 254 nobody says it");
        assert!(service(&[("SYSTEMD_EXEC_PID", "1")]).store.is_none());
        assert!(service(&[("FDSTORE", "0"), ("SYSTEMD_EXEC_PID", &this)]).store.is_none());
    }

    #[test]
    fn a_unit_that_cannot_work_is_told_what_to_write() {
        let advice = |socket: bool, main: &str| {
            let main = (!main.is_empty()).then(|| main.into());
            let socket = socket.then(|| "/run/n".into());
            who_is_heard(|name| if name == "NOTIFY_SOCKET" { socket.clone() } else { main.clone() }, 7)
        };
        assert!(advice(false, "7").unwrap().contains("Type=notify-reload"));
        assert!(advice(true, "6").unwrap().contains("exec"));
        assert_eq!(advice(true, "7"), None);
        // Started by hand, from a terminal that systemd has started or not; and before systemd 248.
        assert_eq!(
            [advice(false, "6"), advice(false, ""), advice(true, ""), advice(true, "x")],
            [None, None, None, None]
        );
    }

    #[test]
    fn without_a_socket_there_is_nothing() {
        assert!(Systemd::new(|_| None).is_none());
        assert!(Systemd::new(|name| (name == "NOTIFY_SOCKET").then(Default::default)).is_none());
        assert!(Systemd::new(|name| (name == "NOTIFY_SOCKET").then(|| "vsock:2:1".into())).is_none());
    }
}
