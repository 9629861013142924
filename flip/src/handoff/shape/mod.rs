//! What serde writes of a type, found by running the type's own `Deserialize` on made-up values, and whether another
//! type can read it.
//!
//! Such data carry the names of their fields, so serde's own rules decide when they are decoded; but then everything
//! stands still already. The old program's shape travels with its schema, and the new program's `Deserialize` is run
//! on samples made from it before anything stops.
//!
//! What depends on data comes out as [`Shape::Unknown`] and is never guessed at: nothing is refused there.

#[cfg(test)]
mod random;
mod sample;
#[cfg(test)]
mod tests;
mod text;
mod trace;
mod twin;
mod written;

pub(crate) use sample::ShapeMismatch;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Serialize, de::DeserializeOwned};

use super::{Limits, RestoreError, Restorer, SaveError, Saver};

/// How deep a shape may lie in itself, not counting structs and enums, and how deep samples of one may.
const DEPTH: usize = 64;

/// The longest text or bytes that a sample may be.
const SAMPLE: usize = 64;

/// A type's shape, with the structs and enums that it refers to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shapes {
    root: Shape,
    containers: Vec<Container>,
}

/// What is read or written in one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// It depends on the data, or did not show.
    Unknown,
    Unit,
    /// A struct without fields, which is not written as a unit.
    UnitStruct,
    Option(Box<Shape>),
    Seq(Box<Shape>),
    Tuple(Vec<Shape>),
    Map(Box<Shape>, Box<Shape>),
    /// Written as what is in it.
    Newtype(Box<Shape>),
    /// A struct or an enum, by its place in the list of containers.
    Container(usize),
    Leaf {
        kind: LeafKind,
        sample: Sample,
        /// Others were rejected: the type takes only some of what this kind of value can be.
        picky: bool,
    },
}

/// A value that the type accepted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sample {
    /// What nobody is picky about.
    Any,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq)]
enum Container {
    Struct { name: String, fields: Fields },
    Enum { name: String, variants: Vec<Variant> },
}

#[derive(Clone, Debug, PartialEq)]
struct Fields {
    list: Vec<(String, Shape)>,
    /// One value was read whole: no two of the names are the same field.
    settled: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Variant {
    name: String,
    content: Content,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Unknown,
    Unit,
    Newtype(Shape),
    Tuple(Vec<Shape>),
    Struct(Fields),
}

leaves! { pub(crate) LeafKind {
    16 Bool "bool"
    17 Char "char"
    18 U8 "u8"
    19 U16 "u16"
    20 U32 "u32"
    21 U64 "u64"
    22 U128 "u128"
    23 I8 "i8"
    24 I16 "i16"
    25 I32 "i32"
    26 I64 "i64"
    27 I128 "i128"
    28 F32 "f32"
    29 F64 "f64"
    30 Str "a string"
    31 Bytes "bytes"
} }

impl Shapes {
    /// The shape of `T`, as far as it shows.
    ///
    /// Code of the user's runs on values that nobody made. A panic there makes all of it unknown; the panic hook has
    /// printed by then, because replacing it would be seen by every other thread.
    pub(crate) fn trace<T: DeserializeOwned>() -> Self {
        catch_unwind(trace::run::<T>).unwrap_or(Self::unknown())
    }

    /// The same, less what values of `T` are not written as.
    pub(crate) fn of<T: Serialize + DeserializeOwned>() -> Self {
        let mut shapes = Self::trace::<T>();
        let corrected = catch_unwind(AssertUnwindSafe(|| written::correct::<T>(&mut shapes)));
        corrected.map_or(Self::unknown(), |()| shapes.without_twins())
    }

    /// Everything depends on the data.
    pub(crate) fn unknown() -> Self {
        Self { root: Shape::Unknown, containers: Vec::new() }
    }

