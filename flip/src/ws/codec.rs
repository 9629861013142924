//! WebSocket frames without a socket: bytes in, messages out, and the other way.
//!
//! tungstenite has no way to give back what it was given and made no message of. So it is given a frame when all of it is there,
//! and the frames of a message that is not whole yet are kept beside it. What is left at any moment is bytes: those that were not
//! read, and those that were not sent.

use std::io::{self, Read, Write};

use tungstenite::error::Error as Cause;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::message::{Error, Message, Utf8Bytes};

/// tungstenite takes a frame in pieces of this size, from memory to memory, and keeps room for one; so it is small.
const PIECE: usize = 512;

pub(super) struct Codec {
    tungstenite: WebSocketContext,
    limit: usize,
    /// What arrived and tungstenite has not seen.
    unread: Buffer,
    /// The frames that it has seen of a message which is not whole.
    amid: Vec<u8>,
    /// What is to be sent.
    unsent: Buffer,
    /// Nothing will be read any more.
    ended: bool,
}

/// What is next.
#[derive(Debug)]
pub(super) enum Next {
    Message(Message),
    /// More bytes are needed.
    Nothing,
    /// The peer has sent its Close; the answer to it is to be sent.
    Closed,
}

impl Codec {
    /// A server's side. A message longer than the limit is an error.
    pub(super) fn new(unread: Vec<u8>, unsent: Vec<u8>, limit: usize) -> Codec {
        let config = WebSocketConfig::default()
            .read_buffer_size(PIECE)
            // Each frame at once, into `unsent`.
            .write_buffer_size(0)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        Codec {
            tungstenite: WebSocketContext::new(Role::Server, Some(config)),
            limit,
            unread: Buffer::from(unread),
            amid: Vec::new(),
            unsent: Buffer::from(unsent),
            ended: false,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Neither side has sent a Close.
    pub(super) fn is_open(&self) -> bool {
        !self.ended && self.tungstenite.can_write() && self.tungstenite.can_read()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn arrived(&mut self, bytes: &[u8]) {
        self.unread.extend(bytes);
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.unsent.rest()
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.unsent.consume(count);
    }

    /// The next message, of what arrived. Pings are answered on the way.
    ///
    /// # Errors
    /// The peer breaks the protocol. It is told; nothing more is read.
    pub(super) fn next(&mut self) -> Result<Next, Error> {
        while !self.ended {
            let Some(frame) = Frame::first(self.unread.rest(), self.limit) else { break };
            let bytes = &self.unread.rest()[..frame.length];
            let mut pipe = Pipe { arriving: bytes, leaving: &mut self.unsent };
            let read = self.tungstenite.read(&mut pipe);
            if frame.is_part {
                self.amid.extend_from_slice(bytes);
            }
            self.unread.consume(frame.length);
            match read {
                Ok(tungstenite::Message::Text(text)) => {
                    self.amid.clear();
                    return Ok(Next::Message(Message::Text(Utf8Bytes::of(text))));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    self.amid.clear();
                    return Ok(Next::Message(Message::Binary(bytes)));
                }
                Ok(tungstenite::Message::Close(_)) | Err(Cause::ConnectionClosed) => self.ended = true,
                Ok(_) => {}
                // Of this frame nothing is left to say.
                Err(Cause::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => {
                    let (code, error) = refusal(cause);
                    self.close(code, &error.to_string());
                    self.ended = true;
                    return Err(error);
                }
            }
            // The Pong, or the answer to a Close.
            self.flush();
        }
        Ok(if self.ended { Next::Closed } else { Next::Nothing })
    }

    /// # Errors
    /// One side has sent a Close.
    pub(super) fn send(&mut self, message: Message) -> Result<(), Error> {
        if !self.is_open() {
            return Err(Error::Closed);
        }
        let message = match message {
            Message::Text(text) => tungstenite::Message::Text(text.into_inner()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
        };
        let mut pipe = Pipe { arriving: &[], leaving: &mut self.unsent };
        self.tungstenite.write(&mut pipe, message).map_err(|cause| refusal(cause).1)
    }

    /// Sends a Close, where neither side has.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        // With its code, a control frame has room for 125 bytes (RFC 6455, 5.5).
        let reason = &reason[..reason.floor_boundary(123)];
        let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let mut pipe = Pipe { arriving: &[], leaving: &mut self.unsent };
        // Nothing but `unsent` is written to, which takes it.
        let _ = self.tungstenite.close(&mut pipe, Some(close));
    }

    fn flush(&mut self) {
        let mut pipe = Pipe { arriving: &[], leaving: &mut self.unsent };
        // It says that the connection is closed, where it is.
        let _ = self.tungstenite.flush(&mut pipe);
    }

    /// All that is left of it: what was not read as messages, and what is not sent.
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        let mut unread = self.amid;
        unread.extend_from_slice(self.unread.rest());
        (unread, self.unsent.rest().to_vec())
    }
}

trait FloorBoundary {
    fn floor_boundary(&self, at_most: usize) -> usize;
}

impl FloorBoundary for str {
    /// The last end of a character.
    fn floor_boundary(&self, at_most: usize) -> usize {
        (0..=at_most.min(self.len())).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}

/// What the peer is told, and what the user is.
fn refusal(cause: Cause) -> (u16, Error) {
    match cause {
        Cause::ConnectionClosed | Cause::AlreadyClosed => (1000, Error::Closed),
        Cause::Io(error) => (1011, Error::Lost(error)),
        Cause::Capacity(what) => (1009, Error::TooLong(what.to_string())),
        Cause::Utf8(what) => (1007, Error::Protocol(what)),
        what => (1002, Error::Protocol(what.to_string())),
    }
}

/// The frame in front of what arrived (RFC 6455, 5.2).
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    length: usize,
    /// More frames of its message follow.
    is_part: bool,
}

impl Frame {
    /// It, once it is whole. Of one that is too long, its head is enough for tungstenite to refuse it.
    fn first(bytes: &[u8], limit: usize) -> Option<Frame> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (payload, more) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            short => (u64::from(short), 0),
        };
        let head = 2 + more + if second & 0x80 != 0 { 4 } else { 0 };
        let whole = usize::try_from(payload).ok().filter(|&payload| payload <= limit).map(|payload| head + payload);
        let length = whole.unwrap_or(head);
        let (is_final, is_control) = (first & 0x80 != 0, first & 0x08 != 0);
        (bytes.len() >= length).then_some(Frame { length, is_part: !is_final && !is_control })
    }
}

/// What tungstenite takes for a connection: one frame to read, and room for whatever it writes.
struct Pipe<'a> {
    arriving: &'a [u8],
    leaving: &'a mut Buffer,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.arriving.is_empty() {
            // Nothing would be the end of the connection.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.arriving.read(buf)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.leaving.extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that come at the end and go at the front.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    gone: usize,
}

/// How much memory one keeps that is empty.
const KEPT: usize = 16 * 1024;

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer { bytes, gone: 0 }
    }
}

impl Buffer {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    fn extend(&mut self, bytes: &[u8]) {
        // What is moved is less than what went, so that each byte is moved once at most.
        if self.gone > self.bytes.len() / 2 {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn consume(&mut self, count: usize) {
        self.gone += count;
        if self.gone == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.gone = 0;
        }
    }
}
