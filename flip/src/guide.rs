//! Pages for readers; there is nothing to be used.

// They are read as files as well, and their links lead to files there. Of two definitions of a link the first counts, so those that come
// before a page are the documentation's.

/// [CallError::Refused]: crate::CallError::Refused
/// [Exclusive]: crate::Exclusive
/// [Handle::serving]: crate::Handle::serving
/// [Live::call]: crate::Live::call
/// [Region]: crate::Region
/// [`Process`]: crate::testing::Process
/// [`migrated`]: crate::testing::migrated
/// [`snapshot_both_ways`]: crate::testing::snapshot_both_ways
#[doc = include_str!("../docs/changing-state.md")]
pub mod changing_state {}

/// [HandedOff]: crate::HandedOff
/// [Region]: crate::Region
/// [changing-state]: crate::guide::changing_state
/// [containers]: crate::guide::containers
/// [systemd]: crate::guide::systemd
#[doc = include_str!("../docs/checkpoints.md")]
pub mod checkpoints {}

/// [checkpoints]: crate::guide::checkpoints
#[doc = include_str!("../docs/containers.md")]
pub mod containers {}

/// [checkpoints]: crate::guide::checkpoints
#[doc = include_str!("../docs/systemd.md")]
pub mod systemd {}

/// [HandedOff]: crate::HandedOff
/// [Handle::guard]: crate::Handle::guard
/// [Handle::serving]: crate::Handle::serving
/// [Listen]: crate::Listen
/// [Live]: crate::Live
/// [Shutdown]: crate::Shutdown
/// [TcpListener::accept]: crate::TcpListener::accept
/// [TcpStream]: crate::TcpStream
/// [UdpSocket]: crate::UdpSocket
#[doc = include_str!("../docs/your-framework.md")]
pub mod your_framework {}
