//! A service of flip's under a real systemd, of each release that differs: `systemctl` does what it says, and what fails is
//! seen.
//!
//! With `FLIP_SYSTEMD=long` everything is done more often.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flip_tests::http::{Client, Load};
use flip_tests::places::who;
use flip_tests::systemd::{Release, Systemd, Unit};
use flip_tests::{Gate, PATIENCE, is_linux, say_skipped};

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");
const SUPERVISED: &str = env!("CARGO_BIN_EXE_supervised");
/// What a reload may take on a machine that has much else to do; what each of these takes is a tenth of a second.
const RELOAD: Duration = Duration::from_secs(10);

fn unit(release: Release, label: &str, lines: &[&str]) -> Option<Unit> {
    let systemd = Systemd::get(release, label, env!("CARGO_TARGET_TMPDIR"))?;
    let unit = Unit::new(systemd, SUPERVISED, lines);
    unit.does(&["start"]);
    Some(unit)
}

fn often(few: u64, many: u64) -> u64 {
    if std::env::var("FLIP_SYSTEMD").is_ok_and(|value| value == "long") { many } else { few }
}

/// The process that answers, its parent, its generation, the count, and whose watchdog it has.
fn visit(unit: &Unit) -> [String; 5] {
    let answer = unit.client().get("/").expect("an answer");
    let words: Vec<_> = answer.body.split(' ').map(str::to_owned).collect();
    words.try_into().expect("five words")
}

/// Waits until systemd has heard that this generation serves.
fn until_serves(unit: &Unit, generation: u64) {
    unit.until("StatusText", |status| status.starts_with(&format!("generation {generation} serves")));
    unit.until("ActiveState", |state| state == "active");
}

/// All is as it should be, in this generation.
fn is_well(unit: &Unit, generation: u64) {
    unit.shows("ActiveState", "active");
    unit.shows("NRestarts", "0");
    unit.shows("Result", "success");
    let [pid, parent, answers, ..] = visit(unit);
    assert_eq!(answers, generation.to_string());
    unit.shows("MainPID", &pid);
    assert_eq!(parent, "1", "its death is not systemd's to see");
}

fn reloads_under_load(release: Release) {
    let Some(unit) = unit(release, "", &["WatchdogSec=60s"]) else { return };
    is_well(&unit, 1);
    let load = Load::start(unit.address(), 1, 1);
    let count = often(10, 50);
    for generation in 2..2 + count {
        load.go_on_for(10);
        unit.reload(RELOAD);
        if !release.waits() {
            until_serves(&unit, generation);
        }
        is_well(&unit, generation);
        let [pid, .., watchdog] = visit(&unit);
        assert_eq!(watchdog, pid);
    }
    let tally = load.stop();
    assert_eq!(tally.wrong(), 0, "{tally:?}");
    let journal = unit.journal();
    for bad in ["not our child", "reception only permitted", "timed out"] {
        assert!(!journal.contains(bad), "{bad}: {journal}");
    }
}

fn failed_upgrade_is_reported_and_the_unit_goes_on(release: Release) {
    let looks = "ExecReloadPost=+/bin/sh -c '! systemctl show -P StatusText %n | grep -q \"upgrade rolled back\"'";
    let Some(unit) = unit(release, "", &["Environment=FLIP_READY_TIMEOUT=3s", looks]) else { return };
    let pid = unit.main_pid();
    let load = Load::start(unit.address(), 1, 1);
    // systemd reaps it, and after that the kernel tells from 6.15 on.
    let (exits, aborts) = match is_linux(6, 15) {
        true => ("without a word: exit status 3", "without a word: SIGABRT"),
        false => {
            say_skipped("how a process ended that somebody else reaped is not known before Linux 6.15");
            ("without a word", "without a word")
        }
    };
    for (how, why) in [
        ("exit", exits),
        ("abort", aborts),
        ("panic", "panics on purpose"),
        ("error", "fails on purpose"),
        ("hang", "ready_timeout"),
    ] {
        unit.write("start", how);
        // What looks at the status is run by those that know it, and the reload fails when it does.
        let reloaded = unit.systemctl(&["reload"]);
        assert_eq!(reloaded.status.success(), release != Release::V262, "{reloaded:?}");
        let status = unit.until("StatusText", |status| status.contains(why));
        assert!(status.contains("upgrade rolled back"), "{status}");
        unit.until("ActiveState", |state| state == "active");
        is_well(&unit, 1);
        assert_eq!(unit.main_pid(), pid);
    }
    unit.write("start", "");
    unit.reload(RELOAD);
    until_serves(&unit, 2);
    let status = unit.show("StatusText");
    assert!(status.contains("the last upgrade succeeded"), "{status}");
    is_well(&unit, 2);
    let tally = load.stop();
    assert_eq!(tally.wrong(), 0, "{tally:?}");
}

