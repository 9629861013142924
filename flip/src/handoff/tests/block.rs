use std::{
    borrow::Cow,
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque},
    ffi::{CStr, CString, OsStr, OsString},
    fmt::Debug,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    num::{NonZero, Saturating, Wrapping},
    ops::Bound,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use nix::time::{ClockId, clock_gettime};

use super::*;
use crate::golden::golden;

fn same<T: Handoff + PartialEq + Debug>(value: T) {
    assert_eq!(round_trip(&value), value);
}

macro_rules! extremes {
    ($($ty:ident)*) => { $(
        for value in [$ty::MIN, $ty::MIN + 1, 0, 1, 100, $ty::MAX - 1, $ty::MAX] {
            same(value);
        }
        same(vec![$ty::MIN, 0, 1, $ty::MAX]);
        same([$ty::MAX, 0, $ty::MIN]);
        same(VecDeque::from([$ty::MAX, 0]));
        same(HashSet::from([$ty::MAX, 0]));
        same(NonZero::<$ty>::MAX);
        same(vec![NonZero::<$ty>::MAX, NonZero::<$ty>::MIN]);
    )* };
}

fn again(kept: &Kept) -> VecDeque<(Vec<u8>, Vec<OwnedFd>)> {
    kept.chunks.iter().map(|(bytes, _)| (bytes.clone(), Vec::new())).collect()
}

#[test]
fn numbers() {
    extremes!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
    for value in [0.0, -0.0, 1.5, f64::MIN, f64::MAX, f64::INFINITY] {
        same(value);
        same(value as f32);
        same(vec![value; 3]);
    }
    assert!(round_trip(&f64::NAN).is_nan());
    same((true, false));
    same(['a', 'ß', '🦀', '\0', char::MAX]);
    same([Ordering::Less, Ordering::Equal, Ordering::Greater]);
    same((Wrapping(5u8), Saturating(6i64), Reverse(String::from("r"))));
}

#[test]
fn a_zero_is_no_nonzero() {
    let error = received::<NonZero<u32>>(sent(&0u32)).unwrap_err();
    assert_eq!(error.to_string(), "u32: 0, where any other number may stand");
}

#[test]
fn ranges() {
    same(1..5u64);
    same(1..=5u64);
    same(3u8..);
    same(..7i32);
    same(..=7i32);
    same([Bound::Included(1), Bound::Excluded(2), Bound::Unbounded]);
}

#[test]
fn text() {
    same(String::new());
    same("héllo".repeat(100_000));
    same(Box::<str>::from("boxed"));
    same(Cow::Borrowed("cow"));
    same(OsString::from_vec(vec![0xff, b'a', 0]));
    same(Box::<OsStr>::from(OsStr::new("os")));
    same(PathBuf::from("/run/app.sock"));
    same(Box::<Path>::from(Path::new("p")));
    same(Cow::Borrowed(Path::new("p")));
    same(CString::from(c"see"));
    same(Box::<CStr>::from(c"see"));
}

#[test]
fn what_is_not_text_is_refused() {
    let error = received::<String>(sent(&vec![0xffu8, 0xfe])).unwrap_err();
    assert!(error.to_string().starts_with("String: text that is not text"), "{error}");
    assert!(received::<CString>(sent(&vec![b'a', 0, b'b'])).is_err());
}

#[test]
fn collections() {
    same(vec![String::from("a"), String::from("b")]);
    same(Vec::<String>::new());
    same(vec![vec![vec![1u16]], vec![]]);
    same(VecDeque::from(["a".to_owned(), "b".to_owned()]));
    same(LinkedList::from([1u8, 2]));
    same(Box::<[u32]>::from([1, 2]));
    same(Cow::<'_, [u32]>::Borrowed(&[1, 2]));
    same(HashMap::from([("a".to_owned(), vec![1u64]), ("b".to_owned(), vec![])]));
    same(BTreeMap::from([(1u32, 'a'), (2, 'b')]));
    same(HashSet::from(["a".to_owned()]));
    same(BTreeSet::from([3i64, 1, 2]));
    same(Some(Some(1u8)));
    same(Some(None::<u8>));
    same(Box::new(Some(Box::new(1u8))));
    same(["a".to_owned(), "b".to_owned()]);
    same([[0u64; 3]; 2]);
    same([Ok(1u8), Err("no".to_owned())]);
    same(());
    same(PhantomData::<str>);
    same((1u8, "two".to_owned(), 3.0, (4u8,), [5u8], Some(6u8), 7u64, 8i8, 9u16, 'x', true, ()));
    let heap = BinaryHeap::from([3u32, 9, 1]);
    assert_eq!(round_trip(&heap).into_sorted_vec(), heap.into_sorted_vec());
}

#[test]
fn a_deque_that_wraps_around_keeps_its_order() {
    let mut deque = VecDeque::with_capacity(4);
    deque.extend([1u64, 2, 3, 4]);
    deque.rotate_left(2);
    deque.pop_front();
    deque.push_back(5);
    assert_eq!(round_trip(&deque), deque);
}

#[test]
fn one_schema_is_one_form() {
    let list = vec![1u64, 300, u64::MAX];
    assert_eq!(Schema::of::<Vec<u64>>(), Schema::of::<VecDeque<usize>>());
    assert_eq!(received::<VecDeque<usize>>(sent(&list)).unwrap(), [1, 300, usize::MAX]);
    assert_eq!(received::<LinkedList<NonZero<u64>>>(sent(&list)).unwrap().len(), 3);
    assert_eq!(received::<BinaryHeap<Wrapping<u64>>>(sent(&list)).unwrap().len(), 3);
    assert_eq!(received::<Vec<Box<u64>>>(sent(&list)).unwrap().len(), 3);
    assert_eq!(received::<BTreeSet<u64>>(sent(&HashSet::from([1u64, 2]))).unwrap(), BTreeSet::from([1, 2]));
    assert_eq!(received::<PathBuf>(sent(&OsString::from("a"))).unwrap(), Path::new("a"));
}

#[test]
fn addresses() {
    same(Ipv4Addr::LOCALHOST);
    same(Ipv6Addr::LOCALHOST);
    same([IpAddr::V4(Ipv4Addr::BROADCAST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]);
    same::<SocketAddr>("127.0.0.1:8080".parse().unwrap());
    same(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 2, 3)));
}

