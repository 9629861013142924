//! Finds a type's shape: its `Deserialize` is run again and again, and what it asks for is noted down.
//!
//! Only the notes are wanted, not the values, so a pass may end in an error. Each one takes the next way where there is
//! a choice (another sample, another variant, something or nothing), and the passes end when none is left, or when one
//! of them has changed no note: the next would be the same.

use std::{any::type_name, cell::RefCell, collections::HashMap, fmt};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
    value::{MapDeserializer, SeqDeserializer, StrDeserializer},
};

use super::{Container, Content, Fields, LeafKind, Sample, Shape, Shapes, Variant};

/// How deep one pass goes. Less than a shape may: it must be readable on the other side.
const DEPTH: usize = super::DEPTH - 16;
/// How often a type is run at most.
const PASSES: usize = 1024;
/// How many values one pass gives at most; nested arrays have many.
const VALUES: usize = 1 << 16;
/// How many places a type may have.
const PLACES: usize = 1 << 14;

// What is tried, in turn.
const INTEGERS: [i64; 4] = [1, 0, 2, 10];
const CHARS: [&str; 2] = ["a", "0"];
pub(super) const TEXTS: [&str; 12] = [
    "",
    "a",
    "1970-01-01T00:00:00Z",
    "1970-01-01T00:00:00",
    "1970-01-01",
    "00:00:00",
    "127.0.0.1",
    "127.0.0.1:1",
    "00000000-0000-0000-0000-000000000000",
    "http://a/",
    "1.0.0",
    "1",
];
const BYTES: [&[u8]; 6] = [&[], &[0; 16], &[0; 4], &[0; 8], &[0; 32], b"a"];

/// How many kinds of values stand for one that could be anything: [`anything`].
pub(super) const ANYTHING: usize = 5;

/// A value for a place that does not say what it wants.
pub(super) fn anything<'de, V: Visitor<'de>, E: de::Error>(number: usize, visitor: V) -> Result<V::Value, E> {
    let nothing = std::iter::empty::<((), ())>;
    match number {
        0 => visitor.visit_unit(),
        1 => visitor.visit_map(MapDeserializer::new(nothing())),
        2 => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<()>())),
        3 => visitor.visit_str(""),
        _ => visitor.visit_u8(1),
    }
}

pub(super) fn run<T: DeserializeOwned>() -> Shapes {
    let tracer = RefCell::new(Tracer::default());
    tracer.borrow_mut().place();
    for _ in 0..PASSES {
        tracer.borrow_mut().next_pass();
        let root = Node { tracer: &tracer, note: ROOT, reader: type_name::<T>(), depth: 0 };
        // The value is of no use, and neither is an error: both have left their notes.
        let _ = root.give(std::marker::PhantomData::<T>);
        if !tracer.borrow_mut().goes_on() {
            break;
        }
    }
    tracer.into_inner().finish()
}

const ROOT: usize = 0;

/// The distance to what is nowhere.
const CLOSED: usize = usize::MAX;

/// Why a pass ended.
#[derive(Debug, Default)]
struct Ended {
    /// serde's derive says by this that two names are one field.
    duplicate: Option<&'static str>,
    /// A choice has been changed on account of it.
    noted: bool,
    /// No choice is left further in.
    stuck: bool,
}

impl Ended {
    fn stuck() -> Self {
        Self { duplicate: None, noted: true, stuck: true }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a made-up value was rejected")
    }
}

impl std::error::Error for Ended {}

impl de::Error for Ended {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::default()
    }

    fn invalid_type(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::default()
    }

    fn invalid_value(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::default()
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self { duplicate: Some(name), ..Self::default() }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Untouched,
    /// Asked for as different kinds in different passes: it depends on the data.
    Torn,
    /// Asked for as whatever there is.
    Anything,
    Unit,
    UnitStruct,
    Leaf(LeafKind),
    Option(usize),
    Seq(usize),
    Map(usize, usize),
    Tuple(Vec<usize>),
    Newtype(usize),
    Struct(usize),
    Enum(usize),
}