fn status_counts_connections(release: Release) {
    let Some(unit) = unit(release, "", &["Environment=FLIP_DRAIN_TIMEOUT=60s"]) else { return };
    let held = [holds(&unit), holds(&unit)];
    // Told with whatever else is to be told.
    unit.write("start", "error");
    unit.systemctl(&["reload"]);
    let status = unit.until("StatusText", |status| status.contains("upgrade rolled back"));
    assert!(status.starts_with("generation 1 serves; 2 connections; "), "{status}");
    unit.until("ActiveState", |state| state == "active");
    unit.does(&["stop", "--no-block"]);
    let status = unit.until("StatusText", |status| status.contains("stops"));
    assert!(status.starts_with("generation 1 stops; 2 connections"), "{status}");
    drop(held);
    unit.until("ActiveState", |state| state == "inactive");
}

/// A client that is being served, for as long as it stays.
fn holds(unit: &Unit) -> Client {
    let mut held = unit.client();
    held.get("/").expect("an answer");
    held.ask("/hold").expect("it is open");
    held
}

fn stop_restart_and_kill_are_what_they_were(release: Release) {
    // Where every process is heard, one that drains must not say that the service stops.
    let Some(unit) = unit(release, "", &["Restart=on-failure", "RestartSec=0", "NotifyAccess=all"]) else { return };
    unit.reload(RELOAD);
    until_serves(&unit, 2);
    let second = unit.main_pid();
    unit.does(&["restart"]);
    is_well(&unit, 1);
    assert_ne!(unit.main_pid(), second);
    // An upgrade that nobody asked systemd for.
    unit.does(&["kill", "-s", "HUP", "--kill-whom=main"]);
    until_serves(&unit, 2);
    is_well(&unit, 2);
    unit.does(&["kill", "-s", "KILL"]);
    unit.until("NRestarts", |count| count == "1");
    until_serves(&unit, 1);
    let [pid, _, generation, ..] = visit(&unit);
    assert_eq!((pid, generation), (unit.main_pid().to_string(), "1".to_owned()));

    // An earlier generation that drains is waited for, and what it serves ends with its client.
    let mut held = unit.client();
    held.ask("/hold").expect("it is open");
    unit.reload(RELOAD);
    until_serves(&unit, 2);
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| unit.does(&["stop"]));
        unit.until("ActiveState", |state| state == "deactivating");
        let status = unit.until("StatusText", |status| status.contains("stops"));
        assert!(status.contains("1 earlier generation drains"), "{status}");
        drop(held);
        stopped.join().expect("it stops");
    });
    unit.shows("ActiveState", "inactive");
    unit.shows("Result", "success");
    assert!(Client::connect(unit.address()).is_err(), "nobody is left");
}

/// Where in an upgrade a service is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The new process runs, and is not ready.
    Starting,
    /// The old one is frozen, and writes its state.
    Sending,
    /// The new one reads it.
    Restoring,
    /// The new one serves, and the old one drains.
    Draining,
}

/// A service that an upgrade of does not go on.
struct Caught {
    unit: Unit,
    /// What holds it up; in the last phase, who.
    _gate: Option<Gate>,
    held: Option<Client>,
}

fn caught(release: Release, phase: Phase, lines: &[&str]) -> Option<Caught> {
    let patient = ["Restart=on-failure", "RestartSec=0", "Environment=FLIP_FREEZE_TIMEOUT=60s"];
    let unit = unit(release, "", &[&patient, lines].concat())?;
    assert_eq!(unit.processes(), [unit.main_pid()]);
    let name = match phase {
        Phase::Starting => "start",
        Phase::Sending => "save",
        Phase::Restoring => "restore",
        Phase::Draining => {
            let mut held = unit.client();
            held.ask("/hold").expect("it is open");
            unit.reload(RELOAD);
            until_serves(&unit, 2);
            assert_eq!(unit.processes().len(), 2);
            return Some(Caught { unit, _gate: None, held: Some(held) });
        }
    };
    let gate = unit.gate(name);
    unit.does(&["reload", "--no-block"]);
    unit.until_log(&format!("is at the gate {name}"));
    // Whoever is started next does not wait there.
    gate.forget();
    assert_eq!(unit.processes().len(), 2, "{phase:?}");
    Some(Caught { unit, _gate: Some(gate), held: None })
}

