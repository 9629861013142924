//! Operations on a live state that travel to whoever owns it.

use std::{any::type_name, collections::HashMap, fmt};

use super::{Handoff, from_bytes, to_bytes};

/// An operation that a live state can be asked for, from any process that still has the handle.
///
/// List the operations on the type, so that the new process knows them when a draining one sends them:
///
/// ```
/// use flip::{Apply, Handoff};
///
/// #[derive(Default, Handoff)]
/// #[handoff(calls(Hit))]
/// struct Visits { total: u64 }
///
/// #[derive(Handoff)]
/// struct Hit { count: u64 }
///
/// impl Apply<Hit> for Visits {
///     type Answer = u64;
///
///     fn apply(&mut self, hit: Hit) -> u64 {
///         self.total += hit.count;
///         self.total
///     }
/// }
///
/// assert_eq!(Visits::default().apply(Hit { count: 2 }), 2);
/// ```
///
/// The operation and its answer travel as bytes, so neither can hold a descriptor.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what the call `{Op}` does",
    note = "write `impl flip::Apply<{Op}> for {Self}`"
)]
pub trait Apply<Op> {
    /// What the caller gets back.
    type Answer;

    /// Does it. Runs in the process that owns the state, while nobody else reads or writes it.
    fn apply(&mut self, op: Op) -> Self::Answer;
}

/// That a type lists an operation in `#[handoff(calls(…))]`; written by the derive only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not list the call `{Op}`",
    note = "add `#[handoff(calls({Op}))]` to `{Self}`"
)]
pub trait Accepts<Op> {}

/// Why a call that was forwarded was not applied.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallRefused {
    /// The type here does not list this operation.
    Unknown(String),
    /// The operation is here, but of another form, or its bytes are broken.
    Operation(super::RestoreError),
    /// It *was* applied, but the answer could not be written.
    Answer(super::SaveError),
}

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "the new process does not know the call `{name}`"),
            Self::Operation(error) => write!(f, "the call could not be read: {error}"),
            Self::Answer(error) => write!(f, "the call was applied, but its answer could not be written: {error}"),
        }
    }
}

impl std::error::Error for CallRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unknown(_) => None,
            Self::Operation(error) => Some(error),
            Self::Answer(error) => Some(error),
        }
    }
}

type Applied<T> = fn(&mut T, &[u8]) -> Result<Vec<u8>, CallRefused>;

/// The operations that a type lists. Filled by generated code only.
#[doc(hidden)]
pub struct Calls<T> {
    table: HashMap<&'static str, Applied<T>>,
}

impl<T> Calls<T> {
    #[doc(hidden)]
    pub fn add<Op>(&mut self)
    where
        T: Apply<Op, Answer: Handoff>,
        Op: Handoff,
    {
        self.table.insert(Self::name_of::<Op>(), |state, bytes| {
            let op = from_bytes::<Op>(bytes).map_err(CallRefused::Operation)?;
            to_bytes(&state.apply(op)).map_err(CallRefused::Answer)
        });
    }

    /// What the two processes know an operation by.
    pub(crate) fn name_of<Op>() -> &'static str {
        type_name::<Op>()
    }
}

#[allow(dead_code)]
impl<T: Handoff> Calls<T> {
    /// All operations that `T` lists.
    pub(crate) fn of() -> Self {
        let mut calls = Self { table: HashMap::new() };
        T::calls(&mut calls);
        calls
    }

    /// Applies the operation of this name, written by [`to_bytes`], and gives the answer, written likewise.
    pub(crate) fn apply(&self, state: &mut T, name: &str, bytes: &[u8]) -> Result<Vec<u8>, CallRefused> {
        match self.table.get(name) {
            Some(apply) => apply(state, bytes),
            None => Err(CallRefused::Unknown(name.to_owned())),
        }
    }
}
