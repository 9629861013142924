//! Whether a type can read what has another's shape: its `Deserialize` is run on samples of that shape.
//!
//! The samples are what the reader in `pack` would say of the same values, hint by hint.
//! Where there is a choice, one is made after the other (every variant, something and nothing), each once for each type
//! that reads it there. The samples end when nothing is left to choose.

use std::{
    any::type_name,
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
    marker::PhantomData,
};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
    value::{SeqDeserializer, StrDeserializer},
};

use super::{
    Container, Content, DEPTH, Fields, LeafKind, Sample, Shape, Shapes, Variant,
    trace::{ANYTHING, TEXTS, anything},
};

/// How many samples there are at most.
const PASSES: usize = 4096;
/// How large one sample may be, in values and bytes of names, and all of them together. Shapes come from strangers.
const ONE: usize = 1 << 16;
const ALL: usize = 1 << 20;

/// Why what the running process has cannot be read here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShapeMismatch {
    /// Where: `.sessions[].name`. Empty where it is the whole.
    pub(crate) path: String,
    pub(crate) what: String,
}

/// Each value that `T` reads goes to `read`.
pub(super) fn run<T: DeserializeOwned>(shapes: &Shapes, mut read: impl FnMut(T)) -> Result<(), ShapeMismatch> {
    let samples = Samples {
        shapes,
        sites: RefCell::default(),
        trail: RefCell::default(),
        failing: RefCell::default(),
        fresh: Cell::new(0),
        barren: Cell::new(0),
        left: Cell::new(0),
    };
    let mut all = ALL;
    for _ in 0..PASSES {
        samples.fresh.set(0);
        samples.barren.set(0);
        samples.left.set(ONE);
        let root = Source::Shape(&shapes.root);
        match samples.give(root, 0, PhantomData::<T>) {
            Ok(value) => read(value),
            Err(Failed { refused: Some(what), path, .. }) => return Err(ShapeMismatch { path, what }),
            Err(_) => {}
        }
        all = all.saturating_sub(ONE - samples.left.get());
        if all == 0 || (samples.fresh.get() == 0 && samples.barren.get() == 0) {
            break;
        }
    }
    Ok(())
}

/// How far an error has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Not,
    /// By the deserializer whose visitor made it.
    Here,
    /// By what gave that deserializer to a type.
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum About {
    Data,
    Kind,
    Length,
    Field,
    Missing,
}

#[derive(Debug)]
struct Failed {
    about: About,
    /// What to say, unless only the data can tell.
    refused: Option<String>,
    path: String,
    seen: Seen,
}

impl Failed {
    fn because(about: About, what: String) -> Self {
        Self { about, refused: Some(what), path: String::new(), seen: Seen::Not }
    }

    fn data() -> Self {
        Self { about: About::Data, refused: None, path: String::new(), seen: Seen::Not }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.refused.as_deref().unwrap_or("a made-up value was rejected"))
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::data()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::because(About::Kind, format!("invalid type: {}, expected {expected}", kind(found)))
    }

    fn invalid_value(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::data()
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::because(About::Length, format!("invalid length {length}, expected {expected}"))
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Self::data()
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::because(About::Field, format!("unknown field `{field}`"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::because(About::Missing, format!("missing field `{field}`"))
    }

    fn duplicate_field(_: &'static str) -> Self {
        Self::data()
    }
}

/// serde's words, without the value: that was made up.
fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "integer",
        Unexpected::Float(_) => "floating point number",
        Unexpected::Char(_) => "character",
        Unexpected::Str(_) => "string",
        Unexpected::Bytes(_) => "byte array",
        Unexpected::Unit => "unit value",
        Unexpected::Option => "option value",
        Unexpected::NewtypeStruct => "newtype struct",
        Unexpected::Seq => "sequence",
        Unexpected::Map => "map",
        Unexpected::Enum => "enum",
        Unexpected::UnitVariant => "unit variant",
        Unexpected::NewtypeVariant => "newtype variant",
        Unexpected::TupleVariant => "tuple variant",
        Unexpected::StructVariant => "struct variant",
        Unexpected::Other(_) => "other value",
    }
}

