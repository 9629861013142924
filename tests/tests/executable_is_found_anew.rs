//! An upgrade starts what is installed now, under the name by which the service was started.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::{copy, create_dir, hard_link, remove_file};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use flip_tests::{Chain, Exit, Process, Start};

const COUNTER: &str = env!("CARGO_BIN_EXE_service");

/// The same program as another file.
fn install(path: &Path) {
    if hard_link(COUNTER, path).is_err() {
        copy(COUNTER, path).unwrap();
    }
}

/// The file that a process runs.
fn running(process: &Process) -> PathBuf {
    std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap()
}

fn upgrade(service: &mut Chain) {
    let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.exit(&old), Exit::Status(0));
}

#[test]
fn symbolic_link_to_a_release_is_followed_anew() {
    let start = Start::new(COUNTER);
    let dir = start.dir().canonicalize().unwrap();
    for release in ["v1", "v2", "v3"] {
        create_dir(dir.join(release)).unwrap();
        install(&dir.join(release).join("service"));
    }
    symlink("v1", dir.join("current")).unwrap();
    let mut service = start.called(dir.join("current/service").to_str().unwrap()).start();
    assert_eq!(running(service.owner()), dir.join("v1/service"));
    for (release, before) in [("v2", "v1"), ("v3", "v2")] {
        service.install("current", |path| symlink(release, path).unwrap());
        // As deployments do, once nobody needs it.
        std::fs::remove_dir_all(dir.join(before)).unwrap();
        upgrade(&mut service);
        assert_eq!(running(service.owner()), dir.join(release).join("service"));
    }
    assert!(service.tell("args").starts_with(&format!("[\"{}\"", dir.join("current/service").display())));
    service.stop();
}

#[test]
fn replaced_file_is_run_and_not_the_deleted_one() {
    let start = Start::new(COUNTER);
    let file = start.dir().canonicalize().unwrap().join("service");
    install(&file);
    let mut service = start.called(file.to_str().unwrap()).start();
    for _ in 0..2 {
        remove_file(&file).unwrap();
        assert!(running(service.owner()).to_str().unwrap().ends_with("service (deleted)"));
        let report = service.upgrade().unwrap_err();
        assert!(report.contains("service cannot be executed: No such file"), "{report}");
        install(&file);
        upgrade(&mut service);
        assert_eq!(running(service.owner()), file);
    }
    service.stop();
}

#[test]
fn relative_path_holds_after_a_change_of_directory() {
    let start = Start::new(COUNTER);
    let dir = start.dir().canonicalize().unwrap();
    create_dir(dir.join("bin")).unwrap();
    install(&dir.join("bin/service"));
    let mut service = start.through(&["env"]).called("./bin/service").start();
    for _ in 0..3 {
        assert!(service.tell("args").starts_with("[\"./bin/service\""));
        assert_eq!(running(service.owner()), dir.join("bin/service"));
        assert_eq!(service.tell("cd /"), "there");
        upgrade(&mut service);
        let directory = std::fs::read_link(format!("/proc/{}/cwd", service.owner().pid)).unwrap();
        assert_eq!(directory, dir);
    }
    service.stop();
}

#[test]
fn name_found_through_path_is_kept() {
    let start = Start::new(COUNTER);
    let dir = start.dir().canonicalize().unwrap();
    create_dir(dir.join("bin")).unwrap();
    install(&dir.join("bin/flip-test-service"));
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    let mut service = start.through(&["env"]).called("flip-test-service").env("PATH", &path).start();
    for _ in 0..2 {
        assert!(service.tell("args").starts_with("[\"flip-test-service\""));
        assert_eq!(running(service.owner()), dir.join("bin/flip-test-service"));
        upgrade(&mut service);
    }
    service.stop();
}

#[test]
fn name_that_lies_is_kept_and_not_believed() {
    let start = Start::new(COUNTER).through(&["bash", "-c", "exec -a liar \"$0\" \"$@\""]);
    let mut service = start.start();
    for _ in 0..2 {
        assert_eq!(service.tell("args"), "[\"liar\"]");
        upgrade(&mut service);
    }
    service.stop();
}

#[test]
fn variable_names_another_executable() {
    let start = Start::new(COUNTER);
    let dir = start.dir().canonicalize().unwrap();
    install(&dir.join("other"));
    let mut service = start.env("FLIP_EXECUTABLE", "other").start();
    assert_eq!(running(service.owner()), Path::new(COUNTER).canonicalize().unwrap());
    for _ in 0..2 {
        upgrade(&mut service);
        assert_eq!(running(service.owner()), dir.join("other"));
    }
    service.stop();
}

#[test]
fn script_around_the_program_is_gone_through_once() {
    use std::os::unix::fs::PermissionsExt;
    // The channel is bound to the process, which is the same before and after `exec`.
    let mut service = Start::new(COUNTER).linked_as("service").start();
    service.install("service", |path| {
        std::fs::write(path, format!("#!/bin/sh\nexec {COUNTER} \"$@\"\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    upgrade(&mut service);
    assert_eq!(service.tell("generation"), "2");
    upgrade(&mut service);
    service.stop();
}