    /// Whether `T` can read what has this shape, as far as that can be told without the data.
    ///
    /// A field that is missing, a value of another kind, a tuple of another length and a field that nobody may have are
    /// errors. What only some values would be (a variant that is gone, a number that is too large, text that does not
    /// parse) is found when the data come.
    pub(crate) fn check<T: DeserializeOwned>(&self) -> Result<(), ShapeMismatch> {
        // A panic shows nothing about the data; if they cause it as well, it is caught where they are decoded.
        catch_unwind(AssertUnwindSafe(|| sample::run(self, |_: T| ()))).unwrap_or(Ok(()))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Saver::in_memory();
        // In memory nothing can fail; were it to, the other side would see a shape that is cut off and say so.
        let _ = self.write(&mut out);
        out.into_bytes()
    }

    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        out.length(self.containers.len())?;
        self.containers.iter().try_for_each(|container| container.write(out))?;
        self.root.write(out)
    }

    /// Reads what [`encode`](Self::encode) wrote, or what somebody else made up.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Restorer::from_bytes(bytes.to_vec(), Limits::default());
        Self::read(&mut input)
            .and_then(|shapes| input.finish().map(|()| shapes))
            .map_err(|error| format!("its shape cannot be read: {error}"))
    }

    fn read(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        // Nothing is allocated by a claim: each element takes bytes and is only then kept.
        let count = input.length()?;
        let mut containers = Vec::new();
        for _ in 0..count {
            let code = input.scalar::<u8>()?;
            let name = input.text()?;
            containers.push(match code {
                0 => Container::Struct { name, fields: Fields::read(input, count)? },
                1 => {
                    let mut variants = Vec::new();
                    for _ in 0..input.length()? {
                        variants.push(Variant { name: input.text()?, content: Content::read(input, count)? });
                    }
                    Container::Enum { name, variants }
                }
                other => return Err(no_kind(other)),
            });
        }
        let root = Shape::read(input, count, DEPTH)?;
        Ok(Self { root, containers })
    }
}

fn no_kind(code: u8) -> RestoreError {
    RestoreError::new(format!("{code} is no kind of shape"))
}

impl Container {
    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        match self {
            Container::Struct { name, fields } => {
                out.scalar(0u8)?;
                out.text(name)?;
                fields.write(out)
            }
            Container::Enum { name, variants } => {
                out.scalar(1u8)?;
                out.text(name)?;
                out.length(variants.len())?;
                variants.iter().try_for_each(|Variant { name, content }| {
                    out.text(name)?;
                    content.write(out)
                })
            }
        }
    }
}

impl Fields {
    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        out.scalar(self.settled)?;
        out.length(self.list.len())?;
        for (name, shape) in &self.list {
            out.text(name)?;
            shape.write(out)?;
        }
        Ok(())
    }

    fn read(input: &mut Restorer<'_>, containers: usize) -> Result<Self, RestoreError> {
        let settled = input.scalar()?;
        let mut list = Vec::new();
        for _ in 0..input.length()? {
            list.push((input.text()?, Shape::read(input, containers, DEPTH)?));
        }
        Ok(Self { list, settled })
    }
}

impl Content {
    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        match self {
            Content::Unknown => out.scalar(0u8),
            Content::Unit => out.scalar(1u8),
            Content::Newtype(shape) => {
                out.scalar(2u8)?;
                shape.write(out)
            }
            Content::Tuple(items) => {
                out.scalar(3u8)?;
                write_items(items, out)
            }
            Content::Struct(fields) => {
                out.scalar(4u8)?;
                fields.write(out)
            }
        }
    }

    fn read(input: &mut Restorer<'_>, containers: usize) -> Result<Self, RestoreError> {
        Ok(match input.scalar::<u8>()? {
            0 => Content::Unknown,
            1 => Content::Unit,
            2 => Content::Newtype(Shape::read(input, containers, DEPTH)?),
            3 => Content::Tuple(read_items(input, containers, DEPTH)?),
            4 => Content::Struct(Fields::read(input, containers)?),
            other => return Err(no_kind(other)),
        })
    }
}

fn write_items(items: &[Shape], out: &mut Saver<'_>) -> Result<(), SaveError> {
    out.length(items.len())?;
    items.iter().try_for_each(|item| item.write(out))
}

