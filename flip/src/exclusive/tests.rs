use std::os::fd::AsFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;

/// What a test holds, and how often it was opened and closed.
#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    closed: AtomicUsize,
    broken: AtomicBool,
}

impl Counts {
    fn get(&self) -> (usize, usize) {
        (self.opened.load(Ordering::SeqCst), self.closed.load(Ordering::SeqCst))
    }

    fn broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// The value is how often it was opened.
    fn opener(self: &Arc<Self>) -> Opener<usize> {
        let (opens, closes) = (Arc::clone(self), Arc::clone(self));
        let is_whole =
            |counts: &Counts| if counts.broken.load(Ordering::SeqCst) { Err("it is broken") } else { Ok(()) };
        Opener::new(move || is_whole(&opens).map(|()| opens.opened.fetch_add(1, Ordering::SeqCst) + 1)).close(
            move |_| {
                closes.closed.fetch_add(1, Ordering::SeqCst);
                is_whole(&closes)
            },
        )
    }
}

fn declare(shared: &Arc<Shared>, name: &str, counts: &Arc<Counts>) -> Result<Exclusive<usize>, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Exclusive::declare(name, counts.opener(), shared))
}

/// An owner that holds one.
fn owner() -> (Arc<Shared>, Exclusive<usize>, Arc<Counts>) {
    let (shared, counts) = (Shared::new(true).unwrap(), Arc::new(Counts::default()));
    let exclusive = declare(&shared, "store", &counts).unwrap();
    (shared, exclusive, counts)
}

/// What the thread of the freeze does.
fn freeze(shared: &Shared, attempt: u64) -> Result<bool, String> {
    shared.freeze.begin(attempt, None);
    assert!(shared.freeze.hold_back(attempt, &shared.hold));
    let settled = shared.exclusives.settle(shared, attempt);
    Ok(shared.exclusives.close_all(shared, attempt)? && settled)
}

/// The thread of a freeze closes the first of two, and has not closed the second: what the control thread does is in between.
/// Gives what has gone to the new process.
fn frozen_halfway(shared: &Arc<Shared>, meanwhile: impl FnOnce()) -> Vec<u8> {
    use std::io::Read;
    let (closes, goes_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (closing, going_on) = (Arc::clone(&closes), Arc::clone(&goes_on));
    let first = Opener::new(|| Ok::<_, BoxError>(0)).close(move |_| {
        closing.wait();
        going_on.wait();
        Ok::<_, BoxError>(())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _first = runtime.block_on(Exclusive::declare("first", first, shared)).unwrap();
    let _second = declare(shared, "second", &Arc::default()).unwrap();
    let (ours, theirs) = crate::sys::fd::stream_pair().unwrap();
    shared.freeze.begin(1, None);
    std::thread::scope(|scope| {
        let freezer = scope.spawn(move || {
            let sent = crate::control::freeze_and_send(shared, 1, ours.as_fd(), vec![], std::time::Duration::ZERO);
            drop(ours);
            sent
        });
        closes.wait();
        meanwhile();
        goes_on.wait();
        freezer.join().unwrap().unwrap();
    });
    let mut sent = Vec::new();
    std::fs::File::from(theirs).read_to_end(&mut sent).unwrap();
    sent
}

/// What the control thread does.
fn thaw(shared: &Shared) {
    shared.freeze.end(&shared.hold);
    shared.exclusives.wake();
}

fn reopen(shared: &Shared, attempt: u64) {
    shared.exclusives.closed_by(attempt).iter().for_each(|exclusive| exclusive.reopen(attempt));
}

#[test]
fn several_use_it_at_once() {
    let exclusive = Exclusive::new(7);
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| exclusive.with(|_| both.wait()).unwrap());
        }
    });
    assert_eq!(exclusive.with_mut(|n| std::mem::replace(n, 8)), Ok(7));
    assert_eq!(exclusive.clone().with(|n| *n), Ok(8));
}

#[test]
fn freeze_waits_for_use_and_use_for_the_end_of_the_freeze() {
    let (shared, exclusive, counts) = owner();
    let (inside, leave) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            exclusive.with(|n| {
                inside.wait();
                leave.wait();
                // Who is inside already may use it once more: the freeze waits for it anyway.
                exclusive.with(|same| (*n, *same)).unwrap()
            })
        });
        inside.wait();
        let freezer = scope.spawn(|| freeze(&shared, 1));
        while shared.hold.get() != Holding::Frozen {
            std::thread::yield_now();
        }
        assert_eq!(counts.get(), (1, 0));
        let late = scope.spawn(|| exclusive.with(|n| *n));
        leave.wait();
        assert_eq!(freezer.join().unwrap(), Ok(true));
        assert_eq!(counts.get(), (1, 1));
        assert_eq!(user.join().unwrap(), Ok((1, 1)));
        thaw(&shared);
        reopen(&shared, 1);
        assert_eq!(late.join().unwrap(), Ok(2));
    });
    assert_eq!(counts.get(), (2, 1));
}

