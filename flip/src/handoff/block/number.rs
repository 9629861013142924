//! Numbers, `bool`, `char`, and what is made of one or two of them.

use std::{
    cmp::{Ordering, Reverse},
    num::{NonZero, Saturating, Wrapping},
    ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive},
};

use super::{
    super::{Handoff, probe::ByHandoff},
    Leaf, RestoreError, Restorer, SaveError, Saver, Schemas, Type, leaf,
};

macro_rules! numbers {
    ($($ty:ty as $wire:ty, $leaf:ident;)*) => { $(
        impl Handoff for $ty {
            fn schema(_: &mut Schemas) -> Type {
                Type::leaf(Leaf::$leaf)
            }

            #[inline]
            fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                out.scalar(*self as $wire)
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                Ok(input.scalar::<$wire>()? as Self)
            }

            #[inline]
            fn save_item<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                out.bytes(&(*self as $wire).to_le_bytes())
            }

            #[inline]
            fn restore_item(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                Ok(<$wire>::from_le_bytes(input.exact()?) as Self)
            }

            #[inline]
            fn save_slice<'a>(items: &'a [Self], out: &mut Saver<'a>) -> Result<(), SaveError> {
                out.packed(items)
            }

            #[inline]
            fn restore_vec(input: &mut Restorer<'_>, length: usize) -> Result<Vec<Self>, RestoreError> {
                input.packed(length)
            }
        }
    )* };
}

numbers! {
    u16 as u16, U16;
    u32 as u32, U32;
    u64 as u64, U64;
    u128 as u128, U128;
    usize as u64, U64;
    i8 as i8, I8;
    i16 as i16, I16;
    i32 as i32, I32;
    i64 as i64, I64;
    i128 as i128, I128;
    isize as i64, I64;
    f32 as f32, F32;
    f64 as f64, F64;
}

// What makes the casts above exact.
const _: () = assert!(size_of::<usize>() == 8, "flip runs on 64-bit machines");

impl Handoff for u8 {
    fn schema(_: &mut Schemas) -> Type {
        Type::leaf(Leaf::U8)
    }

    #[inline]
    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        out.scalar(*self)
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        input.scalar()
    }

    #[inline]
    fn save_slice<'a>(items: &'a [Self], out: &mut Saver<'a>) -> Result<(), SaveError> {
        out.bytes(items)
    }

    #[inline]
    fn restore_vec(input: &mut Restorer<'_>, length: usize) -> Result<Vec<Self>, RestoreError> {
        input.bytes(length)
    }
}

leaf!(bool, Bool, |value, out| out.scalar(*value), |input| input.scalar());
leaf!(char, Char, |value, out| out.scalar(*value), |input| input.scalar());
leaf!(Ordering, Ordering, |value, out| out.scalar(*value as i8), |input| match input.scalar::<i8>()? {
    -1 => Ok(Ordering::Less),
    0 => Ok(Ordering::Equal),
    1 => Ok(Ordering::Greater),
    other => Err(RestoreError::new(format!("{other} is no ordering"))),
});

macro_rules! non_zero {
    ($($ty:ty as $wire:ty;)*) => { $(
        impl Handoff for NonZero<$ty> {
            // In the schema it is the plain number: only a value can tell them apart.
            fn schema(schemas: &mut Schemas) -> Type {
                <$ty>::schema(schemas)
            }

            #[inline]
            fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                out.scalar(self.get() as $wire)
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                Self::new(<$ty>::restore(input)?).ok_or_else(is_zero)
            }

            #[inline]
            fn save_item<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                out.bytes(&(self.get() as $wire).to_le_bytes())
            }

            #[inline]
            fn restore_item(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                Self::new(<$ty>::restore_item(input)?).ok_or_else(is_zero)
            }
        }
    )* };
}

non_zero! {
    u8 as u8; u16 as u16; u32 as u32; u64 as u64; u128 as u128; usize as u64;
    i8 as i8; i16 as i16; i32 as i32; i64 as i64; i128 as i128; isize as i64;
}

#[cold]
fn is_zero() -> RestoreError {
    RestoreError::new("0, where any other number may stand")
}

/// Goes as the value inside, in the schema, too.
macro_rules! transparent {
    ($($wrapper:ident)*) => { $(
        impl<T: Handoff> Handoff for $wrapper<T> {
            fn schema(schemas: &mut Schemas) -> Type {
                T::schema(schemas)
            }

            #[inline]
            fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                self.0.save(out)
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                T::restore(input).map(Self)
            }

            #[inline]
            fn save_item<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                self.0.save_item(out)
            }

            #[inline]
            fn restore_item(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                T::restore_item(input).map(Self)
            }
        }
    )* };
}

transparent!(Wrapping Saturating Reverse);

macro_rules! ranges {
    ($($range:ident { $($end:ident: |$this:ident| $get:expr),* } $make:expr;)*) => { $(
        impl<T: Handoff> Handoff for $range<T> {
            fn schema(schemas: &mut Schemas) -> Type {
                schemas.structure::<Self>(stringify!($range), |fields| {
                    $(fields.field::<T, _>(stringify!($end), ByHandoff);)*
                })
            }

            #[inline]
            fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                $({ let $this = self; T::save($get, out)?; })*
                Ok(())
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                $(let $end = T::restore(input)?;)*
                Ok($make)
            }
        }
    )* };
}

// Of a `RangeInclusive` it cannot be seen whether it was iterated to its end; serde loses that as well.
ranges! {
    Range { start: |it| &it.start, end: |it| &it.end } Range { start, end };
    RangeInclusive { start: |it| it.start(), end: |it| it.end() } RangeInclusive::new(start, end);
    RangeFrom { start: |it| &it.start } RangeFrom { start };
    RangeTo { end: |it| &it.end } RangeTo { end };
    RangeToInclusive { end: |it| &it.end } RangeToInclusive { end };
}

impl<T: Handoff> Handoff for Bound<T> {
    fn schema(schemas: &mut Schemas) -> Type {
        schemas.enumeration::<Self>("Bound", |variants| {
            variants.variant("Included", &[], |fields| {
                fields.field::<T, _>("0", ByHandoff);
            });
            variants.variant("Excluded", &[], |fields| {
                fields.field::<T, _>("0", ByHandoff);
            });
            variants.variant("Unbounded", &[], |_| ());
        })
    }

    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        match self {
            Bound::Included(value) => {
                out.variant(0)?;
                value.save(out)
            }
            Bound::Excluded(value) => {
                out.variant(1)?;
                value.save(out)
            }
            Bound::Unbounded => out.variant(2),
        }
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        match input.variant()? {
            0 => T::restore(input).map(Bound::Included),
            1 => T::restore(input).map(Bound::Excluded),
            2 => Ok(Bound::Unbounded),
            other => Err(input.no_variant::<Self>(other)),
        }
    }
}