impl Caught {
    /// Has it stop, or restart; whoever is still being served leaves once that is known.
    fn does(&mut self, verb: &str) {
        let held = self.held.take();
        std::thread::scope(|scope| {
            let done = scope.spawn(|| self.unit.does(&[verb]));
            if let Some(held) = held {
                self.unit.until("ActiveState", |state| state == "deactivating");
                drop(held);
            }
            done.join().expect("it does");
        });
    }

    /// A process that was just started serves, and there is no other.
    fn is_one_and_new(&self, before: &[i32], restarts: &str) {
        self.unit.until("NRestarts", |count| count == restarts);
        until_serves(&self.unit, 1);
        let pid = self.unit.main_pid();
        assert!(!before.contains(&pid));
        assert_eq!(self.unit.processes(), [pid]);
        for _ in 0..10 {
            let [answers, ..] = visit(&self.unit);
            assert_eq!(answers, pid.to_string());
        }
    }
}

/// No process of the unit lives; where systemd does not wait for all of them, a moment later.
fn until_nobody_is_left(unit: &Unit, later: bool) {
    let deadline = Instant::now() + PATIENCE;
    while !unit.processes().is_empty() {
        assert!(later && Instant::now() < deadline, "somebody is left: {:?}", unit.processes());
    }
}

const PHASES: [Phase; 4] = [Phase::Starting, Phase::Sending, Phase::Restoring, Phase::Draining];

fn stop_in_each_phase_of_a_reload_ends_all(release: Release) {
    // In one systemd ends what is left; in the other it ends the main process alone, and flip the rest.
    for mode in ["KillMode=mixed", "KillMode=process"] {
        for phase in PHASES {
            let Some(mut caught) = caught(release, phase, &[mode]) else { return };
            let address = caught.unit.address();
            caught.does("stop");
            caught.unit.shows("ActiveState", "inactive");
            caught.unit.shows("Result", "success");
            caught.unit.shows("NRestarts", "0");
            until_nobody_is_left(&caught.unit, mode == "KillMode=process");
            assert!(Client::connect(address).is_err(), "{phase:?}, {mode}: somebody serves");
        }
    }
}

fn restart_in_each_phase_of_a_reload_leaves_the_new_one_alone(release: Release) {
    for phase in PHASES {
        let Some(mut caught) = caught(release, phase, &[]) else { return };
        let (address, before) = (caught.unit.address(), caught.unit.processes());
        caught.does("restart");
        caught.is_one_and_new(&before, "0");
        is_well(&caught.unit, 1);
        assert!(Client::connect(address).is_err(), "{phase:?}: somebody serves beside it");
    }
}

fn kill_in_each_phase_of_a_reload_has_one_successor(release: Release) {
    for phase in PHASES {
        // All processes, and the one that systemd takes for the service: then it kills the others, or asks them to end.
        for (mode, whom) in [("mixed", "all"), ("mixed", "main"), ("control-group", "main")] {
            // systemd 262 kills all by cgroup.kill, and Linux 6.18 ends whoever is started into that group later
            // (CLONE_INTO_CGROUP, clone(2)) until it is removed: systemd does that in the pause.
            let pause = if whom == "all" { "RestartSec=100ms" } else { "RestartSec=0" };
            let Some(mut caught) = caught(release, phase, &[&format!("KillMode={mode}"), pause]) else { return };
            let (address, before) = (caught.unit.address(), caught.unit.processes());
            caught.unit.does(&["kill", "-s", "KILL", &format!("--kill-whom={whom}")]);
            drop(caught.held.take());
            caught.is_one_and_new(&before, "1");
            let journal = caught.unit.journal();
            assert!(!journal.contains("timed out"), "{phase:?}, {mode}: it waits for nobody: {journal}");
            assert!(Client::connect(address).is_err(), "{phase:?}: somebody serves beside it");
            // It is as good as any.
            caught.unit.reload(RELOAD);
            until_serves(&caught.unit, 2);
        }
    }
}

fn stop_by_each_kill_mode_waits_for_those_that_drain(release: Release) {
    // Where systemd is not to tell anybody, the unit has to.
    let none = "KillMode=none\nExecStop=/bin/kill -TERM $MAINPID";
    for mode in ["KillMode=control-group", "KillMode=mixed", "KillMode=process", none] {
        for leaves in [true, false] {
            let time = if leaves { "60s" } else { "1s" };
            let lines = [mode, &format!("Environment=FLIP_DRAIN_TIMEOUT={time}")];
            let Some(mut caught) = caught(release, Phase::Draining, &lines) else { return };
            let address = caught.unit.address();
            // One that stays is cut, which takes the time that the service gives it.
            let stays = caught.held.take_if(|_| !leaves);
            if mode == none {
                // systemd waits for nobody, and the service ends all the same.
                caught.unit.does(&["stop"]);
                drop(caught.held.take());
            } else {
                caught.does("stop");
            }
            caught.unit.until("ActiveState", |state| state == "inactive");
            caught.unit.shows("Result", "success");
            until_nobody_is_left(&caught.unit, mode == none);
            assert!(Client::connect(address).is_err(), "{mode}: nobody is left");
            let cut = caught.unit.log().matches("cut").count();
            assert_eq!(cut == 0, leaves, "{mode}: {}", caught.unit.log());
            drop(stays);
        }
    }
}

