//! What can be handed over, and how it is written and read.
//!
//! A type is handed over if it is [`Handoff`]: numbers, text, collections, times, addresses and descriptors are, and
//! `#[derive(Handoff)]` makes it of structs and enums. What the derive wrote goes bare, without names, next to a schema
//! that the new process compares with its own first; where they differ, the bytes are rewritten on their way in, field
//! by field. What only serde can write goes with the names of its fields.

/// An enum of what has no parts: a code, a name, and what a message calls it. The code stands for it on the wire and is never
/// given to another.
macro_rules! leaves {
    ($vis:vis $name:ident { $($code:literal $leaf:ident $text:literal)* }) => {
        /// What has no parts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($leaf),* }

        impl $name {
            fn code(self) -> u8 {
                match self { $(Self::$leaf => $code),* }
            }

            fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$leaf),)* _ => None }
            }

            pub(super) fn text(self) -> &'static str {
                match self { $(Self::$leaf => $text),* }
            }
        }
    };
}

mod block;
pub(crate) mod calls;
pub(crate) mod codec;
mod error;
pub(crate) mod field;
pub(crate) mod matching;
mod pack;
pub(crate) mod probe;
mod restorer;
mod room;
mod saver;
mod schema;
mod shape;
mod spread;
mod stream;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod transcode;

pub use calls::{Apply, CallRefused, Calls};
pub use error::{RestoreError, SaveError};
pub use restorer::Restorer;
pub use saver::Saver;
pub use schema::{Facts, Fields, Schemas, Type, Variants};

#[cfg(feature = "fuzzing")]
pub(crate) use matching::Mismatch;
pub(crate) use matching::Plan;
pub(crate) use room::Room;
pub(crate) use schema::Schema;
#[cfg(feature = "fuzzing")]
pub(crate) use shape::Shapes;
pub(crate) use spread::cores;
pub(crate) use stream::{BULK, CHUNK, DESCRIPTORS, Limits, Sink, Source};

use std::ops::{Deref, DerefMut};

use serde::{Serialize, de::DeserializeOwned};
use transcode::Transcoder;

