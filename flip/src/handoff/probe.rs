//! How a field travels: found from its type, at compile time, without an attribute.
//!
//! `(&&&&Probe::<T>::NEW).__flip_codec(fallback)` is resolved by method lookup, which tries one reference less at each
//! step: [`Level3`] refuses what readers can change, [`Level2`] takes `Handoff`, [`Level1`] serde's two traits, and
//! [`Level0`] always applies and gives the fallback: a codec made of the codecs of the type's parts, where the derive
//! saw a collection, or else [`ByNothing`], which carries the error. All are values, so that codecs compose.

// Only expansions see it.
#![allow(missing_docs)]

use std::{cell, marker::PhantomData, rc, sync};

use serde::{Serialize, de::DeserializeOwned};

use super::{Handoff, RestoreError, Restorer, SaveError, Saver, Schemas, Type, block};

/// A way to write and read a `T`.
#[diagnostic::on_unimplemented(
    message = "`{T}` cannot be handed over",
    label = "this field's type has neither `Handoff` nor serde's two traits",
    note = "derive it: `#[derive(flip::Handoff)]` on `{T}`",
    note = "or leave the field out: `#[handoff(skip)]`"
)]
pub trait Codec<T: Send>: Copy + Send + Sync {
    fn schema(self, schemas: &mut Schemas) -> Type;
    fn save<'a>(self, value: &'a T, out: &mut Saver<'a>) -> Result<(), SaveError>;
    fn restore(self, input: &mut Restorer<'_>) -> Result<T, RestoreError>;

    #[inline]
    fn save_item<'a>(self, value: &'a T, out: &mut Saver<'a>) -> Result<(), SaveError> {
        self.save(value, out)
    }

    #[inline]
    fn restore_item(self, input: &mut Restorer<'_>) -> Result<T, RestoreError> {
        self.restore(input)
    }

    #[inline]
    fn save_slice<'a>(self, items: &'a [T], out: &mut Saver<'a>) -> Result<(), SaveError> {
        block::save_items(self, items.iter(), out)
    }

    #[inline]
    fn restore_vec(self, input: &mut Restorer<'_>, length: usize) -> Result<Vec<T>, RestoreError> {
        block::restore_items(self, input, length)
    }

    #[inline]
    fn restore_boxed(self, input: &mut Restorer<'_>) -> Result<Box<T>, RestoreError> {
        self.restore(input).map(Box::new)
    }
}

pub struct Probe<T: ?Sized>(PhantomData<T>);

impl<T: ?Sized> Probe<T> {
    pub const NEW: Self = Self(PhantomData);
}

#[derive(Clone, Copy)]
pub struct ByHandoff;

#[derive(Clone, Copy)]
pub struct BySerde;

/// The codec of nothing: what is asked of it is an error that says what to do.
#[derive(Clone, Copy)]
pub struct ByNothing;

#[derive(Clone, Copy)]
pub struct Refused;

/// The codec of `Vec<T>`, `Option<T>`, `[T; N]` and all others that hold one type of thing, from that of `T`.
#[derive(Clone, Copy)]
pub struct Of<C>(pub C);

/// The codec of `HashMap<K, V>`, `Result<T, E>` and all others that hold two types of things.
#[derive(Clone, Copy)]
pub struct Pair<A, B>(pub A, pub B);

pub trait Level3 {
    #[inline]
    fn __flip_codec<F>(&self, _fallback: F) -> Refused {
        Refused
    }
}

pub trait Level2 {
    #[inline]
    fn __flip_codec<F>(&self, _fallback: F) -> ByHandoff {
        ByHandoff
    }
}

pub trait Level1 {
    #[inline]
    fn __flip_codec<F>(&self, _fallback: F) -> BySerde {
        BySerde
    }
}

pub trait Level0 {
    #[inline]
    fn __flip_codec<F>(&self, fallback: F) -> F {
        fallback
    }
}

impl<T: Shared + ?Sized> Level3 for &&&Probe<T> {}
impl<T: Handoff> Level2 for &&Probe<T> {}
impl<T: Serialize + DeserializeOwned> Level1 for &Probe<T> {}
impl<T: ?Sized> Level0 for Probe<T> {}

impl<T: Handoff> Codec<T> for ByHandoff {
    #[inline]
    fn schema(self, schemas: &mut Schemas) -> Type {
        T::schema(schemas)
    }