fn reexecuted_manager_and_three_reloads_at_once(release: Release) {
    let Some(unit) = unit(release, "-reexec", &[]) else { return };
    let systemd = Systemd::get(release, "-reexec", env!("CARGO_TARGET_TMPDIR")).expect("it is up");
    let load = Load::start(unit.address(), 1, 1);
    unit.reload(RELOAD);
    until_serves(&unit, 2);
    systemd.says(&["systemctl", "daemon-reexec"]);
    is_well(&unit, 2);
    unit.reload(RELOAD);
    until_serves(&unit, 3);
    // In the middle of a reload.
    unit.write("freeze", "500");
    unit.does(&["reload", "--no-block"]);
    unit.until("StatusText", |status| status.contains("generation 4 starts"));
    systemd.says(&["systemctl", "daemon-reexec"]);
    until_serves(&unit, 4);
    is_well(&unit, 4);
    unit.write("freeze", "0");

    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| unit.reload(RELOAD));
        }
    });
    // How many they come to depends on when each arrives; what is under way is finished.
    unit.until("StatusText", |status| status.contains(" serves") && !status.contains("starts"));
    unit.until("ActiveState", |state| state == "active");
    let status = unit.show("StatusText");
    let generation: u64 = status.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number");
    assert!(generation > 4, "{status}");
    is_well(&unit, generation);
    let tally = load.stop();
    assert_eq!(tally.wrong(), 0, "{tally:?}");

    // A stop in the middle of a reload ends both processes.
    unit.write("freeze", "2000");
    unit.does(&["reload", "--no-block"]);
    unit.until("StatusText", |status| status.contains(&format!("generation {} starts", generation + 1)));
    unit.does(&["stop"]);
    unit.shows("ActiveState", "inactive");
    unit.shows("Result", "success");
}

fn death_of_the_new_process_is_noticed_while_the_old_one_drains(release: Release) {
    let lines = &["Restart=on-failure", "RestartSec=0", "Environment=FLIP_DRAIN_TIMEOUT=60s"];
    let Some(unit) = unit(release, "", lines) else { return };
    let old = unit.main_pid();
    // Keeps it draining.
    let mut held = unit.client();
    held.ask("/hold").expect("it is open");
    unit.reload(RELOAD);
    until_serves(&unit, 2);
    let new = unit.main_pid();
    assert_ne!(old, new);
    let systemd = Systemd::get(release, "", env!("CARGO_TARGET_TMPDIR")).expect("it is up");
    // A second later, when the new process has nothing of the handoff left to do.
    let script = format!("sleep 1 && kill -0 {old} && date +%s.%N && kill -KILL {new}");
    let killed: f64 = systemd.says(&["sh", "-c", &script]).parse().expect("a time");
    unit.until("NRestarts", |count| count == "1");
    until_serves(&unit, 1);
    let journal = unit.journal();
    let line = journal.lines().find(|line| line.contains("Main process exited")).expect("it says so");
    let noticed: f64 = line.split(' ').next().and_then(|time| time.parse().ok()).expect("a time");
    assert!(noticed - killed < 0.1, "after {} s", noticed - killed);
    assert!(!journal.contains("not our child"), "{journal}");
}

fn watchdog_is_content_through_long_freezes_and_ends_a_hang(release: Release) {
    // systemd would wait for less time than the freeze takes, if it were not told to wait longer.
    let lines = &["WatchdogSec=1s", "Environment=FLIP_FREEZE_TIMEOUT=20s", "TimeoutStartSec=1500ms"];
    let Some(unit) = unit(release, "", lines) else { return };
    unit.write("freeze", "2000");
    for generation in 2..2 + often(2, 20) {
        let began = Instant::now();
        unit.reload(RELOAD);
        until_serves(&unit, generation);
        assert!(began.elapsed() >= Duration::from_secs(2), "it froze for as long");
        is_well(&unit, generation);
    }
    assert!(!unit.journal().to_lowercase().contains("watchdog"), "{}", unit.journal());
    let mut client = unit.client();
    client.ask("/hang").expect("it is open");
    unit.until("Result", |result| result == "watchdog");
    unit.until("ActiveState", |state| state == "failed");
}