/// A place in the shape, by its address, and the type that reads it there.
type Place = (usize, &'static str);

#[derive(Default)]
struct Site {
    next: usize,
    /// Those that were refused for what kind of value they are, a bit each; only texts can be right and wrong in that.
    refused: u32,
    /// The first that was read. In a type that is in itself, it came to an end.
    read: Option<usize>,
    /// Those within which there was something new the last time.
    fruitful: Vec<usize>,
    /// One is being read further out.
    active: bool,
}

/// What was chosen, and how much was new by then.
struct Step {
    place: Place,
    chosen: usize,
    fresh: usize,
    barren: usize,
    outer: bool,
}

struct Samples<'s> {
    shapes: &'s Shapes,
    sites: RefCell<HashMap<Place, Site>>,
    /// What was chosen in this sample, in order.
    trail: RefCell<Vec<Step>>,
    /// Fields that were not read. A sample ends there, so they come last.
    failing: RefCell<HashSet<Place>>,
    /// How many things this sample has that none before it had.
    fresh: Cell<usize>,
    /// How many of its choices were fruitful and are not any more, so that others have their turn. Without anything new there are fewer
    /// each time.
    barren: Cell<usize>,
    left: Cell<usize>,
}

/// Where a value is made from.
#[derive(Clone, Copy)]
enum Source<'s> {
    Shape(&'s Shape),
    Content(&'s Content),
    Text(&'s str),
}

/// A value, as it would lie in the bytes.
#[derive(Clone, Copy)]
enum Wire<'s> {
    /// No sample can be made, or none should.
    Stop,
    /// One of several, for what is not known.
    Anything(usize),
    Nil,
    Bool,
    Float {
        single: bool,
    },
    Integer(i64),
    Text(&'s str),
    Bytes(&'s [u8]),
    Empty,
    Seq(Option<&'s Shape>),
    Tuple(&'s [Shape]),
    Map(Option<(&'s Shape, &'s Shape)>),
    Struct(&'s Fields),
    Variant(&'s Variant),
}

impl<'s> Samples<'s> {
    /// Lets the seed read a sample. What a type says of it only after it has read it depends on the data.
    fn give<'de, S: DeserializeSeed<'de>>(
        &self,
        source: Source<'s>,
        depth: usize,
        seed: S,
    ) -> Result<S::Value, Failed> {
        let since = self.trail.borrow().len();
        let value = self.value(source, depth, type_name::<S::Value>());
        let result = seed.deserialize(value);
        let mut sites = self.sites.borrow_mut();
        // The innermost first: as long as something goes on there, it does in what is around it.
        for Step { place, chosen, fresh, barren, outer } in self.trail.borrow_mut().drain(since..).rev() {
            let site = sites.entry(place).or_default();
            if outer {
                site.active = false;
            }
            if result.is_ok() {
                site.read.get_or_insert(chosen);
            }
            if self.fresh.get() > fresh {
                site.fruitful.retain(|other| *other != chosen);
                site.fruitful.push(chosen);
            } else if outer && self.barren.get() == barren && site.fruitful.contains(&chosen) {
                site.fruitful.retain(|other| *other != chosen);
                self.barren.set(self.barren.get() + 1);
            }
        }
        result.map_err(|mut failed| {
            if failed.seen == Seen::Not {
                failed.refused = None;
            }
            failed.seen = Seen::Outside;
            failed
        })
    }

    fn choose(&self, place: Place, ways: usize, until_read: bool) -> usize {
        let mut sites = self.sites.borrow_mut();
        let site = sites.entry(place).or_default();
        let chosen = if site.next < ways && !(until_read && site.read.is_some()) {
            self.fresh.set(self.fresh.get() + 1);
            site.next += 1;
            site.next - 1
        } else {
            let fruitful = site.fruitful.last().copied().filter(|_| !site.active);
            fruitful.or(site.read).unwrap_or(0)
        };
        let outer = !std::mem::replace(&mut site.active, true);
        let (fresh, barren) = (self.fresh.get(), self.barren.get());
        self.trail.borrow_mut().push(Step { place, chosen, fresh, barren, outer });
        chosen
    }

    fn spend(&self, cost: usize) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(cost));
        left >= cost
    }

    fn value<'c>(&'c self, source: Source<'s>, depth: usize, reader: &'static str) -> Value<'c, 's> {
        let mut value = Value { samples: self, wire: Wire::Stop, soft: false, text: None, depth: depth + 1 };
        if depth > DEPTH || !self.spend(1) {
            return value;
        }
        let mut shape = match source {
            Source::Shape(shape) => shape,
            Source::Text(text) => {
                value.wire = Wire::Text(text);
                return value;
            }
            Source::Content(Content::Newtype(shape)) => shape,
            Source::Content(content) => {
                value.wire = match content {
                    Content::Tuple(items) => Wire::Tuple(items),
                    Content::Struct(fields) => Wire::Struct(fields),
                    _ => Wire::Stop,
                };
                return value;
            }
        };
        loop {
            let place = (std::ptr::from_ref(shape) as usize, reader);
            value.wire = match shape {
                Shape::Newtype(inner) => {
                    shape = inner;
                    continue;
                }
                Shape::Option(inner) if self.choose(place, 2, false) == 1 => {
                    shape = inner;
                    continue;
                }
                // Whether there is nothing, the data say.
                Shape::Option(_) => {
                    value.soft = true;
                    Wire::Nil
                }
                Shape::Unknown => {
                    value.soft = true;
                    Wire::Anything(self.choose(place, ANYTHING, true))
                }
                Shape::Unit => Wire::Nil,
                Shape::UnitStruct => Wire::Empty,
                Shape::Seq(inner) => Wire::Seq((self.choose(place, 2, false) == 1).then_some(inner)),
                Shape::Map(key, inner) => Wire::Map((self.choose(place, 2, false) == 1).then_some((key, inner))),
                Shape::Tuple(items) => Wire::Tuple(items),
                Shape::Container(at) => match &self.shapes.containers[*at] {
                    Container::Struct { fields, .. } => Wire::Struct(fields),
                    Container::Enum { variants, .. } => {
                        let place = (std::ptr::from_ref(variants) as usize, reader);
                        match variants.get(self.choose(place, variants.len(), false)) {
                            Some(variant) if self.spend(variant.name.len()) => Wire::Variant(variant),
                            _ => Wire::Stop,
                        }
                    }
                },
                Shape::Leaf { kind, sample, picky } => match (kind, sample) {
                    (LeafKind::Bool, _) => Wire::Bool,
                    (_, Sample::Integer(integer)) => Wire::Integer(*integer),
                    (_, Sample::Bytes(bytes)) => Wire::Bytes(bytes),
                    (LeafKind::Str, Sample::Text(sample)) if !picky => {
                        let chosen = self.choose(place, TEXTS.len() + 1, true);
                        // Some types say of text that does not parse that it is of another kind.
                        value.text = Some((place, chosen));
                        match chosen {
                            0 => Wire::Text(sample),
                            other => Wire::Text(TEXTS[other - 1]),
                        }
                    }
                    (_, Sample::Text(text)) => Wire::Text(text),
                    (kind, Sample::Any) => Wire::Float { single: *kind == LeafKind::F32 },
                },
            };
            return value;
        }
    }
}

struct Value<'c, 's> {
    samples: &'c Samples<'s>,
    wire: Wire<'s>,
    /// Whatever goes wrong with it, the data need not.
    soft: bool,
    /// Which of several texts this is, and where it was chosen.
    text: Option<(Place, usize)>,
    depth: usize,
}

/// What is asked for, as far as it matters.
#[derive(Clone, Copy, PartialEq)]
enum Hint {
    /// Anything, or a map: some types keep what they read here, and look at it when they have all of it.
    Any,
    /// A list or tuple. Bytes are read as a list of numbers.
    Parts,
    /// A struct: its fields have names.
    Fields,
    Leaf,
}

impl<'c, 's> Value<'c, 's> {
    fn unexpected(&self) -> Unexpected<'s> {
        match self.wire {
            Wire::Stop | Wire::Anything(_) => Unexpected::Other("unknown"),
            Wire::Nil => Unexpected::Unit,
            Wire::Bool => Unexpected::Bool(true),
            Wire::Float { .. } => Unexpected::Float(1.0),
            Wire::Integer(integer) => Unexpected::Signed(integer),
            Wire::Text(text) => Unexpected::Str(text),
            Wire::Bytes(bytes) => Unexpected::Bytes(bytes),
            Wire::Empty | Wire::Seq(_) | Wire::Tuple(_) => Unexpected::Seq,
            Wire::Map(_) | Wire::Struct(_) => Unexpected::Map,
            Wire::Variant(Variant { content: Content::Unit, name }) => Unexpected::Str(name),
            Wire::Variant(_) => Unexpected::Map,
        }
    }

    /// What the reader says without asking the visitor.
    fn refuse<T>(self, expected: &dyn Expected) -> Result<T, Failed> {
        let failed = de::Error::invalid_type(self.unexpected(), expected);
        self.finish(Hint::Leaf, false, Err(failed))
    }

    /// Looks at what the visitor made of this value.
    fn finish<T>(self, hint: Hint, touched: bool, result: Result<T, Failed>) -> Result<T, Failed> {
        result.map_err(|mut failed| {
            if failed.seen == Seen::Not {
                failed.seen = Seen::Here;
                let kept = match failed.about {
                    About::Data => false,
                    // A visitor that has begun to read does not mind the kind; it is about something within.
                    About::Kind => !(touched && hint == Hint::Any),
                    // The length of anything else is the data's.
                    About::Length => matches!(self.wire, Wire::Tuple(_)),
                    About::Missing | About::Field => !matches!(self.wire, Wire::Map(_)),
                };
                if !kept {
                    failed.refused = None;
                }
                if let (Some((place, chosen)), Some(_)) = (self.text, &failed.refused) {
                    let mut sites = self.samples.sites.borrow_mut();
                    let site = sites.entry(place).or_default();
                    site.refused |= 1 << chosen;
                    if site.refused.count_ones() as usize <= TEXTS.len() {
                        failed.refused = None;
                    }
                }
            }
            if self.soft {
                failed.refused = None;
            }
            failed
        })
    }

    fn any<'de, V: Visitor<'de>>(self, hint: Hint, visitor: V) -> Result<V::Value, Failed> {
        let mut touched = false;
        let result = match self.wire {
            Wire::Stop => Err(Failed::data()),
            Wire::Anything(number) => anything(number, visitor),
            Wire::Nil => visitor.visit_unit(),
            Wire::Bool => visitor.visit_bool(true),
            Wire::Float { single: true } => visitor.visit_f32(1.0),
            Wire::Float { single: false } => visitor.visit_f64(1.0),
            Wire::Integer(integer) => match u64::try_from(integer) {
                Ok(integer) => visitor.visit_u64(integer),
                Err(_) => visitor.visit_i64(integer),
            },
            Wire::Text(text) => visitor.visit_str(text),
            Wire::Bytes(bytes) => read_bytes(bytes, hint, visitor),
            Wire::Empty => self.items(&[], &mut touched, visitor),
            Wire::Seq(inner) => self.items(inner.map_or(&[], std::slice::from_ref), &mut touched, visitor),
            Wire::Tuple(items) => self.items(items, &mut touched, visitor),
            Wire::Map(None) => self.entries(&[], true, &mut touched, visitor),
            Wire::Map(Some((key, _))) if hint == Hint::Fields && !may_be_text(key) => {
                Err(de::Error::invalid_type(Unexpected::Other("other value"), &"the name of a field"))
            }
            Wire::Map(Some((key, inner))) => {
                self.entries(&[(Source::Shape(key), Source::Shape(inner))], true, &mut touched, visitor)
            }
            Wire::Struct(fields) if self.samples.spend(fields.list.len()) => {
                self.entries(&self.fields(fields), fields.settled, &mut touched, visitor)
            }
            Wire::Struct(_) => Err(Failed::data()),
            Wire::Variant(Variant { name, content: Content::Unit }) => visitor.visit_str(name),
            Wire::Variant(Variant { name, content }) => {
                self.entries(&[(Source::Text(name), Source::Content(content))], true, &mut touched, visitor)
            }
        };
        self.finish(hint, touched, result)
    }

    /// By the names of its fields.
    fn named<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.wire {
            Wire::Map(_) | Wire::Struct(_) | Wire::Variant(_) | Wire::Stop | Wire::Anything(_) => {
                self.any(Hint::Fields, visitor)
            }
            _ => self.refuse(&visitor),
        }
    }

    fn items<'de, V: Visitor<'de>>(
        &self,
        items: &'s [Shape],
        touched: &mut bool,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let fixed = matches!(self.wire, Wire::Tuple(_));
        let mut given = Items { samples: self.samples, items, at: 0, fixed, depth: self.depth };
        let result = visitor.visit_seq(&mut given);
        *touched = given.at > 0;
        match result {
            Ok(_) if given.at < items.len() => Err(Failed::because(
                About::Length,
                format!("invalid length {}, expected no more than {}", items.len(), given.at),
            )),
            result => result,
        }
    }

    fn fields(&self, fields: &'s Fields) -> Vec<(Source<'s>, Source<'s>)> {
        let failing = self.samples.failing.borrow();
        let mut list: Vec<_> = fields.list.iter().collect();
        list.sort_by_key(|(_, shape)| failing.contains(&failing_place(shape)));
        list.into_iter().map(|(name, shape)| (Source::Text(name), Source::Shape(shape))).collect()
    }

    fn entries<'de, V: Visitor<'de>>(
        &self,
        entries: &[(Source<'s>, Source<'s>)],
        settled: bool,
        touched: &mut bool,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let mut given = Entries { samples: self.samples, entries, at: 0, settled, depth: self.depth };
        let result = visitor.visit_map(&mut given);
        *touched = given.at > 0;
        match result {
            Ok(_) if given.at < entries.len() => Err(Failed::data()),
            result => result,
        }
    }
}

fn read_bytes<'de, V: Visitor<'de>>(bytes: &[u8], hint: Hint, visitor: V) -> Result<V::Value, Failed> {
    if hint == Hint::Parts {
        visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
    } else {
        visitor.visit_bytes(bytes)
    }
}

/// Whether what has this shape can be a name.
fn may_be_text(shape: &Shape) -> bool {
    match shape {
        Shape::Newtype(inner) | Shape::Option(inner) => may_be_text(inner),
        Shape::Leaf { kind, .. } => matches!(kind, LeafKind::Str | LeafKind::Char | LeafKind::Bytes),
        Shape::Container(_) | Shape::Unknown => true,
        _ => false,
    }
}

fn failing_place(shape: &Shape) -> Place {
    (std::ptr::from_ref(shape) as usize, "")
}

macro_rules! hints {
    ($($method:ident $give:ident($($hint:ident)?);)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            self.$give($(Hint::$hint,)? visitor)
        }
    )* };
}

