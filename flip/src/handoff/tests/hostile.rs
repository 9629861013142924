use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use super::*;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Config {
    name: String,
    nested: Option<Box<Config>>,
    numbers: Vec<u16>,
}

#[derive(Handoff)]
struct Everything {
    flag: bool,
    letter: char,
    small: u8,
    numbers: Vec<u64>,
    bytes: Vec<u8>,
    text: String,
    map: HashMap<String, Vec<(u32, i64)>>,
    tree: BTreeMap<i128, Option<Duration>>,
    config: Config,
    configs: Vec<(Config, Kind)>,
    times: (Instant, SystemTime),
    address: IpAddr,
    units: Vec<()>,
    list: Option<Box<Everything>>,
}

#[derive(Handoff)]
enum Kind {
    A,
    B(u16, Box<Kind>),
    C { empty: [Vec<()>; 2], result: Result<u8, String> },
}

fn config(depth: u16) -> Config {
    Config {
        name: "n".repeat(depth.into()),
        nested: depth.checked_sub(1).map(config).map(Box::new),
        numbers: vec![depth; 3],
    }
}

fn everything(inner: Option<Box<Everything>>) -> Everything {
    Everything {
        flag: true,
        letter: 'ß',
        small: 251,
        numbers: vec![1, u64::MAX],
        bytes: vec![7; 20],
        text: "text".into(),
        map: HashMap::from([("a".into(), vec![(1, -1), (70_000, i64::MIN)])]),
        tree: BTreeMap::from([(-5, None), (i128::MAX, Some(Duration::MAX))]),
        config: config(3),
        configs: vec![
            (config(0), Kind::A),
            (config(1), Kind::B(9, Box::new(Kind::A))),
            (config(1), Kind::C { empty: [vec![()], vec![]], result: Err("e".into()) }),
        ],
        times: (Instant::now(), SystemTime::now()),
        address: "::1".parse().unwrap(),
        units: vec![(); 5],
        list: inner,
    }
}

fn good() -> Vec<u8> {
    sent(&everything(Some(Box::new(everything(None))))).bytes()
}

/// Changes a few bytes, cuts some off, or puts some in.
pub(super) fn broken(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next() as u8),
            // What bincode and MessagePack take for the start of something long.
            2 if !bytes.is_empty() => bytes[at] = 251 + random.below(5) as u8,
            3 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            _ if !bytes.is_empty() => bytes[at] = random.next() as u8,
            _ => {}
        }
    }
    bytes
}

fn restore_from(bytes: &[u8], dribble: bool) {
    if dribble {
        let chunks = VecDeque::from([(bytes.to_vec(), Vec::new())]);
        // An error is as good as a value; only a panic, an abort or no end would not be.
        drop(received::<Everything>(Kept { chunks, dribble: Some(3), ..Kept::default() }));
    } else {
        let mut input = Restorer::from_bytes(bytes.to_vec(), Limits::default());
        drop(restore::<Everything>(&mut input));
    }
}

#[test]
fn broken_bytes_are_errors() {
    let (good, mut random) = (good(), Random(0xbadc0de));
    for turn in 0..5_000 {
        restore_from(&broken(&good, &mut random), turn % 16 == 0);
    }
}

#[test]
fn random_bytes_are_errors() {
    let mut random = Random(0xabad1dea);
    for _ in 0..5_000 {
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        restore_from(&bytes, false);
        drop(from_bytes::<Everything>(&bytes));
        drop(Schema::decode(&bytes));
    }
}

#[test]
fn every_cut_is_an_error() {
    let good = good();
    for end in 0..good.len() {
        let mut input = Restorer::from_bytes(good[..end].to_vec(), Limits::default());
        assert!(restore::<Everything>(&mut input).is_err(), "{end} of {} bytes were enough", good.len());
    }
}

#[test]
fn broken_schemas_are_errors_or_differ() {
    let (ours, mut random) = (Schema::of::<Everything>(), Random(0xfeedface));
    let good = ours.encode();
    assert_eq!(Schema::decode(&good).unwrap(), *ours);
    for _ in 0..5_000 {
        if let Ok(theirs) = Schema::decode(&broken(&good, &mut random)) {
            drop(ours.plan(&theirs).map_err(|mismatch| mismatch.to_string()));
            drop(Schema::decode(&theirs.encode()).unwrap());
        }
    }
}

/// A length as it stands on the wire.
fn length(length: u64) -> Vec<u8> {
    sent(&length).bytes()
}

fn refused<T: Handoff>(bytes: &[u8]) -> String {
    let mut input = Restorer::from_bytes(bytes.to_vec(), Limits::default());
    restore::<T>(&mut input).err().expect("it is refused").to_string()
}

