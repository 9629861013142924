//! A WebSocket's client, frame by frame, over a blocking socket: what it is told is all that it does.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// The frame is the last of its message.
pub const FINAL: u8 = 0x80;

/// A client's frame: masked (RFC 6455, 5.3).
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = match payload.len() {
        short @ 0..126 => vec![first, 0x80 | short as u8],
        long => [&[first, 0x80 | 126][..], &(long as u16).to_be_bytes()].concat(),
    };
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// # Errors
    /// The service does not agree.
    pub fn open(address: SocketAddr, path: &str) -> io::Result<Client> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        // The key and the answer to it are those of the specification (RFC 6455, 1.3).
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let (mut stream, mut head) = (BufReader::with_capacity(1024, stream), String::new());
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let is_agreed = head.starts_with("HTTP/1.1 101 ")
            && head.to_ascii_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n");
        if is_agreed { Ok(Client { stream }) } else { Err(io::Error::other(head)) }
    }

    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// # Errors
    /// The connection is gone.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.send(&frame(FINAL | TEXT, text.as_bytes()))
    }

    /// The next frame: its first byte, and what is in it.
    ///
    /// # Errors
    /// The connection is gone, or nothing comes.
    pub fn hear(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                u16::from_be_bytes(length).into()
            }
            127 => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length)?;
                usize::try_from(u64::from_be_bytes(length)).map_err(io::Error::other)?
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    /// The next message, which is text.
    ///
    /// # Errors
    /// What comes instead.
    pub fn hear_text(&mut self) -> io::Result<String> {
        match self.hear()? {
            (first, payload) if first == FINAL | TEXT => String::from_utf8(payload).map_err(io::Error::other),
            (first, payload) => Err(io::Error::other(format!("a frame {first:#x} of {payload:?}"))),
        }
    }

    /// Whether something was said that was not heard, at this moment.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn is_spoken_to(&mut self) -> io::Result<bool> {
        self.stream.get_ref().set_nonblocking(true)?;
        let said = self.stream.fill_buf().map(|said| !said.is_empty());
        self.stream.get_ref().set_nonblocking(false)?;
        match said {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Ok(false) => Err(ErrorKind::UnexpectedEof.into()),
            said => said,
        }
    }

    /// Is told to close, with this code, and does so.
    ///
    /// # Errors
    /// What comes instead.
    pub fn is_closed_with(mut self) -> io::Result<u16> {
        let (first, payload) = self.hear()?;
        let Some(code) = payload.first_chunk().filter(|_| first == FINAL | CLOSE) else {
            return Err(io::Error::other(format!("a frame {first:#x} of {payload:?}")));
        };
        self.send(&frame(FINAL | CLOSE, code))?;
        self.is_over()?;
        Ok(u16::from_be_bytes(*code))
    }

    /// The service closes its side, and says nothing more.
    ///
    /// # Errors
    /// It does not.
    pub fn is_over(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("more is said")),
        }
    }
}
