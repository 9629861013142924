use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::golden::golden;
use crate::handoff::Schema;
use crate::{HandedOff, Handoff, Live};

#[derive(Debug, Default, PartialEq, Handoff)]
struct Count {
    total: u64,
}

/// A process that serves, with these files in the store; what it holds of them, and why it does not start.
fn starts(stored: &[(String, Arc<File>)], aside: Aside) -> Result<Arc<Shared>, String> {
    let shared = Shared::new(true).unwrap();
    let passed = stored.iter().map(|(name, file)| (name.clone(), file.try_clone().unwrap().into())).collect();
    shared.checkpoints.find(passed, true, aside).map_err(|error| error.to_string())?;
    Ok(shared)
}

/// Its state of this name, restored or new.
fn state(shared: &Arc<Shared>, name: &str) -> Live<Count> {
    match shared.checkpoints.take(name) {
        Some((theirs, mut stored)) => {
            let plan = Schema::of::<Count>().plan(&Schema::decode(&theirs).unwrap()).unwrap();
            shared.checkpoints.trying(|| Live::restored(name, plan, &mut stored, shared)).unwrap()
        }
        None => Live::declare(name, Count::default(), shared),
    }
}

fn total(state: &Live<Count>) -> u64 {
    state.read(|count| count.total).unwrap()
}

fn add(state: &Live<Count>, more: u64) {
    state.update(|count| count.total += more).unwrap();
}

/// What `names` have in the newest of the files.
fn totals(stored: &[(String, Arc<File>)], names: &[&str]) -> Vec<u64> {
    let shared = starts(stored, Aside::Keep).unwrap();
    names.iter().map(|name| total(&state(&shared, name))).collect()
}

fn heads(stored: &[(String, Arc<File>)]) -> Vec<Option<u64>> {
    stored.iter().map(|(_, file)| Head::read(file).ok().map(|head| head.sequence)).collect()
}

#[test]
fn checkpoints_are_written_in_turn_and_only_where_something_has_changed() {
    let shared = starts(&[], Aside::Keep).unwrap();
    let count = state(&shared, "count");
    let stored = shared.checkpoints.stored();
    assert_eq!(stored.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["flip-state.0", "flip-state.1"]);
    assert_eq!(heads(&stored), [None, None]);
    for (more, sequences) in [
        (1, [None, Some(1)]),
        // Nothing has changed.
        (0, [None, Some(1)]),
        (2, [Some(2), Some(1)]),
        (4, [Some(2), Some(3)]),
    ] {
        if more > 0 {
            add(&count, more);
        }
        assert_eq!(shared.checkpoints.turn(&shared), Turn::Over);
        assert_eq!(heads(&stored), sequences);
        assert_eq!(totals(&stored, &["count"]), [total(&count)]);
    }
}

#[test]
fn a_process_goes_on_from_the_newest_that_is_whole() {
    let shared = starts(&[], Aside::Keep).unwrap();
    let count = state(&shared, "count");
    let stored = shared.checkpoints.stored();
    for _ in 0..2 {
        add(&count, 1);
        shared.checkpoints.turn(&shared);
    }
    let [(_, newest), _] = &stored[..] else { unreachable!() };
    assert_eq!(totals(&stored, &["count", "other"]), [2, 0]);
    let whole = Checkpoint::read(newest).unwrap();
    let length = newest.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    newest.read_exact_at(&mut bytes, 0).unwrap();
    let differ = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    // Whatever bit is not as it was written, and wherever it is cut.
    let used = (0..64).chain(4096..bytes.len());
    for broken in used.clone().map(differ).chain(used.map(|at| bytes[..at].to_vec())) {
        newest.set_len(0).unwrap();
        newest.write_all_at(&broken, 0).unwrap();
        assert!(Checkpoint::read(newest).is_err(), "{broken:?}");
        assert_eq!(totals(&stored, &["count"]), [1]);
    }
    newest.set_len(0).unwrap();
    newest.write_all_at(&bytes, 0).unwrap();
    assert_eq!(Checkpoint::read(newest).unwrap().head, whole.head);
    assert_eq!(totals(&stored, &["count"]), [2]);
}

