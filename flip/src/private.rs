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

/// The codec without a process around it, for the benchmarks of this repository: bytes go and come in pieces, as through
/// a socket.
pub mod bench {
    use std::{collections::VecDeque, io, os::fd::OwnedFd};

    use super::{Handoff, RestoreError, SaveError};
    use crate::handoff::{self, CHUNK, Limits, Restorer, Schema, Sink, Source};
    use crate::sys::spare::Spare;

    struct Written<'b>(&'b mut Vec<u8>);

    impl Sink for Written<'_> {
        fn send(&mut self, bytes: &[u8], _: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    impl Source for &[u8] {
        fn receive(&mut self, bytes: &mut Vec<u8>, _: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
            let (piece, rest) = self.split_at(self.len().min(CHUNK));
            bytes.extend_from_slice(piece);
            *self = rest;
            Ok(piece.len())
        }

        fn fill(&mut self, room: &mut Spare<'_>, _: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
            let (piece, rest) = self.split_at(self.len().min(room.left()).min(CHUNK));
            room.put(piece);
            *self = rest;
            Ok(piece.len())
        }
    }

    pub fn save<T: Handoff>(value: &T, bytes: &mut Vec<u8>) -> Result<(), SaveError> {
        handoff::save(value, &mut Written(bytes))
    }

    /// Reads what [`save`] wrote, by one thread.
    pub fn restore<T: Handoff>(bytes: &[u8]) -> Result<T, RestoreError> {
        restore_by(1, bytes)
    }

    /// The same by so many threads, beside this one.
    pub fn restore_by<T: Handoff>(readers: usize, mut bytes: &[u8]) -> Result<T, RestoreError> {
        let mut input = Restorer::new(&mut bytes, Limits { readers, ..Limits::default() });
        let value = handoff::restore(&mut input)?;
        input.finish()?;
        Ok(value)
    }

    /// Reads what [`save`] wrote of an `Old` of another schema.
    pub fn restore_from<Old: Handoff, T: Handoff>(readers: usize, mut bytes: &[u8]) -> Result<T, RestoreError> {
        let plan = Schema::of::<T>().plan(&Schema::of::<Old>()).map_err(|m| RestoreError::new(m.to_string()))?;
        assert!(plan.is_needed(), "the two schemas are the same");
        let limits = Limits { readers, ..Limits::default() };
        handoff::restore_matched(Restorer::new(&mut bytes, limits), &plan, limits)
    }
}

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
