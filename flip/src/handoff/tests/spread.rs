//! Collections that several threads read: as one thread would have read them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
    time::Duration,
};

use super::*;
use crate::handoff::{matching::Op, transcode::Element};

/// Small enough that a few elements are as much as one thread is given.
fn limits(readers: usize) -> Limits {
    Limits { readers, stretch: 1024, ..Limits::default() }
}

/// By so many threads, from a source that gives so many bytes at a time.
fn read<T: Handoff>(
    bytes: &[u8],
    fds: &[OwnedFd],
    plan: Option<&Plan>,
    (readers, part): (usize, usize),
) -> Result<T, String> {
    let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let mut kept = Kept { chunks: [(bytes.to_vec(), fds)].into(), dribble: Some(part), ..Kept::default() };
    let mut input = Restorer::new(&mut kept, limits(readers));
    let value = match plan {
        Some(plan) => restore_matched(input, plan, limits(readers)),
        None => restore(&mut input).and_then(|value| input.finish().map(|()| value)),
    };
    value.map_err(|error| error.to_string())
}

fn plan<Old: Handoff, New: Handoff>() -> Plan {
    let plan = Schema::of::<New>().plan(&Schema::of::<Old>()).unwrap();
    assert!(plan.is_needed());
    plan
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Config {
    name: String,
    numbers: Vec<u16>,
}

/// Something open.
#[derive(Handoff)]
pub struct Open(File);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("open")
    }
}

impl PartialEq for Open {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[derive(Debug, PartialEq, Handoff)]
pub struct State<I> {
    version: u8,
    items: Vec<I>,
    tree: BTreeMap<String, I>,
    ids: BTreeSet<(u64, String, String)>,
    name: String,
}

/// What both releases have.
#[derive(Debug, PartialEq, Handoff)]
pub struct Common {
    text: String,
    address: SocketAddr,
    config: Config,
    wide: i128,
    letter: char,
    array: [u16; 3],
    result: Result<u8, String>,
    open: Option<Open>,
    units: Vec<()>,
}

mod old {
    use super::*;

    #[derive(Debug, PartialEq, Handoff)]
    pub struct Item {
        pub number: u64,
        pub gone: Vec<String>,
        pub common: Common,
        pub kind: Kind,
        pub optional: Option<i32>,
        pub nested: Vec<(String, u16)>,
        pub map: BTreeMap<u8, Option<Box<Kind>>>,
        pub time: Duration,
        pub last: i16,
        pub flags: [bool; 2],
    }

    #[derive(Clone, Debug, PartialEq, Handoff)]
    pub enum Kind {
        Plain,
        Named(String),
        Counted { count: u32, of: Vec<Kind> },
        Gone,
    }
}

mod new {
    use super::*;

    #[derive(Debug, PartialEq, Handoff)]
    pub struct Item {
        number: u32,
        common: Common,
        #[handoff(default = 42)]
        added: u8,
        kind: Kind,
        optional: Option<i64>,
        nested: Vec<(String, u32)>,
        map: BTreeMap<u8, Option<Box<Kind>>>,
        #[handoff(from = "Duration", migrate = |time: Duration| time.as_millis() as u64)]
        time: u64,
        // They have changed places.
        flags: [bool; 2],
        last: i32,
    }

