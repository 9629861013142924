//! Pages for readers; there is nothing to be used.

#[doc = include_str!("../docs/changing-state.md")]
pub mod changing_state {}

#[doc = include_str!("../docs/containers.md")]
pub mod containers {}

#[doc = include_str!("../docs/systemd.md")]
pub mod systemd {}

#[doc = include_str!("../docs/your-framework.md")]
pub mod your_framework {}
