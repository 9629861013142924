//! Who is measured against whom, and in what.

use std::fmt::Debug;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flip::__private::bench::{restore, restore_by, restore_from, save};
use flip::Handoff;
use nix::sys::time::TimeSpec;
use nix::time::ClockId;

use crate::value::{self, Node, SerdeMap, SerdeSessions, Session, Sessions};

/// Contenders for one thing. The first is the measure.
#[derive(Default)]
pub struct Group(pub Vec<Contender>);

pub struct Contender {
    pub name: &'static str,
    /// The ratio that is wanted.
    pub target: Option<f64>,
    /// What it took. What is made in it is dropped after the clock has stopped.
    pub turn: Box<dyn FnMut() -> Duration>,
}

impl Group {
    fn with(
        mut self,
        name: &'static str,
        target: impl Into<Option<f64>>,
        turn: impl FnMut() -> Duration + 'static,
    ) -> Self {
        self.0.push(Contender { name, target: target.into(), turn: Box::new(turn) });
        self
    }
}

/// The processor's time of this thread: what others do on the machine is not in it, what the kernel does for us is.
struct Clock(TimeSpec);

impl Clock {
    fn now() -> TimeSpec {
        ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()
    }

    fn start() -> Self {
        Self(Self::now())
    }

    fn elapsed(&self) -> Duration {
        Duration::from(Self::now() - self.0)
    }
}

/// Its name, and how it is made of what is written and read, by how much less there is of it.
type Named = (&'static str, fn(usize) -> Group);

pub const GROUPS: &[Named] = &[
    ("write a map of 1,000,000", write_map),
    ("read a map of 1,000,000", read_map),
    ("cores: read a list of 1,000,000", cores_list),
    ("cores: read a list of 1,000,000 of another schema", cores_list_of_another),
    ("cores: read a map of 1,000,000 of another schema", cores_map_of_another),
    ("write trees of structs, enums, options and tuples", write_trees),
    ("read trees of structs, enums, options and tuples", read_trees),
    ("write and read Vec<u8>, 64 MiB", bytes),
    ("write and read Vec<u64>, 64 MiB", words),
    ("write and read Vec<f32>, 64 MiB", floats),
    ("write and read a String, 64 MiB", text),
    ("write and read 1,000,000 short Strings", texts),
];

const CONFIG: bincode::config::Configuration = bincode::config::standard();

/// What bincode writes goes into a buffer that is there already.
struct Tail<'b>(&'b mut Vec<u8>);

impl bincode::enc::write::Writer for Tail<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn by_bincode<T: bincode::Encode>(value: &T, bytes: &mut Vec<u8>) {
    bincode::encode_into_writer(value, Tail(bytes), CONFIG).unwrap();
}

fn by_flip<T: Handoff>(value: &T, bytes: &mut Vec<u8>) {
    save(value, bytes).unwrap();
}

fn from_bincode<T: bincode::Decode<()>>(bytes: &[u8]) -> T {
    bincode::decode_from_slice(bytes, CONFIG).unwrap().0
}

fn from_flip<T: Handoff>(bytes: &[u8]) -> T {
    restore(bytes).unwrap()
}

fn bytes_of<T>(value: &T, write: fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    bytes
}

/// A turn of writing, again and again into the same buffer.
fn writing<T: 'static>(value: Rc<T>, write: fn(&T, &mut Vec<u8>)) -> impl FnMut() -> Duration {
    let mut bytes = bytes_of(&*value, write);
    move || {
        bytes.clear();
        let start = Clock::start();
        write(&value, black_box(&mut bytes));
        start.elapsed()
    }
}

/// A turn of reading, which must give `expected`.
fn reading<T: PartialEq + Debug + 'static>(
    bytes: Vec<u8>,
    expected: Rc<T>,
    read: impl Fn(&[u8]) -> T + 'static,
) -> impl FnMut() -> Duration {
    checked(expected, move || {
        let start = Clock::start();
        let value = black_box(read(black_box(&bytes)));
        (value, start.elapsed())
    })
}

/// A turn that makes a value, which must be the expected one.
fn checked<T: PartialEq + Debug>(expected: Rc<T>, make: impl Fn() -> (T, Duration)) -> impl FnMut() -> Duration {
    let mut compared = false;
    move || {
        let (value, taken) = make();
        if !compared {
            assert!(value == *expected, "what was read is not what was written");
            compared = true;
        }
        taken
    }
}

