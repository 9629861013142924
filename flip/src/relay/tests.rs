use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;
use crate::testing::{HandoffError, Process};

#[derive(flip::Handoff)]
struct Talk {
    peer: UnixStream,
    said: Vec<String>,
}

fn talk(number: usize) -> (Talk, UnixStream) {
    let (peer, other) = UnixStream::pair().unwrap();
    (Talk { peer, said: vec![number.to_string()] }, other)
}

/// What the others write, one by one, to the end.
fn ends(others: Vec<UnixStream>) -> Vec<String> {
    let read = |mut other: UnixStream| {
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        text
    };
    others.into_iter().map(read).collect()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Answers each item by what it knows, and gives how many there were.
fn answer_all(relay: &Relay<Talk>, count: usize) {
    for _ in 0..count {
        let mut talk = relay.next_blocking().unwrap();
        talk.peer.write_all(talk.said.concat().as_bytes()).unwrap();
    }
}

#[test]
fn without_a_running_flip_what_is_passed_arrives_here() {
    let relay = Relay::new();
    let (item, other) = talk(0);
    relay.pass_blocking(item).unwrap();
    answer_all(&relay, 1);
    assert_eq!(ends(vec![other]), ["0"]);
    assert!(!relay.is_requested());
}

#[test]
fn items_arrive_in_order_with_their_descriptors_and_wait_for_room() {
    const COUNT: usize = 1000;
    let old = Process::new();
    let relay = old.relay::<Talk>("talks").unwrap();
    let (_new, arriving) = old.hand_over(|new| Ok(new.relay::<Talk>("talks")?)).unwrap();
    assert!(relay.is_requested());
    let (talks, others): (Vec<_>, Vec<_>) = (0..COUNT).map(talk).unzip();
    thread::scope(|scope| {
        scope.spawn(|| talks.into_iter().for_each(|talk| relay.pass_blocking(talk).unwrap()));
        for number in 0..COUNT {
            let mut talk = arriving.next_blocking().unwrap();
            assert_eq!(talk.said, [number.to_string()]);
            talk.peer.write_all(talk.said[0].as_bytes()).unwrap();
        }
    });
    assert_eq!(ends(others), numbers(COUNT));
}

#[test]
fn who_waits_for_the_moment_to_pass_is_woken_by_it() {
    let old = Process::new();
    let relay = old.relay::<Talk>("talks").unwrap();
    let (item, other) = talk(0);
    thread::scope(|scope| {
        let waits = relay.clone();
        let passes = scope.spawn(move || {
            crate::entry::block_on(async {
                waits.requested().await;
                assert!(waits.is_requested());
                waits.pass(item).await.unwrap();
            });
        });
        // A roll-back is no such moment.
        old.hand_over(|_| Err::<(), _>("no".into())).map(drop).unwrap_err();
        assert!(!relay.is_requested() && !passes.is_finished());
        let (_new, arriving) = old.hand_over(|new| Ok(new.relay::<Talk>("talks")?)).unwrap();
        answer_all(&arriving, 1);
        passes.join().unwrap();
    });
    assert_eq!(ends(vec![other]), ["0"]);
    // Where it has happened, at once.
    crate::entry::block_on(relay.requested());
}

#[test]
fn what_waits_moves_on_and_comes_first() {
    let first = Process::new();
    let relay = first.relay::<Talk>("talks").unwrap();
    let (talks, others): (Vec<_>, Vec<_>) = (0..30).map(talk).unzip();
    let mut talks = talks.into_iter();
    // In the first process, on the way to the second, and on the way to the third.
    for talk in talks.by_ref().take(10) {
        relay.pass_blocking(talk).unwrap();
    }
    let (second, to_second) = first.hand_over(|new| Ok(new.relay::<Talk>("talks")?)).unwrap();
    for talk in talks.by_ref().take(10) {
        relay.pass_blocking(talk).unwrap();
    }
    let (_third, to_third) = second.hand_over(|new| Ok(new.relay::<Talk>("talks")?)).unwrap();
    assert!(to_second.next_blocking().is_none());
    for talk in talks {
        relay.pass_blocking(talk).unwrap();
    }
    for number in 0..30 {
        let mut talk = to_third.next_blocking().unwrap();
        assert_eq!(talk.said, [number.to_string()]);
        talk.peer.write_all(talk.said[0].as_bytes()).unwrap();
    }
    assert_eq!(ends(others), numbers(30));
}

#[test]
fn roll_back_leaves_what_waits_where_it_is() {
    let old = Process::new();
    let relay = old.relay::<Talk>("talks").unwrap();
    let (item, other) = talk(0);
    relay.pass_blocking(item).unwrap();
    let failed = old.hand_over(|new| {
        let _relay = new.relay::<Talk>("talks")?;
        Err::<(), _>("no".into())
    });
    assert!(matches!(failed, Err(HandoffError::BeforeFreeze(_))));
    let (another, its_other) = talk(1);
    relay.pass_blocking(another).unwrap();
    answer_all(&relay, 2);
    assert_eq!(ends(vec![other, its_other]), ["0", "1"]);
}

#[test]
fn relay_that_the_new_process_does_not_have_gives_the_item_back() {
    let old = Process::new();
    let relay = old.relay::<Talk>("talks").unwrap();
    let (waits, its_other) = talk(0);
    relay.pass_blocking(waits).unwrap();
    let (_new, ()) = old.hand_over(|_| Ok(())).unwrap();
    // Nobody can read it any more.
    assert_eq!(ends(vec![its_other]), [""]);
    let (item, other) = talk(1);
    let mut refused = loop {
        let again = Talk { peer: item.peer.try_clone().unwrap(), said: vec![] };
        // One may be on its way before the other side knows.
        if let Err(refused) = relay.pass_blocking(again) {
            break refused;
        }
    };
    assert!(matches!(refused.why, WhyNotPassed::Unwanted), "{refused:?}");
    refused.item.peer.write_all(b"closed by the old one").unwrap();
    drop((refused, item));
    assert_eq!(ends(vec![other]), ["closed by the old one"]);
}

/// What the next release makes of a [`Numbered`]: a small number, which an odd one is too bad for.
mod next {
    use super::*;

    #[derive(flip::Handoff)]
    pub(super) struct Numbered {
        pub(super) peer: UnixStream,
        #[handoff(from = "u64", migrate = even)]
        pub(super) half: u8,
    }

    fn even(number: u64) -> u8 {
        assert!(number.is_multiple_of(2), "{number} is odd");
        u8::try_from(number / 2).unwrap()
    }
}

#[derive(flip::Handoff)]
struct Numbered {
    peer: UnixStream,
    #[handoff(rename = "half")]
    number: u64,
}

#[test]
fn item_that_cannot_be_read_is_closed_and_counted_and_the_next_one_comes() {
    let old = Process::new();
    let relay = old.relay::<Numbered>("numbers").unwrap();
    let (_new, arriving) = old.hand_over(|new| Ok(new.relay::<next::Numbered>("numbers")?)).unwrap();
    let pass = |number| {
        let (peer, other) = UnixStream::pair().unwrap();
        relay.pass_blocking(Numbered { peer, number }).unwrap();
        other
    };
    let others = [4, 5, 6].map(pass);
    let mut halves = vec![];
    for _ in 0..2 {
        let mut item = arriving.next_blocking().unwrap();
        item.peer.write_all(b"taken").unwrap();
        halves.push(item.half);
    }
    assert_eq!(halves, [2, 3]);
    assert_eq!(ends(others.into()), ["taken", "", "taken"]);
    assert_eq!(arriving.post().lost(), 1);
}

#[test]
fn type_that_cannot_become_the_new_one_is_refused() {
    let old = Process::new();
    let _relay = old.relay::<Talk>("talks").unwrap();
    let refused = old.hand_over(|new| Ok(new.relay::<String>("talks")?)).map(drop).unwrap_err().to_string();
    assert!(refused.contains("the relay `talks`"), "{refused}");
}

#[test]
fn items_of_an_earlier_generation_are_read_by_its_own_schema() {
    let first = Process::new();
    let relay = first.relay::<Numbered>("numbers").unwrap();
    let (second, to_second) = first.hand_over(|new| Ok(new.relay::<Numbered>("numbers")?)).unwrap();
    let (peer, other) = UnixStream::pair().unwrap();
    // Whether it has arrived there or is on its way, it goes on.
    relay.pass_blocking(Numbered { peer, number: 8 }).unwrap();
    let (_third, to_third) = second.hand_over(|new| Ok(new.relay::<next::Numbered>("numbers")?)).unwrap();
    assert!(to_second.next_blocking().is_none());
    assert_eq!(to_third.next_blocking().unwrap().half, 4);
    assert_eq!(ends(vec![other]), [""]);
}

#[test]
fn relay_that_is_dropped_gives_back_what_is_passed() {
    let old = Process::new();
    let relay = old.relay::<Talk>("talks").unwrap();
    let (_new, arriving) = old.hand_over(|new| Ok(new.relay::<Talk>("talks")?)).unwrap();
    drop(arriving);
    let (item, other) = talk(1);
    let refused = loop {
        let again = Talk { peer: item.peer.try_clone().unwrap(), said: vec![] };
        // One may be on its way before the other side knows.
        if let Err(refused) = relay.pass_blocking(again) {
            break refused;
        }
    };
    assert!(matches!(refused.why, WhyNotPassed::Unwanted), "{refused:?}");
    drop((refused, item));
    assert_eq!(ends(vec![other]), [""]);
}

#[test]
fn it_is_a_stream() {
    let relay = Relay::new();
    for number in 0..3 {
        relay.pass_blocking(number).unwrap();
    }
    let mut stream = relay.clone();
    let mut next = || crate::entry::block_on(std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)));
    assert_eq!([next(), next(), next()], [Some(0), Some(1), Some(2)]);
}

