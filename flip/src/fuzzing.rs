//! All that reads what a stranger may have written, one function each: for the targets in `fuzz/`, and for the test that
//! gives what those found to an ordinary build. Not part of flip's interface.

#![allow(missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            net::{UnixDatagram, UnixStream},
        },
    },
    pin::pin,
    sync::{Arc, OnceLock, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    sys::socket::{Shutdown, shutdown},
    unistd::Pid,
};

use crate::{
    Apply, Handoff, Region, Serde,
    control::{Sockets, receive_and_restore, serve_draining},
    handoff::{
        Limits, Plan, Restorer, Schema, Shapes, Source, calls::Calls, from_bytes, restore, restore_matched, to_bytes,
    },
    live::{Live, answers},
    protocol::{Assembler, Message, PACKET, Typed},
    relay::{Relay, Untaken},
    shared::Shared,
    sys::{
        env::{Inherited, verify},
        fd::{self, EventFd},
    },
};

type Target = (&'static str, fn(&[u8]));

/// What `fuzz/` has a target and a corpus for.
pub const TARGETS: [Target; 12] = [
    ("schema", schema),
    ("shape", shape),
    ("state", state),
    ("transcode", transcode),
    ("spread", spread),
    ("message", message),
    ("content", content),
    ("calls", calls),
    ("passed", passed),
    ("items", items),
    ("checkpoint", checkpoint),
    ("channel", channel),
];

/// How large the stack is of the threads on which flip decodes.
pub const STACK: usize = crate::control::STACK;

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Config {
    name: String,
    #[serde(default)]
    nested: Option<Box<Config>>,
    #[serde(alias = "list")]
    numbers: Vec<u16>,
    #[serde(default)]
    kind: Setting,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    map: HashMap<String, (i64, Option<char>)>,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
enum Setting {
    #[default]
    Off,
    On(u8),
    Custom {
        ratio: f64,
        address: Option<IpAddr>,
    },
}

/// Some of everything, as a release has it.
#[derive(Handoff)]
#[handoff(calls(Hit))]
pub struct Rich {
    flag: bool,
    letter: char,
    #[handoff(alias = "total")]
    count: u64,
    small: i8,
    huge: u128,
    ratio: f32,
    numbers: Vec<u64>,
    bytes: Vec<u8>,
    text: String,
    raw: (OsString, CString),
    map: HashMap<String, Vec<(u32, i64)>>,
    tree: BTreeMap<i128, Option<Duration>>,
    set: BTreeSet<Id>,
    kinds: Vec<Kind>,
    config: Config,
    configs: Vec<(Config, u8)>,
    times: (Instant, SystemTime),
    addresses: (IpAddr, Option<SocketAddr>),
    units: Vec<()>,
    pairs: HashMap<(), [(); 3]>,
    #[handoff(default)]
    extra: Option<[i16; 4]>,
    #[handoff(default, from = "u64", migrate = Duration::from_millis)]
    timeout: Duration,
    #[handoff(default)]
    peers: Vec<Peer>,
    #[handoff(default)]
    regions: Vec<Region>,
    next: Option<Box<Rich>>,
}

#[derive(Handoff, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id(#[handoff(default)] u32);

#[derive(Handoff)]
#[handoff(from = "OldPeer", migrate = |old| Peer { name: old.0, stream: old.1, log: None })]
struct Peer {
    name: String,
    stream: UnixStream,
    log: Option<File>,
}

#[derive(Handoff)]
struct OldPeer(String, UnixStream);

#[derive(Handoff)]
enum Kind {
    A,
    B(u16, Box<Kind>),
    #[handoff(alias = "Old")]
    C {
        empty: [Vec<()>; 2],
        result: Result<u8, String>,
    },
}

/// The same, a release before.
#[derive(Handoff)]
struct Older {
    next: Option<Box<Older>>,
    flag: bool,
    letter: char,
    total: i32,
    small: i64,
    huge: u8,
    ratio: f64,
    numbers: Vec<u16>,
    bytes: HashSet<u16>,
    text: Option<String>,
    raw: (OsString, CString),
    map: HashMap<String, Vec<(u64, i8)>>,
    tree: BTreeMap<i16, Option<Duration>>,
    set: Vec<u64>,
    kinds: Vec<OlderKind>,
    config: Config,
    configs: Vec<(Config, u16)>,
    times: (Instant, SystemTime),
    addresses: (IpAddr, Option<SocketAddr>),
    units: Vec<()>,
    pairs: HashMap<(), [(); 3]>,
    timeout: u64,
    peers: Vec<OldPeer>,
    gone: Option<Box<Older>>,
    gone_too: Vec<(OlderKind, Config, Option<UnixDatagram>)>,
}

#[derive(Handoff)]
enum OlderKind {
    Gone(String),
    Old { result: Result<u8, String>, empty: [Vec<()>; 2] },
    A,
    B(u8, Box<OlderKind>),
}

#[derive(Handoff)]
pub struct Hit {
    by: u64,
    kinds: Vec<Kind>,
}

impl Apply<Hit> for Rich {
    type Answer = Option<u64>;

    fn apply(&mut self, hit: Hit) -> Option<u64> {
        self.count = self.count.checked_add(hit.by)?;
        Some(self.count + hit.kinds.len() as u64)
    }
}

fn rich(next: Option<Box<Rich>>) -> Rich {
    Rich {
        flag: true,
        letter: 'ß',
        count: 300,
        small: -3,
        huge: 1 << 100,
        ratio: 0.5,
        numbers: vec![1, u64::MAX],
        bytes: vec![7; 9],
        text: "text".into(),
        raw: ("os".into(), c"c".into()),
        map: HashMap::from([("a".into(), vec![(1, -1), (70_000, i64::MIN)])]),
        tree: BTreeMap::from([(-5, None), (300, Some(Duration::from_secs(1)))]),
        set: BTreeSet::from([Id(1), Id(1000)]),
        kinds: vec![
            Kind::A,
            Kind::B(9, Box::new(Kind::A)),
            Kind::C { empty: [vec![()], vec![]], result: Err("e".into()) },
        ],
        config: Config { name: "n".into(), nested: Some(Box::default()), ..Config::default() },
        configs: vec![(Config { kind: Setting::On(3), numbers: vec![1, 2], ..Config::default() }, 1)],
        times: (Instant::now(), SystemTime::UNIX_EPOCH),
        addresses: (IpAddr::from([0; 16]), Some(SocketAddr::from(([127, 0, 0, 1], 80)))),
        units: vec![(); 3],
        pairs: HashMap::from([((), [(); 3])]),
        extra: Some([1, -2, 300, -400]),
        timeout: Duration::from_millis(1500),
        peers: Vec::new(),
        regions: Vec::new(),
        next,
    }
}

fn older(next: Option<Box<Older>>) -> Older {
    Older {
        next,
        flag: false,
        letter: 'x',
        total: 4,
        small: -9,
        huge: 200,
        ratio: 0.25,
        numbers: vec![1, 500],
        bytes: HashSet::from([3]),
        text: Some("t".into()),
        raw: ("os".into(), c"c".into()),
        map: HashMap::from([("m".into(), vec![(1, -1)])]),
        tree: BTreeMap::from([(1, Some(Duration::from_millis(2)))]),
        set: vec![1, 1, 2],
        kinds: vec![
            OlderKind::B(1, Box::new(OlderKind::A)),
            OlderKind::Old { result: Ok(1), empty: [vec![], vec![]] },
            OlderKind::Gone("g".into()),
        ],
        config: Config::default(),
        configs: Vec::new(),
        times: (Instant::now(), SystemTime::UNIX_EPOCH),
        addresses: (IpAddr::from([1, 2, 3, 4]), None),
        units: vec![()],
        pairs: HashMap::new(),
        timeout: 20,
        peers: Vec::new(),
        gone: None,
        gone_too: vec![(OlderKind::A, Config::default(), None)],
    }
}

/// Bytes as they arrive: so many at a time, and descriptors with the first of them.
struct Arriving<'b> {
    bytes: &'b [u8],
    part: usize,
    descriptors: usize,
}

impl Source for Arriving<'_> {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        for _ in 0..std::mem::take(&mut self.descriptors) {
            fds.push_back(File::open("/dev/null")?.into());
        }
        let (part, rest) = self.bytes.split_at(self.part.min(self.bytes.len()));
        bytes.extend_from_slice(part);
        self.bytes = rest;
        Ok(part.len())
    }
}

