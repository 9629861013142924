//! What goes over a WebSocket.

use std::fmt;
use std::io;
use std::ops::Deref;

use axum::body::Bytes;

/// A message, whole. There are these two (RFC 6455, 5.6); Ping, Pong and Close are answered where they arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(Utf8Bytes),
    /// Anything else.
    Binary(Bytes),
}

/// The text of a [`Message`]: a `str` that is cheap to clone, and to send to many.
///
/// ```
/// # #[cfg(feature = "ws")] {
/// let text = flip::ws::Utf8Bytes::from("to all");
/// assert!(text.starts_with("to"));
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Utf8Bytes(tungstenite::Utf8Bytes);

impl Utf8Bytes {
    pub(super) fn of(text: tungstenite::Utf8Bytes) -> Utf8Bytes {
        Utf8Bytes(text)
    }

    pub(super) fn into_inner(self) -> tungstenite::Utf8Bytes {
        self.0
    }

    /// It, as a `str`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Deref for Utf8Bytes {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Utf8Bytes {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Utf8Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for Utf8Bytes {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Utf8Bytes {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl From<String> for Utf8Bytes {
    fn from(text: String) -> Utf8Bytes {
        Utf8Bytes(text.into())
    }
}

impl From<&str> for Utf8Bytes {
    fn from(text: &str) -> Utf8Bytes {
        Utf8Bytes(text.into())
    }
}

impl From<Utf8Bytes> for Message {
    fn from(text: Utf8Bytes) -> Message {
        Message::Text(text)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Message::Text(text.into())
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        Message::Text(text.into())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Message {
        Message::Binary(bytes)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Message {
        Message::Binary(bytes.into())
    }
}

/// A WebSocket came to an end that nobody asked for, or a message could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is closed, so nothing is sent.
    #[error("the WebSocket is closed")]
    Closed,
    /// This process leaves, and too much waits to be sent: the message was not taken. [`recv`](super::WebSocket::recv) says what becomes of
    /// the WebSocket.
    #[error("the process leaves, and the peer does not read")]
    Leaving,
    /// The connection broke, or was closed without a word.
    #[error("the connection is lost: {0}")]
    Lost(#[source] io::Error),
    /// The peer broke the protocol, and was told so.
    #[error("the peer breaks the protocol: {0}")]
    Protocol(String),
    /// A message was longer than [`max_message_size`](super::Upgrade::max_message_size).
    #[error("a message is too long: {0}")]
    TooLong(String),
}
