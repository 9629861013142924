//! Connections of protocols of one's own, which move between two messages.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockRef};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net;
use tokio::runtime::Handle;

use super::{PassError, Relay};
use crate::drain::Guard;
use crate::handoff::{Handoff, RestoreError, Restorer, SaveError, Saver, Schemas, Type};
use crate::listen::{TcpStream, UnixStream};
use crate::phase::Phase;

/// How many bytes are read at once.
const READ: usize = 16 * 1024;
/// How many written bytes wait here before a write waits for the peer.
const UNSENT: usize = 64 * 1024;

/// A connection of a line- or frame-based protocol, with what its task knows about it: it moves to the new process between two
/// messages, with the bytes that were read and not used, and those that were written and not sent.
///
/// The task uses what is whole of what was [read](Connection::unread), and where nothing whole is left gives the connection to
/// [`Relay::at_rest`]: there it waits for more, or moves. Half a message moves as the bytes that it is.
///
/// ```no_run
/// use flip::{Connection, Relay, TcpListener};
/// use tokio::io::AsyncWriteExt;
///
/// /// Numbers the lines of a connection, through all generations.
/// async fn talk(talks: Relay<Connection<u64>>, mut talk: Connection<u64>) -> std::io::Result<()> {
///     loop {
///         while let Some(line) = talk.take_line() {
///             talk.context += 1;
///             let answer = format!("{}: {}\n", talk.context, String::from_utf8_lossy(&line));
///             talk.write_all(answer.as_bytes()).await?;
///         }
///         if talk.is_ended() {
///             return talk.shutdown().await;
///         }
///         talk = match talks.at_rest(talk).await {
///             Ok(Some(talk)) => talk,
///             // The new process goes on with it.
///             Ok(None) => return Ok(()),
///             Err(mut refused) => {
///                 refused.item.write_all(b"restarting, come again\n").await?;
///                 return refused.item.shutdown().await;
///             }
///         };
///     }
/// }
///
/// #[flip::main]
/// async fn main(#[listen("127.0.0.1:7000")] lines: TcpListener, talks: Relay<Connection<u64>>) -> std::io::Result<()> {
///     loop {
///         let next = tokio::select! {
///             Some(moved) = talks.next() => moved,
///             accepted = lines.accept() => match accepted? {
///                 Some((stream, _)) => Connection::new(stream, 0),
///                 None => return Ok(()),
///             },
///         };
///         tokio::spawn(talk(talks.clone(), next));
///     }
/// }
/// ```
///
/// It is `AsyncRead`, `AsyncBufRead` and `AsyncWrite`, too. A task that waits in one of these is not at rest: it drains with this process
/// if the rest of its message does not come. What is written is sent at once as far as the peer takes it; up to 64 KiB more wait here, for
/// `flush`, `shutdown`, the next write, or the next rest, and are lost if the connection is dropped before.
#[derive(Debug, flip::Handoff)]
pub struct Connection<C> {
    /// What the task knows about it.
    pub context: C,
    socket: Accepted,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    ended: bool,
    /// Its task has seen all that is unread.
    #[handoff(skip)]
    seen: bool,
}

/// A stream of one of flip's listeners.
#[derive(Debug)]
pub struct Accepted {
    io: Io,
    guard: Option<Guard>,
}

impl From<TcpStream> for Accepted {
    fn from(stream: TcpStream) -> Accepted {
        let (stream, guard) = stream.into_inner();
        Accepted { io: Io::Tcp(stream), guard: Some(guard) }
    }
}

impl From<UnixStream> for Accepted {
    fn from(stream: UnixStream) -> Accepted {
        let (stream, guard) = stream.into_inner();
        Accepted { io: Io::Unix(stream), guard: Some(guard) }
    }
}

#[derive(Debug)]
enum Io {
    Tcp(net::TcpStream),
    Unix(net::UnixStream),
}

impl Io {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn peer(&self) -> Option<String> {
        match self {
            Io::Tcp(stream) => stream.peer_addr().ok().map(|peer| peer.to_string()),
            Io::Unix(_) => None,
        }
    }
}

/// In the schema it is a descriptor like any other.
impl Handoff for Accepted {
    fn schema(schemas: &mut Schemas) -> Type {
        OwnedFd::schema(schemas)
    }

    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        match &self.io {
            Io::Tcp(stream) => stream.save(out),
            Io::Unix(stream) => stream.save(out),
        }
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Accepted, RestoreError> {
        let socket = OwnedFd::restore(input)?;
        if Handle::try_current().is_err() {
            return Err(RestoreError::io(
                "a connection is taken outside of tokio's runtime",
                ErrorKind::Unsupported.into(),
            ));
        }
        let io: io::Result<Io> = (|| {
            if SockRef::from(&socket).domain()? == Domain::UNIX {
                let stream = std::os::unix::net::UnixStream::from(socket);
                stream.set_nonblocking(true)?;
                return net::UnixStream::from_std(stream).map(Io::Unix);
            }
            let stream = std::net::TcpStream::from(socket);
            stream.set_nonblocking(true)?;
            net::TcpStream::from_std(stream).map(Io::Tcp)
        })();
        let io = io.map_err(|error| RestoreError::io("what was passed as a connection is none", error))?;
        // From here on: whoever takes it may be a task that does not run yet.
        let post = input.post().and_then(|post| Some((post.shared()?, post.name())));
        let guard = post.map(|(shared, name)| shared.track(Arc::clone(name), io.peer()));
        Ok(Accepted { io, guard })
    }
}

