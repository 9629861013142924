//! The codecs: bincode for what the derive wrote, MessagePack (`pack`) for what only serde can write.
//!
//! Both stay behind functions over plain byte buffers, so that none of their types shows in a signature elsewhere, and
//! replacing one is a change of this file, or of `pack` alone.

use std::io::{Read, Write};

use bincode::{
    Decode, Encode,
    config::{Configuration, standard},
    de::{DecoderImpl, read::Reader},
    enc::{EncoderImpl, write::Writer},
    error::{DecodeError, EncodeError},
};
use serde::{Serialize, de::DeserializeOwned};

use super::pack;

const CONFIG: Configuration = standard();

/// What is encoded on its own, outside lists of numbers: integers of variable length, floats, `bool` and `char`.
pub(super) trait Scalar: Encode + Decode<()> + Copy {
    /// Writes what bincode would, in a few instructions; `false` leaves it to bincode.
    #[inline(always)]
    fn put_quickly(self, _: &mut Vec<u8>) -> bool {
        false
    }

    /// Reads what needs no second look, in a few instructions; `None` leaves it to bincode.
    #[inline(always)]
    fn take_quickly(_: &[u8]) -> Option<(Self, usize)> {
        None
    }
}

/// bincode's integers, where enough bytes are there for the longest: one byte up to 250, or 251, 252 or 253 and then
/// two, four or eight in little-endian order.
#[inline(always)]
fn varint(bytes: &[u8], longest: u8) -> Option<(u64, usize)> {
    let (first, rest) = bytes.split_first_chunk::<1>()?;
    let word = u64::from_le_bytes(*rest.first_chunk()?);
    match first[0] {
        small @ 0..=250 => Some((small.into(), 1)),
        251 => Some((word & 0xffff, 3)),
        252 if longest >= 252 => Some((word & 0xffff_ffff, 5)),
        253 if longest >= 253 => Some((word, 9)),
        _ => None,
    }
}

#[inline(always)]
fn put_varint(value: u64, out: &mut Vec<u8>) {
    let (first, length) = match value {
        0..=250 => return out.push(value as u8),
        251..=0xffff => (251, 3),
        0x1_0000..=0xffff_ffff => (252, 5),
        _ => (253, 9),
    };
    // One write of a fixed length costs less than one of the right length.
    let end = out.len() + length;
    out.extend_from_slice(&(u128::from(value) << 8 | first).to_le_bytes());
    out.truncate(end);
}

macro_rules! scalar {
    (unsigned $($ty:ident $longest:literal)*) => { $(
        impl Scalar for $ty {
            #[inline(always)]
            fn put_quickly(self, out: &mut Vec<u8>) -> bool {
                put_varint(self.into(), out);
                true
            }

            #[inline(always)]
            fn take_quickly(bytes: &[u8]) -> Option<(Self, usize)> {
                varint(bytes, $longest).map(|(value, used)| (value as $ty, used))
            }
        }
    )* };
    (signed $($ty:ident $longest:literal)*) => { $(
        impl Scalar for $ty {
            #[inline(always)]
            fn put_quickly(self, out: &mut Vec<u8>) -> bool {
                let value = i64::from(self);
                put_varint((value << 1 ^ value >> 63) as u64, out);
                true
            }

            #[inline(always)]
            fn take_quickly(bytes: &[u8]) -> Option<(Self, usize)> {
                // The sign stands in the lowest bit.
                varint(bytes, $longest).map(|(value, used)| (((value >> 1) as i64 ^ -((value & 1) as i64)) as $ty, used))
            }
        }
    )* };
    (whole $($ty:ident)*) => { $(
        impl Scalar for $ty {
            #[inline(always)]
            fn put_quickly(self, out: &mut Vec<u8>) -> bool {
                out.extend_from_slice(&self.to_le_bytes());
                true
            }

            #[inline(always)]
            fn take_quickly(bytes: &[u8]) -> Option<(Self, usize)> {
                bytes.first_chunk().map(|&bytes| (Self::from_le_bytes(bytes), bytes.len()))
            }
        }
    )* };
    (plain $($ty:ident)*) => { $(impl Scalar for $ty {})* };
}

scalar!(unsigned u16 251 u32 252 u64 253);
scalar!(signed i16 251 i32 252 i64 253);
scalar!(whole u8 i8 f32 f64);
scalar!(plain bool char u128 i128);

/// Why a scalar could not be read.
pub(super) enum NotRead {
    /// The bytes end inside it; with more of them it may succeed.
    Short,
    /// No bytes after these would make it one.
    Malformed(String),
}

struct Tail<'v>(&'v mut Vec<u8>);

impl Writer for Tail<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[inline(always)]
pub(super) fn put<T: Scalar>(value: T, out: &mut Vec<u8>) -> Result<(), String> {
    if value.put_quickly(out) {
        return Ok(());
    }
    put_slowly(value, out)
}

