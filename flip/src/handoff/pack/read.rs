//! Reading.

use std::io::{self, Read};

use rmp::Marker;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
    value::{SeqDeserializer, StrDeserializer},
};

use super::{Error, NOTHING, too_deep};

/// How much of a text is believed to be there before it is.
const BELIEVED: usize = 64 * 1024;

/// How deep the claimed length of a list or a map is believed, for which serde makes room for a mebibyte at most; those further in grow
/// as their parts come, or a few bytes would be worth a mebibyte at each depth.
const BELIEVED_DEPTH: usize = 2;
/// Of so many parts it is believed everywhere.
const FEW: usize = 8;

/// Reads a value in which others lie at most so deep.
pub(in super::super) fn read<T: DeserializeOwned>(input: impl Read, depth: usize) -> Result<T, Error> {
    let believed = depth.saturating_sub(BELIEVED_DEPTH);
    let mut reader = Reader { input, peeked: None, held: Vec::new(), believed };
    T::deserialize(Value { reader: &mut reader, left: depth, nothing: None })
}

/// The beginning of a value: all of it, or how many bytes or parts follow.
#[derive(Clone, Copy)]
enum Head {
    Nil,
    /// Nothing in so many `Some`.
    Nothing(u8),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Text(u32),
    Bytes(u32),
    Seq(u32),
    Map(u32),
}

impl Head {
    fn unexpected(self) -> Unexpected<'static> {
        match self {
            Head::Nil => Unexpected::Unit,
            Head::Nothing(_) => Unexpected::Option,
            Head::Bool(value) => Unexpected::Bool(value),
            Head::Unsigned(value) => Unexpected::Unsigned(value),
            Head::Signed(value) => Unexpected::Signed(value),
            Head::F32(value) => Unexpected::Float(value.into()),
            Head::F64(value) => Unexpected::Float(value),
            Head::Text(_) => Unexpected::Other("string"),
            Head::Bytes(_) => Unexpected::Other("byte array"),
            Head::Seq(_) => Unexpected::Seq,
            Head::Map(_) => Unexpected::Map,
        }
    }

    #[cold]
    fn refuse<T>(self, expected: &dyn Expected) -> Result<T, Error> {
        Err(Error::invalid_type(self.unexpected(), expected))
    }
}

struct Reader<R> {
    input: R,
    peeked: Option<Head>,
    /// The last text or bytes.
    held: Vec<u8>,
    /// Down to where so much depth is left, what a list claims is believed.
    believed: usize,
}

#[cold]
fn not_read(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error("the bytes end inside it".to_owned()),
        _ => Error(error.to_string()),
    }
}