impl<'b> Arriving<'b> {
    /// The first byte says how.
    fn new(bytes: &'b [u8]) -> Option<Self> {
        let (how, bytes) = bytes.split_first()?;
        let part = [usize::MAX, 1, 3, 64][usize::from(how & 3)];
        Some(Self { bytes, part, descriptors: usize::from(how >> 2 & 3) })
    }
}

/// Splits off what its first two bytes count.
fn counted<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    *bytes = rest;
    Some(part)
}

fn with_count(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("seeds are short").to_le_bytes()[..], bytes].concat()
}

pub fn schema(bytes: &[u8]) {
    let Ok(theirs) = Schema::decode(bytes) else { return };
    let again = Schema::decode(&theirs.encode()).expect("what was read can be written and read again");
    assert_eq!(again.encode(), theirs.encode());
    for ours in [Schema::of::<Rich>(), Schema::of::<Older>(), Schema::of::<Hit>(), Schema::of::<Vec<Peer>>()] {
        said(ours.plan(&theirs));
        said(theirs.plan(&ours));
    }
    theirs.name();
    theirs.has_memory();
}

fn said(plan: Result<Plan, crate::handoff::Mismatch>) {
    if let Err(mismatch) = plan {
        drop(mismatch.to_string());
    }
}

pub fn shape(bytes: &[u8]) {
    let Ok(theirs) = Shapes::decode(bytes) else { return };
    assert_eq!(Shapes::decode(&theirs.encode()).as_ref(), Ok(&theirs));
    let checks = [
        Shapes::check::<Config>,
        Shapes::check::<Option<Vec<Config>>>,
        Shapes::check::<(u8, String, HashMap<i32, f64>)>,
        Shapes::check::<IpAddr>,
        Shapes::check::<Duration>,
    ];
    for check in checks {
        drop(check(&theirs));
    }
}