/// One place where a value is asked for.
struct Note {
    kind: Kind,
    /// Of a leaf, which sample is given; of a list or map, how many elements were given last; of an option, whether one.
    choice: usize,
    /// Which of these were rejected.
    rejected: [bool; 3],
    /// The sample of a leaf that was accepted first.
    accepted: Option<usize>,
    picky: bool,
    exhausted: bool,
    /// A list or map was read whole once.
    succeeded: bool,
    /// It is being read further out.
    active: bool,
    /// The last pass that looked inside: once in a pass is enough, and keeps it short.
    looked: usize,
}

/// The fields of a struct, or of a variant like one.
struct Group {
    name: &'static str,
    fields: Vec<FieldNote>,
    /// The field to begin with.
    first: usize,
    complete: bool,
    stuck: bool,
    /// The kind of a field depends on the data, so all of it does: an adjacently tagged enum is one.
    torn: bool,
}

struct FieldNote {
    name: &'static str,
    note: usize,
    /// It is another name of a field that is here already.
    alias: bool,
    stuck: bool,
}

struct Choice {
    name: &'static str,
    variants: Vec<VariantNote>,
    /// The first that was read whole.
    first: Option<usize>,
    torn: bool,
}

struct VariantNote {
    name: &'static str,
    content: Option<ContentNote>,
    succeeded: bool,
    stuck: bool,
    active: bool,
}

#[derive(Clone, PartialEq)]
enum ContentNote {
    Unit,
    Newtype(usize),
    Tuple(Vec<usize>),
    Struct(usize),
}

/// The full name of the type that was asked for last, serde's name, and where the names of the parts lie in memory: each
/// alone can be the same for two types.
type Identity = (&'static str, &'static str, usize, usize);

fn identity(reader: &'static str, name: &'static str, parts: &'static [&'static str]) -> Identity {
    (reader, name, parts.as_ptr() as usize, parts.len())
}

#[derive(Default)]
struct Tracer {
    notes: Vec<Note>,
    groups: Vec<Group>,
    choices: Vec<Choice>,
    structs: HashMap<Identity, usize>,
    enums: HashMap<Identity, usize>,
    /// How far each note was from something left to find when the pass began. Those that it found itself are missing.
    distances: Vec<usize>,
    /// The notes where this pass had a choice, in order.
    trail: Vec<usize>,
    pass: usize,
    values: usize,
    changed: bool,
}

impl Tracer {
    fn place(&mut self) -> usize {
        self.notes.push(Note {
            kind: Kind::Untouched,
            choice: 0,
            rejected: [false; 3],
            accepted: None,
            picky: false,
            exhausted: false,
            succeeded: false,
            active: false,
            looked: 0,
        });
        self.notes.len() - 1
    }

