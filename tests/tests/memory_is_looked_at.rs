//! An upgrade that there is no memory for does not begin, and says the figures; one that runs out of it all the same costs the new
//! process.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use flip_tests::Start;
use nix::unistd::geteuid;

const SERVICE: &str = env!("CARGO_BIN_EXE_service");
/// What the kernel says of its memory is what the file in the directory says.
const TOLD: &str = "mount --bind meminfo /proc/meminfo && exec \"$0\" \"$@\"";

fn start(variables: &[(&str, &str)]) -> Option<Start> {
    if !geteuid().is_root() {
        flip_tests::skip("only root can say how much memory there is");
        return None;
    }
    let start = Start::new(SERVICE).through(&["unshare", "--mount", "sh", "-c", TOLD]);
    std::fs::write(start.dir().join("meminfo"), "MemAvailable: 100 kB\n").unwrap();
    Some(variables.iter().fold(start, |start, (name, value)| start.env(name, value)))
}

#[test]
fn upgrade_without_memory_is_refused_with_the_figures() {
    let Some(start) = start(&[]) else { return };
    let mut service = start.start();
    let report = service.upgrade().unwrap_err();
    for part in
        ["no new process could be started", "0.0 MiB are left (MemAvailable of /proc/meminfo)", "FLIP_MEMORY=ignore"]
    {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert_eq!(service.log().count("starts as pid"), 0);
    assert_eq!(service.tell("add"), "1");
    std::fs::write(service.dir().join("meminfo"), "MemAvailable: 1000000 kB\n").unwrap();
    service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.tell("add"), "2");
    service.stop();
}

#[test]
fn whoever_knows_better_is_believed() {
    let Some(start) = start(&[("FLIP_MEMORY", "ignore")]) else { return };
    let mut service = start.start();
    service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    service.stop();
}

/// A control group with room for 250 MiB; none where nobody has given the kernel's controller away, of either version.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Group> {
        let name = format!("flip-test-{}", std::process::id());
        ["memory/memory.limit_in_bytes", "memory.max", "unified/memory.max"].into_iter().find_map(|limit| {
            let (at, file) = limit.rsplit_once('/').unwrap_or(("", limit));
            let group = Group(Path::new("/sys/fs/cgroup").join(at).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(file), (250 << 20).to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever was in it has ended, and leaves it in a moment.
        while std::fs::remove_dir(&self.0).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy) {}
    }
}

/// The old one has more, and would be the one to go.
#[test]
fn kernel_ends_the_new_process_where_memory_runs_out() {
    let group = if geteuid().is_root() { Group::new() } else { None };
    let Some(group) = group else {
        return flip_tests::skip("a control group with a limit of memory takes root, and the kernel's controller");
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    let start = Start::new(SERVICE).env("FLIP_MEMORY", "ignore").through(&["sh", "-c", &enter]);
    std::fs::write(start.dir().join("start"), "hold").unwrap();
    let mut service = start.start();
    let first = service.owner().pid;
    service.at_start("eat");
    for count in 1..4 {
        let report = service.upgrade().unwrap_err();
        assert!(report.contains("ended before it served, without a word: SIGKILL"), "{report}");
        assert_eq!((service.owner().pid, service.tell("add")), (first, count.to_string()));
    }
    service.at_start("");
    service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.tell("get"), "3");
    service.stop();
}

#[test]
fn new_process_is_the_first_to_go_until_it_serves() {
    let mut service = Start::new(SERVICE).start();
    let score = |process: &flip_tests::Process| String::from_utf8(process.proc("oom_score_adj")).unwrap();
    let before = score(service.owner());
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(nix::sys::signal::Signal::SIGHUP);
    let new = service.started_after(mark);
    service.until("it starts", || score(&new) == "1000\n");
    assert_eq!(score(service.owner()), before);
    gate.open();
    service.upgraded(mark).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(score(service.owner()), before);
    service.stop();
}