impl<R: Read> Reader<R> {
    #[inline]
    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(not_read)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.exactly().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.exactly().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.exactly().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.exactly().map(u64::from_be_bytes)
    }

    fn next(&mut self) -> Result<Head, Error> {
        if let Some(head) = self.peeked.take() {
            return Ok(head);
        }
        let signed = |value: i64| match u64::try_from(value) {
            Ok(value) => Head::Unsigned(value),
            Err(_) => Head::Signed(value),
        };
        Ok(match Marker::from_u8(self.u8()?) {
            Marker::FixPos(value) => Head::Unsigned(value.into()),
            Marker::FixNeg(value) => Head::Signed(value.into()),
            Marker::FixStr(length) => Head::Text(length.into()),
            Marker::FixArray(length) => Head::Seq(length.into()),
            Marker::FixMap(length) => Head::Map(length.into()),
            Marker::Null => Head::Nil,
            Marker::True => Head::Bool(true),
            Marker::False => Head::Bool(false),
            Marker::U8 => Head::Unsigned(self.u8()?.into()),
            Marker::U16 => Head::Unsigned(self.u16()?.into()),
            Marker::U32 => Head::Unsigned(self.u32()?.into()),
            Marker::U64 => Head::Unsigned(self.u64()?),
            Marker::I8 => signed(self.u8()?.cast_signed().into()),
            Marker::I16 => signed(self.u16()?.cast_signed().into()),
            Marker::I32 => signed(self.u32()?.cast_signed().into()),
            Marker::I64 => signed(self.u64()?.cast_signed()),
            Marker::F32 => Head::F32(f32::from_bits(self.u32()?)),
            Marker::F64 => Head::F64(f64::from_bits(self.u64()?)),
            Marker::Str8 => Head::Text(self.u8()?.into()),
            Marker::Str16 => Head::Text(self.u16()?.into()),
            Marker::Str32 => Head::Text(self.u32()?),
            Marker::Bin8 => Head::Bytes(self.u8()?.into()),
            Marker::Bin16 => Head::Bytes(self.u16()?.into()),
            Marker::Bin32 => Head::Bytes(self.u32()?),
            Marker::Array16 => Head::Seq(self.u16()?.into()),
            Marker::Array32 => Head::Seq(self.u32()?),
            Marker::Map16 => Head::Map(self.u16()?.into()),
            Marker::Map32 => Head::Map(self.u32()?),
            Marker::FixExt1 => match self.exactly()? {
                [kind, somes] if kind.cast_signed() == NOTHING && somes > 0 => Head::Nothing(somes),
                _ => return Err(foreign()),
            },
            _ => return Err(foreign()),
        })
    }

    fn peek(&mut self) -> Result<Head, Error> {
        let head = self.next()?;
        self.peeked = Some(head);
        Ok(head)
    }

    /// The bytes of a text or of bytes. What is long gets its memory as it comes.
    fn bytes(&mut self, length: u32) -> Result<&[u8], Error> {
        let length = length as usize;
        self.held.clear();
        if length <= BELIEVED {
            self.held.resize(length, 0);
            self.input.read_exact(&mut self.held).map_err(not_read)?;
        } else {
            self.input.by_ref().take(length as u64).read_to_end(&mut self.held).map_err(not_read)?;
            if self.held.len() < length {
                return Err(not_read(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(&self.held)
    }

    fn text(&mut self, length: u32) -> Result<&str, Error> {
        str::from_utf8(self.bytes(length)?).map_err(|error| Error(format!("text that is not text: {error}")))
    }

    /// Goes past a value, however deep.
    fn skip(&mut self) -> Result<(), Error> {
        let mut values = 1_u64;
        while values > 0 {
            values -= 1;
            match self.next()? {
                Head::Text(length) | Head::Bytes(length) => {
                    let passed = io::copy(&mut self.input.by_ref().take(length.into()), &mut io::sink());
                    if passed.map_err(not_read)? < length.into() {
                        return Err(not_read(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Head::Seq(length) => values = values.saturating_add(length.into()),
                Head::Map(length) => values = values.saturating_add(2 * u64::from(length)),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cold]
fn foreign() -> Error {
    Error("an extension that flip does not write".to_owned())
}

struct Value<'r, R> {
    reader: &'r mut Reader<R>,
    /// How much deeper it may go.
    left: usize,
    /// Nothing in so many `Some`, of which the bytes are read.
    nothing: Option<u8>,
}

impl<'r, R: Read> Value<'r, R> {
    fn next(&mut self) -> Result<Head, Error> {
        match self.nothing {
            Some(0) => Ok(Head::Nil),
            Some(somes) => Ok(Head::Nothing(somes)),
            None => self.reader.next(),
        }
    }

    fn deeper(self, nothing: Option<u8>) -> Result<Value<'r, R>, Error> {
        let left = self.left.checked_sub(1).ok_or_else(too_deep)?;
        Ok(Value { reader: self.reader, left, nothing })
    }

    #[inline]
    fn visit<'de, V: Visitor<'de>>(self, head: Head, visitor: V) -> Result<V::Value, Error> {
        match head {
            Head::Nil => visitor.visit_unit(),
            Head::Nothing(somes) => visitor.visit_some(self.deeper(Some(somes - 1))?),
            Head::Bool(value) => visitor.visit_bool(value),
            Head::Unsigned(value) => visitor.visit_u64(value),
            Head::Signed(value) => visitor.visit_i64(value),
            Head::F32(value) => visitor.visit_f32(value),
            Head::F64(value) => visitor.visit_f64(value),
            Head::Text(length) => visitor.visit_str(self.reader.text(length)?),
            Head::Bytes(length) => visitor.visit_bytes(self.reader.bytes(length)?),
            Head::Seq(length) => self.items(length, visitor),
            Head::Map(length) => self.entries(length, false, visitor),
        }
    }

    fn items<'de, V: Visitor<'de>>(self, length: u32, visitor: V) -> Result<V::Value, Error> {
        let mut parts = Parts { value: self.deeper(None)?, parts: length, named: false };
        let value = visitor.visit_seq(&mut parts)?;
        parts.finish(length, value)
    }

    fn entries<'de, V: Visitor<'de>>(self, length: u32, named: bool, visitor: V) -> Result<V::Value, Error> {
        let mut parts = Parts { value: self.deeper(None)?, parts: length, named };
        let value = visitor.visit_map(&mut parts)?;
        parts.finish(length, value)
    }

    /// Bytes are a list of numbers to who wants a list.
    fn list<'de, V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Head::Bytes(length) => {
                let bytes = self.reader.bytes(length)?;
                visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
            }
            head => self.visit(head, visitor),
        }
    }

    /// By the names of its fields.
    fn fields<'de, V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Head::Map(length) => self.entries(length, true, visitor),
            head => head.refuse(&visitor),
        }
    }
}

/// The sign of a number of 128 bits, and the number.
fn wide(bytes: &[u8]) -> Option<Result<u128, i128>> {
    match bytes.split_first_chunk() {
        Some(([0], rest)) => Some(Ok(u128::from_be_bytes(rest.try_into().ok()?))),
        Some(([1], rest)) => Some(Err(i128::from_be_bytes(rest.try_into().ok()?))),
        _ => None,
    }
}

macro_rules! hints {
    ($($method:ident => $give:ident;)*) => { $(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$give(visitor)
        }
    )* };
}

macro_rules! floats {
    ($($method:ident $ty:ty;)*) => { $(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            let head = self.next()?;
            let exact = match head {
                Head::F64(value) => value.is_nan() || f64::from(value as $ty) == value,
                // 64 bits are exact in 128, and so is what a float has of them.
                Head::Unsigned(value) => (value as $ty) as i128 == i128::from(value),
                Head::Signed(value) => (value as $ty) as i128 == i128::from(value),
                _ => true,
            };
            if exact { self.visit(head, visitor) } else { Err(Error::invalid_value(head.unexpected(), &visitor)) }
        }
    )* };
}

impl<'de, R: Read> Deserializer<'de> for Value<'_, R> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let head = self.next()?;
        self.visit(head, visitor)
    }

    hints! {
        deserialize_bool => deserialize_any;
        deserialize_i8 => deserialize_any;
        deserialize_i16 => deserialize_any;
        deserialize_i32 => deserialize_any;
        deserialize_i64 => deserialize_any;
        deserialize_u8 => deserialize_any;
        deserialize_u16 => deserialize_any;
        deserialize_u32 => deserialize_any;
        deserialize_u64 => deserialize_any;
        deserialize_char => deserialize_any;
        deserialize_str => deserialize_any;
        deserialize_string => deserialize_any;
        deserialize_bytes => deserialize_any;
        deserialize_byte_buf => deserialize_any;
        deserialize_unit => deserialize_any;
        deserialize_map => deserialize_any;
        deserialize_identifier => deserialize_any;
        deserialize_seq => list;
    }

    floats! {
        deserialize_f32 f32;
        deserialize_f64 f64;
    }

    fn deserialize_i128<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Head::Unsigned(value) => visitor.visit_i128(value.into()),
            Head::Signed(value) => visitor.visit_i128(value.into()),
            Head::Bytes(length) => match wide(self.reader.bytes(length)?) {
                Some(Err(value)) => visitor.visit_i128(value),
                Some(Ok(value)) => match i128::try_from(value) {
                    Ok(value) => visitor.visit_i128(value),
                    Err(_) => Err(Error::invalid_value(Unexpected::Other("a larger number"), &visitor)),
                },
                None => Head::Bytes(length).refuse(&visitor),
            },
            head => head.refuse(&visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Head::Unsigned(value) => visitor.visit_u128(value.into()),
            Head::Bytes(length) => match wide(self.reader.bytes(length)?) {
                Some(Ok(value)) => visitor.visit_u128(value),
                Some(Err(_)) => Err(Error::invalid_value(Unexpected::Other("a negative number"), &visitor)),
                None => Head::Bytes(length).refuse(&visitor),
            },
            head => head.refuse(&visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let head = if self.nothing.is_some() { self.next()? } else { self.reader.peek()? };
        match head {
            Head::Nil => {
                self.reader.peeked = None;
                visitor.visit_none()
            }
            Head::Nothing(somes) => {
                self.reader.peeked = None;
                visitor.visit_some(self.deeper(Some(somes - 1))?)
            }
            _ => visitor.visit_some(self.deeper(None)?),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(mut self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        match self.next()? {
            Head::Seq(0) => visitor.visit_unit(),
            head => self.visit(head, visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name = |reader: &mut Reader<R>, head| match head {
            Head::Text(length) => reader.text(length).map(str::to_owned),
            head => head.refuse(&"the name of a variant"),
        };
        match self.next()? {
            Head::Map(1) => {
                let mut value = self.deeper(None)?;
                let head = value.next()?;
                let name = name(value.reader, head)?;
                visitor.visit_enum(Named { name, content: Some(value) })
            }
            head => {
                let name = name(self.reader, head)?;
                visitor.visit_enum(Named::<R> { name, content: None })
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.nothing.is_none() {
            self.reader.skip()?;
        }
        visitor.visit_unit()
    }
}

/// What is left of a list or map.
struct Parts<'r, R> {
    value: Value<'r, R>,
    parts: u32,
    /// Its keys are the names of fields.
    named: bool,
}

impl<R: Read> Parts<'_, R> {
    fn next(&mut self) -> Option<Value<'_, R>> {
        self.parts = self.parts.checked_sub(1)?;
        Some(self.value())
    }

    fn value(&mut self) -> Value<'_, R> {
        Value { reader: self.value.reader, left: self.value.left, nothing: None }
    }

    /// How many more parts there are, unless that is not to be believed. A number must be the right one: some types refuse another.
    fn claimed(&self) -> Option<usize> {
        let parts = self.parts as usize;
        (self.value.left >= self.value.reader.believed || parts <= FEW).then_some(parts)
    }

    fn finish<T>(self, length: u32, value: T) -> Result<T, Error> {
        if self.parts == 0 {
            return Ok(value);
        }
        let read = length - self.parts;
        Err(Error::invalid_length(length as usize, &&*format!("no more than {read}")))
    }
}

impl<'de, R: Read> SeqAccess<'de> for &mut Parts<'_, R> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.next().map(|value| seed.deserialize(value)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        self.claimed()
    }
}