    fn places(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.place()).collect()
    }

    fn group(&mut self, name: &'static str, fields: &'static [&'static str]) -> usize {
        let fields =
            fields.iter().map(|name| FieldNote { name, note: self.place(), alias: false, stuck: false }).collect();
        self.groups.push(Group { name, fields, first: 0, complete: false, stuck: false, torn: false });
        self.groups.len() - 1
    }

    fn next_pass(&mut self) {
        self.pass += 1;
        self.values = 0;
        self.changed = false;
        self.trail.clear();
    }

    /// Whether another pass could find something.
    ///
    /// Says for each note how far it is to the next one that has something left. Who always goes where that is nearer
    /// gets there, also in types that are in themselves.
    fn goes_on(&mut self) -> bool {
        let mut distances = vec![CLOSED; self.notes.len()];
        let mut more = true;
        while more {
            more = false;
            for note in 0..distances.len() {
                let distance = self.distance(note, &distances);
                more |= distance < distances[note];
                distances[note] = distances[note].min(distance);
            }
        }
        self.distances = distances;
        self.changed && self.distances[ROOT] != CLOSED
    }

    fn distance(&self, note: usize, distances: &[usize]) -> usize {
        let Note { kind, accepted, exhausted, rejected, succeeded, .. } = &self.notes[note];
        let to = |note: &usize| distances.get(*note).map_or(0, |distance| distance.saturating_add(1));
        let several = |inner| match *rejected {
            [true, true, true] => CLOSED,
            _ if !succeeded => 0,
            [_, true, true] => CLOSED,
            _ => inner,
        };
        match kind {
            Kind::Untouched => 0,
            Kind::Torn | Kind::Unit | Kind::UnitStruct => CLOSED,
            Kind::Anything | Kind::Leaf(_) if accepted.is_none() && !exhausted => 0,
            Kind::Anything | Kind::Leaf(_) => CLOSED,
            Kind::Option(_) if rejected[1] => CLOSED,
            Kind::Option(inner) => to(inner),
            Kind::Seq(inner) => several(to(inner)),
            Kind::Map(key, value) => several(to(key).min(to(value))),
            Kind::Tuple(items) => items.iter().map(to).min().unwrap_or(CLOSED),
            Kind::Newtype(inner) => to(inner),
            Kind::Struct(group) => self.to_group(*group, distances),
            Kind::Enum(choice) if self.choices[*choice].torn => CLOSED,
            Kind::Enum(choice) => {
                let variants = self.choices[*choice].variants.iter();
                variants.map(|variant| self.to_variant(variant, distances)).min().unwrap_or(CLOSED)
            }
        }
    }

    fn to_group(&self, group: usize, distances: &[usize]) -> usize {
        let group = &self.groups[group];
        if group.torn {
            return CLOSED;
        }
        if !group.complete && !group.stuck && !group.fields.iter().any(|field| field.stuck) {
            return 0;
        }
        let fields = group.fields.iter().filter(|field| !field.alias && !field.stuck);
        let to = |note: usize| distances.get(note).map_or(0, |distance| distance.saturating_add(1));
        fields.map(|field| to(field.note)).min().unwrap_or(CLOSED)
    }

    fn to_variant(&self, variant: &VariantNote, distances: &[usize]) -> usize {
        let to = |note: &usize| distances.get(*note).map_or(0, |distance| distance.saturating_add(1));
        match &variant.content {
            _ if variant.stuck => CLOSED,
            None => 0,
            _ if !variant.succeeded => 0,
            Some(ContentNote::Unit) => CLOSED,
            Some(ContentNote::Newtype(note)) => to(note),
            Some(ContentNote::Tuple(notes)) => notes.iter().map(to).min().unwrap_or(CLOSED),
            Some(ContentNote::Struct(group)) => self.to_group(*group, distances),
        }
    }

    /// Notes down what is asked for. Whoever asks for something else the next time goes by the data.
    fn ask(&mut self, note: usize, kind: impl FnOnce(&mut Self) -> Kind) -> Result<(), Ended> {
        self.values += 1;
        if self.values > VALUES || self.notes.len() > PLACES {
            return Err(Ended::stuck());
        }
        if self.notes[note].kind == Kind::Untouched {
            self.notes[note].kind = kind(self);
            self.changed = true;
        }
        Ok(())
    }

    fn torn(&mut self, note: usize) -> Ended {
        self.changed |= self.notes[note].kind != Kind::Torn;
        self.notes[note].kind = Kind::Torn;
        Ended::stuck()
    }

    fn alternatives(&self, note: usize) -> usize {
        match &self.notes[note].kind {
            Kind::Anything => ANYTHING,
            Kind::Leaf(LeafKind::Bool | LeafKind::F32 | LeafKind::F64) => 2,
            Kind::Leaf(LeafKind::Char) => CHARS.len(),
            Kind::Leaf(LeafKind::Str) => TEXTS.len(),
            Kind::Leaf(LeafKind::Bytes) => BYTES.len(),
            Kind::Leaf(_) => INTEGERS.len(),
            _ => 1,
        }
    }

    /// Takes another way at this place the next time, if there is one.
    fn reject(&mut self, note: usize, ended: Ended) -> Ended {
        if ended.noted && !ended.stuck {
            return ended;
        }
        let alternatives = self.alternatives(note);
        let Note { kind, choice, rejected, accepted, picky, exhausted, .. } = &mut self.notes[note];
        let stuck = match kind {
            Kind::Option(_) | Kind::Seq(_) | Kind::Map(..) => {
                self.changed |= !rejected[*choice];
                rejected[*choice] = true;
                let ways = if matches!(kind, Kind::Option(_)) { 2 } else { 3 };
                rejected[..ways].iter().all(|rejected| *rejected)
            }
            Kind::Anything | Kind::Leaf(_) if !*exhausted => {
                self.changed = true;
                *picky |= accepted.is_none();
                *exhausted = *choice + 1 == alternatives;
                *choice = if *exhausted { accepted.unwrap_or(0) } else { *choice + 1 };
                *exhausted
            }
            _ => true,
        };
        Ended { duplicate: None, noted: true, stuck }
    }

    /// What was chosen since was accepted.
    fn accept(&mut self, since: usize) {
        for at in since..self.trail.len() {
            let note = &mut self.notes[self.trail[at]];
            if matches!(note.kind, Kind::Leaf(_) | Kind::Anything) && note.accepted.is_none() {
                note.accepted = Some(note.choice);
                self.changed = true;
            }
        }
    }

    /// The first of these that was not rejected yet. The smaller ones come last while there is something inside to look
    /// at, unless it is being looked at further out.
    fn how_many(&mut self, note: usize, most: usize) -> Result<usize, Ended> {
        let open = match &self.notes[note].kind {
            Kind::Option(inner) | Kind::Seq(inner) => self.was_open(*inner),
            Kind::Map(key, value) => self.was_open(*key) || self.was_open(*value),
            _ => false,
        };
        self.trail.push(note);
        let pass = self.pass;
        let note = &mut self.notes[note];
        let mut counts = 0..=most;
        let found = if open && !note.active && note.looked < pass {
            counts.rfind(|count| !note.rejected[*count])
        } else {
            counts.find(|count| !note.rejected[*count])
        };
        note.choice = found.ok_or_else(Ended::stuck)?;
        if note.choice > 0 {
            note.looked = pass;
        }
        Ok(note.choice)
    }

    fn was_open(&self, note: usize) -> bool {
        self.distances.get(note) != Some(&CLOSED)
    }

    fn variant(&self, choice: usize) -> Option<usize> {
        let variants = &self.choices[choice].variants;
        let idle = || (0..variants.len()).filter(|at| !variants[*at].active && !variants[*at].stuck);
        idle()
            .map(|at| (self.to_variant(&variants[at], &self.distances), at))
            .filter(|(distance, _)| *distance != CLOSED)
            .min()
            .map(|(_, at)| at)
            // In itself, the one that came to an end first will again.
            .or(self.choices[choice].first)
            .or_else(|| idle().next())
    }

    fn finish(self) -> Shapes {
        let mut found = Found { tracer: &self, structs: HashMap::new(), enums: HashMap::new(), containers: Vec::new() };
        let root = found.shape(ROOT);
        // Every place was filled when the description that took it came back.
        Shapes { root, containers: found.containers.into_iter().flatten().collect() }
    }
}

