//! Connections that hyper has given away, taken apart: for those who know what is spoken on them.

use std::sync::Arc;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::gate::Gate;
use crate::shared::Shared;

/// A connection that [`serve`](super::serve) accepted.
pub(crate) struct Released {
    pub(crate) socket: Socket,
    /// What was read of it after the request.
    pub(crate) unread: Vec<u8>,
    /// Keeps its process draining, and [`serve`](super::serve) from returning.
    pub(crate) lease: Box<dyn Send + Sync>,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Under TLS: it stays in this process.
    #[cfg(feature = "rustls")]
    Secured(Box<super::tls::Secured<TcpStream>>),
}

/// It, or what it was where it is another server's.
pub(crate) fn release(upgraded: Upgraded) -> Result<Released, Upgraded> {
    let upgraded = match take::<TcpStream>(upgraded) {
        Ok((io, rest)) => return Ok(rest(Socket::Tcp(io))),
        Err(upgraded) => upgraded,
    };
    let upgraded = match take::<UnixStream>(upgraded) {
        Ok((io, rest)) => return Ok(rest(Socket::Unix(io))),
        Err(upgraded) => upgraded,
    };
    #[cfg(feature = "rustls")]
    let upgraded = match take::<super::tls::Secured<TcpStream>>(upgraded) {
        Ok((io, rest)) => return Ok(rest(Socket::Secured(Box::new(io)))),
        Err(upgraded) => upgraded,
    };
    Err(upgraded)
}

type Rest = Box<dyn FnOnce(Socket) -> Released>;

fn take<I>(upgraded: Upgraded) -> Result<(I, Rest), Upgraded>
where
    I: super::sealed::Transport,
{
    let parts = upgraded.downcast::<TokioIo<Gate<I>>>()?;
    let gate = parts.io.into_inner();
    let shared = Arc::clone(gate.shared());
    let (io, later, lease) = gate.into_parts();
    // hyper read from the gate.
    let unread = [parts.read_buf, later].concat();
    let rest = |socket| Released { socket, unread, lease: Box::new(lease), shared };
    Ok((io, Box::new(rest)))
}