/// systemd is told how long it may take, and waits.
fn starts_and_drains_outlast_the_limits_of_the_unit(release: Release) {
    // What is told is forgotten where systemd reads its units again, as it does for other tests.
    let Some(systemd) = Systemd::get(release, "-limits", env!("CARGO_TARGET_TMPDIR")) else { return };
    let unit = Unit::new(
        systemd,
        SUPERVISED,
        &["TimeoutStartSec=1s", "TimeoutStopSec=1s", "Environment=FLIP_DRAIN_TIMEOUT=30s"],
    );
    let mut gate = unit.gate("start");
    unit.does(&["start", "--no-block"]);
    unit.until_log("is at the gate start");
    unit.keeps("ActiveState", "activating", Duration::from_secs(2));
    gate.open();
    until_serves(&unit, 1);
    is_well(&unit, 1);
    let mut held = unit.client();
    held.ask("/hold").expect("it is open");
    unit.does(&["stop", "--no-block"]);
    unit.until("StatusText", |status| status.starts_with("generation 1 stops; 1 connection"));
    unit.keeps("ActiveState", "deactivating", Duration::from_secs(2));
    drop(held);
    unit.until("ActiveState", |state| state == "inactive");
    unit.shows("Result", "success");
    assert!(!unit.journal().contains("timed out"), "{}", unit.journal());
}

