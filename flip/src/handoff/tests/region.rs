use std::{fs::File, io::Write as _, os::fd::AsFd as _};

use nix::{
    fcntl::{FcntlArg, OFlag, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::fstat,
    },
};

use super::*;
use crate::Region;

#[derive(Handoff)]
struct Store {
    entries: u64,
    log: Region,
    spare: Region,
    more: Vec<Region>,
}

fn store() -> Store {
    let region = |bytes: &[u8]| Region::try_from(bytes).unwrap();
    Store { entries: 7, log: region(&[5; 10_000]), spare: Region::new(), more: vec![region(b"a"), region(b"b")] }
}

fn inode(region: &Region) -> u64 {
    fstat(region.file().unwrap()).unwrap().st_ino
}

/// How it is mapped, as in `r--s`.
fn mapped(region: &Region) -> String {
    let at = region.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        (address(from)..address(to)).contains(&at)
    });
    line.expect("it is mapped").split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn new_process_has_the_same_memory() {
    let mut old = store();
    let new = round_trip(&old);
    assert_eq!((new.entries, &new.log, &new.spare, &new.more), (7, &old.log, &old.spare, &old.more));
    assert_eq!(inode(&new.log), inode(&old.log));
    assert_eq!(new.log.capacity(), old.log.capacity());
    // Only in a test: the old process does not write before it knows that it goes on.
    old.log[3] = 6;
    assert_eq!(new.log[..5], [5, 5, 5, 6, 5]);
}

#[test]
fn what_is_sent_of_one_is_read_for_ever() {
    let mut kept = sent(&vec![Region::try_from(&[5; 10_000][..]).unwrap(), Region::new()]);
    let [(bytes, _)] = kept.chunks.make_contiguous() else { panic!("one chunk") };
    *bytes = crate::golden::golden("two regions, one of 10,000 bytes and one of none", bytes);
    let read: Vec<Region> = received(kept).unwrap();
    assert_eq!((read.len(), &*read[0], &*read[1]), (2, &[5; 10_000][..], &[][..]));
}

#[test]
fn only_the_length_and_the_descriptor_are_sent() {
    let kept = sent(&Region::try_from(&[1; 1 << 20][..]).unwrap());
    assert!(kept.bytes().len() < 20, "{} bytes", kept.bytes().len());
    let empty = sent(&Region::with_capacity(100).unwrap());
    assert_eq!((empty.bytes(), empty.chunks[0].1.len()), (vec![0, 0], 0));
}

#[test]
fn restored_one_can_only_be_read_until_it_is_borrowed_mutably() {
    let old = store();
    let mut new = round_trip(&old);
    assert_eq!(mapped(&old.log), "rw-s");
    assert_eq!(mapped(&new.log), "r--s");
    // None of these writes.
    new.log.truncate(9_999);
    new.log.reserve(1).unwrap();
    assert_eq!(new.log[0], 5);
    assert_eq!(mapped(&new.log), "r--s");
    new.log[0] = 1;
    assert_eq!(mapped(&new.log), "rw-s");

    // By appending as well, and where the mapping has to move.
    new.more[0].reserve(100_000).unwrap();
    assert_eq!(mapped(&new.more[0]), "r--s");
    new.more[0].write_all(b"2").unwrap();
    assert_eq!((mapped(&new.more[0]).as_str(), &*new.more[0]), ("rw-s", &b"a2"[..]));
}

#[test]
fn new_process_writes_on_and_the_old_one_leaves() {
    let mut old = store();
    for turn in 0..5_u8 {
        let mut new = round_trip(&old);
        drop(old);
        new.log[0] = turn;
        // Beyond what there was room for.
        new.log.resize(new.log.len() * 3, turn).unwrap();
        assert_eq!((new.log[0], new.log[1], new.log.last()), (turn, 5, Some(&turn)));
        old = new;
    }
}

#[test]
fn old_process_keeps_its_bytes_where_the_new_one_fails() {
    let old = store();
    drop(round_trip(&old));
    assert_eq!(*old.log, [5; 10_000]);
    // What the new one had begun to write is longer than what the old one knows.
    let mut new = round_trip(&old);
    new.log.resize(1 << 20, 9).unwrap();
    drop(new);
    let mut old = old;
    assert_eq!(*old.log, [5; 10_000]);
    old.log.resize(2 << 20, 6).unwrap();
    assert_eq!((old.log[9_999], old.log[10_000], old.log.last()), (5, 6, Some(&6)));
}

#[test]
fn call_carries_none() {
    let region = Region::try_from(&b"1"[..]).unwrap();
    assert_eq!(
        to_bytes(&region).unwrap_err().to_string(),
        "Region: a descriptor cannot travel in a call or its answer"
    );
    assert_eq!(from_bytes::<Region>(&to_bytes(&Region::new()).unwrap()).unwrap(), Region::new());
}

/// A region that claims to be so long, in this file, or in none.
fn claimed(length: u64, file: Option<OwnedFd>) -> Result<Region, String> {
    let kept = match file {
        Some(file) => sent(&(length, Some(file))),
        None => sent(&(length, None::<OwnedFd>)),
    };
    received::<Region>(kept).map_err(|error| error.to_string())
}

