//! What an expansion calls for each field: the facts come from it, what they mean is decided here.

// Only expansions see it.
#![allow(missing_docs)]

use super::{
    Handoff, RestoreError, Restorer, SaveError, Saver,
    matching::{ABSENT, DIRECT, MIGRATED, PRESENT},
    probe::Codec,
};

#[inline]
pub fn save_field<'a, T: Send, C: Codec<T>>(
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
pub fn restore_field<T: Send, C: Codec<T>>(
    name: &'static str,
    codec: C,
    input: &mut Restorer<'_>,
) -> Result<T, RestoreError> {
    match codec.restore(input) {
        Ok(value) => Ok(value),
        Err(error) => Err(error.in_field(name)),
    }
}

/// A field that has a default where the old process has none.
#[inline]
pub fn restore_field_or<T>(
    name: &'static str,
    default: impl FnOnce() -> T,
    input: &mut Restorer<'_>,
    restore: impl FnOnce(&mut Restorer<'_>) -> Result<T, RestoreError>,
) -> Result<T, RestoreError> {
    match input.tag(PRESENT) {
        Ok(ABSENT) => Ok(default()),
        Ok(_) => restore(input),
        Err(error) => Err(error.in_field(name)),
    }
}

/// A field that was of the type `Old`.
#[inline]
pub fn restore_field_from<T, Old: Handoff>(
    name: &'static str,
    migrate: impl FnOnce(Old) -> T,
    input: &mut Restorer<'_>,
    restore: impl FnOnce(&mut Restorer<'_>) -> Result<T, RestoreError>,
) -> Result<T, RestoreError> {
    match migrated(migrate, input) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => restore(input),
        Err(error) => Err(error.in_field(name)),
    }
}

/// The value out of one of the type that it was before, if that is what the old process has.
#[inline]
pub fn migrated<T, Old: Handoff>(
    migrate: impl FnOnce(Old) -> T,
    input: &mut Restorer<'_>,
) -> Result<Option<T>, RestoreError> {
    Ok(match input.tag(DIRECT)? {
        MIGRATED => Some(migrate(Old::restore(input)?)),
        _ => None,
    })
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