#[test]
fn freeze_that_is_taken_back_closes_nothing() {
    let (shared, exclusive, counts) = owner();
    let (inside, leave) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            exclusive.with(|_| {
                inside.wait();
                leave.wait();
            })
        });
        inside.wait();
        let freezer = scope.spawn(|| freeze(&shared, 1));
        while shared.hold.get() != Holding::Frozen {
            std::thread::yield_now();
        }
        thaw(&shared);
        // The user is still inside.
        assert_eq!(freezer.join().unwrap(), Ok(false));
        leave.wait();
    });
    assert!(shared.exclusives.closed_by(1).is_empty());
    assert_eq!((counts.get(), exclusive.with(|n| *n)), ((1, 0), Ok(1)));
}

/// The new process would open what this one holds.
#[test]
fn content_is_not_whole_where_one_stays_open() {
    let is_whole = |sent: Vec<u8>| sent.windows(11).any(|bytes| bytes == b"flip: whole");
    let shared = Shared::new(true).unwrap();
    assert!(is_whole(frozen_halfway(&shared, || ())));
    let shared = Shared::new(true).unwrap();
    assert!(!is_whole(frozen_halfway(&shared, || thaw(&shared))));
    let closed = shared.exclusives.closed_by(1);
    assert_eq!(closed.iter().map(|exclusive| exclusive.name()).collect::<Vec<_>>(), ["first"]);
}

#[test]
fn thread_of_an_earlier_attempt_does_not_speak_for_a_later_one() {
    let (shared, _exclusive, counts) = owner();
    counts.broken(true);
    shared.awaited.begin(1);
    freeze(&shared, 1).unwrap_err();
    assert_eq!(shared.awaited.get().as_deref(), Some("the exclusive `store` to be closed"));
    thaw(&shared);
    shared.awaited.begin(2);
    shared.freeze.begin(2, None);
    assert!(!shared.exclusives.settle(&shared, 1));
    assert_eq!(shared.awaited.get(), None);
}

#[test]
fn reopening_of_an_earlier_attempt_does_not_touch_what_a_later_one_closed() {
    let (shared, exclusive, counts) = owner();
    freeze(&shared, 1).unwrap();
    let late = shared.exclusives.closed_by(1);
    thaw(&shared);
    reopen(&shared, 1);
    freeze(&shared, 2).unwrap();
    late.iter().for_each(|exclusive| exclusive.reopen(1));
    assert_eq!(counts.get(), (2, 2));
    shared.hold.set(Holding::Given);
    assert_eq!(exclusive.with(|n| *n), Err(ExclusiveError::HandedOff));
}

#[test]
fn freeze_waits_until_it_is_open_again() {
    let (shared, exclusive, counts) = owner();
    freeze(&shared, 1).unwrap();
    thaw(&shared);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| freeze(&shared, 2));
        while shared.hold.get() != Holding::Frozen {
            std::thread::yield_now();
        }
        assert_eq!(counts.get(), (1, 1));
        reopen(&shared, 1);
        assert_eq!(second.join().unwrap(), Ok(true));
    });
    assert_eq!(counts.get(), (2, 2));
    assert!(exclusive.cell.is_closed_by(2));
}

#[test]
fn what_cannot_be_opened_again_is_an_error_and_is_not_closed() {
    let (shared, exclusive, counts) = owner();
    freeze(&shared, 1).unwrap();
    thaw(&shared);
    counts.broken(true);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| exclusive.with_mut(|n| *n));
        reopen(&shared, 1);
        let lost = Err(ExclusiveError::NotReopened("it is broken".to_owned()));
        assert_eq!(waits.join().unwrap(), lost);
        assert_eq!(exclusive.with(|n| *n), lost);
    });
    counts.broken(false);
    assert_eq!(freeze(&shared, 2), Ok(true));
    assert_eq!(counts.get(), (1, 1));
}

#[test]
fn failure_to_close_is_named() {
    let (shared, exclusive, counts) = owner();
    counts.broken(true);
    assert_eq!(freeze(&shared, 1), Err("the exclusive `store` cannot be closed: it is broken".to_owned()));
    thaw(&shared);
    counts.broken(false);
    reopen(&shared, 1);
    assert_eq!(exclusive.with(|n| *n), Ok(2));
}

