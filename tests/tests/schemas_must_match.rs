//! A program whose states cannot be made of the running one's is refused before anything freezes, and the reason
//! names the state, its type and the field.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::fs::{copy, hard_link};
use std::os::unix::fs::symlink;

use flip_tests::{Chain, Exit, Start};

const SHAPES: &str = env!("CARGO_BIN_EXE_shapes");

/// The service `first`, started through a link that another program can take the place of.
fn start() -> Chain {
    let start = Start::new(SHAPES);
    let dir = start.dir().canonicalize().unwrap();
    for name in ["first", "another_field", "another_type", "no_note"] {
        if hard_link(SHAPES, dir.join(name)).is_err() {
            copy(SHAPES, dir.join(name)).unwrap();
        }
    }
    symlink("first", dir.join("service")).unwrap();
    start.called(dir.join("service").to_str().unwrap()).start()
}

fn install(service: &Chain, program: &str) {
    service.install("service", |path| symlink(program, path).unwrap());
}

fn upgrade(service: &mut Chain) {
    let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(service.exit(&old), Exit::Status(0));
}

/// Each of the ways to ask for it is told `why`, and the content stays where it is until the right program comes.
fn is_refused(program: &str, why: &str) {
    let mut service = start();
    assert_eq!(service.tell("add"), "1");
    assert_eq!(service.tell("note as it was"), "noted");
    install(&service, program);
    // Whoever wrote the content would stand here, and say so.
    let mut gate = service.gate("save");
    let (pid, mut mark) = (service.owner().pid, service.log().mark());
    let report = service.upgrade().unwrap_err();
    let new = service.started_after(mark).pid;
    for expected in [
        &*format!("upgrade rolled back: the new process (pid {new}) ended before it served: "),
        &format!("the state `note` of the running process cannot become what it is here: {why}: "),
        &format!("generation 1 (pid {pid}) goes on"),
    ] {
        assert!(report.contains(expected), "{report}");
    }
    assert_eq!(service.tell("add"), "2");

    mark = service.log().mark();
    let answer = service.tell("upgrade");
    assert!(answer.starts_with("error: upgrade rolled back: ") && answer.contains(why), "{answer}");
    service.line_after(mark, why);
    assert_eq!(service.log().count("is at the gate save"), 0, "{}", service.log().text());
    service.only(&[service.owner()]);
    assert_eq!(service.tell("add"), "3");
    assert_eq!(service.tell("note"), "as it was");

    gate.open();
    install(&service, "first");
    upgrade(&mut service);
    assert_eq!(service.tell("add"), "4");
    assert_eq!(service.tell("note"), "as it was");
    service.stop();
}

#[test]
fn another_field_is_refused() {
    is_refused("another_field", "`Note.author` is String without a default here and absent in the running process");
}

#[test]
fn another_type_is_refused() {
    is_refused("another_type", "`Note.text` is a list of u8 here and String in the running process");
}

/// It is no reason to refuse: the new program can do without it.
#[test]
fn state_that_nobody_asks_for_is_dropped_and_named() {
    let mut service = start();
    assert_eq!(service.tell("add"), "1");
    assert_eq!(service.tell("note as it was"), "noted");
    install(&service, "no_note");
    upgrade(&mut service);
    service.line("the state `note` of the old process has no successor here and is dropped");
    assert_eq!(service.tell("add"), "2");
    install(&service, "first");
    upgrade(&mut service);
    assert_eq!(service.tell("add"), "3");
    assert_eq!(service.tell("note"), "");
    service.stop();
}