fn write_map(scale: usize) -> Group {
    let value = value::sessions(1_000_000 / scale);
    let leaf = SerdeMap { by_token: value.to_serde() };
    let leaves = SerdeSessions { by_token: value.to_serde() };
    // The very same map: a clone of it would lie in memory in the order in which it is gone through.
    let value = Rc::new(value);
    Group::default()
        .with("bincode's derive", None, writing(value.clone(), by_bincode))
        .with("flip", 1.1, writing(value, by_flip))
        .with("flip, the map as one value of serde's", None, writing(Rc::new(leaf), by_flip))
        .with("flip, each entry a value of serde's", None, writing(Rc::new(leaves), by_flip))
}

fn read_map(scale: usize) -> Group {
    let value = value::sessions(1_000_000 / scale);
    let (old, new) = (value.to_old(), value.to_new());
    let (serde_old, serde_new) = (value.to_serde_old(), value.to_serde_new());
    let leaf = SerdeMap { by_token: value.to_serde() };
    let leaves = SerdeSessions { by_token: value.to_serde() };
    let (native, own) = (bytes_of(&value, by_bincode), bytes_of(&value, by_flip));
    let (olds, leafs, leavess) = (bytes_of(&old, by_flip), bytes_of(&leaf, by_flip), bytes_of(&leaves, by_flip));
    let serde_olds = bytes_of(&serde_old, by_flip);
    drop((old, serde_old));
    let value = Rc::new(value);
    Group::default()
        .with("bincode's derive", None, reading(native, value.clone(), from_bincode::<Sessions>))
        .with("flip", 1.1, reading(own, value, from_flip::<Sessions>))
        .with("flip, the old process has another schema", 2.5, {
            reading(olds, Rc::new(new), |bytes| {
                restore_from::<value::old::Sessions, value::new::Sessions>(1, bytes).unwrap()
            })
        })
        .with("flip, the map as one value of serde's", None, reading(leafs, Rc::new(leaf), from_flip::<SerdeMap>))
        .with(
            "flip, each entry a value of serde's",
            None,
            reading(leavess, Rc::new(leaves), from_flip::<SerdeSessions>),
        )
        .with("the same, the old process has another schema", None, {
            reading(serde_olds, Rc::new(serde_new), from_flip::<value::new::SerdeSessions>)
        })
}

/// By one thread and by as many as are used for the content of an old process, both beside another, as there always are; in
/// time of the wall.
fn cores<T: PartialEq + Debug + Send + Sync + 'static>(bytes: Vec<u8>, value: T, read: fn(usize, &[u8]) -> T) -> Group {
    let (bytes, value) = (Rc::new(bytes), Rc::new(value));
    let by = |readers: usize| {
        let bytes = bytes.clone();
        checked(value.clone(), move || {
            let (bytes, start) = (&**bytes, Instant::now());
            let value = std::thread::scope(|scope| scope.spawn(move || read(readers, bytes)).join().unwrap());
            (value, start.elapsed())
        })
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    Group::default().with("by one thread", None, by(1)).with("by what cores there are", None, by(all))
}

fn cores_list(scale: usize) -> Group {
    let value: Vec<_> = value::sessions(1_000_000 / scale).by_token.into_iter().collect();
    cores(bytes_of(&value, by_flip), value, |readers, bytes| {
        restore_by::<Vec<(String, Session)>>(readers, bytes).unwrap()
    })
}

fn cores_list_of_another(scale: usize) -> Group {
    type Old = Vec<(String, value::old::Session)>;
    type New = Vec<(String, value::new::Session)>;
    let value = value::sessions(1_000_000 / scale);
    let old: Old = value.to_old().by_token.into_iter().collect();
    let bytes = bytes_of(&old, by_flip);
    let mut by_token = value.to_new().by_token;
    let new: New = old.into_iter().filter_map(|(token, _)| by_token.remove_entry(&token)).collect();
    cores(bytes, new, |readers, bytes| restore_from::<Old, New>(readers, bytes).unwrap())
}

fn cores_map_of_another(scale: usize) -> Group {
    let value = value::sessions(1_000_000 / scale);
    cores(bytes_of(&value.to_old(), by_flip), value.to_new(), |readers, bytes| {
        restore_from::<value::old::Sessions, value::new::Sessions>(readers, bytes).unwrap()
    })
}

fn write_trees(scale: usize) -> Group {
    let value = Rc::new(value::trees(30_000 / scale));
    Group::default().with("bincode's derive", None, writing(value.clone(), by_bincode)).with(
        "flip",
        1.1,
        writing(value, by_flip),
    )
}