/// The notes on their way to be a shape.
struct Found<'t> {
    tracer: &'t Tracer,
    structs: HashMap<usize, usize>,
    enums: HashMap<usize, usize>,
    containers: Vec<Option<Container>>,
}

impl Found<'_> {
    fn shape(&mut self, note: usize) -> Shape {
        let note = &self.tracer.notes[note];
        match &note.kind {
            Kind::Untouched | Kind::Torn | Kind::Anything => Shape::Unknown,
            Kind::Unit => Shape::Unit,
            Kind::UnitStruct => Shape::UnitStruct,
            Kind::Leaf(kind) => match note.accepted {
                Some(choice) => Shape::Leaf { kind: *kind, sample: sample(*kind, choice), picky: note.picky },
                None => Shape::Unknown,
            },
            Kind::Option(inner) => Shape::Option(Box::new(self.shape(*inner))),
            // One that takes only some lengths may have a meaning for each of its elements.
            Kind::Seq(_) | Kind::Map(..) if !note.succeeded => Shape::Unknown,
            Kind::Seq(inner) => Shape::Seq(Box::new(self.shape(*inner))),
            Kind::Map(key, value) => match self.shape(*key) {
                // `flatten` reads the names of fields this way.
                Shape::Unknown => Shape::Unknown,
                key => Shape::Map(Box::new(key), Box::new(self.shape(*value))),
            },
            Kind::Tuple(items) => Shape::Tuple(items.iter().map(|item| self.shape(*item)).collect()),
            Kind::Newtype(inner) => Shape::Newtype(Box::new(self.shape(*inner))),
            Kind::Struct(group) if self.tracer.groups[*group].torn => Shape::Unknown,
            Kind::Struct(group) => {
                if let Some(place) = self.structs.get(group) {
                    return Shape::Container(*place);
                }
                let place = self.containers.len();
                self.containers.push(None);
                self.structs.insert(*group, place);
                let name = self.tracer.groups[*group].name.to_owned();
                self.containers[place] = Some(Container::Struct { name, fields: self.fields(*group) });
                Shape::Container(place)
            }
            Kind::Enum(choice) if self.tracer.choices[*choice].torn => Shape::Unknown,
            Kind::Enum(choice) => {
                if let Some(place) = self.enums.get(choice) {
                    return Shape::Container(*place);
                }
                let place = self.containers.len();
                self.containers.push(None);
                self.enums.insert(*choice, place);
                let Choice { name, variants, .. } = &self.tracer.choices[*choice];
                let variants = variants
                    .iter()
                    .map(|variant| Variant { name: variant.name.to_owned(), content: self.content(&variant.content) })
                    .collect();
                self.containers[place] = Some(Container::Enum { name: (*name).to_owned(), variants });
                Shape::Container(place)
            }
        }
    }

    fn fields(&mut self, group: usize) -> Fields {
        let Group { fields, complete, .. } = &self.tracer.groups[group];
        let list = fields.iter().filter(|field| !field.alias);
        Fields { list: list.map(|field| (field.name.to_owned(), self.shape(field.note))).collect(), settled: *complete }
    }

    fn content(&mut self, content: &Option<ContentNote>) -> Content {
        match content {
            None => Content::Unknown,
            Some(ContentNote::Unit) => Content::Unit,
            Some(ContentNote::Newtype(note)) => Content::Newtype(self.shape(*note)),
            Some(ContentNote::Tuple(notes)) => Content::Tuple(notes.iter().map(|note| self.shape(*note)).collect()),
            Some(ContentNote::Struct(group)) if self.tracer.groups[*group].torn => Content::Unknown,
            Some(ContentNote::Struct(group)) => Content::Struct(self.fields(*group)),
        }
    }
}