    #[derive(Debug, PartialEq, Handoff)]
    pub enum Kind {
        Counted { of: Vec<Kind>, count: u64 },
        Plain,
        Named(String),
    }
}

type Old = State<old::Item>;
type New = State<new::Item>;

fn item(random: &mut Random) -> old::Item {
    let kind = |random: &mut Random| match random.below(3) {
        0 => old::Kind::Plain,
        1 => old::Kind::Named("n".repeat(random.below(300))),
        _ => old::Kind::Counted { count: random.next() as u32, of: vec![old::Kind::Plain; random.below(3)] },
    };
    old::Item {
        number: random.next() >> (32 + random.below(32)),
        gone: vec![text(random); random.below(3)],
        common: common(random),
        kind: kind(random),
        optional: Some(random.next() as i32).filter(|_| random.below(2) == 0),
        nested: (0..random.below(4)).map(|_| (text(random), random.next() as u16)).collect(),
        map: (0..random.below(3) as u8).map(|key| (key, Some(Box::new(kind(random))))).collect(),
        time: Duration::new(random.next() >> 40, random.below(1_000_000_000) as u32),
        last: random.next() as i16,
        flags: [true, false],
    }
}

fn text(random: &mut Random) -> String {
    "text".repeat(random.below(8))
}

fn common(random: &mut Random) -> Common {
    Common {
        text: text(random),
        address: ["127.0.0.1:80", "[::1]:65535"][random.below(2)].parse().unwrap(),
        config: Config { name: text(random), numbers: vec![7; random.below(5)] },
        wide: i128::from(random.next()) << random.below(63),
        letter: ['a', 'ß', '€', '😀'][random.below(4)],
        array: [random.next() as u16; 3],
        result: if random.below(2) == 0 { Ok(9) } else { Err(text(random)) },
        open: (random.below(60) == 0).then(|| Open(File::open("/dev/null").unwrap())),
        units: vec![(); usize::from(random.below(60) == 0)],
    }
}

fn state(seed: u64) -> Old {
    let mut random = Random::of(seed);
    let count = 150 + random.below(150);
    State {
        version: 1,
        items: (0..count).map(|_| item(&mut random)).collect(),
        tree: (0..count).map(|key| (format!("{key:05}"), item(&mut random))).collect(),
        ids: (0..count).map(|id| (id as u64, "some".into(), "text".into())).collect(),
        name: "name".into(),
    }
}

fn parts<T: Handoff>(value: &T) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut kept = sent(value);
    let fds = kept.chunks.iter_mut().flat_map(|(_, fds)| fds.drain(..)).collect();
    (kept.bytes(), fds)
}

/// What is cut off of a list of `T`s in these bytes, which arrive so many at a time: at most so many elements.
fn cut<T: Handoff>(bytes: &[u8], part: usize, left: usize) -> Option<(Vec<u8>, usize)> {
    let schema = Schema::of::<Vec<T>>();
    let plan = schema.plan(&schema).unwrap();
    let Op::List(item) = plan.ops[plan.root] else { panic!("a list is one") };
    let mut kept = Kept { chunks: [(bytes.to_vec(), vec![])].into(), dribble: Some(part), ..Kept::default() };
    let mut input = Restorer::new(&mut kept, Limits { stretch: 1 << 20, ..limits(2) });
    input.cut(&plan, Element::Item(item), left, Vec::new()).map(|stretch| (stretch.bytes, stretch.count))
}

fn ends<T: Handoff>(elements: &[T]) {
    let one = |element: &T| {
        let mut out = Saver::in_memory();
        element.save_item(&mut out).unwrap();
        out.into_bytes()
    };
    let each: Vec<_> = elements.iter().map(one).collect();
    let (all, mut before) = (each.concat(), 0);
    for (index, bytes) in each.iter().enumerate() {
        // As it is, with others behind it, and in two parts; but not where some of it is missing.
        assert_eq!(cut::<T>(&all[before..], usize::MAX, 1), Some((bytes.clone(), 1)));
        assert_eq!(cut::<T>(bytes, bytes.len().div_ceil(2), 1), Some((bytes.clone(), 1)));
        for short in 0..bytes.len() {
            assert_eq!(cut::<T>(&bytes[..short], usize::MAX, 1), None);
        }
        before += bytes.len();
        assert_eq!(cut::<T>(&all, usize::MAX, index + 1), Some((all[..before].to_vec(), index + 1)));
    }
}