fn read_trees(scale: usize) -> Group {
    let value = Rc::new(value::trees(30_000 / scale));
    Group::default()
        .with(
            "bincode's derive",
            None,
            reading(bytes_of(&*value, by_bincode), value.clone(), from_bincode::<Vec<Node>>),
        )
        .with("flip", 1.1, reading(bytes_of(&*value, by_flip), value, from_flip::<Vec<Node>>))
}

const PAGE: usize = 4096;

/// Where in its page a buffer begins, differently in each turn: a copy takes up to three times as long where the place
/// that it goes to lies a little behind the one that it comes from, as seen from the start of a page.
#[derive(Default)]
struct Places(usize);

impl Places {
    fn next(&mut self) -> usize {
        self.0 = (self.0 + 1640) % PAGE;
        self.0
    }
}

/// There and back: writing into a buffer that was used before, and reading out of it.
fn both_ways<T: PartialEq + Debug + 'static>(
    value: Rc<T>,
    write: fn(&T, &mut Vec<u8>),
    read: fn(&[u8]) -> T,
) -> impl FnMut() -> Duration {
    let (mut bytes, mut places, mut compared) = (bytes_of(&*value, write), Places::default(), false);
    move || {
        let place = places.next();
        bytes.clear();
        bytes.resize(place, 0);
        let start = Clock::start();
        write(&value, &mut bytes);
        let read = black_box(read(black_box(&bytes[place..])));
        let taken = start.elapsed();
        if !compared {
            assert!(read == *value, "what was read is not what was written");
            compared = true;
        }
        taken
    }
}

/// The bytes there and back between places that were used before.
fn copies<T: 'static>(value: Rc<T>, bytes_of: fn(&T) -> &[u8], piece: usize) -> impl FnMut() -> Duration {
    let (mut there, mut back) = (vec![1; bytes_of(&value).len() + PAGE], bytes_of(&value).to_vec());
    let mut places = Places::default();
    let copy = move |from: &[u8], to: &mut [u8]| {
        for (from, to) in from.chunks(piece).zip(to.chunks_mut(piece)) {
            black_box(to).copy_from_slice(black_box(from));
        }
    };
    move || {
        let there = &mut there[places.next()..][..back.len()];
        let start = Clock::start();
        copy(bytes_of(&value), there);
        copy(there, &mut back);
        start.elapsed()
    }
}

fn pairs<T: Handoff + PartialEq + Debug + 'static>(value: T, bytes_of: fn(&T) -> &[u8]) -> Group {
    let value = Rc::new(value);
    Group::default()
        .with("two copies, in pieces of 256 KiB", None, copies(value.clone(), bytes_of, 256 << 10))
        .with("two copies, each all at once", None, copies(value.clone(), bytes_of, BULK))
        .with("flip", 1.2, both_ways(value, by_flip, from_flip))
}

const BULK: usize = 64 << 20;

fn bytes(scale: usize) -> Group {
    let bytes: Vec<u8> = value::words(BULK / 8 / scale).flat_map(u64::to_le_bytes).collect();
    pairs(bytes, |bytes| bytes)
}

fn words(scale: usize) -> Group {
    let words: Vec<u64> = value::words(BULK / 8 / scale).collect();
    pairs(words, |words| bytemuck::cast_slice(words))
}

fn floats(scale: usize) -> Group {
    let floats: Vec<f32> = value::words(BULK / 4 / scale).map(|word| word as f32).collect();
    pairs(floats, |floats| bytemuck::cast_slice(floats))
}

fn text(scale: usize) -> Group {
    pairs(value::text(BULK / scale), |text| text.as_bytes())
}

fn texts(scale: usize) -> Group {
    let value = Rc::new(value::texts(1_000_000 / scale));
    let (texts, mut bytes) = (value.clone(), bytes_of(&*value, by_flip));
    let plain = move || {
        bytes.clear();
        let start = Clock::start();
        for text in texts.iter() {
            bytes.extend_from_slice(text.as_bytes());
        }
        let (mut rest, mut read) = (black_box(&*bytes), Vec::with_capacity(texts.len()));
        for text in texts.iter() {
            let (bytes, others) = rest.split_at(text.len());
            read.push(bytes.to_vec());
            rest = others;
        }
        black_box(&read);
        start.elapsed()
    };
    Group::default()
        .with("a loop that copies and allocates each", None, plain)
        // What the loop does not do: lengths, and a look whether it is text.
        .with("bincode's derive", None, both_ways(value.clone(), by_bincode, from_bincode))
        .with("flip", 1.2, both_ways(value, by_flip, from_flip))
}