#[inline]
fn put_slowly<T: Scalar>(value: T, out: &mut Vec<u8>) -> Result<(), String> {
    match value.encode(&mut EncoderImpl::new(Tail(out), CONFIG)) {
        Ok(()) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The start of what is there; bincode's own reader of slices goes through a function that is not inlined.
struct Head<'b> {
    bytes: &'b [u8],
    used: usize,
}

impl Reader for Head<'_> {
    #[inline(always)]
    fn read(&mut self, into: &mut [u8]) -> Result<(), DecodeError> {
        match self.bytes.get(self.used..self.used + into.len()) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                self.used += into.len();
                Ok(())
            }
            None => Err(DecodeError::UnexpectedEnd { additional: into.len() }),
        }
    }

    #[inline(always)]
    fn peek_read(&mut self, count: usize) -> Option<&[u8]> {
        self.bytes.get(self.used..self.used + count)
    }

    #[inline(always)]
    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

#[inline(always)]
pub(super) fn take<T: Scalar>(bytes: &[u8]) -> Result<(T, usize), NotRead> {
    if let Some(found) = T::take_quickly(bytes) {
        return Ok(found);
    }
    take_slowly(bytes)
}

#[inline]
fn take_slowly<T: Scalar>(bytes: &[u8]) -> Result<(T, usize), NotRead> {
    let mut head = Head { bytes, used: 0 };
    match T::decode(&mut DecoderImpl::new(&mut head, CONFIG, ())) {
        Ok(value) => Ok((value, head.used)),
        Err(error) => Err(explain(error)),
    }
}

#[cold]
fn explain(error: DecodeError) -> NotRead {
    match error {
        DecodeError::UnexpectedEnd { .. } => NotRead::Short,
        other => NotRead::Malformed(other.to_string()),
    }
}

/// Writes a value that only serde can write, with the names of its fields and variants.
///
/// serde's two traits need not agree on what is written and what is read (`skip_serializing_if`, `flatten`, untagged
/// enums): without the names, the reader would take one field for another and notice nothing.
pub(super) fn put_named<T: Serialize>(value: &T, out: impl Write, depth: usize) -> Result<(), String> {
    pack::write(value, out, depth).map_err(|error| error.to_string())
}

/// Reads what [`put_named`] wrote.
pub(super) fn take_named<T: DeserializeOwned>(input: impl Read, depth: usize) -> Result<T, String> {
    pack::read(input, depth).map_err(|error| error.to_string())
}

/// How deep a message of flip's own may nest.
const MESSAGE_DEPTH: usize = 16;

/// Bytes as bytes: serde writes a `Vec<u8>` as a list of numbers.
pub(crate) mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// A message of flip's own, with the names of its fields, so that a later version can add some.
pub(crate) fn to_named<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    put_named(value, &mut bytes, MESSAGE_DEPTH)?;
    Ok(bytes)
}

/// Reads what [`to_named`] wrote.
pub(crate) fn from_named<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    take_named(bytes, MESSAGE_DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways<T: Scalar + PartialEq + std::fmt::Debug>(value: T) {
        let mut bytes = Vec::new();
        put_slowly(value, &mut bytes).unwrap();
        let (length, mut quick) = (bytes.len(), vec![7]);
        assert!(value.put_quickly(&mut quick));
        assert_eq!(quick[1..], bytes, "{value:?} is not written as bincode writes it");
        bytes.extend([0xff; 16]);
        let quick = T::take_quickly(&bytes).expect("there are enough bytes");
        let Ok(slow) = take_slowly::<T>(&bytes) else { panic!("{value:?} cannot be read") };
        assert_eq!((quick, slow), ((value, length), (value, length)));
    }

    #[test]
    fn the_quick_way_is_that_of_bincode() {
        for shift in 0..64 {
            for value in [u64::MAX >> shift, (1 << (63 - shift)) + 1, (1 << (63 - shift)) - 1, 250, 251, 252, 253, 254]
            {
                both_ways(value);
                both_ways(value as u32);
                both_ways(value as u16);
                both_ways(value as i64);
                both_ways(-(value as i64 >> 1));
                both_ways(value as i32);
                both_ways(value as i16);
                both_ways(value as u8);
                both_ways(value as i8);
                both_ways(f64::from_bits(value >> 2));
                both_ways(f32::from_bits(value as u32 >> 2));
            }
        }
    }

    #[test]
    fn the_quick_way_leaves_what_it_does_not_know() {
        assert!(u16::take_quickly(&[252; 16]).is_none());
        assert!(u32::take_quickly(&[253; 16]).is_none());
        assert!(u64::take_quickly(&[254; 16]).is_none());
        assert!(u64::take_quickly(&[1; 8]).is_none());
    }
}