#[test]
fn what_is_none_of_flip_s_is_named_and_replaced() {
    for bytes in [&b""[..], b"#!/bin/sh\n", &[7; 10_000], &[0; 10_000]] {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.write_all_at(bytes, 0).unwrap();
        let shared = starts(&[("flip-state.0".to_owned(), file)], Aside::Keep).unwrap();
        let count = state(&shared, "count");
        add(&count, 3);
        shared.checkpoints.turn(&shared);
        // A name that the store knows already would not get another content.
        let stored = shared.checkpoints.stored();
        assert_eq!(stored.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["flip-state.1", "flip-state.2"]);
        assert_eq!(shared.checkpoints.stored_before(), ["flip-state.0"]);
        assert_eq!(totals(&stored, &["count"]), [3]);
    }
}

#[test]
fn what_this_release_cannot_read_stays_in_the_store() {
    let stored = written(5);
    let (_, file) = &stored[1];
    file.write_all_at(&2_u32.to_le_bytes(), 16).unwrap();
    let (pipe, _) = nix::unistd::pipe().unwrap();
    let pipe = ("flip-state.7".to_owned(), Arc::new(File::from(pipe)));
    let shared = starts(&[stored[1].clone(), pipe], Aside::Keep).unwrap();
    assert_eq!(total(&state(&shared, "count")), 0);
    let names = ["flip-state.1", "flip-state.7", "flip-state.0", "flip-state.2"];
    assert_eq!(self::names(&shared.checkpoints.stored()), names);
}

#[test]
fn what_claims_to_be_much_is_not_read() {
    let file = Arc::new(File::from(fd::memory_file(c"much", MFdFlags::MFD_CLOEXEC).unwrap()));
    let stored = written(5);
    let mut head = [0; 64];
    stored[1].1.read_exact_at(&mut head, 0).unwrap();
    head[40..48].copy_from_slice(&(1_u64 << 50).to_le_bytes());
    let sum = crc32fast::hash(&head[..60]);
    head[60..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&head, 0).unwrap();
    file.set_len(1 << 51).unwrap();
    assert_eq!(totals(&[("flip-state.0".to_owned(), file)], &["count"]), [0]);
}

/// What lies in the store after processes have done this.
fn written(total: u64) -> Vec<(String, Arc<File>)> {
    let shared = starts(&[], Aside::Keep).unwrap();
    add(&state(&shared, "count"), total);
    shared.checkpoints.turn(&shared);
    shared.checkpoints.stored()
}

/// One that ends while it restores.
fn is_ended_by(stored: &[(String, Arc<File>)], aside: Aside) -> Arc<Shared> {
    let shared = starts(stored, aside).unwrap();
    shared.checkpoints.take("count").unwrap();
    assert!(shared.checkpoints.trying(|| Err::<(), _>(String::new())).is_err());
    shared
}