fn sample(kind: LeafKind, choice: usize) -> Sample {
    match kind {
        LeafKind::Bool | LeafKind::F32 | LeafKind::F64 => Sample::Any,
        LeafKind::Char => Sample::Text(CHARS[choice].to_owned()),
        LeafKind::Str => Sample::Text(TEXTS[choice].to_owned()),
        LeafKind::Bytes => Sample::Bytes(BYTES[choice].to_vec()),
        _ => Sample::Integer(INTEGERS[choice]),
    }
}

/// The deserializer of one place.
#[derive(Clone, Copy)]
struct Node<'t> {
    tracer: &'t RefCell<Tracer>,
    note: usize,
    /// The full name of the type that asks, as far as it is known.
    reader: &'static str,
    depth: usize,
}

impl<'t> Node<'t> {
    fn inside(self, note: usize) -> Self {
        Self { note, depth: self.depth + 1, ..self }
    }

    /// Lets the seed read this place, and sees how that ends: many types look at what they have read only afterwards.
    fn give<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Ended> {
        let since = self.tracer.borrow().trail.len();
        let given = seed.deserialize(Self { reader: type_name::<S::Value>(), ..self });
        let mut tracer = self.tracer.borrow_mut();
        match given {
            Ok(value) => {
                tracer.accept(since);
                Ok(value)
            }
            Err(ended) if ended.noted => Err(ended),
            Err(ended) => Err(match tracer.trail[since..].last() {
                Some(&note) => tracer.reject(note, ended),
                None => Ended::stuck(),
            }),
        }
    }

    fn ask(self, kind: impl FnOnce(&mut Tracer) -> Kind) -> Result<Kind, Ended> {
        if self.depth > DEPTH {
            return Err(Ended::stuck());
        }
        let mut tracer = self.tracer.borrow_mut();
        tracer.ask(self.note, kind)?;
        Ok(tracer.notes[self.note].kind.clone())
    }

    fn torn(self) -> Ended {
        self.tracer.borrow_mut().torn(self.note)
    }

    fn reject(self, ended: Ended) -> Ended {
        self.tracer.borrow_mut().reject(self.note, ended)
    }

    /// For what has no choice: says which sample to give.
    fn sampled(self, kind: Kind) -> Result<usize, Ended> {
        if self.ask(|_| kind.clone())? != kind {
            return Err(self.torn());
        }
        let mut tracer = self.tracer.borrow_mut();
        tracer.trail.push(self.note);
        Ok(tracer.notes[self.note].choice)
    }