#[test]
fn item_with_too_many_descriptors_stays_here() {
    let relay = Relay::new();
    let sockets: Vec<UnixStream> = (0..=DESCRIPTORS).map(|_| UnixStream::pair().unwrap().0).collect();
    let refused = relay.pass_blocking(sockets).unwrap_err();
    assert_eq!(refused.item.len(), DESCRIPTORS + 1);
    assert!(refused.to_string().contains("at most 64 descriptors"), "{refused}");
}

#[test]
fn item_that_is_too_large_stays_here_and_the_others_go() {
    let old = Process::new();
    let relay = old.relay::<Vec<u8>>("bytes").unwrap();
    let (_new, arriving) = old.hand_over(|new| Ok(new.relay::<Vec<u8>>("bytes")?)).unwrap();
    // With its length in front.
    let fits = parcel::BYTES - 9;
    let refused = relay.pass_blocking(vec![1; parcel::BYTES]).unwrap_err();
    assert_eq!(refused.item.len(), parcel::BYTES);
    assert!(
        matches!(refused.why, WhyNotPassed::Unwritable(_)) && refused.to_string().contains("at most 66060288 bytes")
    );
    for size in [1, fits, 2] {
        thread::scope(|scope| {
            scope.spawn(|| relay.pass_blocking(vec![1; size]).unwrap());
            assert_eq!(arriving.next_blocking().unwrap().len(), size);
        });
    }
}