impl<'de> Deserializer<'de> for Value<'_, '_> {
    type Error = Failed;

    fn is_human_readable(&self) -> bool {
        false
    }

    hints! {
        deserialize_any any(Any);
        deserialize_map any(Any);
        deserialize_seq any(Parts);
        deserialize_char any(Leaf);
        deserialize_str any(Leaf);
        deserialize_string any(Leaf);
        deserialize_bytes any(Leaf);
        deserialize_byte_buf any(Leaf);
        deserialize_unit any(Leaf);
        deserialize_identifier any(Leaf);
        deserialize_bool any(Leaf);
        deserialize_i8 any(Leaf);
        deserialize_i16 any(Leaf);
        deserialize_i32 any(Leaf);
        deserialize_i64 any(Leaf);
        deserialize_u8 any(Leaf);
        deserialize_u16 any(Leaf);
        deserialize_u32 any(Leaf);
        deserialize_u64 any(Leaf);
        deserialize_f32 any(Leaf);
        deserialize_f64 any(Leaf);
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.wire {
            Wire::Integer(integer) => {
                let result = visitor.visit_i128(integer.into());
                self.finish(Hint::Leaf, false, result)
            }
            Wire::Bytes(_) | Wire::Stop | Wire::Anything(_) => Err(Failed::data()),
            _ => self.refuse(&visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.wire {
            Wire::Integer(integer) => {
                let result = visitor.visit_u128(i128::from(integer) as u128);
                self.finish(Hint::Leaf, false, result)
            }
            Wire::Bytes(_) | Wire::Stop | Wire::Anything(_) => Err(Failed::data()),
            _ => self.refuse(&visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.wire {
            Wire::Nil | Wire::Anything(0) => {
                let result = visitor.visit_none();
                self.finish(Hint::Leaf, false, result)
            }
            // The inner type's errors are seen where it reads; what is not seen there was said afterwards.
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        match self.wire {
            Wire::Nil | Wire::Empty | Wire::Seq(None) | Wire::Tuple([]) => {
                let result = visitor.visit_unit();
                self.finish(Hint::Leaf, false, result)
            }
            _ => self.any(Hint::Any, visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failed> {
        self.any(Hint::Parts, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.any(Hint::Parts, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.named(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let named = |name, content| One { samples: self.samples, name, content, depth: self.depth };
        let result = match self.wire {
            Wire::Variant(Variant { name, content: Content::Unit }) => {
                visitor.visit_enum(named(Source::Text(name), None))
            }
            Wire::Variant(Variant { name, content }) => {
                visitor.visit_enum(named(Source::Text(name), Some(Source::Content(content))))
            }
            Wire::Struct(Fields { list, .. }) => match &list[..] {
                [(name, shape)] => visitor.visit_enum(named(Source::Text(name), Some(Source::Shape(shape)))),
                _ => return self.refuse(&"the name of a variant"),
            },
            // Which variant it would be, and whether there is one, the data say.
            Wire::Text(_) | Wire::Map(_) | Wire::Stop | Wire::Anything(_) => Err(Failed::data()),
            _ => return self.refuse(&"the name of a variant"),
        };
        self.finish(Hint::Parts, true, result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }
}

struct Items<'c, 's> {
    samples: &'c Samples<'s>,
    items: &'s [Shape],
    at: usize,
    fixed: bool,
    depth: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Failed;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failed> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        self.at += 1;
        self.samples.give(Source::Shape(item), self.depth, seed).map(Some).map_err(|mut failed| {
            let rest = std::mem::take(&mut failed.path);
            failed.path = if self.fixed { format!(".{}{rest}", self.at - 1) } else { format!("[]{rest}") };
            failed
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.at)
    }
}

struct Entries<'c, 's, 'e> {
    samples: &'c Samples<'s>,
    entries: &'e [(Source<'s>, Source<'s>)],
    at: usize,
    /// Its names are all fields.
    settled: bool,
    depth: usize,
}

impl<'de> MapAccess<'de> for Entries<'_, '_, '_> {
    type Error = Failed;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failed> {
        let Some((key, _)) = self.entries.get(self.at) else { return Ok(None) };
        self.at += 1;
        let name = match key {
            Source::Text(name) if !self.samples.spend(name.len()) => return Err(Failed::data()),
            Source::Text(_) => true,
            _ => false,
        };
        self.samples.give(*key, self.depth, seed).map(Some).map_err(|mut failed| {
            if failed.about == About::Field && !(name && self.settled) {
                failed.refused = None;
            }
            if !name {
                failed.path.insert_str(0, "[key]");
            }
            failed
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        // A value that nobody took the name of before is asked for by a visitor that breaks serde's rules.
        let Some((key, source)) = self.at.checked_sub(1).and_then(|at| self.entries.get(at)) else {
            return Err(Failed::data());
        };
        self.samples.give(*source, self.depth, seed).map_err(|mut failed| {
            let mut path = String::new();
            // Writing to a `String` cannot fail.
            let _ = match key {
                Source::Text(name) => write!(path, ".{name}{}", failed.path),
                _ => write!(path, "[]{}", failed.path),
            };
            failed.path = path;
            if let Source::Shape(shape) = source
                && self.samples.failing.borrow_mut().insert(failing_place(shape))
            {
                // The next sample has this one last, and more before it.
                self.samples.fresh.set(self.samples.fresh.get() + 1);
            }
            failed
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len() - self.at)
    }
}

struct One<'c, 's> {
    samples: &'c Samples<'s>,
    name: Source<'s>,
    content: Option<Source<'s>>,
    depth: usize,
}

impl<'c, 's> One<'c, 's> {
    fn at(&self, failed: Failed) -> Failed {
        match self.name {
            Source::Text(name) => Failed { path: format!(".{name}{}", failed.path), ..failed },
            _ => failed,
        }
    }

    fn content(&self, expected: &str) -> Result<Source<'s>, Failed> {
        self.content.ok_or_else(|| self.at(de::Error::invalid_type(Unexpected::UnitVariant, &expected)))
    }

    fn value<'de, V: Visitor<'de>>(&self, expected: &str) -> Result<Value<'c, 's>, Failed> {
        let content = self.content(expected)?;
        Ok(self.samples.value(content, self.depth, type_name::<V::Value>()))
    }
}

impl<'de> EnumAccess<'de> for One<'_, '_> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Failed> {
        let Source::Text(name) = self.name else { return Err(Failed::data()) };
        let name: StrDeserializer<'_, Failed> = name.into_deserializer();
        // A variant that is not there only matters if the data have it.
        let variant = seed.deserialize(name).map_err(|_| Failed::data())?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for One<'_, '_> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        match self.content {
            None => Ok(()),
            Some(content) => {
                let value = self.samples.value(content, self.depth, "()");
                match value.wire {
                    Wire::Nil => Ok(()),
                    Wire::Stop | Wire::Anything(_) => Err(Failed::data()),
                    _ => value.refuse(&"unit variant").map_err(|failed| self.at(failed)),
                }
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failed> {
        let content = self.content("newtype variant")?;
        self.samples.give(content, self.depth, seed).map_err(|failed| self.at(failed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failed> {
        self.value::<V>("tuple variant")?.any(Hint::Parts, visitor).map_err(|failed| self.at(failed))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Failed> {
        self.value::<V>("struct variant")?.named(visitor).map_err(|failed| self.at(failed))
    }
}