/// The bytes of a state, of the same schema.
pub fn state(bytes: &[u8]) {
    let Some(mut arriving) = Arriving::new(bytes) else { return };
    let mut input = Restorer::new(&mut arriving, Limits::default());
    if restore::<Rich>(&mut input).is_ok() {
        drop(input.finish());
    }
    drop(from_bytes::<Rich>(&bytes[1..]));
}

#[derive(Handoff)]
struct Branches(Vec<Branches>);

#[derive(serde::Serialize, serde::Deserialize)]
struct Leaves(Vec<Leaves>);

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Anything {
    None(()),
    List(Vec<Anything>),
}

/// Lists within lists, each of a length that is not there, where the schemas are equal: of the derive, and of serde, told by the type and
/// told by the bytes.
pub fn nested(bytes: &[u8]) {
    fn restored<T: Handoff>(bytes: Vec<u8>) {
        drop(restore::<T>(&mut Restorer::from_bytes(bytes, Limits::default())));
    }
    restored::<Branches>(bytes.to_vec());
    // One piece, of which this is the length.
    let mut leaf = vec![253];
    leaf.extend((2 * bytes.len() as u64).to_le_bytes());
    leaf.extend(bytes);
    restored::<Serde<Leaves>>(leaf.clone());
    restored::<Serde<Anything>>(leaf);
}

/// A schema, or none for that of `Older`, and the bytes of a state of it.
pub fn transcode(mut bytes: &[u8]) {
    let Some(theirs) = counted(&mut bytes) else { return };
    let theirs = match theirs {
        [] => Schema::of::<Older>(),
        theirs => match Schema::decode(theirs) {
            Ok(theirs) => Arc::new(theirs),
            Err(_) => return,
        },
    };
    as_matched::<Rich>(&theirs, bytes);
    as_matched::<Older>(&theirs, bytes);
    as_matched::<Lenient>(&theirs, bytes);
}

