//! Operations on a live state that travel to whoever owns it.

use std::{
    any::type_name,
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use super::{Handoff, Schema, from_bytes, to_bytes};

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
/// The operation and its answer travel as bytes, so neither can hold a descriptor. The new process knows an operation by
/// the name of its type alone, without modules: `Hit`, or what `#[handoff(rename = "…")]` on the type says. So the type
/// may move between releases, and no two operations of one state may have the same name.
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

/// Gives the state to what it is called with, once, as long as nobody else reads or writes it; or not at all.
type Within<'w, T> = &'w mut dyn FnMut(&mut dyn FnMut(&mut T));

/// Nothing where the state was not given.
type Applied<T> = fn(&[u8], Within<'_, T>) -> Result<Option<Vec<u8>>, CallRefused>;

/// The operations that a type lists. Filled by generated code only.
#[doc(hidden)]
pub struct Calls<T> {
    /// With the whole name of the type.
    table: HashMap<String, (&'static str, Applied<T>)>,
    conflict: Option<Conflict>,
}

/// Two operations of one state that the other process could not tell apart.
#[derive(Debug)]
pub(crate) struct Conflict {
    name: String,
    types: [&'static str; 2],
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, types: [one, other] } = self;
        write!(
            f,
            "`{one}` and `{other}` are both called `{name}`: give one of them another name, `#[handoff(rename = \"…\")]`"
        )
    }
}

impl<T> Calls<T> {
    #[doc(hidden)]
    pub fn add<Op>(&mut self)
    where
        T: Apply<Op, Answer: Handoff>,
        Op: Handoff,
    {
        let apply: Applied<T> = |bytes, within| {
            // It takes a while, with which nobody else is held up.
            let mut op = Some(from_bytes::<Op>(bytes).map_err(CallRefused::Operation)?);
            let mut answer = None;
            within(&mut |state| answer = op.take().map(|op| state.apply(op)));
            answer.map(|answer| to_bytes(&answer).map_err(CallRefused::Answer)).transpose()
        };
        match self.table.entry(Self::name_of::<Op>()) {
            Entry::Vacant(entry) => drop(entry.insert((type_name::<Op>(), apply))),
            Entry::Occupied(entry) => {
                let (name, types) = (entry.key().clone(), [entry.get().0, type_name::<Op>()]);
                self.conflict.get_or_insert(Conflict { name, types });
            }
        }
    }

    /// What the two processes know an operation by: not the name that rustc gives its type, which says where it lies and
    /// may be another with each release of either.
    pub(crate) fn name_of<Op: Handoff>() -> String {
        Schema::of::<Op>().name()
    }
}

impl<T: Handoff> Calls<T> {
    /// All operations that `T` lists.
    pub(crate) fn of() -> Self {
        let mut calls = Self { table: HashMap::new(), conflict: None };
        T::calls(&mut calls);
        calls
    }

    /// Two that have the same name.
    pub(crate) fn conflict(&self) -> Option<&Conflict> {
        self.conflict.as_ref()
    }

    /// Applies the operation of this name, written by [`to_bytes`], to the state that `within` gives, and gives the
    /// answer, written likewise; nothing where `within` gave none.
    pub(crate) fn apply(
        &self,
        name: &str,
        bytes: &[u8],
        within: Within<'_, T>,
    ) -> Result<Option<Vec<u8>>, CallRefused> {
        match self.table.get(name) {
            Some((_, apply)) => apply(bytes, within),
            None => Err(CallRefused::Unknown(name.to_owned())),
        }
    }
}