impl<C> Connection<C> {
    /// A connection that was accepted in this process.
    pub fn new(stream: impl Into<Accepted>, context: C) -> Connection<C> {
        let socket = stream.into();
        Connection { context, socket, unread: Vec::new(), unsent: Vec::new(), ended: false, seen: true }
    }

    /// What was read and not used.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Whether the peer will send no more than what is [unread](Self::unread): it has closed its side, or the connection broke.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next so many bytes, where as many are there.
    pub fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        if self.unread.len() < count {
            return None;
        }
        self.seen = false;
        let rest = self.unread.split_off(count);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// The next line without its end (`\n` or `\r\n`), where all of it is there. A last one without an end is left in
    /// [`unread`](Self::unread). How long a line may get is up to its task.
    pub fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let mut line = self.take(end + 1)?;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }

    /// Reads once, and sends what waits meanwhile.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Where it fails, so does reading, or the next write.
        let _ = self.poll_send(cx);
        match ready!(self.poll_fill(cx)) {
            Ok(0) | Err(_) => self.ended = true,
            Ok(_) => {}
        }
        Poll::Ready(())
    }

    /// Appends what has come to the unread bytes, and says how much it was.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [std::mem::MaybeUninit::uninit(); READ];
        let mut buf = ReadBuf::uninit(&mut bytes);
        ready!(self.socket.io.poll_read(cx, &mut buf))?;
        self.unread.extend_from_slice(buf.filled());
        self.seen = false;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Sends all that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(self.socket.io.poll_write(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: Handoff> Relay<Connection<C>> {
    /// Waits, between two messages, until more has come, and gives the connection back; or passes it to the new process as soon as that
    /// serves, and gives nothing. So does a connection whose peer has closed: [`Connection::is_ended`] says so.
    ///
    /// It comes back at once where there are bytes that its task may not have seen: since it last came back some were used, or it was
    /// moved. While the process is frozen nothing is read.
    ///
    /// # Errors
    /// [`PassError`] with the connection, where this process leaves and it cannot be passed: the new process has no such relay, or the
    /// service stops. Close it as your protocol does; it has until `drain_timeout`.
    ///
    /// # Cancel safety
    /// None: the connection is dropped with the future.
    pub async fn at_rest(
        &self,
        mut connection: Connection<C>,
    ) -> Result<Option<Connection<C>>, PassError<Connection<C>>> {
        let post = self.post();
        let Some(shared) = post.shared() else {
            connection.rests().await;
            return Ok(Some(connection));
        };
        let Accepted { io, guard } = &mut connection.socket;
        guard.get_or_insert_with(|| shared.track(Arc::clone(post.name()), io.peer()));
        loop {
            let phase = shared.phase.get();
            if phase.is_leaving() {
                return self.pass(connection).await.map(|()| None);
            }
            tokio::select! {
                biased;
                _ = shared.phase.until(|now| now != phase) => {}
                () = connection.rests(), if phase == Phase::Serving => return Ok(Some(connection)),
            }
        }
    }
}

impl<C> Connection<C> {
    /// Until there is something to look at.
    async fn rests(&mut self) {
        if self.seen && !self.ended {
            std::future::poll_fn(|cx| self.poll_more(cx)).await;
        }
        self.seen = true;
    }
}

impl<C: Unpin> AsyncRead for Connection<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let unread = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = unread.len().min(buf.remaining());
        buf.put_slice(&unread[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl<C: Unpin> AsyncBufRead for Connection<C> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let connection = self.get_mut();
        if connection.unread.is_empty() && !connection.ended {
            connection.ended = ready!(connection.poll_fill(cx))? == 0;
        }
        Poll::Ready(Ok(&connection.unread))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.seen = false;
        self.unread.drain(..count);
    }
}

impl<C: Unpin> AsyncWrite for Connection<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        if connection.unsent.len() >= UNSENT {
            ready!(connection.poll_send(cx))?;
        }
        let count = bytes.len().min(UNSENT - connection.unsent.len());
        connection.unsent.extend_from_slice(&bytes[..count]);
        match connection.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        ready!(connection.poll_send(cx))?;
        connection.socket.io.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn peer_that_does_not_read_has_64_kib_waiting_for_it() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let io = Io::Unix(net::UnixStream::from_std(ours).unwrap());
        let (mut connection, mut taken) = (Connection::new(Accepted { io, guard: None }, ()), 0);
        let piece = [b'x'; 40 * 1024];
        loop {
            tokio::select! {
                biased;
                written = connection.write(&piece) => taken += written.unwrap(),
                () = std::future::ready(()) => break,
            }
        }
        // What was not sent is lost with it.
        drop(connection);
        let mut sent = vec![];
        peer.read_to_end(&mut sent).unwrap();
        assert_eq!(taken - sent.len(), UNSENT);
    }
}