/// What any struct becomes.
#[derive(Handoff)]
struct Lenient {
    #[handoff(default)]
    count: u64,
    #[handoff(default)]
    config: Option<Serde<Config>>,
    #[handoff(default)]
    next: Option<Box<Lenient>>,
}

fn as_matched<T: Handoff>(theirs: &Schema, bytes: &[u8]) {
    let (Ok(plan), Some(mut arriving)) = (Schema::of::<T>().plan(theirs), Arriving::new(bytes)) else { return };
    drop(restore_matched::<T>(Restorer::new(&mut arriving, Limits::default()), &plan, Limits::default()));
}

#[derive(Debug, PartialEq, Handoff)]
struct Entry {
    name: String,
    numbers: Vec<u16>,
    kind: Option<EntryKind>,
    gone: Vec<(char, i128)>,
    total: u32,
}

#[derive(Debug, PartialEq, Handoff)]
enum EntryKind {
    Plain,
    Named(String),
    Pair { left: u8, right: Box<EntryKind> },
}

/// What an [`Entry`] is in the next release.
#[derive(Debug, PartialEq, Handoff)]
struct NextEntry {
    total: u8,
    kind: Option<EntryKind>,
    name: String,
    #[handoff(default)]
    more: u64,
    numbers: Vec<u32>,
}

/// The elements of a list, read by one thread and by several: of the same schema, and of another.
pub fn spread(bytes: &[u8]) {
    fn by<T: Handoff>(bytes: &[u8], readers: usize, plan: Option<&Plan>) -> Option<Vec<T>> {
        let limits = Limits { readers, stretch: 32, ..Limits::default() };
        let mut arriving = Arriving::new(bytes)?;
        let mut input = Restorer::new(&mut arriving, limits);
        match plan {
            Some(plan) => restore_matched(input, plan, limits).ok(),
            None => restore(&mut input).and_then(|value| input.finish().map(|()| value)).ok(),
        }
    }
    let Ok(plan) = Schema::of::<Vec<NextEntry>>().plan(&Schema::of::<Vec<Entry>>()) else { return };
    assert_eq!(by::<Entry>(bytes, 1, None), by(bytes, 3, None));
    assert_eq!(by::<NextEntry>(bytes, 1, Some(&plan)), by(bytes, 3, Some(&plan)));
}

/// Packets of the channel, each behind its length and how many descriptors it has.
pub fn message(mut bytes: &[u8]) {
    drop(Message::decode(bytes));
    let mut assembler = Assembler::default();
    while let Some(packet) = counted(&mut bytes) {
        let Some((how, packet)) = packet.split_first() else { continue };
        let fds = (0..how & 3).filter_map(|_| File::open("/dev/null").ok()).map(OwnedFd::from).collect();
        let taken = assembler.take(&packet[..packet.len().min(PACKET)], fds, how & 128 != 0);
        if let Ok(Some((message, _))) = taken {
            let again = Message::decode(&message.encode()).expect("what was read can be written and read again");
            assert_eq!(again.encode(), message.encode());
        }
    }
}

fn null() -> OwnedFd {
    File::open("/dev/null").expect("it is everywhere").into()
}

/// The stream of the content, frame by frame, with as many descriptors as a frame says, up to three.
pub fn content(bytes: &[u8]) {
    // A process has one, until its end.
    static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();
    let bytes = &bytes[..bytes.len().min(100_000)];
    let shared = SHARED.get_or_init(|| {
        let shared = Shared::new(false).expect("there are descriptors");
        // Memory that is made ready before it is needed is believed as far as this.
        shared.state_limit.store(1 << 16, Ordering::Relaxed);
        let plan = |theirs: &Schema| Schema::of::<Rich>().plan(theirs).expect("they match");
        drop(Live::<Rich>::expect("same", plan(&Schema::of::<Rich>()), &shared));
        drop(Live::<Rich>::expect("older", plan(&Schema::of::<Older>()), &shared));
        shared.states.complete();
        shared
    });
    let (ours, theirs) = fd::stream_pair().expect("there are descriptors");
    fd::set_nonblocking(ours.as_fd(), true).expect("it is a socket");
    let (mut rest, null) = (bytes, null());
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, fds, ..] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let fds = vec![null.as_fd(); usize::from(fds & 3)];
        let (frame, later) = rest.split_at(8 + length.min(body.len()));
        if fd::send(ours.as_fd(), frame, &fds).ok() != Some(frame.len()) {
            break;
        }
        rest = later;
    }
    if !rest.is_empty() && rest.len() < 8 {
        // Its end is what is looked at.
        let _ = fd::send(ours.as_fd(), rest, &[]);
    }
    drop(ours);
    receive_and_restore(shared, theirs);
    shared.states.all().iter().for_each(|state| state.give_up());
    drop(shared.notes.take());
}