impl<'de, R: Read> MapAccess<'de> for &mut Parts<'_, R> {
    type Error = Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let named = self.named;
        let Some(value) = self.next() else { return Ok(None) };
        if named {
            match value.reader.peek()? {
                Head::Text(_) => {}
                head => return head.refuse(&"the name of a field"),
            }
        }
        seed.deserialize(value).map(Some)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.value())
    }

    fn size_hint(&self) -> Option<usize> {
        self.claimed()
    }
}

/// A variant: its name, and what it holds.
struct Named<'r, R> {
    name: String,
    content: Option<Value<'r, R>>,
}

impl<'r, 'de, R: Read> EnumAccess<'de> for Named<'r, R> {
    type Error = Error;
    type Variant = Held<'r, R>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Held<'r, R>), Error> {
        let name: StrDeserializer<'_, Error> = self.name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Held(self.content)))
    }
}

struct Held<'r, R>(Option<Value<'r, R>>);

impl<'r, R> Held<'r, R> {
    fn content(self, expected: &dyn Expected) -> Result<Value<'r, R>, Error> {
        self.0.ok_or_else(|| Error::invalid_type(Unexpected::UnitVariant, expected))
    }
}

impl<'de, R: Read> VariantAccess<'de> for Held<'_, R> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), de::Deserialize::deserialize)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.content(&"newtype variant")?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(&"tuple variant")?.list(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content(&"struct variant")?.fields(visitor)
    }
}