#[test]
fn elements_end_where_a_reader_would_be() {
    let items = |some: fn(&old::Item) -> bool| state(7).items.into_iter().filter(some).take(40).collect::<Vec<_>>();
    ends(&items(|item| item.common.open.is_none() && item.common.units.is_empty()));
    ends(&[u64::MAX, 0, 251]);
    ends(&["".to_owned(), "text".repeat(100)]);
    ends(&[vec![(1_u8, -300_i16)], vec![(7, 9); 300]]);
    ends(&[(u128::MAX, i128::MIN, i64::MIN, 1.5_f32, 2.5_f64, 'ß', true, Duration::MAX, std::cmp::Ordering::Less)]);
    let (v4, v6) = (std::net::Ipv4Addr::LOCALHOST, std::net::Ipv6Addr::LOCALHOST);
    ends(&[(v4, v6, std::net::IpAddr::from(v4), SocketAddr::from((v6, 70)), std::net::SocketAddrV4::new(v4, 300))]);
    ends(&[(std::ffi::OsString::from("os"), std::ffi::CString::new("c").unwrap(), std::time::SystemTime::now())]);
    ends(&[BTreeMap::from([(3_u32, vec![Some(1_i8), None])]), BTreeMap::new()]);
}

#[test]
fn what_only_a_reader_can_tell_is_left_to_it() {
    fn is_unclear<T: Handoff>(bytes: &[u8]) {
        assert_eq!(cut::<T>(bytes, usize::MAX, 1), None);
    }
    is_unclear::<()>(&[1]);
    is_unclear::<Vec<()>>(&[250]);
    is_unclear::<Option<Open>>(&[1, 0]);
    is_unclear::<Option<String>>(&[2, 0]);
    is_unclear::<old::Kind>(&[4]);
    is_unclear::<String>(&[254; 17]);
    is_unclear::<std::net::IpAddr>(&[5; 20]);
    is_unclear::<char>(&[0x80; 4]);
    // Deeper than values may lie in each other.
    #[derive(Handoff)]
    struct Chain(Option<Box<Chain>>);
    is_unclear::<Chain>(&[1; 5000]);
}

#[test]
fn what_is_read_does_not_depend_on_how_many_read() {
    let plan = plan::<Old, New>();
    for seed in 0..4 {
        let old = state(seed);
        let (bytes, fds) = parts(&old);
        let new = read::<New>(&bytes, &fds, Some(&plan), (1, usize::MAX)).unwrap();
        for part in [usize::MAX, 5000, 700, 13] {
            for readers in [2, 3, 9] {
                assert_eq!(read(&bytes, &fds, None, (readers, part)).as_ref(), Ok(&old), "{readers} {part}");
                assert_eq!(read(&bytes, &fds, Some(&plan), (readers, part)).as_ref(), Ok(&new), "{readers} {part}");
            }
        }
    }
}

#[test]
fn what_is_said_does_not_depend_on_it_either() {
    let plan = plan::<Old, New>();
    let (mut failed, mut read_all) = (0, 0);
    for seed in 0..300 {
        let mut random = Random::of(seed);
        let mut old = state(seed % 8);
        match random.below(4) {
            0 => old.items[120].number = u64::MAX,
            1 => old.tree.get_mut("00077").unwrap().kind = old::Kind::Gone,
            _ => {}
        }
        let (mut bytes, fds) = parts(&old);
        let is_broken = random.below(4) > 0;
        if is_broken {
            bytes = hostile::broken(&bytes, &mut random);
        }
        let part = [usize::MAX, 3000][random.below(2)];
        let plan = Some(&plan).filter(|_| random.below(2) == 0);
        let (one, several) = match plan {
            None => (
                format!("{:?}", read::<Old>(&bytes, &fds, plan, (1, part))),
                format!("{:?}", read::<Old>(&bytes, &fds, plan, (3, part))),
            ),
            Some(_) => (
                format!("{:?}", read::<New>(&bytes, &fds, plan, (1, part))),
                format!("{:?}", read::<New>(&bytes, &fds, plan, (3, part))),
            ),
        };
        if one.starts_with("Err") {
            failed += 1;
        } else {
            read_all += 1;
        }
        // Where in a text depends on how much of it is there; and of several things that are broken, what is found first
        // depends on how far what makes one schema another has gone before it is read.
        let said = |said: &str| match plan {
            Some(_) if is_broken && said.starts_with("Err") => "Err".to_owned(),
            _ => said.split("from index").next().unwrap_or_default().to_owned(),
        };
        assert_eq!(said(&one), said(&several), "seed {seed}");
    }
    assert!(failed > 60 && read_all > 60, "{failed} {read_all}");
}