#[test]
fn a_length_is_a_claim() {
    for claim in [1 << 20, 1 << 40, u64::MAX >> 1, u64::MAX] {
        let bytes = [length(claim), vec![1; 100]].concat();
        refused::<Vec<u8>>(&bytes);
        refused::<Vec<u64>>(&bytes);
        refused::<Vec<[u8; 1024]>>(&bytes);
        refused::<String>(&bytes);
        refused::<HashMap<u8, u64>>(&bytes);
        refused::<BTreeMap<u8, u64>>(&bytes);
        refused::<Vec<Vec<Vec<u64>>>>(&bytes);
        refused::<Serde<Vec<u8>>>(&bytes);
    }
    let input = Restorer::from_bytes(vec![0; 1000], Limits::default());
    assert_eq!(input.capacity::<u8>(usize::MAX), 4000);
    assert_eq!(input.capacity::<[u64; 1000]>(usize::MAX), 0);
}

#[test]
fn what_takes_no_bytes_cannot_be_claimed_without_end() {
    assert!(refused::<Vec<()>>(&length(u64::MAX)).contains("elements without bytes"));
    #[derive(Handoff)]
    struct Nothing {
        #[handoff(skip)]
        #[allow(dead_code)]
        much: [u64; 32],
    }
    assert!(refused::<Vec<Nothing>>(&length(1 << 50)).contains("elements without bytes"));
    assert!(refused::<HashMap<(), ()>>(&length(1 << 50)).contains("elements without bytes"));
}

/// What would not be restored is not saved, and all else is restored.
#[test]
fn as_many_elements_without_bytes_are_saved_as_are_restored() {
    fn both<T: Handoff>(count: usize, value: T) {
        let mut kept = Kept::default();
        match save(&value, &mut kept) {
            Ok(()) => assert!(received::<T>(kept).is_ok() && count <= 64 * 1024 + 5),
            Err(error) => {
                assert!(count > 64 * 1024 + 5 && error.to_string().contains("more elements without bytes"), "{error}");
            }
        }
    }
    // The bytes before them count in their favour: five of the length itself.
    for count in [0, 1, 64 * 1024, 64 * 1024 + 5, 64 * 1024 + 6, 100_000] {
        both(count, vec![(); count]);
        both(count, VecDeque::from(vec![((), [0u8; 0]); count]));
        both(2 * count, [vec![(); count], vec![(); count]]);
    }
    both(70_000, [(); 70_000]);
    both(0, (vec![0u8; 100_000], [(); 70_000]));
}

/// They are counted as the old process wrote them: what it sent bytes for is not claimed for nothing.
#[test]
fn elements_may_lose_all_that_took_bytes() {
    #[derive(Clone, Handoff)]
    struct Old {
        gone: u8,
    }
    #[derive(Handoff)]
    struct New {}
    let plan = Schema::of::<Vec<New>>().plan(&Schema::of::<Vec<Old>>()).unwrap();
    let mut kept = sent(&vec![Old { gone: 1 }; 500_000]);
    let input = Restorer::new(&mut kept, Limits::default());
    assert_eq!(restore_matched::<Vec<New>>(input, &plan, Limits::default()).unwrap().len(), 500_000);
}