    #[inline]
    fn save<'a>(self, value: &'a T, out: &mut Saver<'a>) -> Result<(), SaveError> {
        value.save(out)
    }

    #[inline]
    fn restore(self, input: &mut Restorer<'_>) -> Result<T, RestoreError> {
        T::restore(input)
    }

    #[inline]
    fn save_item<'a>(self, value: &'a T, out: &mut Saver<'a>) -> Result<(), SaveError> {
        value.save_item(out)
    }

    #[inline]
    fn restore_item(self, input: &mut Restorer<'_>) -> Result<T, RestoreError> {
        T::restore_item(input)
    }

    #[inline]
    fn save_slice<'a>(self, items: &'a [T], out: &mut Saver<'a>) -> Result<(), SaveError> {
        T::save_slice(items, out)
    }

    #[inline]
    fn restore_vec(self, input: &mut Restorer<'_>, length: usize) -> Result<Vec<T>, RestoreError> {
        T::restore_vec(input, length)
    }

    #[inline]
    fn restore_boxed(self, input: &mut Restorer<'_>) -> Result<Box<T>, RestoreError> {
        T::restore_boxed(input)
    }
}

impl<T: Serialize + DeserializeOwned + Send> Codec<T> for BySerde {
    fn schema(self, _: &mut Schemas) -> Type {
        Type::self_described::<T>()
    }

    fn save<'a>(self, value: &'a T, out: &mut Saver<'a>) -> Result<(), SaveError> {
        out.leaf(value)
    }

    fn restore(self, input: &mut Restorer<'_>) -> Result<T, RestoreError> {
        input.leaf()
    }
}

/// Implemented by nothing; its message is the point.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be handed over",
    label = "this field's type has neither `Handoff` nor serde's two traits",
    note = "derive it: `#[derive(flip::Handoff)]` on `{Self}`",
    note = "or leave the field out: `#[handoff(skip)]`"
)]
pub trait CanBeHandedOver {}

/// Implemented by nothing; its message is the point.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be handed over: a reader could change it during the freeze",
    label = "this is changed, or shared, through a plain reference",
    note = "hold the plain value: `Live` is the lock around it",
    note = "or leave the field out: `#[handoff(skip)]`"
)]
pub trait Unshared {}

impl<T: Unshared + Send> Codec<T> for Refused {
    fn schema(self, _: &mut Schemas) -> Type {
        unreachable!("nothing is `Unshared`")
    }

    fn save<'a>(self, _: &'a T, _: &mut Saver<'a>) -> Result<(), SaveError> {
        unreachable!("nothing is `Unshared`")
    }

    fn restore(self, _: &mut Restorer<'_>) -> Result<T, RestoreError> {
        unreachable!("nothing is `Unshared`")
    }
}

impl<T: CanBeHandedOver + Send> Codec<T> for ByNothing {
    fn schema(self, _: &mut Schemas) -> Type {
        unreachable!("nothing is `CanBeHandedOver`")
    }

    fn save<'a>(self, _: &'a T, _: &mut Saver<'a>) -> Result<(), SaveError> {
        unreachable!("nothing is `CanBeHandedOver`")
    }

    fn restore(self, _: &mut Restorer<'_>) -> Result<T, RestoreError> {
        unreachable!("nothing is `CanBeHandedOver`")
    }
}

/// What std changes or shares through a plain reference. serde writes most of it all the same.
pub trait Shared {}

macro_rules! shared {
    ($($ty:ty)*) => { $(impl<T: ?Sized> Shared for $ty {})* };
}

shared!(cell::UnsafeCell<T> cell::Cell<T> cell::RefCell<T> sync::Mutex<T> sync::RwLock<T>);
shared!(rc::Rc<T> rc::Weak<T> sync::Arc<T> sync::Weak<T>);

impl<T> Shared for cell::OnceCell<T> {}
impl<T> Shared for sync::OnceLock<T> {}
impl<T, F> Shared for cell::LazyCell<T, F> {}
impl<T, F> Shared for sync::LazyLock<T, F> {}
impl<T> Shared for sync::atomic::AtomicPtr<T> {}

macro_rules! atomics {
    ($($ty:ident)*) => { $(impl Shared for sync::atomic::$ty {})* };
}

atomics!(AtomicBool AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);