#[test]
fn times() {
    same(Duration::new(u64::MAX, 999_999_999));
    same(Duration::ZERO);
    same(SystemTime::UNIX_EPOCH);
    same(SystemTime::now());
    same(SystemTime::UNIX_EPOCH - Duration::new(5, 7));
    // Here the anchor is the same on both sides, so even instants are.
    let now = Instant::now();
    same([now, now + Duration::from_secs(1 << 30), now - Duration::from_nanos(1)]);
}

#[test]
fn a_moment_is_one_of_the_host_s_clock_for_ever() {
    let (now, clock) = (Instant::now(), clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let mut kept = sent(&1_000_000_000_000_i128);
    let [(bytes, _)] = kept.chunks.make_contiguous() else { panic!("one chunk") };
    *bytes = golden("the moment at which the clock was at 1,000 s", bytes);
    let bytes = bytes.clone();
    let moment: Instant = received(kept).unwrap();
    assert_eq!(sent(&moment).bytes(), bytes);
    // Both are as long after the one as after the other.
    let both = [moment + Duration::from(clock), now + Duration::from_secs(1_000)];
    let [first, last] = [both[0].min(both[1]), both[0].max(both[1])];
    assert!(last - first < Duration::from_secs(60), "{:?}", last - first);
}

#[test]
fn a_moment_that_no_clock_shows_is_refused() {
    assert!(received::<SystemTime>(sent(&i128::MAX)).is_err());
    assert!(received::<SystemTime>(sent(&i128::MIN)).is_err());
    assert!(received::<Instant>(sent(&i128::MAX)).is_err());
    assert!(received::<Instant>(sent(&i128::MIN)).is_err());
    assert!(received::<Duration>(sent(&(1u64, 1_000_000_000u32))).is_err());
}

#[test]
fn large_values_cross_chunks() {
    let mut random = Random(0x5eed);
    for size in [CHUNK - 12, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
        let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        let value = (bytes, String::from("after"));
        assert_eq!(round_trip(&value), value);
    }
    let numbers: Vec<u64> = (0..200_000).map(|_| random.next()).collect();
    let texts: Vec<String> = (0..100_000u32).map(|n| n.to_string()).collect();
    let value = (numbers, 1u8, texts);
    assert_eq!(received::<(Vec<u64>, u8, Vec<String>)>(sent(&value)).unwrap(), value);
}

/// Numbers and text of every length around what is sent, and received, at once, in front of something else.
#[test]
fn numbers_in_bulk_cross_chunks() {
    fn check<T: Handoff + Clone + PartialEq + Debug>(item: impl Fn(u64) -> T) {
        let mut random = Random(0xb01d);
        for bytes in [0, 64 * 1024, CHUNK, 2 * CHUNK, 5 * CHUNK] {
            for more in [-2, -1, 0, 1, 2] {
                let count = (bytes / size_of::<T>()).saturating_add_signed(more);
                let value = (vec![1u16; 3], (0..count).map(|_| item(random.next())).collect::<Vec<T>>(), 7u64);
                let kept = sent(&value);
                for (dribble, direct) in [(None, false), (None, true), (Some(65_537), true), (Some(4093), false)] {
                    let kept = Kept { chunks: again(&kept), dribble, direct, filled: 0 };
                    let read = received::<(Vec<u16>, Vec<T>, u64)>(kept).unwrap();
                    assert!(read == value, "{count} of {} bytes each", size_of::<T>());
                }
            }
        }
    }
    check(|random| random as u8);
    check(|random| random as i16);
    check(|random| random as f32);
    check(|random| random);
    check(|random| u128::from(random) << 64 | 5);
}

/// An array that is too large for the stack is not put there on its way.
#[test]
fn large_arrays_come_in_bulk() {
    let items = |count: usize| (0..count).map(|n| n as u64).collect::<Vec<_>>();
    let large: Box<[u64; 2_000_000]> = items(2_000_000).try_into().unwrap();
    let texts: Box<[String; 20_000]> = items(20_000).iter().map(u64::to_string).collect::<Vec<_>>().try_into().unwrap();
    let value = (large, texts);
    let read = std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(move || {
            received::<(Box<[u64; 2_000_000]>, Box<[String; 20_000]>)>(sent(&value)).map(|read| read == value)
        })
        .unwrap();
    assert!(read.join().unwrap().unwrap());

    let bytes: Box<[u8; 8 * CHUNK]> = vec![7; 8 * CHUNK].try_into().unwrap();
    let mut kept = Kept { direct: true, ..sent(&bytes) };
    let mut input = Restorer::new(&mut kept, Limits::default());
    assert!(restore::<Box<[u8; 8 * CHUNK]>>(&mut input).unwrap() == bytes);
    assert!(kept.filled >= 6 * CHUNK, "only {} bytes", kept.filled);
    same([[1u16; 3]; 200]);
    same([[1u16; 3]; 3]);
}

#[test]
fn what_is_long_is_received_where_it_will_lie() {
    fn check<T: Handoff>(value: &T) {
        let mut kept = Kept { direct: true, ..sent(value) };
        let mut input = Restorer::new(&mut kept, Limits::default());
        restore::<T>(&mut input).unwrap();
        input.finish().unwrap();
        // All but the first chunk, and less than one at the end.
        assert!(kept.filled >= 6 * CHUNK, "only {} bytes", kept.filled);
    }
    check(&vec![7u8; 8 * CHUNK]);
    check(&vec![7u64; CHUNK]);
    check(&(1u8, vec![7u128; CHUNK / 2], 2u8));
    check(&"a".repeat(8 * CHUNK));
}

#[test]
fn numbers_go_in_little_endian_order_in_every_form() {
    let numbers = vec![0x0102u16, 0xfffe];
    let bytes = [2, 0x02, 0x01, 0xfe, 0xff];
    assert_eq!(sent(&numbers).bytes(), bytes);
    assert_eq!(sent(&VecDeque::from(numbers.clone())).bytes(), bytes);
    assert_eq!(sent(&LinkedList::from_iter(numbers.clone())).bytes(), bytes);
    assert_eq!(sent(&numbers.iter().copied().map(Wrapping).collect::<Vec<_>>()).bytes(), bytes);
    assert_eq!(sent(&vec![-2.5f64]).bytes(), [&[1][..], &(-2.5f64).to_le_bytes()].concat());
}

#[test]
fn long_text_is_checked_wherever_it_is_cut() {
    for size in [CHUNK - 7, CHUNK - 6, CHUNK - 5, 3 * CHUNK] {
        let mut text = "ß".repeat(size / 2);
        text.push('a');
        assert_eq!(round_trip(&text), text);
        let mut bytes = text.into_bytes();
        let last = bytes.len() - 2;
        bytes[last] = b'a';
        for direct in [false, true] {
            assert!(received::<String>(Kept { direct, ..sent(&bytes) }).is_err(), "{size} bytes");
        }
    }
}

/// A map is built early or late, as far as what came bears out its size.
#[test]
fn maps_of_every_size() {
    for count in [0, 1, 1000, 50_000] {
        same((0..count).map(|n: u32| (n.to_string(), n)).collect::<HashMap<_, _>>());
        // Far fewer bytes come than the entries take.
        same((0..count).map(|n| (n, [None::<u64>; 4])).collect::<HashMap<u32, _>>());
    }
    let twice = sent(&vec![(1u8, 2u8), (1, 3)]);
    assert_eq!(received::<HashMap<u8, u8>>(twice).unwrap(), HashMap::from([(1, 3)]));
}

#[test]
fn an_entry_that_fails_says_which_it_is() {
    for good in [0, 3, 100_000u32] {
        let pairs: Vec<(u32, u8)> = (0..good).map(|n| (n, 1)).chain([(good, 7)]).collect();
        let error = received::<HashMap<u32, bool>>(sent(&pairs)).unwrap_err();
        assert!(error.path().ends_with(&format!("[{good}]")), "{error}");
    }
}

#[test]
fn long_leaves_go_in_pieces() {
    let value = Serde((0..100_000u32).map(|n| (n.to_string(), n)).collect::<BTreeMap<_, _>>());
    let kept = sent(&value);
    assert!(kept.chunks.len() > 2);
    assert_eq!(received::<Serde<BTreeMap<String, u32>>>(kept).unwrap(), value);
    let long = Serde("x".repeat(300_000));
    assert_eq!(round_trip(&long), long);
}

#[test]
fn errors_say_where() {
    let error = received::<Vec<(u8, bool)>>(sent(&vec![(1u8, 0u8), (2, 7)])).unwrap_err();
    assert_eq!(error.path(), "a list of (u8, bool)[1].1");
}