fn names(stored: &[(String, Arc<File>)]) -> Vec<&str> {
    stored.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn checkpoint_that_ends_two_processes_is_set_aside() {
    let stored = written(5);
    is_ended_by(&stored, Aside::Keep);
    // Who gets through takes the blame from it, as soon as it serves.
    let through = starts(&stored, Aside::Keep).unwrap();
    let count = state(&through, "count");
    assert_eq!(total(&count), 5);
    through.checkpoints.turn(&through);
    through.checkpoints.leave();
    is_ended_by(&stored, Aside::Keep);
    is_ended_by(&stored, Aside::Keep);

    let anew = starts(&stored, Aside::Keep).unwrap();
    assert_eq!(total(&state(&anew, "count")), 0);
    let stored = anew.checkpoints.stored();
    assert_eq!(names(&stored), ["flip-state.1", "flip-state.2", "flip-state.3"]);
    add(&state(&anew, "another"), 1);
    anew.checkpoints.turn(&anew);
    anew.checkpoints.leave();

    // It stays where it is, until it is wanted again or dropped.
    let next = starts(&stored, Aside::Keep).unwrap();
    assert_eq!(total(&state(&next, "another")), 1);
    assert_eq!(names(&next.checkpoints.stored()), ["flip-state.1", "flip-state.3", "flip-state.0"]);
    let dropped = starts(&stored, Aside::Drop).unwrap();
    assert_eq!(names(&dropped.checkpoints.stored()), ["flip-state.3", "flip-state.0"]);
    // Then what was since is aside, and is not what `restore` is for.
    is_ended_by(&stored, Aside::Restore);
    let restored = starts(&stored, Aside::Restore).unwrap();
    assert_eq!(total(&state(&restored, "count")), 5);
    assert_eq!(names(&restored.checkpoints.stored()), ["flip-state.3", "flip-state.1", "flip-state.0"]);
    // And goes on where that ends processes again.
    is_ended_by(&stored, Aside::Keep);
    let back = starts(&stored, Aside::Keep).unwrap();
    assert_eq!(total(&state(&back, "another")), 1);
    assert_eq!(names(&back.checkpoints.stored())[0], "flip-state.1");
}

/// The one before it is of the same state, and older than what begins anew.
#[test]
fn only_what_ended_them_is_set_aside() {
    let mut stored = vec![];
    for _ in 0..2 {
        let shared = starts(&stored, Aside::Keep).unwrap();
        let count = state(&shared, "count");
        assert_eq!(total(&count), 0);
        for _ in 0..2 {
            add(&count, 1);
            shared.checkpoints.turn(&shared);
        }
        shared.checkpoints.leave();
        stored = shared.checkpoints.stored();
        is_ended_by(&stored, Aside::Keep);
        is_ended_by(&stored, Aside::Keep);
    }
    let anew = starts(&stored, Aside::Keep).unwrap();
    assert_eq!(total(&state(&anew, "count")), 0);
    // What was set aside first gives way; two are for what is to come.
    assert_eq!(anew.checkpoints.stored().len(), 3);
}

/// Both are changed together: in no checkpoint one is ahead of the other.
#[test]
fn states_are_one_cut_through_all_of_them() {
    let shared = starts(&[], Aside::Keep).unwrap();
    let (first, second) = (state(&shared, "first"), state(&shared, "second"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let nested = first.update(|one| {
                        one.total += 1;
                        second.update(|other| other.total += 1)
                    });
                    nested.unwrap().unwrap();
                }
            });
        }
        let stored = shared.checkpoints.stored();
        let mut last = 0;
        for _ in 0..200 {
            while shared.checkpoints.turn(&shared) == Turn::Again {}
            let now = totals(&stored, &["first", "second"]);
            assert_eq!(now[0], now[1]);
            assert!(now[0] >= last);
            last = now[0];
        }
        over.store(true, Ordering::Relaxed);
        assert!(last > 0);
    });
}

#[test]
fn the_last_one_has_everything_and_nobody_changes_anything_after_it() {
    let shared = starts(&[], Aside::Keep).unwrap();
    let count = state(&shared, "count");
    shared.checkpoints.turn(&shared);
    let stored = shared.checkpoints.stored();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut done = 0;
            while count.update(|count| count.total += 1).is_ok() {
                done += 1;
            }
            done
        });
        while total(&count) == 0 {}
        shared.checkpoints.finish(&shared);
        let done = writer.join().unwrap();
        assert_eq!(totals(&stored, &["count"]), [done]);
    });
    assert_eq!(count.update(|_| ()), Err(HandedOff));
}

#[test]
fn who_reads_does_not_wait_for_a_checkpoint_nor_behind_who_writes() {
    let shared = starts(&[], Aside::Keep).unwrap();
    let count = state(&shared, "count");
    let paused = Paused::begin(&shared, PATIENCE).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| add(&count, 1));
        while !shared.hold.has_waiting() {
            thread::yield_now();
        }
        // As a snapshot has it.
        let saved = shared.states.find("count").unwrap();
        let inside = scope.spawn(move || count_of(&*saved));
        assert_eq!(total(&count), 0);
        assert!(inside.join().unwrap() > 0);
        drop(paused);
        writer.join().unwrap();
    });
    assert_eq!(total(&count), 1);
}