/// As `examples/deploy` has it, but for what names the program.
fn privileges_of_the_unit_go_to_each_generation(release: Release) {
    let deployed = include_str!("../../examples/deploy/counter.service");
    let section = deployed.split("[Service]").nth(1).and_then(|rest| rest.split("[Install]").next());
    let left_out = ["Type=", "ExecStart=", "AmbientCapabilities=", "CapabilityBoundingSet="];
    let mut lines: Vec<_> = section.expect("it has both").lines().collect();
    lines.retain(|line| !left_out.iter().any(|start| line.starts_with(start)));
    lines.extend(["AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"]);
    let Some(systemd) = Systemd::get(release, "", env!("CARGO_TARGET_TMPDIR")) else { return };
    let unit = Unit::new(systemd, SUPERVISED, &lines);
    unit.is_everybody_s();
    unit.does(&["start"]);
    let surrounded = |unit: &Unit| {
        let status = systemd.says(&["cat", &format!("/proc/{}/status", unit.main_pid())]);
        let fields = [
            "Uid:",
            "Gid:",
            "Groups:",
            "CapInh:",
            "CapPrm:",
            "CapEff:",
            "CapBnd:",
            "CapAmb:",
            "NoNewPrivs:",
            "Seccomp:",
        ];
        let lines = status.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = surrounded(&unit);
    let has = |line: &str| first.iter().any(|one| one == line);
    assert!(has("CapAmb:\t0000000000000400") && has("NoNewPrivs:\t1") && has("Seccomp:\t2"), "{first:?}");
    assert!(!has("Uid:\t0\t0\t0\t0"), "{first:?}");
    for generation in 2..4 {
        unit.reload(RELOAD);
        until_serves(&unit, generation);
        is_well(&unit, generation);
        assert_eq!(surrounded(&unit), first);
    }
}

fn systemd_run_with_a_sandbox_is_a_service_like_any_other(release: Release) {
    // 252 does not read a `$` again as it has written it for systemd-run, and others here have it read its units again.
    let Some(systemd) = Systemd::get(release, "-run", env!("CARGO_TARGET_TMPDIR")) else { return };
    // Without SystemCallErrorNumber= a call that is not among them ends the process.
    let sandbox = [
        "User=nobody",
        "NoNewPrivileges=yes",
        "SystemCallFilter=@system-service",
        "ProtectSystem=strict",
        "KillMode=mixed",
    ];
    let unit = Unit::run(systemd, SUPERVISED, &sandbox);
    until_serves(&unit, 1);
    let nobody = |unit: &Unit| {
        let status = unit.proc(unit.main_pid(), "status");
        let has = |line: &str| assert!(status.lines().any(|one| one == line), "{line} in {status}");
        has("Uid:\t65534\t65534\t65534\t65534");
        has("NoNewPrivs:\t1");
        has("Seccomp:\t2");
    };
    nobody(&unit);
    for generation in 2..4 {
        unit.reload(RELOAD);
        until_serves(&unit, generation);
        is_well(&unit, generation);
        nobody(&unit);
    }
    unit.write("start", "error");
    // Whoever reloads is told by the status.
    unit.does(&["reload"]);
    unit.until("StatusText", |status| status.contains("fails on purpose"));
    unit.until("ActiveState", |state| state == "active");
    is_well(&unit, 3);
    unit.write("start", "");
    unit.reload(RELOAD);
    until_serves(&unit, 4);
    assert!(!unit.log().contains("an upgrade will fail"), "{}", unit.log());
    let address = unit.address();
    unit.does(&["stop"]);
    assert!(unit.processes().is_empty());
    assert!(Client::connect(address).is_err(), "nobody is left");
    assert!(!unit.journal().contains("SYS"), "{}", unit.journal());
}

/// What a process has of whoever started it, as the kernel says it.
fn surroundings(unit: &Unit) -> Vec<String> {
    let pid = unit.main_pid();
    let status = unit.proc(pid, "status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel has it").trim();
    let mut all = ["Umask:", "Cpus_allowed:"].map(|name| format!("{name} {}", field(name))).to_vec();
    // Without the two that the C library keeps for itself.
    let signals = |name| u64::from_str_radix(field(name), 16).expect("a set") & !(0b11 << 31);
    all.extend(["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| format!("{name} {:x}", signals(name))));
    let stat = unit.proc(pid, "stat");
    // After the name: nice, and the policy of the scheduler, proc_pid_stat(5).
    let fields: Vec<_> = stat.rsplit_once(") ").expect("it has a name").1.split(' ').collect();
    all.push(format!("nice {}, policy {}", fields[16], fields[38]));
    all.extend(["limits", "cgroup", "coredump_filter", "timerslack_ns"].map(|file| unit.proc(pid, file)));
    all
}

fn fourth_generation_is_surrounded_as_the_first(release: Release) {
    let lines = [
        "Nice=7",
        "CPUSchedulingPolicy=batch",
        "UMask=0027",
        "LimitNOFILE=777:888",
        "LimitCORE=0",
        "IgnoreSIGPIPE=no",
        "TimerSlackNSec=70000",
        "CoredumpFilter=0x13",
        "OOMScoreAdjust=123",
    ];
    let Some(unit) = unit(release, "", &lines) else { return };
    let first = surroundings(&unit);
    for wanted in ["Umask: 0027", "nice 7, policy 3"] {
        assert!(first.iter().any(|one| one == wanted), "{wanted} in {first:?}");
    }
    assert!(first.iter().any(|one| one.contains(&format!("/system.slice/{}", unit.name()))), "{first:?}");
    for generation in 2..5 {
        unit.reload(RELOAD);
        until_serves(&unit, generation);
        is_well(&unit, generation);
    }
    assert_eq!(surroundings(&unit), first);
    // Until it serves it is the first to go where memory runs out.
    let deadline = Instant::now() + PATIENCE;
    while unit.proc(unit.main_pid(), "oom_score_adj") != "123" {
        assert!(Instant::now() < deadline, "it stays the first to go");
    }
}

fn a_unit_that_cannot_work_is_warned_about(release: Release) {
    let Some(simple) = unit(release, "", &["Type=simple", "ExecReload="]) else { return };
    simple.until_log("write Type=notify-reload into the unit");
    let behind = format!("ExecStart=/bin/sh -c '{SUPERVISED}; exit'");
    let lines = ["Type=simple", "NotifyAccess=main", "ExecReload=", "ExecStart=", &behind];
    let Some(wrapped) = unit(release, "", &lines) else { return };
    wrapped.until_log("have the script before it end with exec");
}

/// Who answers a line on a Unix socket, as its process is numbered there.
fn who_answers(path: &str) -> i32 {
    let mut stream = BufReader::new(UnixStream::connect(path).expect("the socket unit listens"));
    stream.get_ref().set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.get_mut().write_all(b"who\n").expect("it is open");
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer");
    who(&line).expect("it names a process").0
}

fn socket_unit_is_used_and_left_to_systemd(release: Release) {
    let Some(systemd) = Systemd::get(release, "", env!("CARGO_TARGET_TMPDIR")) else { return };
    let unit = Unit::new(systemd, SOCKETS, &["Restart=on-failure", "RestartSec=0"]);
    unit.write("places", "unix systemd:app");
    let path = unit.path("app.sock");
    unit.socket(&format!("[Socket]\nListenStream={path}\nFileDescriptorName=app\n"));
    unit.shows("ActiveState", "inactive");
    // Whoever comes first starts it.
    let first = who_answers(&path);
    assert_eq!(first, unit.main_pid());
    for generation in 2..4 {
        unit.reload(RELOAD);
        until_serves(&unit, generation);
        assert_eq!(who_answers(&path), unit.main_pid());
    }
    unit.shows("NRestarts", "0");
    // Neither a stop nor a death loses anybody who comes in between.
    unit.does(&["restart"]);
    assert_eq!(who_answers(&path), unit.main_pid());
    unit.does(&["kill", "-s", "KILL"]);
    let answered = who_answers(&path);
    unit.until("MainPID", |pid| pid == answered.to_string());
    unit.does(&["stop"]);
    assert_eq!(who_answers(&path), unit.main_pid());
}

/// Connects again and again while this is done: nobody is refused, and each who gets to ask anew is answered in the end.
fn refuses_nobody(unit: &Unit, act: impl FnOnce()) {
    let (address, done) = (unit.address(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut connected = 0;
            while !done.load(Ordering::SeqCst) || connected < 10 {
                // Whoever is being served by a process that is killed is cut, and that is not the listener's doing.
                let mut client = Client::connect(address).expect("the listener is there without a gap");
                let _ = client.get("/");
                connected += 1;
            }
        });
        act();
        done.store(true, Ordering::SeqCst);
        clients.join().expect("nobody was refused");
    });
}

fn listeners_lie_in_the_store_while_nobody_serves(release: Release) {
    let lines = ["Restart=always", "RestartSec=0", "FileDescriptorStoreMax=8"];
    let Some(unit) = unit(release, "", &lines) else { return };
    unit.until("NFileDescriptorStore", |count| count == "1");
    let address = unit.address();
    for killed in 1..4 {
        // The process that was started first, and one that came by an upgrade.
        if killed == 2 {
            unit.reload(RELOAD);
            until_serves(&unit, 2);
        }
        let before = unit.main_pid();
        refuses_nobody(&unit, || {
            unit.does(&["kill", "-s", "KILL", "--kill-whom=main"]);
            unit.until("NRestarts", |count| count == killed.to_string());
            until_serves(&unit, 1);
        });
        assert_ne!(unit.main_pid(), before);
        assert_eq!(unit.address(), address, "it is the same socket, whose port nobody chose");
    }
    refuses_nobody(&unit, || unit.does(&["restart"]));
    assert_eq!(unit.address(), address);
    unit.shows("NFileDescriptorStore", "1");
    unit.does(&["stop"]);
    assert!(Client::connect(address).is_err(), "a stop is one");
}

/// None is made by the clock alone.
fn state_lies_in_the_store_while_nobody_serves(release: Release) {
    let lines = [
        "Restart=always",
        "RestartSec=0",
        "FileDescriptorStoreMax=8",
        "Environment=FLIP_STORE=state FLIP_CHECKPOINT=1h",
    ];
    let Some(unit) = unit(release, "", &lines) else { return };
    unit.until("NFileDescriptorStore", |count| count == "3");
    let count = || visit(&unit)[3].parse::<u64>().expect("a number");
    assert_eq!(count(), 1);
    for killed in 1..3 {
        let load = Load::start(unit.address(), 1, 1);
        load.go_on_for(50);
        let least = count();
        unit.reload(RELOAD);
        until_serves(&unit, 2);
        load.stop();
        for _ in 0..100 {
            count();
        }
        let most = count();
        let kill = || {
            unit.does(&["kill", "-s", "KILL", "--kill-whom=main"]);
            unit.until("NRestarts", |count| count == killed.to_string());
            until_serves(&unit, 1);
        };
        // What an upgrade has sent is there, and what came after it may be lost.
        if killed == 1 {
            kill();
            let now = count();
            assert!((least..=most + 1).contains(&now), "{now}, which is not from {least} to {most} and this one");
        } else {
            refuses_nobody(&unit, kill);
            assert!(count() > least);
        }
    }
    unit.until_log("the state goes on from the checkpoint of ");
    let before = count();
    unit.does(&["restart"]);
    assert_eq!(count(), before + 1, "a restart loses nothing");
    unit.shows("NFileDescriptorStore", "3");
}

/// A checkpoint that ends two processes is set aside, and a line of the unit brings it back.
fn checkpoint_that_kills_is_set_aside_and_brought_back(release: Release) {
    let lines = [
        "Restart=always",
        "RestartSec=0",
        "FileDescriptorStoreMax=8",
        "Environment=FLIP_STORE=state FLIP_CHECKPOINT=1h",
    ];
    let Some(unit) = unit(release, "", &lines) else { return };
    unit.until("NFileDescriptorStore", |count| count == "3");
    let count = || visit(&unit)[3].parse::<u64>().expect("a number");
    for _ in 0..4 {
        count();
    }
    let gate = unit.gate("restore-stored");
    unit.does(&["restart", "--no-block"]);
    let mut dead = vec![];
    for _ in 0..2 {
        let pid = unit.until("MainPID", |pid| {
            pid != "0" && !dead.contains(&pid.to_owned()) && {
                unit.log().contains(&format!("pid {pid} is at the gate restore-stored"))
            }
        });
        if dead.len() == 1 {
            gate.forget();
        }
        unit.does(&["kill", "-s", "KILL", "--kill-whom=main"]);
        dead.push(pid);
    }
    unit.until_log("has ended 2 processes that restored it, and is set aside: the state begins anew");
    until_serves(&unit, 1);
    assert_eq!((count(), count()), (1, 2));

    unit.adds("[Service]\nEnvironment=FLIP_ASIDE=restore\n");
    unit.does(&["restart"]);
    unit.until_log("the state that was set aside is tried again (FLIP_ASIDE=restore)");
    assert_eq!(count(), 5);
    unit.adds("");
    unit.does(&["restart"]);
    assert_eq!(count(), 6, "it goes on from there");
    unit.until_log("that was set aside lies in the store of descriptors");
    unit.adds("[Service]\nEnvironment=FLIP_ASIDE=drop\n");
    unit.does(&["restart"]);
    assert_eq!(count(), 7);
    unit.shows("NFileDescriptorStore", "3");
}

fn socket_activate_is_the_same_by_hand(release: Release) {
    let Some(systemd) = Systemd::get(release, "", env!("CARGO_TARGET_TMPDIR")) else { return };
    let unit = Unit::new(systemd, SOCKETS, &[]);
    unit.write("places", "unix systemd:app");
    let path = unit.path("by-hand.sock");
    // From 258 on it says by itself that it is ready, and has no handler that a reload could be told.
    let start = format!(
        "[Service]\nType=notify\nExecReload=\nExecReload=/bin/kill -HUP $MAINPID\nExecStart=\nExecStart=systemd-socket-activate -E NOTIFY_SOCKET -l {path} {SOCKETS}\n"
    );
    unit.adds(&start);
    unit.does(&["start", "--no-block"]);
    unit.until_log("Listening on ");
    assert_eq!(who_answers(&path), unit.main_pid());
    for generation in 2..4 {
        unit.reload(RELOAD);
        until_serves(&unit, generation);
        assert_eq!(who_answers(&path), unit.main_pid());
    }
}

fn unit_is_told_what_will_bite(release: Release) {
    let lines = ["KillMode=process", "NotifyAccess=all", "PIDFile=/run/a.pid", "Environment=FLIP_READY_TIMEOUT=30s"];
    let Some(unit) = unit(release, "", &lines) else { return };
    let told = [
        "write KillMode=mixed",
        "write OOMPolicy=continue",
        "write NotifyAccess=main",
        "PIDFile=/run/a.pid",
        "TimeoutStartSec=20s is shorter than ready_timeout (30s)",
        "TimeoutStopSec=20s is shorter than drain_timeout (30s)",
    ];
    for line in told {
        unit.until_log(&format!("{}: ", unit.name()));
        unit.until_log(line);
    }
    let before = unit.log().matches("write OOMPolicy=continue").count();
    unit.reload(RELOAD);
    until_serves(&unit, 2);
    assert_eq!(
        (before, unit.log().matches("write OOMPolicy=continue").count()),
        (1, 1),
        "it is said at the start alone"
    );
}

/// Each of these under each release.
macro_rules! under {
    ($($release:ident $module:ident),+: $tests:tt) => { $(under!(@ $release $module $tests);)+ };
    (@ $release:ident $module:ident [$($test:ident),+ $(,)?]) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test(flip_tests::systemd::Release::$release);
                }
            )+
        }
    };
}