/// Which threads values were made on.
struct Threads(Mutex<BTreeSet<String>>);

impl Threads {
    const fn new() -> Threads {
        Threads(Mutex::new(BTreeSet::new()))
    }

    fn note(&self) {
        self.0.lock().unwrap().insert(thread::current().name().unwrap_or("?").to_owned());
    }

    /// Since it was asked last.
    fn are_several(&self) -> bool {
        let threads = std::mem::take(&mut *self.0.lock().unwrap());
        threads.contains("flip-decode") && threads.len() > 1
    }
}

#[derive(Clone, Handoff)]
struct Number {
    number: u32,
    other: u32,
}

fn numbers() -> Vec<Number> {
    (0..2000).map(|number| Number { number, other: 300 }).collect()
}

#[test]
fn lists_of_what_allocates_are_read_by_several() {
    static THREADS: Threads = Threads::new();

    #[derive(serde::Serialize)]
    struct Noted(String);

    impl<'de> serde::Deserialize<'de> for Noted {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            THREADS.note();
            String::deserialize(from).map(Noted)
        }
    }

    #[derive(Handoff)]
    struct Item {
        text: String,
        noted: Noted,
    }

    let items: Vec<_> = (0..1000).map(|i| Item { text: "text".into(), noted: Noted("noted".repeat(i % 7)) }).collect();
    let (bytes, _) = parts(&items);
    THREADS.are_several();
    for (readers, several) in [(1, false), (2, true), (4, true)] {
        assert_eq!(read::<Vec<Item>>(&bytes, &[], None, (readers, usize::MAX)).unwrap().len(), 1000);
        assert_eq!(THREADS.are_several(), several, "{readers}");
    }
    // They are too long.
    let items: Vec<_> = (0..100).map(|_| Item { text: "t".repeat(2000), noted: Noted("noted".into()) }).collect();
    let (bytes, _) = parts(&items);
    THREADS.are_several();
    assert_eq!(read::<Vec<Item>>(&bytes, &[], None, (4, usize::MAX)).unwrap().len(), 100);
    assert!(!THREADS.are_several());
}

#[test]
fn what_comes_from_another_schema_is_read_by_several() {
    static THREADS: Threads = Threads::new();

    #[derive(Handoff)]
    struct Text {
        #[handoff(from = "u32", migrate = |number: u32| {
            THREADS.note();
            number.to_string()
        })]
        number: String,
        other: u32,
    }

    let plan = plan::<HashMap<u32, Number>, HashMap<u32, Text>>();
    let map: HashMap<_, _> = numbers().into_iter().enumerate().map(|(key, number)| (key as u32, number)).collect();
    let (bytes, _) = parts(&map);
    for (readers, several) in [(1, false), (2, true)] {
        let read = read::<HashMap<u32, Text>>(&bytes, &[], Some(&plan), (readers, 999)).unwrap();
        assert!((0..2000).all(|key| read[&key].number == key.to_string() && read[&key].other == 300));
        assert_eq!(THREADS.are_several(), several, "{readers}");
    }
}

/// Whether this is one of the threads that are asked.
fn is_asked() -> bool {
    thread::current().name() == Some("flip-decode")
}