fn memfd(length: u64, seals: SealFlag) -> OwnedFd {
    let file = memfd_create(c"forged", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    File::from(file.try_clone().unwrap()).set_len(length).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

#[test]
fn length_is_what_the_file_bears_out() {
    assert_eq!(*claimed(100, Some(memfd(100, SealFlag::empty()))).unwrap(), [0; 100]);
    for (claim, there) in [(101, 100), (1 << 40, 100), (u64::MAX >> 1, 1 << 20), (u64::MAX, 5), (1, 0)] {
        let refused = claimed(claim, Some(memfd(there, SealFlag::empty()))).unwrap_err();
        let because = format!("{claim} bytes are claimed, and its file has {there}");
        assert_eq!(refused, format!("Region: the memory of a region cannot be used: {because}"));
    }
}

#[test]
fn what_is_no_memory_is_refused() {
    let refused = |file: OwnedFd| claimed(1, Some(file)).unwrap_err();
    assert!(refused(File::open("/dev/zero").unwrap().into()).ends_with(": it is not a memfd"));
    assert!(refused(std::os::unix::net::UnixStream::pair().unwrap().0.into()).ends_with(": it is not a memfd"));
    assert!(refused(File::open("/").unwrap().into()).contains("the memory of a region cannot be used"));
}

#[test]
fn what_could_not_be_written_later_is_refused() {
    for seal in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE, SealFlag::F_SEAL_GROW] {
        let refused = claimed(1, Some(memfd(100, seal))).unwrap_err();
        assert!(refused.ends_with(": it is sealed"), "{seal:?}: {refused}");
    }
    claimed(1, Some(memfd(100, SealFlag::F_SEAL_SHRINK))).unwrap();

    let file = memfd(100, SealFlag::empty());
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let read_only = File::open(path).unwrap();
    let flags = OFlag::from_bits_retain(fcntl(read_only.as_fd(), FcntlArg::F_GETFL).unwrap());
    assert_eq!(flags & OFlag::O_ACCMODE, OFlag::O_RDONLY);
    let refused = claimed(1, Some(read_only.into())).unwrap_err();
    assert!(refused.ends_with(": it is not open for reading and writing"), "{refused}");
}

#[test]
fn seal_that_comes_later_does_not_forbid_to_write() {
    let file = memfd(5000, SealFlag::empty());
    let mut new = claimed(5000, Some(file.try_clone().unwrap())).unwrap();
    let seal = |seal| fcntl(&file, FcntlArg::F_ADD_SEALS(seal));
    assert_eq!(seal(SealFlag::F_SEAL_WRITE), Err(nix::Error::EBUSY));
    seal(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_GROW).unwrap();
    assert_eq!(mapped(&new), "r--s");
    new[0] = 1;
    // Growth is an error, and changes nothing.
    assert_eq!(new.reserve(10_000).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!((new[0], new.len()), (1, 5000));
}

#[test]
fn length_and_memory_belong_together() {
    assert_eq!(claimed(0, None).unwrap(), Region::new());
    assert_eq!(claimed(5, None).unwrap_err(), "Region: 5 bytes are claimed, and no memory that has them");
    let file = memfd(100, SealFlag::empty());
    assert_eq!(claimed(0, Some(file)).unwrap_err(), "Region: memory is sent for a region without bytes");

    let mut lost = sent(&Region::try_from(&b"1"[..]).unwrap());
    lost.chunks[0].1.clear();
    assert_eq!(received::<Region>(lost).unwrap_err().to_string(), "Region: descriptor 0 did not arrive");
}

mod migrated {
    use crate::{Handoff, Region};

    #[derive(Default, Handoff)]
    pub(super) struct Log {
        pub(super) version: u8,
        pub(super) bytes: Region,
    }

    fn next(mut old: Region) -> Log {
        old[0] = b'2';
        old.extend_from_slice(b"!").unwrap();
        Log { version: 2, bytes: old }
    }

    #[derive(Default, Handoff)]
    pub(super) struct State {
        #[handoff(from = "Region", migrate = next)]
        pub(super) log: Log,
    }
}

#[derive(Default, Handoff)]
struct State {
    log: Region,
}

fn text(region: &Region) -> String {
    String::from_utf8_lossy(region).into_owned()
}

#[test]
fn migration_writes_into_a_copy_until_the_process_serves() {
    let old = crate::testing::Process::new();
    let ours = old.live("state", State { log: Region::try_from(&b"1: entry"[..]).unwrap() }).unwrap();
    let failed = old.hand_over(|new| {
        let theirs = new.live("state", migrated::State::default())?;
        assert_eq!(theirs.read(|state| (state.log.version, text(&state.log.bytes)))?, (2, "2: entry!".to_owned()));
        Err::<(), _>("the new one fails when it has the content".into())
    });
    assert!(failed.is_err());
    assert_eq!(ours.read(|state| text(&state.log)).unwrap(), "1: entry");
    let (new, theirs) = old.hand_over(|new| Ok(new.live("state", migrated::State::default())?)).unwrap();
    assert_eq!(theirs.read(|state| text(&state.log.bytes)).unwrap(), "2: entry!");
    // It is the new one's from here on, without a copy.
    let before = theirs.read(|state| inode(&state.log.bytes)).unwrap();
    theirs.update(|state| state.log.bytes[0] = b'3').unwrap();
    assert_eq!(
        theirs.read(|state| (inode(&state.log.bytes), text(&state.log.bytes))).unwrap(),
        (before, "3: entry!".into())
    );
    drop(new);
}

#[test]
fn what_the_old_process_writes_when_it_has_handed_over_is_its_own() {
    #[derive(Default, Handoff)]
    struct Wiped {
        log: Region,
    }
    impl Drop for Wiped {
        fn drop(&mut self) {
            self.log.fill(0);
        }
    }
    let old = crate::testing::Process::new();
    let ours = old.live("state", Wiped { log: Region::try_from(&b"secret"[..]).unwrap() }).unwrap();
    let (new, theirs) = old.hand_over(|new| Ok(new.live("state", Wiped::default())?)).unwrap();
    assert!(ours.read(|_| ()).is_err(), "it was dropped");
    assert_eq!(theirs.read(|state| text(&state.log)).unwrap(), "secret");
    drop(new);
}
