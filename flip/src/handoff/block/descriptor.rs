//! Descriptors: the new process gets a duplicate of each; both share what is open behind it.

use std::{
    fs::File,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
};

use super::leaf;

macro_rules! descriptors {
    ($($ty:ty, $leaf:ident;)*) => { $(
        leaf!($ty, $leaf, |value, out| out.descriptor(value.as_fd()), |input| input.descriptor().map(Self::from));
    )* };
}

// Blocking or not is a flag of what both share, and comes along.
descriptors! {
    OwnedFd, Descriptor;
    File, File;
    TcpStream, TcpStream;
    TcpListener, TcpListener;
    UdpSocket, UdpSocket;
    UnixStream, UnixStream;
    UnixListener, UnixListener;
    UnixDatagram, UnixDatagram;
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use std::{io, os::fd::AsFd};

    use tokio::{
        net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream},
        runtime::Handle,
    };

    use super::{super::RestoreError, leaf};

    macro_rules! sockets {
        ($($ty:ident, $std:ty;)*) => { $(
            leaf!(
                $ty,
                $ty,
                |value, out| out.descriptor(value.as_fd()),
                |input| {
                    let descriptor = input.descriptor()?;
                    registered(|| {
                        let socket = <$std>::from(descriptor);
                        socket.set_nonblocking(true)?;
                        $ty::from_std(socket)
                    })
                }
            );
        )* };
    }

    // In the schema they are what std's are: a descriptor of this kind.
    sockets! {
        TcpStream, std::net::TcpStream;
        TcpListener, std::net::TcpListener;
        UdpSocket, std::net::UdpSocket;
        UnixStream, std::os::unix::net::UnixStream;
        UnixListener, std::os::unix::net::UnixListener;
        UnixDatagram, std::os::unix::net::UnixDatagram;
    }

    /// Where there is no runtime, tokio would panic.
    fn registered<T>(make: impl FnOnce() -> io::Result<T>) -> Result<T, RestoreError> {
        if Handle::try_current().is_err() {
            return Err(RestoreError::new("a socket of tokio's is restored outside of its runtime"));
        }
        make().map_err(|error| RestoreError::io("the socket cannot be registered with the runtime", error))
    }
}