/// As far as the socket takes them, each with up to three duplicates of a descriptor.
fn send_packets(mut bytes: &[u8], socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    fd::set_nonblocking(socket, true).expect("it is a socket");
    while let Some(packet) = counted(&mut bytes) {
        let Some((how, packet)) = packet.split_first() else { continue };
        if fd::send(socket, packet, &vec![fd; usize::from(how & 3)]).is_err() {
            break;
        }
    }
}

/// Packets of one of the sockets of a process that drains.
fn drained(bytes: &[u8], calls: bool) {
    static SHARED: OnceLock<(Arc<Shared>, Live<Rich>)> = OnceLock::new();
    let (shared, live) = SHARED.get_or_init(|| {
        let shared = Shared::new(true).expect("there are descriptors");
        let live = Live::declare("state", rich(None), &shared);
        shared.arrivals.expect("http", ["web".to_owned()]);
        (shared, live)
    });
    live.update(|state| *state = rich(None)).expect("it is here");
    shared.arrivals.set_sources(1);
    let pair = || fd::seqpacket_pair().expect("there are descriptors");
    let ((their_calls, our_calls), (their_passes, our_passes)) = (pair(), pair());
    let socket = if calls { &their_calls } else { &their_passes };
    send_packets(bytes, socket.as_fd(), null().as_fd());
    for socket in [&their_calls, &their_passes] {
        shutdown(socket.as_raw_fd(), Shutdown::Write).expect("it is connected");
    }
    let sockets = Sockets::new(our_calls, our_passes, []).expect("they are sockets");
    serve_draining(shared, vec![sockets], &EventFd::new().expect("there are descriptors"));
    while shared.arrivals.try_next("http").is_some() {}
}

/// Calls of a process that drains; and the same as answers to its own.
pub fn calls(bytes: &[u8]) {
    drained(bytes, true);
    let mut rest = bytes;
    while let Some(packet) = counted(&mut rest) {
        answers(packet);
    }
    drop(from_bytes::<Hit>(bytes));
}

/// Connections that a process that drains passes.
pub fn passed(bytes: &[u8]) {
    drained(bytes, false);
}

/// Packets of a relay's socket of a process that drains, whose items are of a schema that comes first, or of the same one as here. And
/// the same as what waited in a mailbox of the process before.
pub fn items(mut bytes: &[u8]) {
    static SHARED: OnceLock<(Arc<Shared>, Relay<Peer>)> = OnceLock::new();
    let (shared, relay) = SHARED.get_or_init(|| {
        let shared = Shared::new(true).expect("there are descriptors");
        let relay = Relay::declare("relay", &shared);
        (shared, relay)
    });
    let taken = || {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(_)) = pin!(relay.next()).poll(&mut context) {}
    };
    let waited = (0..3).map(|_| null()).collect();
    if let Ok((_, parcels)) = Untaken::decode(bytes, waited) {
        shared.relays.restored("relay".into(), parcels);
        taken();
    }
    let schema = match counted(&mut bytes) {
        Some([]) | None => Schema::of::<Peer>().encode(),
        Some(theirs) => theirs.to_vec(),
    };
    let pair = || fd::seqpacket_pair().expect("there are descriptors");
    let ((their_calls, our_calls), (their_passes, our_passes), (their_items, our_items)) = (pair(), pair(), pair());
    let (stream, _peer) = UnixStream::pair().expect("there are descriptors");
    send_packets(bytes, their_items.as_fd(), stream.as_fd());
    for socket in [&their_calls, &their_passes, &their_items] {
        shutdown(socket.as_raw_fd(), Shutdown::Write).expect("it is connected");
    }
    let typed = Typed { name: "relay".into(), schema };
    let sockets = Sockets::new(our_calls, our_passes, [(typed, our_items)]).expect("they are sockets");
    serve_draining(shared, vec![sockets], &EventFd::new().expect("there are descriptors"));
    taken();
}

