//! WebSocket frames without a socket: bytes in, messages out, and the other way.
//!
//! tungstenite has no way to give back what it was given and made no message of. So it is given a frame when all of it is there,
//! and what it has of a message that is not whole yet is kept beside it. What is left at any moment is bytes: those that were not
//! read, and those that were not sent.

use std::io::{self, Read, Write};

use tungstenite::error::Error as Cause;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::message::{Error, Message, Utf8Bytes};

/// The longest message that any limit allows: a frame of it still has a length.
const LONGEST: usize = isize::MAX as usize - Part::HEAD;

/// tungstenite takes a frame in pieces of this size, from memory to memory, and keeps room for one; so it is small.
const PIECE: usize = 512;

pub(super) struct Codec {
    tungstenite: WebSocketContext,
    limit: usize,
    /// What arrived and tungstenite has not seen.
    unread: Buffer,
    /// What it has seen of a message which is not whole.
    amid: Option<Part>,
    /// What is to be sent.
    unsent: Buffer,
    /// How many bytes of it are, at most, answers to what the peer sent.
    owed: usize,
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
        let limit = limit.min(LONGEST);
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
            amid: None,
            unsent: Buffer::from(unsent),
            owed: 0,
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

    pub(super) fn owed(&self) -> usize {
        self.owed.min(self.unsent().len())
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.unsent.consume(count);
        self.owed = self.owed();
    }

    /// The next message, of what arrived. Pings are answered on the way.
    ///
    /// # Errors
    /// The peer breaks the protocol. It is told; nothing more is read.
    pub(super) fn next(&mut self) -> Result<Next, Error> {
        while !self.ended {
            let frame = match Frame::first(self.unread.rest(), self.limit) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Err(self.refuse(1002, error)),
            };
            let bytes = &self.unread.rest()[..frame.length];
            let mut pipe = Pipe { arriving: bytes, leaving: &mut self.unsent };
            let read = self.tungstenite.read(&mut pipe);
            // What was refused is not kept.
            if frame.is_part && matches!(&read, Err(Cause::Io(_))) {
                Part::extend(&mut self.amid, bytes, frame.head);
            }
            self.unread.consume(frame.length);
            match read {
                Ok(tungstenite::Message::Text(text)) => {
                    self.amid = None;
                    return Ok(Next::Message(Message::Text(Utf8Bytes::of(text))));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    self.amid = None;
                    return Ok(Next::Message(Message::Binary(bytes)));
                }
                Ok(tungstenite::Message::Close(_)) | Err(Cause::ConnectionClosed) => self.ended = true,
                Ok(_) => {}
                // Of this frame nothing is left to say.
                Err(Cause::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => {
                    let (code, error) = refusal(cause);
                    return Err(self.refuse(code, error));
                }
            }
            // The Pong, or the answer to a Close.
            let before = self.unsent().len();
            self.flush();
            self.owed += self.unsent().len() - before;
        }
        Ok(if self.ended { Next::Closed } else { Next::Nothing })
    }

    /// The peer is told, and nothing more is read.
    fn refuse(&mut self, code: u16, error: Error) -> Error {
        self.close(code, &error.to_string());
        self.ended = true;
        error
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
        let mut unread = self.amid.map(Part::into_frame).unwrap_or_default();
        unread.extend_from_slice(self.unread.rest());
        (unread, self.unsent.rest().to_vec())
    }

    /// How much memory it keeps for what has come.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.unread.bytes.capacity() + self.amid.as_ref().map_or(0, |part| part.payload.capacity())
    }
}

/// What has come of a message in fragments, as if it had been one: a peer that sends many small ones has no more memory for it.
struct Part {
    /// Text or binary.
    first: u8,
    payload: Vec<u8>,
}

impl Part {
    /// The most bytes in front of a frame's payload.
    const HEAD: usize = 14;

    /// Adds a fragment.
    fn extend(part: &mut Option<Part>, frame: &[u8], head: usize) {
        let part = part.get_or_insert_with(|| Part { first: frame[0], payload: Vec::new() });
        let (head, payload) = frame.split_at(head);
        // Nothing comes from a client without a mask, which is the end of the head.
        let Some(mask) = head.last_chunk::<4>() else { return };
        part.payload.reserve(payload.len());
        for bytes in payload.chunks(mask.len()) {
            part.payload.extend(bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        }
    }

    /// The only fragment so far, with a mask that changes nothing.
    fn into_frame(self) -> Vec<u8> {
        let Part { first, payload } = self;
        let mut frame = Vec::with_capacity(Part::HEAD + payload.len());
        frame.push(first);
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            long @ 126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((long as u16).to_be_bytes());
            }
            longer => {
                frame.push(0x80 | 127);
                frame.extend((longer as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
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
    /// Of all of it, and of what is in front of its payload.
    length: usize,
    head: usize,
    /// More frames of its message follow.
    is_part: bool,
}

impl Frame {
    /// It, once it is whole. Of one that is too long, its head is enough for tungstenite to refuse it.
    ///
    /// # Errors
    /// Its length is none.
    fn first(bytes: &[u8], limit: usize) -> Result<Option<Frame>, Error> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = match second & 0x7f {
            126 => rest.first_chunk().map(|length| (u64::from(u16::from_be_bytes(*length)), 2)),
            127 => rest.first_chunk().map(|length| (u64::from_be_bytes(*length), 8)),
            short => Some((u64::from(short), 0)),
        };
        let Some((payload, more)) = length else { return Ok(None) };
        if payload > i64::MAX as u64 {
            return Err(Error::Protocol("the highest bit of a length is set".to_owned()));
        }
        let head = 2 + more + if second & 0x80 != 0 { 4 } else { 0 };
        let whole = usize::try_from(payload).ok().filter(|&payload| payload <= limit).map(|payload| head + payload);
        let length = whole.unwrap_or(head);
        let (is_final, is_control) = (first & 0x80 != 0, first & 0x08 != 0);
        Ok((bytes.len() >= length).then_some(Frame { length, head, is_part: !is_final && !is_control }))
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
