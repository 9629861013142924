//! The kinds of sockets, and a descriptor of one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, SockRef, Type};

use super::address::Address;

/// What is listened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Tcp,
    Udp,
    Unix,
    Seqpacket,
    UnixDatagram,
}

impl Kind {
    /// It has connections, and so `listen` and `accept`.
    pub(crate) fn accepts(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Unix | Kind::Seqpacket)
    }

    pub(crate) fn is_ip(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Udp)
    }

    pub(super) fn socket_type(self) -> Type {
        match self {
            Kind::Tcp | Kind::Unix => Type::STREAM,
            Kind::Udp | Kind::UnixDatagram => Type::DGRAM,
            Kind::Seqpacket => Type::SEQPACKET,
        }
    }

    /// An unbound socket, closed on exec and non-blocking as all of flip's are.
    pub(super) fn open(self, domain: Domain) -> io::Result<socket2::Socket> {
        socket2::Socket::new(domain, self.socket_type().nonblocking().cloexec(), None)
    }

    /// Whether `socket` is one of this kind.
    pub(super) fn fits(self, socket: &socket2::Socket) -> io::Result<bool> {
        let domain = socket.domain()?;
        let family =
            if self.is_ip() { domain == Domain::IPV4 || domain == Domain::IPV6 } else { domain == Domain::UNIX };
        Ok(family && socket.r#type()? == self.socket_type())
    }

    /// Says how an address for it looks if this is none.
    pub(super) fn refuses(self, address: &Address) -> Option<String> {
        if matches!(address, Address::Systemd(_)) {
            // What it is shows when it is there.
            return None;
        }
        let ip = matches!(address, Address::Ip(_) | Address::Host(_));
        match (self.is_ip(), ip) {
            (true, false) => Some(format!("a {self} needs `host:port`, not the address of a Unix socket ({address})")),
            (false, true) => Some(format!("a {self} needs `unix:/path` or `@abstract`, not an IP address ({address})")),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Tcp => "TCP listener",
            Kind::Udp => "UDP socket",
            Kind::Unix => "Unix listener",
            Kind::Seqpacket => "Unix seqpacket listener",
            Kind::UnixDatagram => "Unix datagram socket",
        })
    }
}

/// A descriptor, as the standard type where that has safe methods that nobody else has.
#[derive(Debug)]
pub(crate) enum Fd {
    Listener(OwnedFd),
    Udp(UdpSocket),
    UnixDatagram(UnixDatagram),
}

impl Fd {
    pub(super) fn new(kind: Kind, fd: OwnedFd) -> Fd {
        match kind {
            Kind::Tcp | Kind::Unix | Kind::Seqpacket => Fd::Listener(fd),
            Kind::Udp => Fd::Udp(fd.into()),
            Kind::UnixDatagram => Fd::UnixDatagram(fd.into()),
        }
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    pub(super) fn accept(&self, flags: libc::c_int) -> io::Result<(OwnedFd, SockAddr)> {
        let (stream, peer) = self.socket().accept4(flags)?;
        Ok((stream.into(), peer))
    }

    pub(super) fn udp(&self) -> io::Result<&UdpSocket> {
        match self {
            Fd::Udp(socket) => Ok(socket),
            _ => Err(wrong_kind()),
        }
    }

    pub(super) fn unix_datagram(&self) -> io::Result<&UnixDatagram> {
        match self {
            Fd::UnixDatagram(socket) => Ok(socket),
            _ => Err(wrong_kind()),
        }
    }
}

fn wrong_kind() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a socket of another kind")
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Fd::Listener(fd) => fd.as_fd(),
            Fd::Udp(socket) => socket.as_fd(),
            Fd::UnixDatagram(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The address of an IP socket.
pub(super) fn ip_addr(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an IP address"))
}

/// The address of a Unix socket. The kernel's may be unnamed, which has no path. A path of all 108 bytes, which unix(7) allows and
/// std cannot express, is as good as none: what a client calls itself is no reason for a listener to fail.
pub(super) fn unix_addr(address: &SockAddr) -> io::Result<UnixAddr> {
    match address.as_abstract_namespace() {
        Some(name) => UnixAddr::from_abstract_name(name),
        None => UnixAddr::from_pathname(address.as_pathname().unwrap_or(Path::new(""))),
    }
    .or_else(|_| UnixAddr::from_pathname(""))
}

/// The kernel's form of a Unix address.
pub(super) fn unix_sockaddr(path_or_name: &Address) -> io::Result<SockAddr> {
    match path_or_name {
        Address::Unix(path) => SockAddr::unix(path),
        Address::Abstract(name) => {
            let mut bytes = vec![0];
            bytes.extend_from_slice(name);
            SockAddr::unix(Path::new(std::ffi::OsStr::from_bytes(&bytes)))
        }
        Address::Ip(_) | Address::Host(_) | Address::Systemd(_) => Err(wrong_kind()),
    }
}

/// A peer as it is reported, nothing where it has no name.
pub(super) fn unix_peer(address: &UnixAddr) -> Option<String> {
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => Some(path.display().to_string()),
        (None, Some(name)) => Some(format!("@{}", name.escape_ascii())),
        (None, None) => None,
    }
}

/// How long to wait, again and again, for room in the queue of a Unix datagram's receiver: 1 ms, doubled up to 64. Nothing
/// else tells: a socket that is not connected to the receiver is always writable for poll(2).
pub(super) fn full_queue() -> impl Iterator<Item = Duration> {
    (0..).map(|n: u32| Duration::from_millis(1 << n.min(6)))
}
