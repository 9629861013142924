//! What states are built of: std's types, each with its form on the wire.

mod collection;
mod descriptor;
mod net;
mod number;
mod region;
mod text;
mod time;

pub(super) use collection::{restore_items, save_items};

use super::{RestoreError, Restorer, SaveError, Saver, Schemas, Type, schema::Leaf};

/// `Handoff` for types that are a leaf of the schema.
macro_rules! leaf {
    ($ty:ty, $leaf:ident, |$value:ident, $out:ident| $save:expr, |$input:ident| $restore:expr) => {
        impl crate::Handoff for $ty {
            fn schema(_: &mut crate::handoff::Schemas) -> crate::handoff::Type {
                crate::handoff::Type::leaf(crate::handoff::schema::Leaf::$leaf)
            }

            #[inline]
            fn save<'a>(&'a self, $out: &mut crate::handoff::Saver<'a>) -> Result<(), crate::handoff::SaveError> {
                let $value = self;
                $save
            }

            // What a function returns goes through memory, and is waited for there.
            #[inline(always)]
            fn restore($input: &mut crate::handoff::Restorer<'_>) -> Result<Self, crate::handoff::RestoreError> {
                $restore
            }
        }
    };
}

use leaf;