/// What can outlive the process: it is written by the old one and read by the new one.
///
/// Derive it. The methods are for what the derive writes and may change; so does who may call them.
///
/// ```
/// use std::{collections::HashMap, net::TcpStream, time::Instant};
///
/// #[derive(flip::Handoff)]
/// struct Chat {
///     rooms: HashMap<String, Vec<Member>>,
///     started: Instant,
///     #[handoff(skip)]
///     cache: HashMap<u64, String>,
/// }
///
/// #[derive(flip::Handoff)]
/// enum Member {
///     Guest,
///     Known { name: String, peer: TcpStream },
/// }
/// ```
///
/// # Which fields
///
/// - Another `Handoff` type, so all of std's collections, tuples up to twelve, arrays, text, paths, times, addresses.
/// - Any type with serde's `Serialize` and `DeserializeOwned`; where a type has both, `Handoff` is used. What serde
///   writes goes self-described, which costs more; `#[handoff(serde)]` asks for it.
/// - A collection of either kind, found by looking at how the field's type is written. Behind an alias, a collection
///   that holds serde-only types *and* descriptors is not seen through: write it out, or wrap with [`Serde`].
/// - A descriptor: `OwnedFd`, `File`, std's sockets and, under the feature `tokio`, tokio's. The new process gets a
///   duplicate of it; both share the open file description, thus its position, flags and connection.
/// - A [`Region`](crate::Region): many bytes that are not copied, but mapped by the new process.
/// - [`Instant`](std::time::Instant) and [`SystemTime`](std::time::SystemTime): the same moment in the new process.
///   An `Instant` is exact to well under a microsecond, and the distances between several are exact.
///
/// Not a reference, nothing behind a `dyn`, no function. What only one process may hold, as a database with a lock on its file, is
/// closed and opened anew: see [`Exclusive`](crate::Exclusive).
///
/// # Attributes
///
/// | on a field | |
/// | --- | --- |
/// | `#[handoff(skip)]` | left out; the new process has its `Default`, or what `default = expr` says |
/// | `#[handoff(default)]`, `#[handoff(default = expr)]` | what it is where the old process has no such field |
/// | `#[handoff(rename = "…")]` | the name by which old and new are matched; on variants and types, too |
/// | `#[handoff(alias = "…")]` | a name that it has in another release; on variants, too; several may be given |
/// | `#[handoff(from = "OldType", migrate = function)]` | made of a value of the older type by `fn(OldType) -> Type` |
/// | `#[handoff(serde)]` | through serde's traits, though it has `Handoff` or stands in a collection |
///
/// | on the type | |
/// | --- | --- |
/// | `#[handoff(from = "OldType", migrate = function)]` | made of the older type as a whole, which stays in the program |
/// | `#[handoff(calls(Hit, Reset))]` | the operations that may be [called](Apply), from any process that still drains |
/// | `#[handoff(bound = "T: …")]` | instead of the bounds that the derive would write, all but `Send` |
/// | `#[handoff(crate = path)]` | where flip is, if not at `::flip` |
///
/// # Between releases
///
/// The old process sends what its types are made of before it stops anything. Where they are the same, values travel
/// without names. Where they differ, the new process matches them by name:
///
/// | change | what happens |
/// | --- | --- |
/// | a field is added | it needs `default`, or the upgrade is refused |
/// | a field is removed | ignored; descriptors in it are closed |
/// | a field or variant is renamed | `alias = "old name"` in the new program; then the older one knows it, too |
/// | fields or variants change places | nothing: the order does not matter |
/// | whole numbers or floats change their width or sign | converted; a value that does not fit rolls back |
/// | `T` becomes `Option<T>`, or the other way | `Some`; a `None` where one is needed rolls back |
/// | a list becomes a set of the same, or the other way | the same elements; a set keeps one of those that are equal |
/// | `Id(u64)` becomes `u64`, `Box<T>` becomes `T`, or the other way | the same |
/// | a variant is added | nothing |
/// | a variant is removed | a value that is of it rolls back; if none is left, the upgrade is refused |
/// | a whole state (a parameter of `main`) is added or removed | starts with its first value; is dropped with a warning |
/// | anything else | `from` and `migrate`, or the upgrade is refused |
///
/// What schemas can tell is refused while the old process serves on undisturbed, with state, field, both types and what
/// would help. What only the values can tell is found before the commit, and rolled back. All of it holds in both
/// directions: going back to the older program is an upgrade like any other.
///
/// `migrate` is used where the value is of the older type, or fits it better than this one: less of it is left behind, or
/// filled in by defaults. A value that is exactly of this type never goes through it. It may be a path or a closure; a
/// panic in it rolls back. In a type that holds itself, the older type may hold the newer one (`next: Option<Box<New>>`).
///
/// ```
/// use std::time::Duration;
///
/// // Release 1 had `timeout: u64`, in milliseconds, and `visits`.
/// #[derive(flip::Handoff)]
/// struct Settings {
///     #[handoff(from = "u64", migrate = Duration::from_millis)]
///     timeout: Duration,
///     #[handoff(alias = "visits")]
///     total: u64,
///     #[handoff(default = "nobody".to_owned())]
///     owner: String,
/// }
/// ```
///
/// What travels through serde is matched by serde: its own attributes (`default`, `alias`, …) say what may change.
///
/// [The guide](crate::guide::changing_state) has more, and [`testing::snapshot`](crate::testing::snapshot) finds in a unit test what an upgrade
/// would refuse.
///
/// # Type parameters
///
/// A parameter that a field mentions must be `Handoff`. For a type that has only serde's traits, wrap it where it is
/// used (`Cached<flip::Serde<Config>>`), or say `#[handoff(bound = "T: serde::Serialize + serde::de::DeserializeOwned")]`.
///
/// # Threads
///
/// A type is `Send`, and so are its parameters: values are made on other threads than those that use them. The elements of a large
/// collection are read by several at once where that helps, whether anything has changed or not. So a `default`, a `migrate` and
/// serde's `Deserialize` may run for several elements at the same time, in any order, and again for those around one that could not
/// be read; what was made of them before is dropped.
///
/// # Caveats
///
/// What is changed through a shared reference (cells, locks, atomics, `Arc` and `Rc`) is not `Handoff`: a reader could
/// change it during the freeze, after it was written. The derive finds these by how a field's type is written, and by
/// the type itself where that is all of it; an `Arc` or a `Mutex` *inside* of a serde type, or behind an alias in a
/// collection, cannot be seen. A change there during a freeze is lost.
///
/// Values that lie more than 128 deep in each other (a list by `Box`es, say) are refused.
///
/// To know the shape of a serde type, its `Deserialize` makes some values of it when the program starts, its `Serialize` writes
/// them, and they are dropped: a type whose construction or `Drop` does something to the world is none to hand over. A panic
/// there is caught, and printed; where panics abort, it ends the program.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be handed over",
    label = "not `Handoff`",
    note = "derive it: `#[derive(flip::Handoff)]`",
    note = "for a type that has only serde's two traits: wrap it in `flip::Serde<…>`, or let it be a field of a type that derives `Handoff`",
    note = "cells, locks, atomics, `Arc` and `Rc` are never: a reader could change it during the freeze"
)]
pub trait Handoff: Sized + Send {
    /// Describes the type, and those that it is made of.
    #[doc(hidden)]
    fn schema(schemas: &mut Schemas) -> Type;

