//! Named listeners: inherited from the old process if it has one of the name at the address, bound otherwise.
//!
//! The [registry](registry::Listeners) holds the sockets, and closes them under the hands of the faces that users hold. A
//! face never touches a socket on its own: each `accept` and `recv_from` is one non-blocking system call under a
//! [pass](crate::drain::Pass), so that old and new never take from one queue at the same time.
//!
//! | who | does |
//! | --- | --- |
//! | old, at the offer | [`offer`](Listeners::offer), [`allow_overlap`](Listeners::allow_overlap) |
//! | new, from `main`'s parameters | [`bind`](Listeners::bind): claims what it inherited, binds the rest without listening |
//! | old, at the freeze | closes the gate: `accept` waits |
//! | new, when it serves | [`start`](Listeners::start): listens, closes what nobody asked for; then opens its gate |
//! | old, when new serves | [`close`](Listeners::close): descriptors closed, `accept` gives `None` |
//! | old, after a roll-back | [`forbid_overlap`](Listeners::forbid_overlap), opens its gate again |
//! | who stops | [`close`](Listeners::close), then [`unlink_owned`](Listeners::unlink_owned); both again once nothing is left but listeners that last |

mod address;
pub mod blocking;
mod error;
#[cfg(feature = "tokio")]
mod face;
mod holder;
mod kind;
mod named;
mod options;
mod passed;
mod path;
mod registry;
mod stored;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

pub use address::{Address, AddressError, ToAddress};
pub use error::{ListenError, ListenErrorKind};
#[cfg(feature = "tokio")]
pub use face::{
    SeqpacketListener, SeqpacketStream, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
pub(crate) use kind::Kind;
pub(crate) use named::{Manner, Named, Offered};
pub use options::ListenOptions;
pub(crate) use registry::InheritedSocket;
pub use registry::Listeners;

use crate::drain::Guard;

/// What `#[listen]` can give.
///
/// The plain sockets of `std` and `tokio` are for frameworks that want a bare one. They are inherited like the others, but
/// nothing gates them: during a handoff both processes may accept, what they accepted is not counted while draining, and
/// whether they are used says nothing about readiness. Nor can they be closed under their user's hands: drop them when
/// [`Shutdown`](crate::Shutdown) resolves. A bare one of `std` blocks, as its users expect. O_NONBLOCK belongs to the socket
/// and not to the descriptor (open(2)), so where the old process had it as one of flip's or tokio's, it changes only when the
/// new process serves, and until then `accept` may fail with `WouldBlock`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be asked for with #[listen] at `{A}`",
    label = "not a listener, or not one for this address",
    note = "with an address: `flip::TcpListener`, `UnixListener`, `SeqpacketListener`, `UdpSocket`, `UnixDatagram`, their \
            twins in `flip::blocking`, or a bare one of `std` or `tokio`",
    note = "with an `Option` of an address: `Option<L>` of one of these; with several, or all that systemd passes by one \
            name: `Vec<L>`"
)]
pub trait Listen<A>: Sized {
    /// Called by what `#[flip::main]` expands to.
    #[doc(hidden)]
    fn listen(listeners: &Arc<Listeners>, name: &str, address: A, options: &ListenOptions)
    -> Result<Self, ListenError>;
}

impl<L: Listen<Address>> Listen<Option<Address>> for Option<L> {
    fn listen(
        listeners: &Arc<Listeners>,
        name: &str,
        address: Option<Address>,
        options: &ListenOptions,
    ) -> Result<Self, ListenError> {
        address.map(|address| L::listen(listeners, name, address, options)).transpose()
    }
}

impl<L: Listen<Address>> Listen<Address> for Option<L> {
    fn listen(
        listeners: &Arc<Listeners>,
        name: &str,
        address: Address,
        options: &ListenOptions,
    ) -> Result<Self, ListenError> {
        L::listen(listeners, name, address, options).map(Some)
    }
}

/// All that were passed under one name; of any other address, the one.
impl<L: Listen<Address>> Listen<Address> for Vec<L> {
    fn listen(
        listeners: &Arc<Listeners>,
        name: &str,
        address: Address,
        options: &ListenOptions,
    ) -> Result<Self, ListenError> {
        let options = ListenOptions { several: true, ..options.clone() };
        let count = listeners.count(name, &address).max(1);
        (0..count).map(|index| L::listen(listeners, name, address.clone(), &options.at(index))).collect()
    }
}

