//! Pages for readers; there is nothing to be used.

#[doc = include_str!("../docs/changing-state.md")]
pub mod changing_state {}
