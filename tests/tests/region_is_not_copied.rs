//! The bytes of a region are the same memory in each generation, and a new process that fails has changed none of them.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::os::unix::fs::MetadataExt;

use flip_tests::inside::digest;
use flip_tests::{Chain, Exit, Process, Start};

const MEGABYTE: usize = 1 << 20;
/// What would be seen if it were copied.
const MUCH: usize = 64 * MEGABYTE;

/// A service, and what it must have.
struct Store {
    service: Chain,
    expected: Vec<u8>,
    writes: u64,
}

impl Store {
    fn start() -> Store {
        Store { service: Start::new(env!("CARGO_BIN_EXE_bytes")).start(), expected: vec![], writes: 0 }
    }

    fn look(&self) -> String {
        format!("{} writes, {}", self.writes, digest(&self.expected))
    }

    fn is_as_expected(&self) {
        assert_eq!(self.service.tell("look"), self.look());
    }

    fn append(&mut self, count: usize, byte: u8) {
        self.expected.resize(self.expected.len() + count, byte);
        self.writes += 1;
        assert_eq!(self.service.tell(&format!("append {count} {byte}")), "written");
    }

    fn put(&mut self, at: usize, byte: u8) {
        self.expected[at] = byte;
        self.writes += 1;
        assert_eq!(self.service.tell(&format!("put {at} {byte}")), "written");
    }

    fn clear(&mut self) {
        self.expected.clear();
        self.writes += 1;
        assert_eq!(self.service.tell("clear"), "written");
    }

    fn upgrade(&mut self) {
        let old = self.service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(self.service.exit(&old), Exit::Status(0));
    }

    /// A new process has the bytes and fails.
    fn roll_back(&mut self) {
        self.service.at_start("late");
        let mark = self.service.log().mark();
        let report = self.service.upgrade().unwrap_err();
        assert!(report.contains("the new one fails when it has the content"), "{report}");
        self.service.line_after(mark, &format!("has {}, mapped r--s", self.look()));
        self.service.only(&[self.service.owner()]);
        self.service.at_start("");
    }
}

/// What is behind the one descriptor of a region that the process has.
fn inode(process: &Process) -> u64 {
    let descriptors = process.descriptors();
    let mut found = descriptors.iter().filter(|(_, target)| target.contains("memfd:flip-region"));
    let (number, _) = found.next().expect("it has a region");
    assert_eq!(found.next(), None);
    std::fs::metadata(format!("/proc/{}/fd/{number}", process.pid)).unwrap().ino()
}

/// A figure of its status that is given in kilobytes, in bytes.
fn resident(process: &Process, field: &str) -> usize {
    process.status(field).trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn much_memory_goes_through_upgrades_and_a_roll_back_where_it_is() {
    let mut store = Store::start();
    store.append(MUCH, 1);
    store.put(MUCH / 2, 2);
    let (memory, descriptors) = (inode(store.service.owner()), store.service.owner().descriptor_kinds());
    for turn in 3..6_u8 {
        if turn == 4 {
            store.roll_back();
            store.is_as_expected();
            store.put(MUCH / 4, 99);
        }
        store.upgrade();
        // It has read all of it, and nothing of it is its own.
        store.is_as_expected();
        let new = store.service.owner();
        assert!(resident(new, "RssShmem") >= MUCH, "{} bytes shared", resident(new, "RssShmem"));
        assert!(resident(new, "RssAnon") < MUCH / 4, "{} bytes of its own", resident(new, "RssAnon"));
        assert_eq!(store.service.tell("mapped"), "r--s");
        assert_eq!(inode(store.service.owner()), memory);

        store.put(usize::from(turn) * MEGABYTE, turn);
        assert_eq!(store.service.tell("mapped"), "rw-s");
        // The first time it has to grow, and is the same memory still.
        store.append(MEGABYTE, turn);
        assert_eq!(inode(store.service.owner()), memory);
        let service = &store.service;
        service.until("it has as many descriptors", || service.owner().descriptor_kinds() == descriptors);
    }
    store.is_as_expected();
    store.service.stop();
}

#[test]
fn region_without_bytes_is_handed_over_and_filled_again() {
    let mut store = Store::start();
    store.upgrade();
    store.is_as_expected();
    store.append(10, 1);
    store.upgrade();
    store.clear();
    store.upgrade();
    store.is_as_expected();
    assert!(!store.service.owner().descriptors().values().any(|target| target.contains("memfd:flip-region")));
    store.append(10_000, 2);
    store.upgrade();
    store.is_as_expected();
    store.service.stop();
}
