//! The listeners for a `main` without an asynchronous runtime. Their streams block, as those of `std` do.
//!
//! ```no_run
//! use std::io::Write;
//!
//! # fn example(http: flip::blocking::TcpListener) -> std::io::Result<()> {
//! while let Some((mut stream, _peer)) = http.accept()? {
//!     std::thread::spawn(move || stream.write_all(b"hello\n"));
//! }
//! // Handed over or stopping: what was spawned has until `drain_timeout`.
//! # Ok(())
//! # }
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::sync::Arc;

use libc::SOCK_CLOEXEC;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::MsgFlags;

use super::address::Address;
use super::error::ListenError;
use super::kind::{Kind, full_queue, ip_addr, unix_addr, unix_peer};
use super::named::poll;
use super::options::ListenOptions;
use super::registry::Listeners;
use super::{Face, Listen};
use crate::drain::Guard;

macro_rules! listener {
    ($(#[$doc:meta])* $face:ident, $kind:expr, $stream:ident, $addr:ty, $to_addr:ident, $peer:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $face(Face);

        impl $face {
            /// The next connection, or `None` when this process will accept no more: another one does, or the service
            /// stops.
            ///
            /// It blocks while nobody connects, and while another process owns the listener. What accept(2) says about a
            /// connection that is already gone is not reported; when descriptors or memory run out (`EMFILE`, `ENFILE`,
            /// `ENOBUFS`, `ENOMEM`), that is logged once and tried again after 5 ms, then twice as long, up to one second.
            /// Several threads may accept at the same time.
            ///
            /// # Errors
            /// accept(2) or poll(2) fails in a way that another try does not heal.
            pub fn accept(&self) -> io::Result<Option<($stream, $addr)>> {
                // Without SOCK_NONBLOCK: accept4(2) passes the listener's own flag on to nobody.
                let Some((fd, peer)) = self.0.next_blocking(|fd| fd.accept(SOCK_CLOEXEC))? else { return Ok(None) };
                let peer = $to_addr(&peer)?;
                let guard = Arc::new(self.0.track($peer(&peer)));
                Ok(Some(($stream { stream: fd.into(), guard }, peer)))
            }
        }

        local!($face, 0, $kind, $addr, $to_addr, $face);
    };
}

macro_rules! local {
    ($face:ident, $field:tt, $kind:expr, $addr:ty, $to_addr:ident, $make:expr) => {
        impl $face {
            /// Where it is bound; with port 0 the port that it got.
            ///
            /// # Errors
            /// None so far.
            pub fn local_addr(&self) -> io::Result<$addr> {
                $to_addr(self.$field.local())
            }

            /// The name by which it is handed over: the parameter's.
            pub fn name(&self) -> &str {
                &self.$field.name
            }
        }

        impl Listen<Address> for $face {
            fn listen(
                listeners: &Arc<Listeners>,
                name: &str,
                address: Address,
                options: &ListenOptions,
            ) -> Result<Self, ListenError> {
                Face::listen($kind, listeners, name, address, options).map($make)
            }
        }
    };
}

listener! {
    /// A TCP listener that outlives the process, for threads.
    TcpListener, Kind::Tcp, TcpStream, SocketAddr, ip_addr, |peer: &SocketAddr| Some(peer.to_string())
}
listener! {
    /// A Unix stream listener that outlives the process, for threads.
    UnixListener, Kind::Unix, UnixStream, UnixAddr, unix_addr, unix_peer
}
listener! {
    /// A Unix listener of `SOCK_SEQPACKET` that outlives the process, for threads: connections that keep the bounds of
    /// messages (unix(7)).
    SeqpacketListener, Kind::Seqpacket, SeqpacketStream, UnixAddr, unix_addr, unix_peer
}

macro_rules! stream {
    ($(#[$doc:meta])* $stream:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $stream {
            stream: $inner,
            guard: Arc<Guard>,
        }

        impl $stream {
            /// Another handle of the same connection, which is open until the last one is dropped.
            ///
            /// # Errors
            /// No descriptor is left.
            pub fn try_clone(&self) -> io::Result<$stream> {
                Ok($stream { stream: self.stream.try_clone()?, guard: Arc::clone(&self.guard) })
            }

            /// The standard library's stream, and what keeps the process draining until its last clone is dropped.
            pub fn into_inner(self) -> ($inner, Arc<Guard>) {
                (self.stream, self.guard)
            }
        }

        impl AsFd for $stream {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.stream.as_fd()
            }
        }
    };
}

macro_rules! bytes {
    ($stream:ident, $inner:ty) => {
        impl Deref for $stream {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.stream
            }
        }

        impl Read for &$stream {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                (&self.stream).read(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&self.stream).read_vectored(bufs)
            }
        }

        impl Write for &$stream {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                (&self.stream).write(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                (&self.stream).write_vectored(bufs)
            }

            fn flush(&mut self) -> io::Result<()> {
                (&self.stream).flush()
            }
        }

        impl Read for $stream {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                (&*self).read(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&*self).read_vectored(bufs)
            }
        }

        impl Write for $stream {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                (&*self).write(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                (&*self).write_vectored(bufs)
            }

            fn flush(&mut self) -> io::Result<()> {
                (&*self).flush()
            }
        }
    };
}