#[test]
fn depth_is_bounded_by_the_reader() {
    #[derive(Handoff)]
    struct Deep(#[allow(dead_code)] Option<Box<Deep>>);
    assert!(refused::<Deep>(&[1; 100_000]).ends_with("more than 128 deep in each other"));
    // The same in what serde reads: an array in an array in an array.
    let inside = vec![0x91; 100_000];
    let leaf = [length(200_000), inside].concat();
    assert!(refused::<Serde<serde_json::Value>>(&leaf).contains("too deep in each other"));
    // And a variant in a variant.
    let inside = b"\x81\xa4Down".repeat(100_000);
    let leaf = [length(2 * inside.len() as u64), inside].concat();
    assert!(refused::<Serde<Chain>>(&leaf).contains("too deep in each other"));
}

#[derive(serde::Serialize, serde::Deserialize)]
enum Chain {
    Down(Box<Chain>),
    End,
}

#[test]
fn depth_is_bounded_by_the_writer() {
    let chain = |links| (0..links).fold(Chain::End, |chain, _| Chain::Down(Box::new(chain)));
    save(&Serde(chain(100)), &mut Kept::default()).unwrap();
    let error = save(&Serde(chain(200)), &mut Kept::default()).unwrap_err().to_string();
    assert!(error.contains("too deep in each other"), "{error}");
}

#[test]
fn a_schema_that_is_a_long_chain_does_not_overflow() {
    // A made-up schema of many types, each of which holds the next, against one that holds itself.
    #[derive(Handoff)]
    struct Deep(#[allow(dead_code)] Option<Box<Deep>>);
    let count = 20_000u64;
    let mut out = Saver::in_memory();
    out.scalar(count).unwrap();
    for next in 1..=count {
        // A name and nothing it was before; a struct of one field: its name, no other names, nothing else.
        out.text("D").unwrap();
        out.scalar(0u8).unwrap();
        out.scalar(0u8).unwrap();
        out.scalar(1u8).unwrap();
        out.text("0").unwrap();
        out.scalar(0u8).unwrap();
        out.scalar(0u8).unwrap();
        // An optional.
        out.scalar(1u8).unwrap();
        if next < count {
            out.scalar(8u8).unwrap();
            out.scalar(next).unwrap();
        } else {
            out.scalar(18u8).unwrap();
        }
    }
    out.scalar(8u8).unwrap();
    out.scalar(0u8).unwrap();
    let theirs = Schema::decode(&out.into_bytes()).unwrap();
    let mismatch = Schema::of::<Deep>().plan(&theirs).unwrap_err();
    assert_eq!((&*mismatch.ours, &*mismatch.theirs), ("the struct `Deep`", "u8"));

    // Deep in itself instead: refused when it is read.
    assert!(Schema::decode(&[0, 1, 1].into_iter().chain([1; 100_000]).collect::<Vec<_>>()).is_err());
}

/// A type that knows an older one, and is in itself several times, against made-up ones that lie in each other every way.
#[test]
fn ways_to_read_are_not_tried_without_end() {
    use super::super::schema::{Field, Leaf, Named, Node, Shape};
    #[derive(Handoff)]
    #[handoff(from = "Old", migrate = |old: Old| Deep { a: old.a, b: old.b, c: old.c, x: old.x.to_string() })]
    struct Deep {
        a: Option<Box<Deep>>,
        b: Option<Box<Deep>>,
        c: Option<Box<Deep>>,
        x: String,
    }
    #[derive(Handoff)]
    struct Old {
        a: Option<Box<Deep>>,
        b: Option<Box<Deep>>,
        c: Option<Box<Deep>>,
        x: u64,
    }
    for count in [1usize, 4, 30, 100] {
        let field = |name: &str, node| Field { name: name.into(), aliases: vec![], default: false, from: None, node };
        let next = |place: usize| Node::Option(Box::new(Node::Named(place.min(count - 1))));
        let named = (0..count).map(|place| {
            let fields = vec![
                field("a", next(place + 1)),
                field("b", next(place + 2)),
                field("c", next(place.saturating_sub(1))),
                field("x", Node::Leaf(Leaf::U64)),
            ];
            Named { name: "Made".into(), shape: Shape::Struct(fields), from: None }
        });
        let theirs = Schema { root: Node::Named(0), named: named.collect() };
        let plan = Schema::of::<Deep>().plan(&theirs);
        assert!(plan.is_ok() || count > 4, "{count}: {}", plan.unwrap_err());
        if let Err(mismatch) = plan {
            assert!(mismatch.to_string().contains("than flip follows: take `from` off"), "{mismatch}");
        }
    }
}

#[test]
fn what_takes_no_bytes_cannot_be_doubled_without_end() {
    use super::super::schema::{Field, Named, Node, Shape};
    // Each type holds the next one twice, and the last one holds nothing.
    let field = |name: &str, next| {
        let (name, node) = (name.to_owned(), Node::Named(next));
        Field { name, aliases: Vec::new(), default: false, from: None, node }
    };
    let named = (1..=100).map(|next| {
        let fields = if next < 100 { vec![field("a", next), field("b", next)] } else { Vec::new() };
        Named { name: "Twice".to_owned(), shape: Shape::Struct(fields), from: None }
    });
    let theirs = Schema { root: Node::Named(0), named: named.collect() };
    #[derive(Debug, Handoff)]
    struct Nothing {}
    let plan = Schema::of::<Nothing>().plan(&theirs).unwrap();
    let input = Restorer::from_bytes(Vec::new(), Limits::default());
    let error = restore_matched::<Nothing>(input, &plan, Limits::default()).unwrap_err();
    assert!(error.to_string().ends_with("more parts without bytes are claimed than flip takes"), "{error}");
}

#[test]
fn more_bytes_than_the_limit_are_refused() {
    let mut kept = sent(&vec![1u8; 1000]);
    let mut input = Restorer::new(&mut kept, Limits { bytes: 100, ..Limits::default() });
    let error = restore::<Vec<u8>>(&mut input).unwrap_err();
    assert!(error.to_string().ends_with("there are more than 100 bytes, which is the `state_limit` here"), "{error}");
}

#[test]
fn what_is_left_over_is_an_error() {
    let error = received::<u8>(sent(&(1u8, 2u8))).unwrap_err();
    assert_eq!(error.to_string(), "1 bytes are left over");
    let two = [length(4), vec![1, 2]].concat();
    assert_eq!(refused::<Serde<u8>>(&two), "`u8` through serde: bytes are left over");
}