/// What `migrate` makes of numbers, read by one thread and by others; and whether others were asked.
macro_rules! by_others {
    ($numbers:expr, |$number:ident| $migrate:expr) => {{
        static THREADS: Threads = Threads::new();

        fn migrated($number: u32) -> String {
            THREADS.note();
            $migrate
        }

        #[derive(Debug, PartialEq, Handoff)]
        struct Text {
            #[handoff(from = "u32", migrate = migrated)]
            number: String,
            other: u32,
        }

        let (bytes, _) = parts(&$numbers);
        let plan = plan::<Vec<Number>, Vec<Text>>();
        let read = |readers| {
            catch_unwind(AssertUnwindSafe(|| read::<Vec<Text>>(&bytes, &[], Some(&plan), (readers, usize::MAX))))
                .map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap())
        };
        let one = read(1);
        THREADS.are_several();
        let others = read(2);
        assert!(THREADS.are_several());
        assert_eq!(one, others);
        one
    }};
}

#[test]
fn panic_in_one_of_them_is_one_here() {
    let panic = by_others!(numbers(), |number| {
        assert_ne!(number, 1500, "this one panics");
        number.to_string()
    });
    assert!(panic.unwrap_err().contains("this one panics"));
    // It may as well not come again.
    let read = by_others!(numbers(), |number| {
        assert!(number != 1500 || !is_asked());
        number.to_string()
    });
    assert_eq!(read.unwrap().unwrap().len(), 2000);
}

#[test]
fn what_fails_first_is_what_is_said() {
    #[derive(Debug, PartialEq, Handoff)]
    struct Narrow {
        #[handoff(from = "u64", migrate = |number: u64| {
            assert_ne!(number, 1600, "this one panics");
            number
        })]
        number: u64,
        other: u8,
    }
    #[derive(Handoff)]
    struct Wide {
        #[handoff(rename = "number")]
        number: u64,
        other: u16,
    }
    let mut list: Vec<_> = (0..3000).map(|number| Wide { number, other: 7 }).collect();
    list[1500].other = 300;
    let (bytes, _) = parts(&list);
    let plan = plan::<Vec<Wide>, Vec<Narrow>>();
    let one = read::<Vec<Narrow>>(&bytes, &[], Some(&plan), (1, usize::MAX)).unwrap_err();
    assert!(one.contains("[1500].other: 300, u16 in the running process"), "{one}");
    assert_eq!(read::<Vec<Narrow>>(&bytes, &[], Some(&plan), (3, usize::MAX)), Err(one));
    // What ends the bytes, and comes long after.
    for (readers, part) in [(1, 100), (3, 100), (4, 3000)] {
        let cut = read::<Vec<Narrow>>(&bytes[..bytes.len() - 1], &[], Some(&plan), (readers, part)).unwrap_err();
        assert!(cut.contains("[1500].other: 300, u16"), "{cut}");
    }
}

/// Where the bytes end, the connection does.
struct Breaks(Kept);

impl Source for Breaks {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        match self.0.receive(bytes, fds)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

#[test]
fn connection_that_breaks_does_not_hide_what_failed_before() {
    #[derive(Debug, Handoff)]
    struct Text {
        #[handoff(from = "u32", migrate = |number: u32| {
            assert!(number != 500 || !is_asked());
            number.to_string()
        })]
        number: String,
        other: u8,
    }
    let plan = plan::<Vec<Number>, Vec<Text>>();
    // With nothing that fails, with what fails wherever it is read, and with more bytes than are taken.
    for (fails, bytes, said) in [
        (None, u64::MAX, "[1799].number: receiving from the old process failed: unexpected end of file"),
        (Some(700), u64::MAX, "[700].other: 300, u32 in the running process, does not fit into u8"),
        (None, 5000, "there are more than 5000 bytes"),
    ] {
        let mut list: Vec<_> = (0..2000).map(|number| Number { number, other: 7 }).collect();
        if let Some(at) = fails {
            list[at as usize].other = 300;
        }
        let (whole, part) = (parts(&list).0, parts(&list[..1799].to_vec()).0);
        let cut = whole[..part.len()].to_vec();
        for readers in [1, 2, 4] {
            let kept = Kept { chunks: [(cut.clone(), vec![])].into(), dribble: Some(600), ..Kept::default() };
            let (mut source, limits) = (Breaks(kept), limits(readers));
            let input = Restorer::new(&mut source, Limits { bytes, ..limits });
            let error = restore_matched::<Vec<Text>>(input, &plan, limits).unwrap_err().to_string();
            assert!(error.contains(said), "{readers}: {error}");
        }
    }
}

