//! What an expansion calls for each field: the facts come from it, what they mean is decided here.

// Only expansions see it.
#![allow(missing_docs)]

use super::{RestoreError, Restorer, SaveError, Saver, probe::Codec};

#[inline]
pub fn save_field<'a, T, C: Codec<T>>(
    name: &'static str,
    codec: C,
    value: &'a T,
    out: &mut Saver<'a>,
) -> Result<(), SaveError> {
    match codec.save(value, out) {
        Ok(()) => Ok(()),
        Err(error) => Err(error.in_field(name)),
    }
}

#[inline]
pub fn restore_field<T, C: Codec<T>>(
    name: &'static str,
    codec: C,
    input: &mut Restorer<'_>,
) -> Result<T, RestoreError> {
    match codec.restore(input) {
        Ok(value) => Ok(value),
        Err(error) => Err(error.in_field(name)),
    }
}

/// A field that has a default where the old process has none. As long as only equal schemas are read, it always has.
#[inline]
pub fn restore_field_or<T, C: Codec<T>>(
    name: &'static str,
    codec: C,
    _default: impl FnOnce() -> T,
    input: &mut Restorer<'_>,
) -> Result<T, RestoreError> {
    restore_field(name, codec, input)
}

/// `Default` with a message of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no default value",
    label = "a field that is not handed over, or not always, needs one",
    note = "say which: `#[handoff(default = expr)]`, or `#[handoff(skip, default = expr)]`"
)]
pub trait HasDefault: Sized {
    fn default_here() -> Self;
}

impl<T: Default> HasDefault for T {
    fn default_here() -> Self {
        Self::default()
    }
}

#[inline]
pub fn default_of<T: HasDefault>() -> T {
    T::default_here()
}

/// What `default = expr` says, as a function of its own: a `return` or `?` in it is the user's.
#[inline]
pub fn made<T>(make: impl FnOnce() -> T) -> T {
    make()
}