/// A file whose sums are right: its states, behind their length, and its index.
pub fn checkpoint(mut bytes: &[u8]) {
    let Some(states) = counted(&mut bytes) else { return };
    for (theirs, mut stored) in crate::checkpoint::fuzzed(states, bytes) {
        let Ok(theirs) = Schema::decode(&theirs) else { continue };
        if let Ok(plan) = Schema::of::<Rich>().plan(&theirs) {
            let input = Restorer::new(&mut stored, Limits::default());
            drop(restore_matched::<Rich>(input, &plan.of_checkpoint(), Limits::default()));
        }
    }
}

/// The variable that names the channel: `#` stands for the number of one that is there, `@` for its inode.
pub fn channel(bytes: &[u8]) {
    let (_old, new) = fd::seqpacket_pair().expect("there are descriptors");
    let (number, inode) = (new.as_raw_fd(), fd::inode(new.as_fd()).expect("it is open"));
    let mut value = Vec::new();
    for byte in bytes.iter().filter(|byte| **byte != 0) {
        match byte {
            b'#' => value.extend(number.to_string().bytes()),
            b'@' => value.extend(inode.to_string().bytes()),
            byte => value.push(*byte),
        }
    }
    if let Inherited::Channel(taken, _) = verify(OsStr::from_bytes(&value), Pid::from_raw(4711)) {
        assert_eq!(taken.as_raw_fd(), number, "no other is for this process");
        // One of the two closes it.
        std::mem::forget(taken);
    }
}