fn read_items(input: &mut Restorer<'_>, containers: usize, depth: usize) -> Result<Vec<Shape>, RestoreError> {
    let mut items = Vec::new();
    for _ in 0..input.length()? {
        items.push(Shape::read(input, containers, depth)?);
    }
    Ok(items)
}

impl Shape {
    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        match self {
            Shape::Unknown => out.scalar(0u8),
            Shape::Unit => out.scalar(1u8),
            Shape::UnitStruct => out.scalar(2u8),
            Shape::Option(inner) => {
                out.scalar(3u8)?;
                inner.write(out)
            }
            Shape::Seq(inner) => {
                out.scalar(4u8)?;
                inner.write(out)
            }
            Shape::Tuple(items) => {
                out.scalar(5u8)?;
                write_items(items, out)
            }
            Shape::Map(key, value) => {
                out.scalar(6u8)?;
                key.write(out)?;
                value.write(out)
            }
            Shape::Newtype(inner) => {
                out.scalar(7u8)?;
                inner.write(out)
            }
            Shape::Container(place) => {
                out.scalar(8u8)?;
                out.length(*place)
            }
            Shape::Leaf { kind, sample, picky } => {
                out.scalar(kind.code())?;
                out.scalar(*picky)?;
                sample.write(out)
            }
        }
    }

    fn read(input: &mut Restorer<'_>, containers: usize, depth: usize) -> Result<Self, RestoreError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(RestoreError::new(format!("it lies more than {DEPTH} deep in itself")));
        };
        let inner = |input: &mut Restorer<'_>| Shape::read(input, containers, depth).map(Box::new);
        Ok(match input.scalar::<u8>()? {
            0 => Shape::Unknown,
            1 => Shape::Unit,
            2 => Shape::UnitStruct,
            3 => Shape::Option(inner(input)?),
            4 => Shape::Seq(inner(input)?),
            5 => Shape::Tuple(read_items(input, containers, depth)?),
            6 => Shape::Map(inner(input)?, inner(input)?),
            7 => Shape::Newtype(inner(input)?),
            8 => match input.length()? {
                place if place < containers => Shape::Container(place),
                place => return Err(RestoreError::new(format!("there is no shape number {place}"))),
            },
            code => {
                let kind = LeafKind::from_code(code).ok_or_else(|| no_kind(code))?;
                let picky = input.scalar()?;
                let sample = Sample::read(input)?;
                if !sample.suits(kind) {
                    return Err(RestoreError::new(format!("a sample of {} is of another kind", kind.text())));
                }
                Shape::Leaf { kind, sample, picky }
            }
        })
    }
}

impl Sample {
    fn suits(&self, kind: LeafKind) -> bool {
        use LeafKind::*;
        match self {
            Sample::Any => matches!(kind, Bool | F32 | F64),
            Sample::Integer(_) => !matches!(kind, Bool | F32 | F64 | Char | Str | Bytes),
            Sample::Text(_) => matches!(kind, Char | Str),
            Sample::Bytes(_) => kind == Bytes,
        }
    }

    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        match self {
            Sample::Any => out.scalar(0u8),
            Sample::Integer(integer) => {
                out.scalar(1u8)?;
                out.scalar(*integer)
            }
            Sample::Text(text) => {
                out.scalar(2u8)?;
                out.text(text)
            }
            Sample::Bytes(bytes) => {
                out.scalar(3u8)?;
                out.length(bytes.len())?;
                out.bytes(bytes)
            }
        }
    }

    fn read(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        let sample = match input.scalar::<u8>()? {
            0 => Sample::Any,
            1 => Sample::Integer(input.scalar()?),
            2 => Sample::Text(input.text()?),
            3 => {
                let length = input.length()?;
                Sample::Bytes(input.bytes(length)?)
            }
            other => return Err(RestoreError::new(format!("{other} is no kind of sample"))),
        };
        // Samples are given again and again.
        match &sample {
            Sample::Text(text) if text.len() > SAMPLE => Err(RestoreError::new("a sample is too long")),
            Sample::Bytes(bytes) if bytes.len() > SAMPLE => Err(RestoreError::new("a sample is too long")),
            _ => Ok(sample),
        }
    }
}