under!(V252 v252, V254 v254, V257 v257, V262 v262: [
    reloads_under_load,
    failed_upgrade_is_reported_and_the_unit_goes_on,
    status_counts_connections,
    stop_restart_and_kill_are_what_they_were,
    stop_in_each_phase_of_a_reload_ends_all,
    restart_in_each_phase_of_a_reload_leaves_the_new_one_alone,
    kill_in_each_phase_of_a_reload_has_one_successor,
    stop_by_each_kill_mode_waits_for_those_that_drain,
    reexecuted_manager_and_three_reloads_at_once,
    death_of_the_new_process_is_noticed_while_the_old_one_drains,
    watchdog_is_content_through_long_freezes_and_ends_a_hang,
    privileges_of_the_unit_go_to_each_generation,
    systemd_run_with_a_sandbox_is_a_service_like_any_other,
    fourth_generation_is_surrounded_as_the_first,
    a_unit_that_cannot_work_is_warned_about,
    socket_unit_is_used_and_left_to_systemd,
    listeners_lie_in_the_store_while_nobody_serves,
    state_lies_in_the_store_while_nobody_serves,
    starts_and_drains_outlast_the_limits_of_the_unit,
    checkpoint_that_kills_is_set_aside_and_brought_back,
    socket_activate_is_the_same_by_hand,
    unit_is_told_what_will_bite,
]);