    fn leaf<T>(self, kind: LeafKind, visit: impl FnOnce(usize) -> Result<T, Ended>) -> Result<T, Ended> {
        let choice = self.sampled(Kind::Leaf(kind))?;
        visit(choice).map_err(|ended| self.reject(ended))
    }

    fn anything<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let choice = self.sampled(Kind::Anything)?;
        anything(choice, visitor).map_err(|ended: Ended| self.reject(ended))
    }

    /// Reads a list or a map, and marks it as being read meanwhile.
    fn several<T>(self, read: impl FnOnce(usize) -> Result<T, Ended>) -> Result<T, Ended> {
        let (count, outer) = {
            let mut tracer = self.tracer.borrow_mut();
            let count = tracer.how_many(self.note, 2)?;
            (count, std::mem::replace(&mut tracer.notes[self.note].active, true))
        };
        let result = read(count);
        let mut tracer = self.tracer.borrow_mut();
        tracer.notes[self.note].active = outer;
        match result {
            Ok(value) => {
                tracer.changed |= !tracer.notes[self.note].succeeded;
                tracer.notes[self.note].succeeded = true;
                Ok(value)
            }
            Err(ended) => {
                // Further in, the same list may have been given with another length.
                tracer.notes[self.note].choice = count;
                Err(tracer.reject(self.note, ended))
            }
        }
    }

    fn items<'de, V: Visitor<'de>>(self, items: &[usize], visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_seq(Items { node: self, items }).map_err(|ended| if ended.noted { ended } else { Ended::stuck() })
    }

    fn group<'de, V: Visitor<'de>>(self, group: usize, visitor: V) -> Result<V::Value, Ended> {
        let order = {
            let tracer = self.tracer.borrow();
            let Group { fields, first, .. } = &tracer.groups[group];
            let mut order: Vec<_> = (0..fields.len()).filter(|field| !fields[*field].alias).collect();
            // A pass ends at the first field that cannot be read: those come last.
            order.sort_by_key(|field| (fields[*field].stuck, field != first));
            order
        };
        let mut given = Named { node: self, group, order: &order, at: 0 };
        let result = visitor.visit_map(&mut given);
        let at = given.at;
        let mut tracer = self.tracer.borrow_mut();
        let Tracer { groups, changed, .. } = &mut *tracer;
        let Group { fields, first, complete, stuck, .. } = &mut groups[group];
        match result {
            Ok(value) => {
                if at == order.len() {
                    *changed |= !*complete;
                    *complete = true;
                }
                Ok(value)
            }
            Err(ended) if ended.noted => Err(ended),
            Err(Ended { duplicate: Some(name), .. }) if at > 0 => {
                // Two names of one field: the other one is kept, as it is the one that is written.
                let last = order[at - 1];
                *changed = true;
                if fields[last].name != name {
                    fields[last].alias = true;
                } else if *first != last {
                    *first = last;
                } else {
                    *stuck = true;
                }
                Err(Ended { duplicate: None, noted: true, stuck: *stuck })
            }
            Err(_) => {
                *changed |= !*stuck;
                *stuck = true;
                Err(Ended::stuck())
            }
        }
    }
}