stream! {
    /// A connection that a [`TcpListener`] accepted. While it or a clone lives, a process that has handed over or is
    /// stopping waits for it, at most for `drain_timeout`.
    TcpStream, std::net::TcpStream
}
bytes!(TcpStream, std::net::TcpStream);

stream! {
    /// A connection that a [`UnixListener`] accepted. While it or a clone lives, a process that has handed over or is
    /// stopping waits for it, at most for `drain_timeout`.
    UnixStream, std::os::unix::net::UnixStream
}
bytes!(UnixStream, std::os::unix::net::UnixStream);

stream! {
    /// A connection that a [`SeqpacketListener`] accepted. While it or a clone lives, a process that has handed over or is
    /// stopping waits for it, at most for `drain_timeout`.
    SeqpacketStream, OwnedFd
}

impl SeqpacketStream {
    /// Receives one message; 0 bytes are the end of the connection, or an empty message (recv(2)).
    ///
    /// # Errors
    /// `InvalidData` for a message that is longer than the buffer, whose rest is lost; otherwise what recv(2) says.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        recv_message(&self.stream, buf)
    }

    /// Sends one message, whole or not at all.
    ///
    /// # Errors
    /// What send(2) says; the peer's end is `BrokenPipe`, without a signal.
    pub fn send(&self, message: &[u8]) -> io::Result<usize> {
        send_message(&self.stream, message)
    }
}

/// One message, or an error if it does not fit: MSG_TRUNC tells its real length (unix(7)).
pub(super) fn recv_message(fd: &impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    let length = nix::sys::socket::recv(fd.as_fd().as_raw_fd(), buf, MsgFlags::MSG_TRUNC)?;
    if length > buf.len() {
        let what = format!("a message of {length} bytes does not fit into a buffer of {}", buf.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(length)
}

pub(super) fn send_message(fd: &impl AsFd, message: &[u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::send(fd.as_fd().as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?)
}

/// A UDP socket that outlives the process, for threads.
///
/// Datagrams are received by one process at a time; those that come during a handoff wait in the socket for the new one.
/// Answers can be sent while draining, too: once it has received, a process that has handed over or is stopping waits until
/// the socket is dropped, at most for `drain_timeout`.
///
/// ```no_run
/// # fn example(dns: flip::blocking::UdpSocket) -> std::io::Result<()> {
/// let mut datagram = [0; 512];
/// while let Some((length, peer)) = dns.recv_from(&mut datagram)? {
///     dns.send_to(&datagram[..length], peer)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UdpSocket(Face);

local!(UdpSocket, 0, Kind::Udp, SocketAddr, ip_addr, UdpSocket);

impl UdpSocket {
    /// The next datagram and its sender, or `None` when this process will receive no more: another one does, or the service
    /// stops. A datagram that is longer than the buffer is cut (udp(7)).
    ///
    /// # Errors
    /// What recv(2) says.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        self.0.next_blocking(|fd| self.0.receive(fd.udp()?.recv_from(buf)))
    }

    /// Sends a datagram from the address of this socket. It is never held back, not even after handing over.
    ///
    /// # Errors
    /// What send(2) says.
    pub fn send_to(&self, datagram: &[u8], to: impl Into<SocketAddr>) -> io::Result<usize> {
        let (fd, to) = (self.0.sender()?, to.into());
        loop {
            match fd.udp()?.send_to(datagram, to) {
                // The socket itself never blocks.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                done => return done,
            }
        }
    }
}

/// A Unix datagram socket that outlives the process, for threads: as [`UdpSocket`].
#[derive(Debug)]
pub struct UnixDatagram(Face);

local!(UnixDatagram, 0, Kind::UnixDatagram, UnixAddr, unix_addr, UnixDatagram);

impl UnixDatagram {
    /// The next datagram and its sender, or `None` when this process will receive no more: another one does, or the service
    /// stops. A datagram that is longer than the buffer is cut (unix(7)).
    ///
    /// # Errors
    /// What recv(2) says.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<Option<(usize, UnixAddr)>> {
        self.0.next_blocking(|fd| self.0.receive(fd.unix_datagram()?.recv_from(buf)))
    }

    /// Sends a datagram to a path from the address of this socket. It is never held back, not even after handing over.
    ///
    /// # Errors
    /// What send(2) says.
    pub fn send_to(&self, datagram: &[u8], to: impl AsRef<Path>) -> io::Result<usize> {
        self.send_to_addr(datagram, &UnixAddr::from_pathname(to)?)
    }

    /// [`send_to`](Self::send_to) an address, such as one in the abstract namespace.
    ///
    /// # Errors
    /// What send(2) says.
    pub fn send_to_addr(&self, datagram: &[u8], to: &UnixAddr) -> io::Result<usize> {
        let fd = self.0.sender()?;
        for wait in full_queue() {
            match fd.unix_datagram()?.send_to_addr(datagram, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(wait),
                done => return done,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}
