//! Writing.

use std::io::{self, Write};

use rmp::encode;
use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};

use super::{Error, NOTHING, too_deep};

/// Writes a value in which others lie at most so deep.
pub(in super::super) fn write<T: Serialize, W: Write>(value: &T, mut out: W, depth: usize) -> Result<(), Error> {
    value.serialize(Writer { out: &mut out, left: depth, somes: 0 })
}

struct Writer<'w, W> {
    out: &'w mut W,
    /// How much deeper it may go.
    left: usize,
    /// How many `Some` stand around this without anything that shows.
    somes: u8,
}

impl From<io::Error> for Error {
    #[cold]
    fn from(error: io::Error) -> Self {
        Error(error.to_string())
    }
}

impl From<encode::ValueWriteError> for Error {
    #[cold]
    fn from(error: encode::ValueWriteError) -> Self {
        Error(error.to_string())
    }
}

fn claim(length: usize) -> Result<u32, Error> {
    u32::try_from(length).map_err(|_| Error(format!("{length} parts are more than can be written")))
}

impl<'w, W: Write> Writer<'w, W> {
    fn deeper(&self) -> Result<usize, Error> {
        self.left.checked_sub(1).ok_or_else(too_deep)
    }

    fn nothing(self) -> Result<(), Error> {
        if self.somes == 0 {
            return Ok(encode::write_nil(self.out)?);
        }
        encode::write_ext_meta(self.out, 1, NOTHING)?;
        Ok(self.out.write_all(&[self.somes])?)
    }

    /// What has parts, from here on; a variant's name stands before it.
    fn parts(self, map: bool, length: Option<usize>) -> Result<Parts<'w, W>, Error> {
        let left = self.deeper()?;
        if let Some(length) = length {
            head(self.out, map, length)?;
        }
        let held = if length.is_none() { Some(Vec::new()) } else { None };
        Ok(Parts { out: self.out, left, map, length, count: 0, held })
    }

    fn variant(&mut self, name: &str) -> Result<(), Error> {
        self.left = self.deeper()?;
        self.somes = 0;
        encode::write_map_len(self.out, 1)?;
        Ok(encode::write_str(self.out, name)?)
    }
}

fn head<W: Write>(out: &mut W, map: bool, length: usize) -> Result<(), Error> {
    let length = claim(length)?;
    if map {
        encode::write_map_len(out, length)?
    } else {
        encode::write_array_len(out, length)?
    };
    Ok(())
}

macro_rules! integers {
    ($($method:ident $ty:ty => $write:ident as $wide:ty;)*) => { $(
        #[inline]
        fn $method(self, value: $ty) -> Result<(), Error> {
            encode::$write(self.out, <$wide>::from(value))?;
            Ok(())
        }
    )* };
}

impl<'w, W: Write> Serializer for Writer<'w, W> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Parts<'w, W>;
    type SerializeTuple = Parts<'w, W>;
    type SerializeTupleStruct = Parts<'w, W>;
    type SerializeTupleVariant = Parts<'w, W>;
    type SerializeMap = Parts<'w, W>;
    type SerializeStruct = Parts<'w, W>;
    type SerializeStructVariant = Parts<'w, W>;

    fn is_human_readable(&self) -> bool {
        false
    }

    integers! {
        serialize_i8 i8 => write_sint as i64;
        serialize_i16 i16 => write_sint as i64;
        serialize_i32 i32 => write_sint as i64;
        serialize_i64 i64 => write_sint as i64;
        serialize_u8 u8 => write_uint as u64;
        serialize_u16 u16 => write_uint as u64;
        serialize_u32 u32 => write_uint as u64;
        serialize_u64 u64 => write_uint as u64;
    }

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        match (u128::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => self.serialize_u128(value),
            (_, Ok(value)) => self.serialize_i64(value),
            _ => {
                let mut bytes = [1; 17];
                bytes[1..].copy_from_slice(&value.to_be_bytes());
                self.serialize_bytes(&bytes)
            }
        }
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        if let Ok(value) = u64::try_from(value) {
            return self.serialize_u64(value);
        }
        let mut bytes = [0; 17];
        bytes[1..].copy_from_slice(&value.to_be_bytes());
        self.serialize_bytes(&bytes)
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        Ok(encode::write_bool(self.out, value)?)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        Ok(encode::write_f32(self.out, value)?)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        Ok(encode::write_f64(self.out, value)?)
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), Error> {
        claim(text.len())?;
        Ok(encode::write_str(self.out, text)?)
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        claim(bytes.len())?;
        Ok(encode::write_bin(self.out, bytes)?)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.nothing()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        let left = self.deeper()?;
        let somes = self.somes.checked_add(1).ok_or_else(too_deep)?;
        value.serialize(Writer { out: self.out, left, somes })
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.nothing()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        head(self.out, false, 0)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(variant)?;
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Parts<'w, W>, Error> {
        self.parts(false, length)
    }

    fn serialize_tuple(self, length: usize) -> Result<Parts<'w, W>, Error> {
        self.parts(false, Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Parts<'w, W>, Error> {
        self.parts(false, Some(length))
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Parts<'w, W>, Error> {
        self.variant(variant)?;
        self.parts(false, Some(length))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Parts<'w, W>, Error> {
        self.parts(true, length)
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Parts<'w, W>, Error> {
        self.parts(true, Some(length))
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Parts<'w, W>, Error> {
        self.variant(variant)?;
        self.parts(true, Some(length))
    }
}

/// What has parts, while they are written.
struct Parts<'w, W> {
    out: &'w mut W,
    left: usize,
    map: bool,
    length: Option<usize>,
    count: usize,
    /// Without a length, what was written so far: how much there is comes before it.
    held: Option<Vec<u8>>,
}

impl<W: Write> Parts<'_, W> {
    #[inline]
    fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        match &mut self.held {
            None => value.serialize(Writer { out: self.out, left: self.left, somes: 0 }),
            Some(held) => value.serialize(Writer { out: held, left: self.left, somes: 0 }),
        }
    }

    #[inline]
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.count += 1;
        self.put(value)
    }

    fn finish(self) -> Result<(), Error> {
        let Some(held) = self.held else {
            let length = self.length.unwrap_or(self.count);
            if length != self.count {
                // What follows would be taken for the rest of it.
                let text = format!("its Serialize says that {length} parts follow, and writes {}", self.count);
                return Err(Error(text));
            }
            return Ok(());
        };
        head(self.out, self.map, self.count)?;
        Ok(self.out.write_all(&held)?)
    }
}

macro_rules! parts {
    ($($of:ident $method:ident;)*) => { $(
        impl<W: Write> $of for Parts<'_, W> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.part(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        }
    )* };
}

parts! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($of:ident)*) => { $(
        impl<W: Write> $of for Parts<'_, W> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.part(name)?;
                self.put(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        }
    )* };
}

fields! { SerializeStruct SerializeStructVariant }

impl<W: Write> SerializeMap for Parts<'_, W> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.part(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.put(value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}
