//! As pid 1 of a container of runc's, which docker and podman run theirs with: what `Containerfile` says of the last image, with
//! the libraries of this machine.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use flip_tests::client::{Http, Loss, Lost};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{COUNTER, hit, served_at, until, whoami};

struct Container {
    name: String,
    dir: TempDir,
    child: Child,
}

/// What the file says of this, in the last image.
fn says(what: &str) -> &'static str {
    let (_, last) = include_str!("../../deploy/Containerfile").rsplit_once("\nFROM ").unwrap();
    last.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim()
}

fn runc(words: &[&str]) -> String {
    let output = Command::new("runc").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// These programs at their places, and what they are linked with at theirs.
fn fill(root: &Path, programs: &[(&str, &str)]) {
    let linked = Command::new("ldd").args(programs.iter().map(|program| program.0)).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    for (from, to) in libraries.map(|path| (path, path)).chain(programs.iter().copied()) {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
    }
    for place in ["proc", "dev", "sys"] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
}

impl Container {
    /// Under a small pid 1, where one is given, by where it is here and in the container. `None` where this machine lacks something,
    /// which is said.
    fn start(init: Option<(&str, &str)>) -> Option<Container> {
        if !Uid::effective().is_root() || Command::new("runc").arg("--version").output().is_err() {
            flip_tests::skip("a container takes root and runc");
            return None;
        }
        if let Some((path, _)) = init
            && !Path::new(path).exists()
        {
            flip_tests::skip(&format!("{path} is not on this machine"));
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let bundle = dir.path().to_str().unwrap();
        runc(&["spec", "--bundle", bundle]);
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut command: Vec<String> = serde_json::from_str(says("ENTRYPOINT ")).unwrap();
        let programs: Vec<_> = init.into_iter().chain([(COUNTER, &*command[0])]).collect();
        fill(&dir.path().join("rootfs"), &programs);
        assert_eq!(says("USER "), "nobody");
        *command.last_mut().unwrap() = "127.0.0.1:0".to_owned();
        if let Some((_, at)) = init {
            command.splice(0..0, [at.to_owned(), "--".to_owned()]);
        }
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["args"] = json!(command);
        process["user"] = json!({ "uid": 65534, "gid": 65534 });
        // As with `--network host`: the clients are outside.
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "network");
        fs::write(&path, config.to_string()).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut run = Command::new("runc");
        run.args(["run", "--bundle", bundle, &name]);
        let child = run.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Some(Container { name, dir, child })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The process that serves, and the others, by the numbers that they have outside.
    fn processes(&self, address: SocketAddr) -> (i32, Vec<i32>) {
        let serves = whoami(address).unwrap().0.to_string();
        let mut all: Vec<i32> = serde_json::from_str(&runc(&["ps", "--format", "json", &self.name])).unwrap();
        all.sort_unstable();
        // Each has a number in each of its namespaces, proc(5).
        let is_it = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status
                .lines()
                .any(|line| line.starts_with("NSpid:") && line.split_whitespace().next_back() == Some(&serves))
        };
        let (it, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_it);
        (it[0], others)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}:\n{}", self.name, self.log());
        }
        let _ = Command::new("runc").args(["delete", "--force", &self.name]).output();
        let _ = self.child.wait();
    }
}

fn lives_through_upgrades_and_crashes(init: Option<(&str, &str)>) {
    let Some(mut container) = Container::start(init) else { return };
    let address = until("it serves", || served_at(&container.log()).filter(|address| whoami(*address).is_ok()));
    let (_, stay) = container.processes(address);
    let state: Value = serde_json::from_str(&runc(&["state", &container.name])).unwrap();
    assert!(stay.contains(&i32::try_from(state["pid"].as_i64().unwrap()).unwrap()), "pid 1 is none that serves");
    assert_eq!(stay.len(), 1 + init.iter().len(), "the launcher, and what it is under");
    assert_eq!((hit(address), hit(address)), (1, 2));
    let mut kept = Http::open(address).unwrap();
    for generation in 2..4 {
        runc(&["kill", &container.name, "HUP"]);
        until("the next one serves", || whoami(address).is_ok_and(|(_, answers)| answers == generation).then_some(()));
        assert_eq!(kept.exchange("POST", "/hit").unwrap().body.trim(), (generation + 1).to_string());
    }
    drop(kept);
    until("the old one has ended", || (container.processes(address).1 == stay).then_some(()));
    kill(Pid::from_raw(container.processes(address).0), Signal::SIGKILL).unwrap();
    // Who comes now waits for the next one.
    let count = hit(address);
    assert!((4..=5).contains(&count), "it goes on from a checkpoint: {count}");
    assert_eq!(whoami(address).unwrap().1, 1);
    assert_eq!(container.processes(address).1, stay);
    runc(&["kill", &container.name, says("STOPSIGNAL ")]);
    let status = container.child.wait().unwrap();
    assert!(status.success(), "{status:?}");
    assert!(matches!(whoami(address), Err(Lost(Loss::Refused, _))));
}

#[test]
fn container_lives_through_upgrades_and_crashes() {
    lives_through_upgrades_and_crashes(None);
}

#[test]
fn so_does_one_with_a_small_pid_one() {
    // What `docker run --init` and `podman run --init` put there, under the names that they have for it, and what images bring along.
    let inits = [
        ("/usr/bin/tini-static", "/sbin/docker-init"),
        ("/usr/bin/catatonit", "/run/podman-init"),
        ("/usr/bin/tini", "/usr/bin/tini"),
        ("/usr/bin/dumb-init", "/usr/bin/dumb-init"),
    ];
    for init in inits {
        lives_through_upgrades_and_crashes(Some(init));
    }
}
