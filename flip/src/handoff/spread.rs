//! A large collection, read by several threads: this one finds where elements end, others make values of whole stretches of
//! them, and this one takes those into the collection, in their order.
//!
//! What does not work out so is put back and read in place: neither what is read, nor whether it can be, depends on how many
//! threads there are. Of several things that are broken, another one may be named.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Builder, Scope, available_parallelism, scope},
};

use parking_lot::Mutex;

use super::{
    Limits, RestoreError, Restorer, Schemas, Type,
    matching::{Op, Plan},
    schema::Schema,
    transcode::{Element, Transcoder},
};
use crate::control::STACK;

/// How many threads read one collection, at most: the one that takes what they have read could not keep up with more.
const READERS: usize = 4;
/// How many stretches there are for each of them, on their way or waiting to be taken.
const AHEAD: usize = 4;
/// Where fewer elements are left, nobody else is asked.
pub(super) const MANY: usize = 16;
/// How many stretches there must be for that.
const STRETCHES: u64 = 4;

/// How many parts of an element have memory of their own, at least, where the schemas are the same.
const ALLOCATED: usize = 2;

/// How many threads work on content at once: as many as there are cores, as long as few are enough.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| available_parallelism().map_or(1, usize::from).min(READERS))
}

/// Whole elements of a collection, cut off for another reader.
pub(crate) struct Stretch {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
    /// How their bytes become those that are read here, where the schemas differ.
    pub(super) plan: Option<(Plan, Element)>,
    pub(super) limits: Limits,
    /// How deep they lie in what the old process wrote.
    pub(super) depth: usize,
    /// How many bytes were made of them.
    pub(super) made: u64,
}

impl Stretch {
    /// Has all of them read, and nothing else; whether that could be done. The bytes stay.
    fn read(&mut self, depth: usize, read: &dyn Fn(&mut Restorer<'_>, usize) -> Result<(), RestoreError>) -> bool {
        let bytes = mem::take(&mut self.bytes);
        // They were counted when they came.
        let limits = Limits { readers: 1, bytes: u64::MAX, ..self.limits };
        let mut input = Restorer::from_bytes(bytes, limits).at_depth(self.depth);
        let is_read = |input: &mut Restorer<'_>| match catch_unwind(AssertUnwindSafe(|| read(input, self.count))) {
            Ok(read) => read.is_ok() && input.is_at_end(),
            Err(panic) => {
                // It comes again where this is read in place, and is one there. To drop this one might be another.
                mem::forget(panic);
                false
            }
        };
        let whole = match &self.plan {
            None => is_read(&mut input),
            Some((plan, element)) => {
                let mut transcoder = Transcoder::of_stretch(input, plan, *element, self.count);
                let mut matched = Restorer::matched(&mut transcoder, limits).at_depth(depth);
                let whole = is_read(&mut matched);
                self.made = matched.consumed();
                let whole = whole && transcoder.run_out().is_ok();
                input = transcoder.into_input();
                whole && input.is_at_end()
            }
        };
        self.bytes = input.into_buffer();
        whole
    }
}

/// Whether, and from where on, a collection is read by several threads.
pub(super) struct Spread {
    began: u64,
    due: u64,
}

impl Spread {
    const NEVER: u64 = u64::MAX;

    #[inline]
    pub(super) fn of(input: &Restorer<'_>, length: usize) -> Self {
        let began = input.consumed();
        let stretch = input.stretch().filter(|_| length >= MANY);
        Spread { began, due: stretch.map_or(Self::NEVER, |stretch| began + stretch) }
    }

    #[inline(always)]
    pub(super) fn is_due(&self, input: &Restorer<'_>) -> bool {
        input.consumed() >= self.due && input.is_at_boundary()
    }