#[test]
fn new_process_opens_what_the_old_one_has_closed() {
    let (shared, counts) = (Shared::new(false).unwrap(), Arc::new(Counts::default()));
    let early = declare(&shared, "early", &counts).unwrap();
    assert_eq!(counts.get(), (0, 0));
    assert!(!shared.exclusives.free(), "it waits already");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| early.with(|n| *n));
        while !shared.notes.take().iter().any(|note| matches!(note, Note::Touched(at) if at.starts_with("early at "))) {
            std::thread::yield_now();
        }
        shared.exclusives.open_all(&shared).unwrap();
        // It does not serve yet, and nobody else has it.
        assert_eq!(waits.join().unwrap(), Ok(1));
    });
    let late = declare(&shared, "late", &counts).unwrap();
    assert_eq!(late.with(|n| *n), Ok(2));
}

#[test]
fn failure_to_open_is_named_and_leaves_it_waiting() {
    let (shared, counts) = (Shared::new(false).unwrap(), Arc::new(Counts::default()));
    declare(&shared, "store", &counts).unwrap();
    counts.broken(true);
    let error = shared.exclusives.open_all(&shared).unwrap_err();
    assert_eq!(error, "the exclusive `store` cannot be opened: it is broken");
    assert!(!shared.exclusives.free());
    let shared = Shared::new(true).unwrap();
    assert_eq!(declare(&shared, "store", &counts).unwrap_err().to_string(), "it is broken");
}

/// Whoever goes on with the first is the old process, and it may be of the kind that must have been closed.
#[test]
fn what_was_opened_is_closed_again_where_another_cannot_be() {
    let (shared, first, second) = (Shared::new(false).unwrap(), Arc::default(), Arc::new(Counts::default()));
    let exclusive = declare(&shared, "first", &first).unwrap();
    declare(&shared, "second", &second).unwrap();
    second.broken(true);
    let error = shared.exclusives.open_all(&shared).unwrap_err();
    assert_eq!(error, "the exclusive `second` cannot be opened: it is broken");
    assert_eq!((first.get(), second.get()), ((1, 1), (0, 0)));
    assert!(!shared.exclusives.free());
    // What was being opened meanwhile is closed, too.
    exclusive.cell.put(&mut exclusive.cell.opener(), 2);
    assert_eq!(first.get(), (1, 2));
}

#[test]
fn failure_is_told_though_one_is_still_used() {
    let (shared, counts) = (Shared::new(false).unwrap(), Arc::new(Counts::default()));
    let exclusive = declare(&shared, "first", &counts).unwrap();
    let (inside, leave) = (Arc::new(Barrier::new(2)), Barrier::new(2));
    let entered = Arc::clone(&inside);
    // It fails when somebody is inside of the first.
    let second = Opener::<()>::new(move || {
        entered.wait();
        Err("it is broken")
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _second = runtime.block_on(Exclusive::declare("second", second, &shared)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            exclusive.with(|_| {
                inside.wait();
                leave.wait();
            })
        });
        shared.exclusives.open_all(&shared).unwrap_err();
        leave.wait();
    });
    assert_eq!(counts.get(), (1, 0));
}

#[test]
fn end_of_the_process_closes_it_for_good() {
    let (shared, exclusive, counts) = owner();
    shared.exclusives.end();
    assert_eq!(counts.get(), (1, 1));
    assert_eq!(exclusive.with(|n| *n), Err(ExclusiveError::Ended));
    // What was being opened meanwhile is closed, too.
    exclusive.cell.put(&mut exclusive.cell.opener(), 2);
    assert_eq!((counts.get(), exclusive.with(|n| *n)), ((1, 2), Err(ExclusiveError::Ended)));
}

#[test]
fn end_of_the_process_waits_for_use_until_the_cut() {
    let (shared, exclusive, counts) = owner();
    let (inside, leave) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            exclusive.with(|_| {
                inside.wait();
                leave.wait();
            })
        });
        inside.wait();
        let end = scope.spawn(|| shared.exclusives.end());
        while !shared.exclusives.have_ended() {
            std::thread::yield_now();
        }
        shared.phase.set(Phase::Cut);
        shared.exclusives.wake();
        end.join().unwrap();
        leave.wait();
    });
    assert_eq!(counts.get(), (1, 0));
}

#[test]
fn panic_in_a_closure_ends_nothing_else() {
    let (shared, exclusive, counts) = owner();
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| exclusive.with_mut(|_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(exclusive.with(|n| *n), Ok(1));
    assert_eq!(freeze(&shared, 1), Ok(true));
    assert_eq!(counts.get(), (1, 1));
}

#[cfg(feature = "axum")]
#[test]
fn errors_are_responses() {
    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse;
    let lost = ExclusiveError::NotReopened("the path of a file".to_owned());
    for (error, again) in [(ExclusiveError::HandedOff, true), (ExclusiveError::Ended, true), (lost, false)] {
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().contains_key(header::RETRY_AFTER), again);
    }
}
