//! Everything that an expansion may name. Not public: it changes without notice.

pub use serde::{Serialize, de::DeserializeOwned};

pub use crate::config::{Config, Flavor, Ready, Runtime, UnhandledPanic};
#[cfg(feature = "tokio")]
pub use crate::entry::{main_async, service_async};
pub use crate::entry::{main_blocking, service_blocking};
use crate::error::BoxError;
pub use crate::handoff::{
    Handoff, RestoreError, Restorer, SaveError, Saver, Schemas, Type,
    calls::{Accepts, Apply, Calls},
    field::{default_of, made, restore_field, restore_field_or, save_field},
    probe::{ByNothing, BySerde, Codec, Level0, Level1, Level2, Level3, Of, Pair, Probe},
};
use crate::listen::ToAddress;

/// What a `#[listen(expression)]` gives. `O` has a name because rustc looks at `A::Out` once more, and what is no address is
/// one mistake.
pub fn address<A: ToAddress<Out = O> + ?Sized, O>(address: &A) -> Result<O, BoxError> {
    address.to_address()
}