    /// Reads some of the `left` elements that come after `index` others, and says how many; it may be none.
    #[cold]
    #[inline(never)]
    pub(super) fn read<T: Send>(
        &mut self,
        input: &mut Restorer<'_>,
        (index, left): (usize, usize),
        list: List<'_>,
        read: impl Fn(&mut Restorer<'_>) -> Result<T, RestoreError> + Sync,
        mut take: impl FnMut(&Restorer<'_>, T),
    ) -> usize {
        let slots: [Mutex<Vec<T>>; READERS * AHEAD] = Default::default();
        self.run(
            input,
            (index, left),
            list,
            &|slot, input, count| {
                let mut items = slots[slot].lock();
                (0..count).try_for_each(|_| read(input).map(|item| items.push(item)))
            },
            &mut |input, slot| slots[slot].lock().drain(..).for_each(|item| take(input, item)),
        )
    }

    fn run(
        &mut self,
        input: &mut Restorer<'_>,
        (index, left): (usize, usize),
        list: List<'_>,
        read: &ReadAll<'_>,
        take: &mut dyn FnMut(&Restorer<'_>, usize),
    ) -> usize {
        let stretch = input.stretch().unwrap_or(Self::NEVER);
        // What comes later may be different.
        let later = |input: &Restorer<'_>| input.consumed().saturating_add(stretch.saturating_mul(STRETCHES));
        self.due = later(input);
        let size = (input.consumed() - self.began) / index.max(1) as u64;
        if size > stretch / 4 || size.saturating_mul(left as u64) < stretch.saturating_mul(STRETCHES) {
            return 0;
        }
        let Some(form) = Form::of(input, list) else {
            self.due = Self::NEVER;
            return 0;
        };
        let mut cut = Cut { form, left, spare: Vec::new() };
        let Some(first) = cut.next(input) else { return 0 };
        scope(|scope| {
            let readers = Reader::some(scope, input, read);
            if readers.is_empty() {
                self.due = Self::NEVER;
                input.put_back(&first.bytes, first.count);
                return 0;
            }
            let (most, mut first) = (readers.len() * AHEAD, Some(first));
            let (mut sent, mut taken, mut done) = (0, 0, 0);
            loop {
                while sent - taken < most
                    && let Some(stretch) = first.take().or_else(|| cut.next(input))
                {
                    readers[sent % readers.len()].give(sent % most, stretch);
                    sent += 1;
                }
                if taken == sent {
                    self.due = later(input);
                    return done;
                }
                let (stretch, whole) = readers[taken % readers.len()].has_read();
                taken += 1;
                if whole {
                    input.pass(stretch.made);
                    take(input, (taken - 1) % most);
                    done += stretch.count;
                    cut.spare.push(stretch.bytes);
                    continue;
                }
                // Whoever reads it in place says why not, and where that is.
                self.due = Self::NEVER;
                let (mut bytes, mut count) = (stretch.bytes, stretch.count);
                for later in taken..sent {
                    let (stretch, _) = readers[later % readers.len()].has_read();
                    bytes.extend(stretch.bytes);
                    count += stretch.count;
                }
                input.put_back(&bytes, count);
                return done;
            }
        })
    }
}

/// Reads so many elements into a slot.
type ReadAll<'a> = dyn Fn(usize, &mut Restorer<'_>, usize) -> Result<(), RestoreError> + Sync + 'a;

/// Which list it is, where it is one.
pub(super) type List<'a> = Option<&'a dyn Fn(&mut Schemas) -> Type>;

/// What tells where elements end.
enum Form {
    /// The schema of the types here, as which they were written.
    Ours(Plan, Element),
    /// The [`Source`](super::Source), which makes them another.
    Theirs,
}

impl Form {
    /// None where one thread is as fast: to find where elements end takes a third of what reading them does, and to put
    /// pairs into a map takes longer than to read them.
    fn of(input: &Restorer<'_>, list: List<'_>) -> Option<Form> {
        if input.is_matched() {
            return Some(Form::Theirs);
        }
        let schema = Schema::made(list?);
        let plan = schema.plan(&schema).ok().filter(|plan| !plan.is_needed())?;
        let allocated = plan.ops.iter().filter(|op| op.is_allocated()).count();
        match plan.ops[plan.root] {
            // The list itself is one of them.
            Op::List(item) if allocated > ALLOCATED => Some(Form::Ours(plan, Element::Item(item))),
            _ => None,
        }
    }
}

struct Cut {
    form: Form,
    left: usize,
    /// Buffers of stretches that have been read.
    spare: Vec<Vec<u8>>,
}

impl Cut {
    fn next(&mut self, input: &mut Restorer<'_>) -> Option<Stretch> {
        if self.left == 0 {
            return None;
        }
        let spare = self.spare.pop().unwrap_or_default();
        let stretch = match &self.form {
            Form::Ours(plan, element) => input.cut(plan, *element, self.left, spare),
            Form::Theirs => input.cut_by_source(self.left, spare),
        };
        // Where there is none, those that come now are to be read in place.
        self.left -= stretch.as_ref().map_or(self.left, |stretch| stretch.count);
        stretch
    }
}

/// A thread that reads stretches.
struct Reader {
    stretches: SyncSender<(usize, Stretch)>,
    read: Receiver<(Stretch, bool)>,
}

impl Reader {
    /// As many as are wanted and can be had.
    fn some<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        input: &Restorer<'_>,
        read: &'env ReadAll<'_>,
    ) -> Vec<Reader> {
        let depth = input.depth();
        let begin = |_| {
            let (stretches, to_read) = sync_channel::<(usize, Stretch)>(AHEAD);
            let (has_read, done) = sync_channel(AHEAD);
            let runtime = runtime();
            let run = move || {
                let _entered = enter(&runtime);
                for (slot, mut stretch) in to_read {
                    let whole = stretch.read(depth, &|input, count| read(slot, input, count));
                    if has_read.send((stretch, whole)).is_err() {
                        return;
                    }
                }
            };
            let thread = Builder::new().name("flip-decode".into()).stack_size(STACK);
            thread.spawn_scoped(scope, run).ok()?;
            Some(Reader { stretches, read: done })
        };
        (0..input.readers().min(READERS)).map_while(begin).collect()
    }

    fn give(&self, slot: usize, stretch: Stretch) {
        self.stretches.send((slot, stretch)).expect("it reads as long as something may come");
    }

    /// Waits for what it was given first.
    fn has_read(&self) -> (Stretch, bool) {
        self.read.recv().expect("it answers for all that it was given")
    }
}

/// The runtime that this thread has entered: code of the user's is to find it in others, too.
#[cfg(feature = "tokio")]
fn runtime() -> Option<tokio::runtime::Handle> {
    tokio::runtime::Handle::try_current().ok()
}

#[cfg(feature = "tokio")]
fn enter(runtime: &Option<tokio::runtime::Handle>) -> Option<tokio::runtime::EnterGuard<'_>> {
    runtime.as_ref().map(tokio::runtime::Handle::enter)
}

/// There is none to enter.
#[cfg(not(feature = "tokio"))]
fn runtime() -> Option<()> {
    None
}

#[cfg(not(feature = "tokio"))]
fn enter(_: &Option<()>) -> Option<()> {
    None
}