#[test]
fn collections_in_large_elements_are_read_by_several() {
    static THREADS: Threads = Threads::new();

    #[derive(Handoff)]
    struct Text {
        #[handoff(from = "u32", migrate = |number: u32| {
            THREADS.note();
            number.to_string()
        })]
        number: String,
        other: u32,
    }

    let plan = plan::<Vec<HashMap<u32, Number>>, Vec<HashMap<u32, Text>>>();
    let shard = |at: u32| numbers().into_iter().map(|number| (number.number + at, number)).collect();
    let (bytes, _) = parts(&(0..40).map(shard).collect::<Vec<HashMap<u32, Number>>>());
    for readers in [1, 3] {
        let read = read::<Vec<HashMap<u32, Text>>>(&bytes, &[], Some(&plan), (readers, usize::MAX)).unwrap();
        assert!((0..40).zip(&read).all(|(at, shard)| shard[&at].number == "0" && shard[&(at + 1999)].number == "1999"));
        assert_eq!(THREADS.are_several(), readers > 1);
    }
}

#[test]
fn element_may_be_large_in_memory() {
    #[derive(Handoff)]
    struct Item {
        name: String,
        others: Vec<String>,
        grid: [Option<[u64; 64]>; 4096],
    }
    let large = || {
        let item = || Item { name: "a".into(), others: vec![], grid: [None; 4096] };
        let (bytes, _) = parts(&(0..40).map(|_| Box::new(item())).collect::<Vec<_>>());
        let mut kept = Kept { chunks: [(bytes, vec![])].into(), ..Kept::default() };
        let limits = Limits { readers: 2, stretch: 20_000, ..Limits::default() };
        restore::<Vec<Box<Item>>>(&mut Restorer::new(&mut kept, limits)).unwrap().len()
    };
    // As that on which the content arrives.
    let thread = thread::Builder::new().stack_size(crate::control::STACK).spawn(large);
    assert_eq!(thread.unwrap().join().unwrap(), 40);
}

#[cfg(feature = "tokio")]
#[test]
fn runtime_is_theirs_too() {
    fn has_runtime(_: u32) -> String {
        tokio::runtime::Handle::try_current().is_ok().to_string()
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(by_others!(numbers(), |number| has_runtime(number)).unwrap().unwrap()[1999].number, "false");
    let _entered = runtime.enter();
    let all = by_others!(numbers(), |number| has_runtime(number)).unwrap().unwrap();
    assert!(all.iter().all(|text| text.number == "true"));
}

#[test]
fn limit_of_bytes_holds() {
    let (bytes, fds) = parts(&state(1));
    let of = |readers| {
        let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let mut kept = Kept { chunks: [(bytes.clone(), fds)].into(), dribble: Some(500), ..Kept::default() };
        let mut input = Restorer::new(&mut kept, Limits { bytes: 30_000, ..limits(readers) });
        restore::<Old>(&mut input).unwrap_err().to_string()
    };
    for error in [of(1), of(3)] {
        assert!(error.starts_with("State.items["), "{error}");
        assert!(error.ends_with("there are more than 30000 bytes, which is the `state_limit` here"), "{error}");
    }
}