macro_rules! leaves {
    ($($method:ident $kind:ident $visit:ident |$choice:ident| $value:expr;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
            self.leaf(LeafKind::$kind, |$choice| visitor.$visit($value))
        }
    )* };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Ended;

    fn is_human_readable(&self) -> bool {
        false
    }

    leaves! {
        deserialize_bool Bool visit_bool |choice| choice == 0;
        deserialize_u8 U8 visit_u8 |choice| INTEGERS[choice] as u8;
        deserialize_u16 U16 visit_u16 |choice| INTEGERS[choice] as u16;
        deserialize_u32 U32 visit_u32 |choice| INTEGERS[choice] as u32;
        deserialize_u64 U64 visit_u64 |choice| INTEGERS[choice] as u64;
        deserialize_u128 U128 visit_u128 |choice| INTEGERS[choice] as u128;
        deserialize_i8 I8 visit_i8 |choice| INTEGERS[choice] as i8;
        deserialize_i16 I16 visit_i16 |choice| INTEGERS[choice] as i16;
        deserialize_i32 I32 visit_i32 |choice| INTEGERS[choice] as i32;
        deserialize_i64 I64 visit_i64 |choice| INTEGERS[choice];
        deserialize_i128 I128 visit_i128 |choice| INTEGERS[choice].into();
        deserialize_f32 F32 visit_f32 |choice| 1.0 - choice as f32;
        deserialize_f64 F64 visit_f64 |choice| 1.0 - choice as f64;
        deserialize_char Char visit_str |choice| CHARS[choice];
        deserialize_str Str visit_str |choice| TEXTS[choice];
        deserialize_string Str visit_str |choice| TEXTS[choice];
        deserialize_bytes Bytes visit_bytes |choice| BYTES[choice];
        deserialize_byte_buf Bytes visit_bytes |choice| BYTES[choice];
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.anything(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.anything(visitor)
    }

    /// Names have a deserializer of their own; outside a struct they are looked for in a map that may hold others.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.anything(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        self.sampled(Kind::Unit)?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Ended> {
        self.sampled(Kind::UnitStruct)?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let Kind::Option(inner) = self.ask(|tracer| Kind::Option(tracer.place()))? else { return Err(self.torn()) };
        let (some, outer) = {
            let mut tracer = self.tracer.borrow_mut();
            let some = tracer.how_many(self.note, 1)?;
            (some, std::mem::replace(&mut tracer.notes[self.note].active, true))
        };
        let result = if some == 1 { visitor.visit_some(self.inside(inner)) } else { visitor.visit_none() };
        self.tracer.borrow_mut().notes[self.note].active = outer;
        result.map_err(|ended| {
            self.tracer.borrow_mut().notes[self.note].choice = some;
            // What an inner type says after it has read is seen by whoever asked for the whole.
            if ended.noted || some == 0 { self.reject(ended) } else { ended }
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Ended> {
        let Kind::Newtype(inner) = self.ask(|tracer| Kind::Newtype(tracer.place()))? else { return Err(self.torn()) };
        visitor.visit_newtype_struct(self.inside(inner))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let Kind::Seq(inner) = self.ask(|tracer| Kind::Seq(tracer.place()))? else { return Err(self.torn()) };
        self.several(|count| visitor.visit_seq(Items { node: self, items: &[inner; 2][..count] }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let kind = self.ask(|tracer| Kind::Map(tracer.place(), tracer.place()))?;
        let Kind::Map(key, value) = kind else { return Err(self.torn()) };
        self.several(|count| visitor.visit_map(Entries { node: self, key, value, left: count }))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Ended> {
        if length > PLACES {
            return Err(self.torn());
        }
        match self.ask(|tracer| Kind::Tuple(tracer.places(length)))? {
            Kind::Tuple(items) if items.len() == length => self.items(&items, visitor),
            _ => Err(self.torn()),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        let identity = identity(self.reader, name, fields);
        let group = {
            let mut tracer = self.tracer.borrow_mut();
            match tracer.structs.get(&identity) {
                Some(group) => *group,
                None => {
                    let group = tracer.group(name, fields);
                    tracer.structs.insert(identity, group);
                    group
                }
            }
        };
        if self.ask(|_| Kind::Struct(group))? != Kind::Struct(group) {
            return Err(self.torn());
        }
        self.group(group, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        let identity = identity(self.reader, name, variants);
        let choice = {
            let mut tracer = self.tracer.borrow_mut();
            match tracer.enums.get(&identity) {
                Some(choice) => *choice,
                None => {
                    let untried =
                        |name| VariantNote { name, content: None, succeeded: false, stuck: false, active: false };
                    let variants = variants.iter().copied().map(untried).collect();
                    tracer.choices.push(Choice { name, variants, first: None, torn: false });
                    let choice = tracer.choices.len() - 1;
                    tracer.enums.insert(identity, choice);
                    choice
                }
            }
        };
        if self.ask(|_| Kind::Enum(choice))? != Kind::Enum(choice) {
            return Err(self.torn());
        }
        let (variant, outer) = {
            let mut tracer = self.tracer.borrow_mut();
            let variant = tracer.variant(choice).ok_or_else(Ended::stuck)?;
            (variant, std::mem::replace(&mut tracer.choices[choice].variants[variant].active, true))
        };
        let result = visitor.visit_enum(One { node: self, choice, variant });
        let mut tracer = self.tracer.borrow_mut();
        let Tracer { choices, changed, .. } = &mut *tracer;
        let Choice { variants, first, .. } = &mut choices[choice];
        variants[variant].active = outer;
        match result {
            Ok(value) => {
                *changed |= !variants[variant].succeeded;
                variants[variant].succeeded = true;
                first.get_or_insert(variant);
                Ok(value)
            }
            Err(ended) if ended.noted && !ended.stuck => Err(ended),
            Err(_) => {
                *changed |= !variants[variant].stuck;
                variants[variant].stuck = true;
                // Another variant may do.
                Err(Ended { stuck: variants.iter().all(|variant| variant.stuck), ..Ended::stuck() })
            }
        }
    }
}

struct Items<'t, 'i> {
    node: Node<'t>,
    items: &'i [usize],
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Ended;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Ended> {
        let Some((item, rest)) = self.items.split_first() else { return Ok(None) };
        self.items = rest;
        self.node.inside(*item).give(seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'t> {
    node: Node<'t>,
    key: usize,
    value: usize,
    left: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Ended;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Ended> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        self.node.inside(self.key).give(seed).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Ended> {
        self.node.inside(self.value).give(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct Named<'t, 'o> {
    node: Node<'t>,
    group: usize,
    order: &'o [usize],
    at: usize,
}

impl<'de> MapAccess<'de> for Named<'_, '_> {
    type Error = Ended;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Ended> {
        let Some(field) = self.order.get(self.at) else { return Ok(None) };
        self.at += 1;
        let name = self.node.tracer.borrow().groups[self.group].fields[*field].name;
        let name: StrDeserializer<'_, Ended> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Ended> {
        // A value that nobody gave the name of before is asked for by a visitor that breaks serde's rules.
        let field = *self.order.get(self.at.wrapping_sub(1)).ok_or_else(Ended::stuck)?;
        let note = self.node.tracer.borrow().groups[self.group].fields[field].note;
        let result = self.node.inside(note).give(seed);
        let mut tracer = self.node.tracer.borrow_mut();
        let torn = tracer.notes[note].kind == Kind::Torn;
        let Tracer { groups, changed, .. } = &mut *tracer;
        let Group { fields, torn: group_torn, .. } = &mut groups[self.group];
        *changed |= torn && !*group_torn;
        *group_torn |= torn;
        if let Err(Ended { stuck: true, .. }) = result {
            *changed |= !fields[field].stuck;
            fields[field].stuck = true;
        }
        result
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.order.len() - self.at)
    }
}

struct One<'t> {
    node: Node<'t>,
    choice: usize,
    variant: usize,
}

impl One<'_> {
    fn content(&self, content: impl FnOnce(&mut Tracer) -> ContentNote) -> ContentNote {
        let mut tracer = self.node.tracer.borrow_mut();
        if let Some(content) = &tracer.choices[self.choice].variants[self.variant].content {
            return content.clone();
        }
        let content = content(&mut tracer);
        tracer.choices[self.choice].variants[self.variant].content = Some(content.clone());
        tracer.changed = true;
        content
    }

    fn torn(&self) -> Ended {
        let mut tracer = self.node.tracer.borrow_mut();
        tracer.changed |= !tracer.choices[self.choice].torn;
        tracer.choices[self.choice].torn = true;
        Ended::stuck()
    }
}

impl<'de> EnumAccess<'de> for One<'_> {
    type Error = Ended;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Ended> {
        let name = self.node.tracer.borrow().choices[self.choice].variants[self.variant].name;
        let name: StrDeserializer<'_, Ended> = name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for One<'_> {
    type Error = Ended;

    fn unit_variant(self) -> Result<(), Ended> {
        match self.content(|_| ContentNote::Unit) {
            ContentNote::Unit => Ok(()),
            _ => Err(self.torn()),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Ended> {
        match self.content(|tracer| ContentNote::Newtype(tracer.place())) {
            ContentNote::Newtype(note) => self.node.inside(note).give(seed),
            _ => Err(self.torn()),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Ended> {
        if length > PLACES {
            return Err(self.torn());
        }
        match self.content(|tracer| ContentNote::Tuple(tracer.places(length))) {
            ContentNote::Tuple(items) if items.len() == length => self.node.items(&items, visitor),
            _ => Err(self.torn()),
        }
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Ended> {
        match self.content(|tracer| ContentNote::Struct(tracer.group("", fields))) {
            ContentNote::Struct(group) => self.node.group(group, visitor),
            _ => Err(self.torn()),
        }
    }
}