/// How many bytes it is.
fn count_of(state: &dyn State) -> usize {
    struct Counts(usize);
    impl crate::handoff::Sink for Counts {
        fn send(&mut self, bytes: &[u8], _: &[std::os::fd::BorrowedFd<'_>]) -> std::io::Result<()> {
            self.0 += bytes.len();
            Ok(())
        }
    }
    let mut counts = Counts(0);
    state.save(&mut counts).unwrap();
    counts.0
}

#[test]
fn a_checkpoint_gives_way_to_a_freeze_and_to_who_is_inside() {
    let shared = starts(&[], Aside::Keep).unwrap();
    let count = state(&shared, "count");
    shared.checkpoints.turn(&shared);
    add(&count, 1);
    // Who is inside is not waited for long, and others write meanwhile.
    count.update(|_| assert_eq!(shared.checkpoints.turn(&shared), Turn::Again)).unwrap();
    add(&count, 1);

    shared.freeze.begin(1, None);
    // Not held back yet.
    add(&count, 1);
    assert_eq!(shared.checkpoints.turn(&shared), Turn::Over);
    add(&count, 1);
    assert!(shared.freeze.hold_back(1, &shared.hold));
    assert_eq!(shared.checkpoints.turn(&shared), Turn::Again);
    shared.freeze.end(&shared.hold);

    // A freeze that begins and ends in the midst of it leaves writers held back as long as it takes.
    let paused = Paused::begin(&shared, PATIENCE).unwrap();
    shared.freeze.begin(2, None);
    shared.freeze.end(&shared.hold);
    assert_eq!((shared.hold.admits(), shared.hold.admits_reader()), (Holding::Frozen, Holding::Open));
    drop(paused);
    assert_eq!(shared.hold.admits(), Holding::Open);
    let paused = Paused::begin(&shared, PATIENCE).unwrap();
    shared.freeze.begin(3, None);
    assert!(shared.freeze.hold_back(3, &shared.hold));
    drop(paused);
    assert_eq!(shared.hold.admits(), Holding::Frozen);
    shared.freeze.give(&shared.hold);
    assert_eq!(shared.hold.admits(), Holding::Given);
}

#[test]
fn the_files_go_with_a_handoff_and_have_what_was_sent() {
    let old = starts(&[], Aside::Keep).unwrap();
    let count = state(&old, "count");
    old.checkpoints.turn(&old);
    add(&count, 7);
    let (passing, files) = old.checkpoints.passing().unwrap();
    old.freeze.begin(1, None);
    assert!(old.freeze.hold_back(1, &old.hold));
    old.checkpoints.after::<()>(&old, 1, || Ok(())).unwrap();
    old.freeze.give(&old.hold);
    assert_eq!(totals(&old.checkpoints.stored(), &["count"]), [7]);
    old.checkpoints.leave();

    let new = Shared::new(true).unwrap();
    new.checkpoints.inherit(passing, files.map(|file| file.try_clone().unwrap().into()));
    let count = Live::declare("count", Count { total: 7 }, &new);
    let stored = new.checkpoints.stored();
    let before = heads(&stored);
    assert_eq!(new.checkpoints.turn(&new), Turn::Over);
    assert_eq!(heads(&stored), before, "what was sent lies there already");
    add(&count, 1);
    assert_eq!(new.checkpoints.turn(&new), Turn::Over);
    assert_eq!(totals(&stored, &["count"]), [8]);
    assert_eq!(heads(&stored), [Some(2), Some(3)]);
}

#[test]
fn what_the_old_process_did_not_write_the_new_one_does() {
    let old = starts(&[], Aside::Keep).unwrap();
    state(&old, "count");
    old.checkpoints.turn(&old);
    let (passing, files) = old.checkpoints.passing().unwrap();
    old.checkpoints.leave();
    let new = Shared::new(true).unwrap();
    new.checkpoints.inherit(passing, files.map(|file| file.try_clone().unwrap().into()));
    Live::declare("count", Count { total: 7 }, &new);
    assert_eq!(new.checkpoints.turn(&new), Turn::Over);
    assert_eq!(totals(&new.checkpoints.stored(), &["count"]), [7]);
}

#[test]
fn what_a_process_has_open_is_not_stored() {
    #[derive(Default, Handoff)]
    struct Open {
        file: Option<File>,
    }
    let shared = starts(&[], Aside::Keep).unwrap();
    let open = Live::declare("open", Open::default(), &shared);
    add(&state(&shared, "count"), 1);
    open.update(|open| open.file = Some(tempfile::tempfile().unwrap())).unwrap();
    assert_eq!(shared.checkpoints.turn(&shared), Turn::Over);
    assert_eq!(totals(&shared.checkpoints.stored(), &["count", "open"]), [1, 0]);
}

#[test]
fn a_checkpoint_is_read_for_ever() {
    let stored = written(5);
    let (_, file) = &stored[1];
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    // Its time, and with it the sum of its head, differs each time.
    let body = golden("checkpoint from 4096 on", &bytes[4096..]);
    bytes.truncate(4096);
    bytes.extend(body);
    let head = Head::read(file).unwrap();
    let again: Arc<File> = Arc::new(fd::memory_file(c"again", MFdFlags::MFD_CLOEXEC).unwrap().into());
    again.write_all_at(&bytes, 0).unwrap();
    head.note(1, false, &again);
    assert_eq!(totals(&[("flip-state.0".to_owned(), again)], &["count"]), [5]);
}