impl<L: Listen<Address>> Listen<Vec<Address>> for Vec<L> {
    fn listen(
        listeners: &Arc<Listeners>,
        name: &str,
        addresses: Vec<Address>,
        options: &ListenOptions,
    ) -> Result<Self, ListenError> {
        (0..).zip(addresses).map(|(index, at)| L::listen(listeners, name, at, &options.at(index))).collect()
    }
}

/// What a face holds: when it goes, the listener goes.
#[derive(Debug)]
struct Face {
    named: Arc<Named>,
    /// A datagram has no connection whose end could be waited for: once one was received, its answer may be on its way for
    /// as long as somebody has the socket.
    received: OnceLock<Guard>,
}

impl Face {
    fn listen(
        kind: Kind,
        listeners: &Arc<Listeners>,
        name: &str,
        address: Address,
        options: &ListenOptions,
    ) -> Result<Face, ListenError> {
        let named = listeners.bind(kind, name, address, options, Manner::Managed)?;
        Ok(Face { named, received: OnceLock::new() })
    }

    /// Keeps the process draining until the face goes. Call it with the right to receive, so that it counts before this
    /// process hands over.
    fn receive<T>(&self, received: io::Result<T>) -> io::Result<T> {
        if received.is_ok() {
            self.received.get_or_init(|| self.track(None));
        }
        received
    }
}

impl std::ops::Deref for Face {
    type Target = Named;

    fn deref(&self) -> &Named {
        &self.named
    }
}

impl Drop for Face {
    fn drop(&mut self) {
        self.named.leave();
    }
}

/// A second descriptor of a listener's first socket, for somebody who uses it without flip.
fn bare(
    kind: Kind,
    manner: Manner,
    listeners: &Arc<Listeners>,
    name: &str,
    address: Address,
    options: &ListenOptions,
) -> Result<OwnedFd, ListenError> {
    if options.shards > 1 {
        return Err(ListenError::asked(name, &address, "a bare socket is one: shards need one of flip's listeners"));
    }
    if options.lasting {
        let why = "a bare socket is its user's to close: keep_accepting needs one of flip's listeners";
        return Err(ListenError::asked(name, &address, why));
    }
    let named = listeners.bind(kind, name, address, options, manner)?;
    let copied = named.sender().and_then(|fd| fd.as_fd().try_clone_to_owned());
    copied.map_err(|error| ListenError::system(name, &named.address, "copying its descriptor", error))
}

macro_rules! bare_std {
    ($($type:ty => $kind:expr),* $(,)?) => {$(
        impl Listen<Address> for $type {
            fn listen(
                listeners: &Arc<Listeners>,
                name: &str,
                address: Address,
                options: &ListenOptions,
            ) -> Result<Self, ListenError> {
                bare($kind, Manner::BareBlocking, listeners, name, address, options).map(Self::from)
            }
        }
    )*};
}
bare_std! {
    std::net::TcpListener => Kind::Tcp,
    std::net::UdpSocket => Kind::Udp,
    std::os::unix::net::UnixListener => Kind::Unix,
    std::os::unix::net::UnixDatagram => Kind::UnixDatagram,
}

#[cfg(feature = "tokio")]
macro_rules! bare_tokio {
    ($($type:ty => $std:ty, $kind:expr);* $(;)?) => {$(
        impl Listen<Address> for $type {
            fn listen(
                listeners: &Arc<Listeners>,
                name: &str,
                address: Address,
                options: &ListenOptions,
            ) -> Result<Self, ListenError> {
                let text = address.to_string();
                let fd = bare($kind, Manner::Bare, listeners, name, address, options)?;
                Self::from_std(<$std>::from(fd))
                    .map_err(|error| ListenError::system(name, &text, "registering it with the runtime", error))
            }
        }
    )*};
}
#[cfg(feature = "tokio")]
bare_tokio! {
    tokio::net::TcpListener => std::net::TcpListener, Kind::Tcp;
    tokio::net::UdpSocket => std::net::UdpSocket, Kind::Udp;
    tokio::net::UnixListener => std::os::unix::net::UnixListener, Kind::Unix;
    tokio::net::UnixDatagram => std::os::unix::net::UnixDatagram, Kind::UnixDatagram;
}
