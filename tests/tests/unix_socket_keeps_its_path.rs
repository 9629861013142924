//! The path of a Unix socket: always there while somebody serves, always the same socket, gone when nobody does.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use flip_tests::client::{Load, Loss, Lost, Shared, read_line};
use flip_tests::places::{put, start, who};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::sys::signal::Signal;

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");

fn path(service: &Chain) -> PathBuf {
    service.dir().join("app.sock")
}

fn inode(path: &PathBuf) -> Option<u64> {
    let found = std::fs::symlink_metadata(path).ok()?;
    assert!(found.file_type().is_socket());
    Some(found.ino())
}

fn who_answers(path: &PathBuf) -> Result<i32, Lost> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who\n")?;
    Ok(who(&read_line(&mut stream)?)?.0)
}

#[test]
fn path_is_never_absent_and_always_the_same_socket() {
    let mut service = start(SOCKETS, "unix unix:app.sock\nudp 127.0.0.1:0");
    let path = path(&service);
    let first = inode(&path);
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..2 {
            load.client(scope, |_, _| who_answers(&path).map(drop));
        }
        load.client(scope, |_, _| match inode(&path) {
            now if now == first => Ok(()),
            other => Err(Lost(Loss::Wrong, format!("{first:?} has become {other:?}"))),
        });
        for round in 0..100 {
            // Some of them fail, at either end of the new one's start.
            service.at_start(["", "error", "", "panic"][round % 4]);
            if let Ok(old) = service.upgrade() {
                assert_eq!(service.exit(&old), Exit::Status(0));
            }
        }
        load.stop()
    });
    assert!(!tally.has_lost(), "{tally}");
    service.stop();
    assert_eq!(inode(&path), None);
}

#[test]
fn path_goes_with_the_last_stop_though_an_old_process_drains() {
    let mut service = start(SOCKETS, "unix unix:app.sock\nudp 127.0.0.1:0");
    let path = path(&service);
    let kept = UnixStream::connect(&path).unwrap();
    who_answers(&path).unwrap();
    let old = service.upgrade().unwrap();
    assert_eq!(who_answers(&path).unwrap(), service.owner().pid);
    service.owner().signal(Signal::SIGTERM);
    service.until("the path is gone", || inode(&path).is_none());
    assert!(!old.has_ended(), "its connection is open");
    drop(kept);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stopped();
    assert_eq!(inode(&path), None);
}

#[test]
fn path_that_a_killed_service_left_is_taken_over() {
    let first = Start::new(SOCKETS);
    put(first.dir(), "udp 127.0.0.1:0");
    let outside = first.dir().join("app.sock");
    let place = format!("unix unix:{}\nudp 127.0.0.1:0", outside.display());
    put(first.dir(), &place);
    let first = first.start();
    first.owner().signal(Signal::SIGKILL);
    assert_eq!(first.exit(first.owner()), Exit::Signal(Signal::SIGKILL));
    assert!(inode(&outside).is_some());
    let second = start(SOCKETS, &place);
    assert_eq!(who_answers(&outside).unwrap(), second.owner().pid);
    second.stop();
    assert_eq!(inode(&outside), None);
}

#[test]
fn path_of_a_living_service_is_left_to_it() {
    let first = start(SOCKETS, "unix unix:app.sock\nudp 127.0.0.1:0");
    let path = path(&first);
    let second = Start::new(SOCKETS);
    put(second.dir(), &format!("unix unix:{}\nudp 127.0.0.1:0", path.display()));
    let mut second = second.spawn();
    assert_eq!(second.exit(second.owner()), Exit::Status(1));
    second.line(&format!(
        "listener `unix` at unix:{}: the address is in use: a live process listens there",
        path.display()
    ));
    second.gone();
    assert_eq!(who_answers(&path).unwrap(), first.owner().pid);
    first.stop();
}

#[test]
fn changed_path_moves_with_the_commit() {
    let mut service = start(SOCKETS, "unix unix:app.sock\nudp 127.0.0.1:0");
    let (first, second) = (path(&service), service.dir().join("other.sock"));
    put(service.dir(), "unix unix:other.sock\nudp 127.0.0.1:0");
    service.at_start("error");
    service.upgrade().unwrap_err();
    assert!(UnixStream::connect(&second).is_err());
    assert_eq!(who_answers(&first).unwrap(), service.owner().pid);
    service.at_start("");
    service.upgrade().unwrap();
    assert_eq!(who_answers(&second).unwrap(), service.owner().pid);
    assert_eq!(inode(&first), None);
    service.stop();
    assert_eq!(inode(&second), None);
}