    #[doc(hidden)]
    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError>;

    #[doc(hidden)]
    fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError>;

    // An element of a list, set or array. Numbers are written there with their full width, however the list is kept,
    // so that one schema is one form.

    #[doc(hidden)]
    #[inline]
    fn save_item<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        self.save(out)
    }

    #[doc(hidden)]
    #[inline]
    fn restore_item(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        Self::restore(input)
    }

    #[doc(hidden)]
    #[inline]
    fn save_slice<'a>(items: &'a [Self], out: &mut Saver<'a>) -> Result<(), SaveError> {
        block::save_items(probe::ByHandoff, items.iter(), out)
    }

    #[doc(hidden)]
    #[inline]
    fn restore_vec(input: &mut Restorer<'_>, length: usize) -> Result<Vec<Self>, RestoreError> {
        block::restore_items(probe::ByHandoff, input, length)
    }

    /// On the heap from the start, where that matters.
    #[doc(hidden)]
    #[inline]
    fn restore_boxed(input: &mut Restorer<'_>) -> Result<Box<Self>, RestoreError> {
        Self::restore(input).map(Box::new)
    }

    #[doc(hidden)]
    #[inline]
    fn calls(_: &mut Calls<Self>) {}
}

/// A type with serde's two traits as a [`Handoff`] type, where a type parameter asks for one.
///
/// A plain field needs no wrapper: the derive finds serde's traits itself.
///
/// ```
/// use flip::{Handoff, Serde};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Config { name: String }
///
/// #[derive(Handoff)]
/// struct Cached<T> { value: T, hits: u64 }
///
/// #[derive(Handoff)]
/// struct State { config: Cached<Serde<Config>> }
///
/// let state = State { config: Cached { value: Serde(Config { name: "a".into() }), hits: 0 } };
/// assert_eq!(state.config.value.name, "a");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Serde<T>(pub T);

impl<T> Deref for Serde<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Serde<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Serde<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Serialize + DeserializeOwned + Send> Handoff for Serde<T> {
    fn schema(_: &mut Schemas) -> Type {
        Type::self_described::<T>()
    }

    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        out.leaf(&self.0)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        input.leaf().map(Self)
    }
}

/// Writes one value; several go through one [`Saver`] in turn.
pub(crate) fn save<T: Handoff>(value: &T, sink: &mut dyn Sink) -> Result<(), SaveError> {
    let mut out = Saver::new(sink);
    save_into(value, &mut out)?;
    out.finish()
}

/// Writes one value and leaves `out` open for the next.
pub(crate) fn save_into<'a, T: Handoff>(value: &'a T, out: &mut Saver<'a>) -> Result<(), SaveError> {
    value.save(out).map_err(|error| error.in_type(&Schema::of::<T>().name()))
}

/// Reads one value and leaves `input` open for the next; [`Restorer::finish`] after the last.
///
/// The schemas must have been compared before.
pub(crate) fn restore<T: Handoff>(input: &mut Restorer<'_>) -> Result<T, RestoreError> {
    T::restore(input).map_err(|error| error.in_type(&Schema::of::<T>().name()))
}

/// The value together with its schema, without descriptors: what a forwarded call and its answer are.
pub(crate) fn to_bytes<T: Handoff>(value: &T) -> Result<Vec<u8>, SaveError> {
    let mut out = Saver::in_memory();
    let schema = Schema::of::<T>().encode();
    out.length(schema.len())?;
    out.bytes(&schema)?;
    save_into(value, &mut out)?;
    Ok(out.into_bytes())
}

/// Reads one value that the old process wrote with another schema: `plan` says how.
pub(crate) fn restore_matched<T: Handoff>(input: Restorer<'_>, plan: &Plan, limits: Limits) -> Result<T, RestoreError> {
    let mut transcoder = Transcoder::new(input, plan);
    let mut matched = Restorer::matched(&mut transcoder, limits);
    let value = restore(&mut matched)?;
    let given_up = matched.is_given_up();
    matched.finish()?;
    if !given_up {
        transcoder.finish()?;
    }
    Ok(value)
}

/// Reads what [`to_bytes`] wrote, if it can become a `T`.
pub(crate) fn from_bytes<T: Handoff>(bytes: &[u8]) -> Result<T, RestoreError> {
    let mut input = Restorer::from_bytes(bytes.to_vec(), Limits::default());
    let length = input.length()?;
    let theirs = input.bytes(length)?;
    let plan = Schema::plan_for::<T>(theirs).map_err(RestoreError::new)?;
    if plan.is_needed() {
        return restore_matched(input, &plan, Limits::default());
    }
    let value = restore(&mut input)?;
    input.finish()?;
    Ok(value)
}
