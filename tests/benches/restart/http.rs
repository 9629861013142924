//! As much HTTP/1.1 as a closed loop of small requests needs, over blocking sockets: what the clients spend, the service
//! does not have.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::AsRawFd;

/// How long a request may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

pub const ROOT: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";
pub const WHOAMI: &[u8] = b"GET /whoami HTTP/1.1\r\nhost: bench\r\n\r\n";
pub const EVENTS: &[u8] = b"GET /events HTTP/1.1\r\nhost: bench\r\n\r\n";
pub const FILL: &[u8] = b"GET /fill HTTP/1.1\r\nhost: bench\r\n\r\n";
pub const TOUCH: &[u8] = b"GET /touch HTTP/1.1\r\nhost: bench\r\n\r\n";

/// Why a request has no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Refused,
    Reset,
    /// The connection ended before the answer did.
    Cut,
    TimedOut,
    /// An answer, but not 200.
    Status,
    Other,
}

impl Loss {
    pub const ALL: [Loss; 6] = [Loss::Refused, Loss::Reset, Loss::Cut, Loss::TimedOut, Loss::Status, Loss::Other];

    pub fn name(self) -> &'static str {
        match self {
            Loss::Refused => "refused",
            Loss::Reset => "reset",
            Loss::Cut => "cut",
            Loss::TimedOut => "timed out",
            Loss::Status => "not 200",
            Loss::Other => "other",
        }
    }
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Loss {
        match error.kind() {
            ErrorKind::ConnectionRefused => Loss::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Loss::Reset,
            ErrorKind::UnexpectedEof => Loss::Cut,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Loss::TimedOut,
            _ => Loss::Other,
        }
    }
}

/// A good answer.
pub struct Answer<'a> {
    pub body: &'a [u8],
    /// The server said that it will close the connection.
    pub last: bool,
}

pub struct Connection {
    stream: TcpStream,
    buffer: [u8; 1024],
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Connection, Loss> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, buffer: [0; 1024] })
    }

    /// The same with a patience of its own.
    pub fn exchange_within(&mut self, request: &[u8], patience: Duration) -> Result<Answer<'_>, Loss> {
        self.stream.set_read_timeout(Some(patience))?;
        self.exchange(request)
    }

    /// Sends one request and reads its answer.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>, Loss> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        let (head, length, last, ok) = loop {
            match self.stream.read(&mut self.buffer[filled..]) {
                Ok(0) => return Err(Loss::Cut),
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(end) = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end]).map_err(|_| Loss::Other)?;
                let header = |name: &str| {
                    head.lines().skip(1).find_map(|line| {
                        let (key, value) = line.split_once(':')?;
                        key.eq_ignore_ascii_case(name).then(|| value.trim())
                    })
                };
                let length =
                    header("content-length").and_then(|value| value.parse::<usize>().ok()).ok_or(Loss::Other)?;
                let last = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                break (end + 4, length, last, head.starts_with("HTTP/1.1 200"));
            }
        };
        let whole = head + length;
        if whole > filled {
            let rest = self.buffer.get_mut(filled..whole).ok_or(Loss::Other)?;
            self.stream.read_exact(rest)?;
        }
        if !ok {
            return Err(Loss::Status);
        }
        Ok(Answer { body: &self.buffer[head..whole], last })
    }

    /// Reads a stream of events to its end. Calls back once it flows.
    pub fn events(&mut self, flows: impl FnOnce()) -> Result<(), Loss> {
        self.stream.write_all(EVENTS)?;
        let mut flows = Some(flows);
        let mut tail = Vec::new();
        // The chunk of length 0 that ends the body. No event looks like it.
        while !tail.ends_with(b"0\r\n\r\n") {
            match self.stream.read(&mut self.buffer)? {
                0 => return Err(Loss::Cut),
                n => tail.extend_from_slice(&self.buffer[..n]),
            }
            if let Some(flows) = flows.take() {
                flows();
            }
        }
        if tail.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(Loss::Status) }
    }

    /// Whether the server has closed this idle connection, as a client with a pool looks before it uses one again.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        match recv(self.stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => false,
            Ok(_) | Err(_) => true,
        }
    }

    /// Closes without TIME_WAIT: at full speed the ports would otherwise be used up before the run is over. Only after
    /// a whole answer, so that the server has nothing left to send.
    pub fn close_at_once(self) {
        // Where it fails, the connection closes in the usual way.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}
