//! What a stranger sends is answered with an error or a value, on the stack that flip gives those who decode, and with no
//! more memory than the input bears out: the inputs that fuzzing found worth keeping (`fuzz/corpus`), and each of them broken.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use flip::__fuzzing::{STACK, TARGETS, nested};

/// How many bytes there may be at once for each byte of the input: one is enough for a part of a schema, which takes a hundred in
/// memory, and three times as many while a list of them grows.
const FACTOR: usize = 512;
/// And besides: what a frame of the content announces, what serde makes room for on a claim (a mebibyte each), buffers of packets.
const BESIDES: usize = 3 << 20;

/// Counts what a thread allocates.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(more: isize) {
    // A thread that ends frees what it has when these are gone.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + more);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: all of it is the system's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while it is copied.
        count(size.cast_signed());
        count(-layout.size().cast_signed());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many bytes were allocated at once at most, more than before.
fn allocated(run: impl FnOnce()) -> usize {
    let before = NOW.get();
    MOST.set(before);
    run();
    (MOST.get() - before).cast_unsigned()
}

fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| {
            let file = file.unwrap();
            (format!("{target}/{}", file.file_name().display()), fs::read(file.path()).unwrap())
        })
        .collect();
    assert!(inputs.len() >= 3, "{target} has {} inputs", inputs.len());
    inputs.sort();
    inputs
}

/// The same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// A few bytes are others, or the end is missing, or something long is announced.
fn broken(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.splice(at..=at, [253, 255, 255, 255, 255, 255, 255, 255, 127])),
            3 => drop(bytes.splice(at..=at, [0xdd, 0x7f, 0xff, 0xff, 0xff])),
            _ => bytes[at] = random.below(256) as u8,
        }
    }
    bytes
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Gives an input to a target and says what was wrong.
fn look(run: fn(&[u8]), name: &str, bytes: &[u8]) -> Option<String> {
    let (before, bound) = (PANICS.load(Ordering::SeqCst), FACTOR * bytes.len() + BESIDES);
    let allocated = allocated(|| run(bytes));
    // Some of what panics is caught, where code of the user's runs.
    if PANICS.load(Ordering::SeqCst) != before {
        return Some(format!("{name} panics: {bytes:?}"));
    }
    (allocated > bound).then(|| format!("{name} of {} bytes allocates {allocated}: {bytes:?}", bytes.len()))
}

#[test]
fn nothing_panics_and_nothing_is_allocated_by_a_claim() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        hook(panic);
    }));
    let all = || {
        let claims =
            [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0x98], &[0x9f], &[253, 255, 255, 255, 255, 255, 255, 255, 127]];
        for claim in claims {
            for depth in 1..150 {
                assert_eq!(look(nested, "lists within lists", &claim.repeat(depth)), None);
            }
        }
        let mut random = Random(17);
        for (target, run) in TARGETS {
            // What is made once for each type is made.
            inputs(target).iter().for_each(|(_, bytes)| run(bytes));
            for (name, good) in inputs(target) {
                let broken = std::iter::repeat_with(|| broken(&good, &mut random)).take(20);
                let all = [good.clone()].into_iter().chain(broken.collect::<Vec<_>>());
                if let Some(wrong) = all.filter_map(|bytes| look(run, &name, &bytes)).next() {
                    panic!("{wrong}");
                }
            }
        }
    };
    std::thread::Builder::new().stack_size(STACK).spawn(all).unwrap().join().unwrap();
}

#[test]
fn what_is_allocated_is_counted() {
    assert!(allocated(|| drop(Vec::<u8>::with_capacity(10_000_000))) >= 10_000_000);
    fn greedy(_: &[u8]) {
        drop(Vec::<u8>::with_capacity(BESIDES + 2 * FACTOR));
    }
    assert!(look(greedy, "it", &[0]).unwrap().starts_with("it of 1 bytes allocates"));
    assert_eq!(look(|bytes| drop(bytes.to_vec()), "it", &[0; 100]), None);
}
