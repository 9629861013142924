//! As pid 1 of a container of runc's, which docker and podman run theirs with: what `Containerfile` says of the last image, with
//! the libraries of this machine.

use std::fs::{self, File, Permissions};
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

/// The program at its place, and what it is linked with at theirs.
fn fill(root: &Path, program: &str) {
    let linked = Command::new("ldd").arg(COUNTER).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for (from, to) in libraries.map(|path| (path, path)).chain([(COUNTER, program)]) {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
    }
    for place in ["proc", "dev", "sys"] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
}

impl Container {
    /// `None` where this machine has none, which is said.
    fn start() -> Option<Container> {
        if !Uid::effective().is_root() || Command::new("runc").arg("--version").output().is_err() {
            flip_tests::skip("a container takes root and runc");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let bundle = dir.path().to_str().unwrap();
        runc(&["spec", "--bundle", bundle]);
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut command: Vec<String> = serde_json::from_str(says("ENTRYPOINT ")).unwrap();
        fill(&dir.path().join("rootfs"), &command[0]);
        assert_eq!(says("USER "), "nobody");
        *command.last_mut().unwrap() = "127.0.0.1:0".to_owned();
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

    /// Its processes, by the numbers that they have outside.
    fn processes(&self) -> Vec<i32> {
        serde_json::from_str(&runc(&["ps", "--format", "json", &self.name])).unwrap()
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

#[test]
fn container_lives_through_upgrades_and_crashes() {
    let Some(mut container) = Container::start() else { return };
    let address = until("it serves", || served_at(&container.log()).filter(|address| whoami(*address).is_ok()));
    let state: Value = serde_json::from_str(&runc(&["state", &container.name])).unwrap();
    let first = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
    assert_eq!((hit(address), hit(address)), (1, 2));
    let mut kept = Http::open(address).unwrap();
    for generation in 2..4 {
        runc(&["kill", &container.name, "HUP"]);
        until("the next one serves", || whoami(address).is_ok_and(|(_, answers)| answers == generation).then_some(()));
        assert_eq!(kept.exchange("POST", "/hit").unwrap().body.trim(), (generation + 1).to_string());
    }
    drop(kept);
    let served = until("the old one has ended", || {
        let others: Vec<_> = container.processes().into_iter().filter(|pid| *pid != first).collect();
        (others.len() == 1).then(|| others[0])
    });
    kill(Pid::from_raw(served), Signal::SIGKILL).unwrap();
    // Who comes now waits for the next one.
    let count = hit(address);
    assert!((4..=5).contains(&count), "it goes on from a checkpoint: {count}");
    assert_eq!(whoami(address).unwrap().1, 1);
    assert_eq!(container.processes().len(), 2);
    assert!(container.processes().contains(&first), "pid 1 stays");
    runc(&["kill", &container.name, says("STOPSIGNAL ")]);
    let status = container.child.wait().unwrap();
    assert!(status.success(), "{status:?}");
    assert!(matches!(whoami(address), Err(Lost(Loss::Refused, _))));
}
