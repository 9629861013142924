//! What crosses between processes, byte by byte, as each version of the protocol that was ever shipped has it.
//!
//! `golden/v1.txt` is written once and read for ever: any 1.x of flip takes what any other sends. A line that is there is
//! never changed. `FLIP_GOLDEN=add cargo test -p flip -- --test-threads 1` adds what a test asks for and is not there yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::handoff::{Schema, from_bytes, to_bytes};
use crate::listen::{Kind, Offered};
use crate::protocol::{Hello, Item, Message, Offer, PassedOn, Typed, Waiting};
use crate::{Handoff, Region};

/// The bytes of this name, which are also what is written now.
pub(crate) fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden/v1.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let Some(found) = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")) else {
        assert!(std::env::var("FLIP_GOLDEN").is_ok_and(|what| what == "add"), "{path:?} has no `{name}`");
        std::fs::write(&path, format!("{text}{name}: {}\n", hex(now))).unwrap();
        return now.to_vec();
    };
    assert_eq!(hex(now), found, "`{name}` is not what version 1 has");
    (0..found.len()).step_by(2).map(|at| u8::from_str_radix(&found[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn messages() {
    let waiting = || Waiting {
        touched: Some("Live::read".into()),
        unpolled: vec!["http".into()],
        opening: Some("database".into()),
    };
    let listener = |kind, address: &str, bound: Option<&str>, path| Offered {
        name: "http".into(),
        index: 1,
        shard: 2,
        kind,
        address: address.into(),
        bound: bound.map(|bound| bound.parse().unwrap()),
        path,
        blocking: true,
        overlap_allowed: false,
    };
    let path = serde_json::from_str(r#"{"path":[47,97],"dev":3,"ino":4}"#).unwrap();
    let offer = Offer {
        version: 1,
        generation: 7,
        pid: 4711,
        mask: vec![1, 15],
        listeners: vec![
            listener(Kind::Tcp, "127.0.0.1:0", Some("127.0.0.1:80"), None),
            listener(Kind::Udp, "[::1]:53", Some("[::1]:53"), None),
            listener(Kind::Unix, "/run/a.sock", None, Some(path)),
            listener(Kind::Seqpacket, "@a", None, None),
            listener(Kind::UnixDatagram, "@b", None, None),
        ],
        states: vec![Typed { name: "visits".into(), schema: vec![1, 2, 255] }],
        relays: vec![],
    };
    let with_relays = Offer {
        listeners: vec![],
        states: vec![],
        relays: vec![Typed { name: "talks".into(), schema: vec![3, 4] }],
        ..offer.clone()
    };
    let items = vec![Item { bytes: vec![1, 200], descriptors: 2 }, Item { bytes: vec![], descriptors: 0 }];
    let passed = PassedOn { listener: "http".into(), kept: true, unread: b"GET".to_vec() };
    for (name, message) in [
        ("hello", Message::Hello(Hello { oldest: 1, newest: 3, flip: "1.2.3".into() })),
        ("offer", Message::Offer(offer)),
        ("offer with relays", Message::Offer(with_relays)),
        ("prepared", Message::Prepared(waiting())),
        ("missing", Message::Missing(waiting())),
        ("ready", Message::Ready),
        ("commit", Message::Commit),
        ("serving", Message::Serving),
        ("again", Message::Again),
        ("stop", Message::Stop),
        ("cut", Message::Cut),
        ("done", Message::Done),
        ("words", Message::Words("why".into())),
        ("passed", Message::Passed(passed)),
        ("items", Message::Items(items)),
    ] {
        let bytes = golden(&format!("message {name}"), &message.encode());
        assert_eq!(format!("{:?}", Message::decode(&bytes).unwrap()), format!("{message:?}"));
    }
    let packets = crate::protocol::packets(&Message::Ready.encode(), 1);
    assert_eq!(packets, [(golden("packet of ready with a descriptor", &packets[0].0), 1)]);
}

/// Only serde knows it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Config {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    mode: Mode,
    limits: HashMap<String, (u8, f64)>,
    #[serde(skip)]
    cache: Vec<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Mode {
    Off,
    Fast(u32),
    Slow { by: i16 },
}

/// Something of everything that has a value in any process.
#[derive(Debug, PartialEq, Handoff)]
struct Everything {
    truth: bool,
    letter: char,
    small: (u8, i8),
    medium: (u16, i16, u32, i32),
    large: (u64, i64, u128, i128, usize),
    floats: (f32, f64),
    text: String,
    path: PathBuf,
    os: OsString,
    c: CString,
    times: (Duration, SystemTime),
    addresses: (IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6),
    ordering: std::cmp::Ordering,
    bytes: Vec<u8>,
    numbers: VecDeque<u64>,
    fixed: [i32; 3],
    map: BTreeMap<String, Option<u8>>,
    set: BTreeSet<u16>,
    result: Result<(), String>,
    kinds: Vec<Kinds>,
    tree: Option<Box<Tree>>,
    #[handoff(rename = "known_as", alias = "once", default)]
    named: u32,
    configs: Vec<Config>,
}

#[derive(Debug, PartialEq, Handoff)]
enum Kinds {
    Unit,
    Tuple(u8, String),
    #[handoff(alias = "Struct")]
    Fields {
        a: u64,
    },
}

#[derive(Debug, PartialEq, Handoff)]
struct Tree {
    left: Option<Box<Tree>>,
    right: Vec<Tree>,
}

#[derive(Debug, PartialEq, Handoff)]
struct Id(u64);

/// As `Everything` may be in a later release.
#[derive(Debug, PartialEq, Handoff)]
struct Less {
    floats: (f64, f64),
    tree: Tree,
    numbers: Vec<u128>,
    #[handoff(alias = "known_as")]
    count: Id,
    kinds: Vec<Kinds>,
    configs: Vec<Config>,
    #[handoff(default)]
    new: u8,
}

/// What has descriptors, or a value that only this machine knows: there is nothing to compare but the schema.
#[derive(Handoff)]
struct Places {
    descriptor: OwnedFd,
    file: File,
    tcp: (std::net::TcpStream, std::net::TcpListener, std::net::UdpSocket),
    unix: (std::os::unix::net::UnixStream, std::os::unix::net::UnixListener, std::os::unix::net::UnixDatagram),
    region: Region,
    at: Instant,
    #[handoff(from = "Id", migrate = only)]
    id: Only,
}

#[derive(Handoff)]
struct Only(u64);

fn only(id: Id) -> Only {
    Only(id.0)
}

fn tree() -> Tree {
    let leaf = || Tree { left: None, right: vec![] };
    Tree { left: Some(Box::new(leaf())), right: vec![leaf(), leaf()] }
}

fn kinds() -> Vec<Kinds> {
    vec![Kinds::Unit, Kinds::Tuple(1, "one".into()), Kinds::Fields { a: 300 }]
}

fn configs() -> Vec<Config> {
    let config = |note: Option<&str>, mode| Config {
        name: "n".into(),
        note: note.map(str::to_owned),
        mode,
        limits: HashMap::from([("l".into(), (1, 0.5))]),
        cache: vec![],
    };
    vec![config(None, Mode::Off), config(Some("x"), Mode::Fast(7)), config(None, Mode::Slow { by: -1 })]
}

fn everything() -> Everything {
    Everything {
        truth: true,
        letter: 'ß',
        small: (250, -5),
        medium: (251, -300, 70_000, -70_000),
        large: (u64::MAX, i64::MIN, u128::MAX, i128::MIN, 5_000_000_000),
        floats: (0.1, -0.1),
        text: "naïve".into(),
        path: "/a/b".into(),
        os: "os".into(),
        c: CString::new("c").unwrap(),
        times: (Duration::new(3, 4), SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5)),
        addresses: (
            "::1".parse().unwrap(),
            "127.0.0.1".parse().unwrap(),
            "127.0.0.1:80".parse().unwrap(),
            "[fe80::1%3]:443".parse().unwrap(),
        ),
        ordering: std::cmp::Ordering::Less,
        bytes: vec![0, 1, 255],
        numbers: VecDeque::from([1, 1 << 40]),
        fixed: [-1, 0, 1 << 30],
        map: BTreeMap::from([("a".into(), None), ("b".into(), Some(9))]),
        set: BTreeSet::from([1, 1000]),
        result: Err("no".into()),
        kinds: kinds(),
        tree: Some(Box::new(tree())),
        named: 1_000_000,
        configs: configs(),
    }
}

#[test]
fn schemas() {
    for (name, schema) in [
        ("everything", Schema::of::<Everything>()),
        ("places", Schema::of::<Places>()),
        ("a connection at rest", Schema::of::<crate::Connection<u64>>()),
    ] {
        let bytes = golden(&format!("schema of {name}"), &schema.encode());
        let theirs = Schema::decode(&bytes).unwrap();
        assert!(!schema.plan(&theirs).unwrap().is_needed(), "{name}");
    }
}

#[test]
fn values() {
    let bytes = golden("everything", &to_bytes(&everything()).unwrap());
    assert_eq!(from_bytes::<Everything>(&bytes).unwrap(), everything());
    let less = Less {
        floats: (f64::from(0.1_f32), -0.1),
        tree: tree(),
        numbers: vec![1, 1 << 40],
        count: Id(1_000_000),
        kinds: kinds(),
        configs: configs(),
        new: 0,
    };
    assert_eq!(from_bytes::<Less>(&bytes).unwrap(), less);
}