#[test]
fn more_may_wait_than_goes_in_one_section() {
    let old = Process::new();
    let relay = old.relay::<Vec<u8>>("bytes").unwrap();
    let sizes = [1, parcel::BYTES / 2, 2, parcel::BYTES / 2, parcel::BYTES / 2, 3];
    for size in sizes {
        relay.pass_blocking(vec![1; size]).unwrap();
    }
    // It may be asked for before the content comes, or later.
    let (new, second) = old.hand_over(|new| Ok(new.relay::<Vec<u8>>("bytes")?)).unwrap();
    let (_newest, third) = new
        .hand_over(|newest| {
            newest.live("late", 0)?.read(|_| ())?;
            Ok(newest.relay::<Vec<u8>>("bytes")?)
        })
        .unwrap();
    assert!(second.next_blocking().is_none());
    for size in sizes {
        assert_eq!(third.next_blocking().unwrap().len(), size);
    }
}

#[test]
fn items_whose_descriptors_do_not_go_up_are_none() {
    let origin = Origin::new(vec![]);
    let fds = |count| (0..count).map(|_| UnixStream::pair().unwrap().0.into()).collect::<Vec<_>>();
    let items = || [0, 2, 1].map(|descriptors| crate::protocol::Item { bytes: vec![], descriptors }).into();
    let read = |count| parcels(items(), fds(count), |_| Some(&origin));
    assert_eq!(read(3).unwrap().iter().map(|parcel| parcel.fds.len()).collect::<Vec<_>>(), [0, 2, 1]);
    assert!(read(2).is_none() && read(4).is_none());
    let mut claim: Vec<crate::protocol::Item> = items();
    claim[1].descriptors = u32::MAX;
    assert!(parcels(claim, fds(3), |_| Some(&origin)).is_none());
}

#[test]
fn what_waits_is_read_back_and_nonsense_is_not() {
    let relay = Relay::<Talk>::new();
    let (item, _other) = talk(7);
    relay.pass_blocking(item).unwrap();
    let (untaken, fds) = relay.post().untaken().unwrap().pop().unwrap();
    let bytes = untaken.encode().unwrap();
    let copies = || fds.iter().map(|fd| fd.try_clone().unwrap()).collect::<Vec<_>>();
    let (name, read) = Untaken::decode(&bytes, copies()).unwrap();
    assert_eq!((&*name, read.len()), ("relay", 1));
    assert!(Untaken::decode(&bytes, vec![]).is_err());
    for end in 0..bytes.len() {
        assert!(Untaken::decode(&bytes[..end], copies()).is_err(), "cut at {end}");
    }
}
