//! Everything that an expansion may name. Not public: it changes without notice.

#![allow(missing_docs)]

use std::fmt::Debug;

pub use serde::{Serialize, de::DeserializeOwned};

pub use crate::config::{Config, Flavor, Ready, Runtime, UnhandledPanic};
#[cfg(feature = "tokio")]
pub use crate::entry::{main_async, service_async};
pub use crate::entry::{main_blocking, service_blocking};
use crate::error::BoxError;
pub use crate::handoff::{
    Handoff, RestoreError, Restorer, SaveError, Saver, Schemas, Type,
    calls::{Accepts, Apply, Calls},
    field::{default_of, made, migrated, restore_field, restore_field_from, restore_field_or, save_field},
    probe::{ByNothing, BySerde, Codec, Level0, Level1, Level2, Level3, Of, Pair, Probe},
};
use crate::listen::ToAddress;

/// What `main` returned. A value that is an error has words for the old process; another has none.
pub struct Ended<'r, R>(pub &'r R);

impl<T, E: Debug> Ended<'_, Result<T, E>> {
    /// As std prints it when the process ends.
    pub fn words(&self) -> Option<String> {
        self.0.as_ref().err().map(|error| format!("{error:?}"))
    }
}

/// The method of what is no `Result`.
pub trait NoWords {
    fn words(&self) -> Option<String> {
        None
    }
}

impl<R> NoWords for Ended<'_, R> {}

/// For a `main` that returns nothing.
pub fn wordless<R>(_: &R) -> Option<String> {
    None
}

/// What a `#[listen(expression)]` gives. `O` has a name because rustc looks at `A::Out` once more, and what is no address is
/// one mistake.
pub fn address<A: ToAddress<Out = O> + ?Sized, O>(address: &A) -> Result<O, BoxError> {
    address.to_address()
}