/// For each target, inputs that are good.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let saved = |save: &dyn Fn(&mut Kept) -> Result<(), crate::handoff::SaveError>| {
        let mut kept = Kept(Vec::new());
        save(&mut kept).expect("it can be written");
        kept.0
    };
    let new = saved(&|kept| crate::handoff::save(&rich(Some(Box::new(rich(None)))), kept));
    let old = saved(&|kept| crate::handoff::save(&older(Some(Box::new(older(None)))), kept));
    let arriving = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    let frame = |bytes: &[u8], fds: u8| {
        [&u32::try_from(bytes.len()).expect("it is short").to_le_bytes()[..], &[fds, 0, 0, 0], bytes].concat()
    };
    let section = |bytes: &[u8]| [frame(bytes, 0), frame(&[], 0)].concat();
    let hit = to_bytes(&Hit { by: 3, kinds: vec![Kind::A] }).expect("it can be written");
    let packet = |how: u8, bytes: &[u8]| with_count(&arriving(how, bytes));
    let sent = |message: &Message, fds: usize| -> Vec<u8> {
        let packets = crate::protocol::packets(&message.encode(), fds);
        packets.iter().flat_map(|(bytes, fds)| packet(*fds as u8, bytes)).collect()
    };
    let offer = Message::Offer(crate::protocol::Offer {
        version: 1,
        generation: 2,
        pid: 4711,
        mask: vec![1, 15],
        listeners: Vec::new(),
        states: vec![Typed { name: "state".into(), schema: Schema::of::<Hit>().encode() }],
        relays: vec![Typed { name: "relay".into(), schema: Schema::of::<Hit>().encode() }],
    });
    let connection = Message::Passed(crate::protocol::PassedOn {
        listener: "web".into(),
        kept: true,
        unread: b"GET / HTTP/1.1\r\n".to_vec(),
    });
    let peer = |name: &str| {
        let (stream, _) = UnixStream::pair().expect("there are descriptors");
        saved(&|kept| {
            crate::handoff::save(
                &Peer { name: name.into(), stream: stream.try_clone().expect("there is one more"), log: None },
                kept,
            )
        })
    };
    let item = |bytes: Vec<u8>| crate::protocol::Item { bytes, descriptors: 1 };
    let batch = Message::Items(vec![item(peer("one")), item(peer("two"))]);
    let peers = Schema::of::<Peer>().encode();
    let hello = Message::Hello(crate::protocol::Hello::own());
    let header = crate::control::header(&["same", "gone", "older"]);
    let mut seeds = vec![
        ("schema", Schema::of::<Rich>().encode()),
        ("schema", Schema::of::<Older>().encode()),
        ("schema", Schema::of::<Hit>().encode()),
        ("schema", Schema::of::<Vec<OldPeer>>().encode()),
        ("shape", Shapes::of::<Config>().encode()),
        ("shape", Shapes::of::<Option<Vec<Config>>>().encode()),
        ("shape", Shapes::of::<(u8, String, HashMap<i32, f64>)>().encode()),
        ("shape", Shapes::of::<IpAddr>().encode()),
        ("transcode", [with_count(&[]), arriving(0, &old)].concat()),
        ("transcode", [with_count(&Schema::of::<Rich>().encode()), arriving(0, &new)].concat()),
        ("transcode", [with_count(&Schema::of::<Older>().encode()), arriving(1, &old)].concat()),
        ("message", sent(&hello, 0)),
        ("message", sent(&offer, 1)),
        ("message", [sent(&Message::Ready, 0), sent(&connection, 1), sent(&Message::Words("w".into()), 0)].concat()),
        (
            "content",
            [
                section(&crate::control::sizes(&[5000])),
                section(&header),
                section(&new),
                section(b"unwanted"),
                section(&old),
                section(b"flip: whole"),
            ]
            .concat(),
        ),
        ("calls", packet(0, &crate::live::request(1, "state", &Calls::<Rich>::name_of::<Hit>(), hit.clone()))),
        ("calls", packet(0, &crate::live::request(2, "nowhere", "no", hit))),
        ("passed", [sent(&connection, 1), sent(&connection, 2), sent(&connection, 0)].concat()),
        ("channel", b"4711:#:@".to_vec()),
        ("channel", b"0000004711:#:@:513".to_vec()),
        ("channel", b"1:2:3".to_vec()),
    ];
    seeds.extend((0..4).map(|how| ("state", arriving(how, &new))));
    seeds.extend([
        ("message", sent(&batch, 2)),
        ("items", [with_count(&[]), sent(&batch, 2)].concat()),
        ("items", [with_count(&Schema::of::<OldPeer>().encode()), sent(&batch, 2)].concat()),
        ("items", [with_count(&peers), sent(&batch, 2), sent(&batch, 1)].concat()),
        ("items", Untaken::seed("relay", vec![peers], vec![(0, item(peer("one"))), (0, item(peer("two")))])),
        ("checkpoint", crate::checkpoint::seed(&with_count(&new), "state", &Schema::of::<Rich>().encode(), new.len())),
        ("checkpoint", crate::checkpoint::seed(&with_count(&old), "state", &Schema::of::<Older>().encode(), old.len())),
        ("checkpoint", crate::checkpoint::seed(&with_count(&[]), "none", &[], 0)),
    ]);
    let kind = |at: u64| match at % 5 {
        0 => None,
        1 => Some(EntryKind::Plain),
        2 => Some(EntryKind::Named("n".into())),
        _ => Some(EntryKind::Pair { left: 1, right: Box::new(EntryKind::Plain) }),
    };
    let entry = |at| Entry {
        name: "name".into(),
        numbers: vec![at as u16; at as usize % 3],
        kind: kind(at),
        gone: vec![('g', 1); at as usize % 2],
        total: at as u32,
    };
    let entries = saved(&|kept| crate::handoff::save(&(0..40).map(entry).collect::<Vec<_>>(), kept));
    seeds.extend((0..4).map(|how| ("spread", arriving(how, &entries))));
    seeds
}

struct Kept(Vec<u8>);

impl crate::handoff::Sink for Kept {
    fn send(&mut self, bytes: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}
