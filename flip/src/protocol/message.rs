//! What crosses the channel: versions, limits, encoding.
//!
//! A message is a map with named fields, so that a later version can add some; one that this version does not know is
//! answered with [`Event::Garbled`](super::Event::Garbled). It travels as one or more packets, each with a header:
//! how many bytes and descriptors the whole message has. Nothing is allocated on the strength of such a claim.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::handoff::codec;
use crate::listen::Offered;

/// The newest version that this build speaks, and the oldest: of these messages, of the content, of schemas and of what
/// they describe. The old process takes the newest that both speak and says it in the offer. What has once been version 1
/// stays so: the files in `golden/` are read by a test for ever.
///
/// A build with `flip_next` stands for a later release, in the tests of hand-overs between releases.
pub(crate) const VERSION: u32 = if cfg!(flip_next) { 2 } else { 1 };
pub(crate) const OLDEST: u32 = 1;

/// The most bytes in one packet; below the smallest default of `net.core.wmem_default`, see socket(7).
pub(crate) const PACKET: usize = 64 * 1024;
/// The most bytes and descriptors in one message.
pub(crate) const MESSAGE: usize = 64 * 1024 * 1024;
pub(crate) const DESCRIPTORS: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// New → old, first of all.
    Hello(Hello),
    /// Old → new, with the word, old's pidfd, the sockets of content, calls and connections, then one descriptor a listener and
    /// one a relay.
    Offer(Offer),
    /// New → old: freeze now.
    Prepared(Waiting),
    /// New → old, between Prepared and Ready: what is still missing, for old's report should it take too long.
    Missing(Waiting),
    /// New → old.
    Ready,
    /// Old → new: look at the word.
    Commit,
    /// New → old: look at the word.
    Serving,
    /// Old → new owner: an upgrade was asked for meanwhile.
    Again,
    /// Old → new owner: the service is to stop. Owner → draining: the service stops.
    Stop,
    /// Owner → draining: drop what is left.
    Cut,
    /// Draining → owner: nothing is left here.
    Done,
    /// New → old: why it is about to end.
    Words(String),
    /// Draining → owner, on a socket of its own: a connection, with its descriptor.
    Passed(PassedOn),
    /// Draining → owner, on the socket of their relay: items, with their descriptors in order.
    Items(Vec<Item>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) oldest: u32,
    pub(crate) newest: u32,
    /// flip's own version.
    pub(crate) flip: String,
    /// What a later release may add.
    #[cfg(flip_next)]
    #[serde(default)]
    pub(crate) later: Vec<String>,
}

impl Hello {
    pub(crate) fn own() -> Hello {
        Hello {
            oldest: OLDEST,
            newest: VERSION,
            flip: env!("CARGO_PKG_VERSION").to_owned(),
            #[cfg(flip_next)]
            later: vec!["a field that no earlier release knows".to_owned()],
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) version: u32,
    /// The new process's generation.
    pub(crate) generation: u64,
    /// Old's pid, for texts; its pidfd is what is watched.
    pub(crate) pid: i32,
    /// The signal mask of the first generation; this process was started with more blocked.
    pub(crate) mask: Vec<i32>,
    pub(crate) listeners: Vec<Offered>,
    pub(crate) states: Vec<Typed>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) relays: Vec<Typed>,
}

/// A state or a relay, and what it is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Typed {
    pub(crate) name: String,
    #[serde(with = "codec::bytes")]
    pub(crate) schema: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PassedOn {
    pub(crate) listener: String,
    pub(crate) kept: bool,
    #[serde(with = "codec::bytes")]
    pub(crate) unread: Vec<u8>,
}

/// What goes through a relay.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    #[serde(with = "codec::bytes")]
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: u32,
}

/// How many descriptors of an offer come before those of the listeners.
pub(crate) const OFFER_FIXED: usize = 5;

/// Why a new process does not say Ready yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// Where the content was touched first, when that was before everything else was ready.
    pub(crate) touched: Option<String>,
    /// The listeners that were not polled yet.
    pub(crate) unpolled: Vec<String>,
    /// The exclusive that is being opened.
    #[serde(default)]
    pub(crate) opening: Option<String>,
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::to_named(self).expect("a message of plain fields can be written")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Message, String> {
        codec::from_named(bytes).map_err(|error| format!("a message of {} bytes does not decode: {error}", bytes.len()))
    }
}

/// One packet's header: what the whole message has, so that the reader knows when it is complete.
const HEADER: usize = 8;

/// Cuts a message into packets: the bytes, and how many of its descriptors go with each.
pub(crate) fn packets(message: &[u8], descriptors: usize) -> Vec<(Vec<u8>, usize)> {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&u32::try_from(message.len()).expect("messages are limited").to_le_bytes());
    header[4..].copy_from_slice(&u32::try_from(descriptors).expect("descriptors are limited").to_le_bytes());
    let mut packets = Vec::new();
    let (mut rest, mut left) = (message, descriptors);
    loop {
        let (now, later) = rest.split_at(rest.len().min(PACKET - HEADER));
        let fds = left.min(crate::sys::fd::MAX_FDS);
        packets.push(([&header[..], now].concat(), fds));
        (rest, left) = (later, left - fds);
        if rest.is_empty() && left == 0 {
            return packets;
        }
    }
}

/// Whether all bytes of a message are in this packet.
pub(crate) fn has_all_bytes(packet: &[u8]) -> bool {
    packet
        .split_first_chunk::<HEADER>()
        .is_some_and(|([a, b, c, d, ..], body)| u32::from_le_bytes([*a, *b, *c, *d]) as usize == body.len())
}

/// Puts packets together again.
#[derive(Default)]
pub(crate) struct Assembler {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    /// Of the message that is being put together.
    expected: Option<(usize, usize)>,
}

impl Assembler {
    /// A message was begun and is not whole.
    pub(crate) fn is_amid(&self) -> bool {
        self.expected.is_some()
    }

    /// Takes a packet; gives a message when it is whole.
    ///
    /// # Errors
    /// A sentence on what is wrong with the packet. What was received so far is dropped, and so closed.
    pub(crate) fn take(
        &mut self,
        packet: &[u8],
        fds: Vec<OwnedFd>,
        truncated: bool,
    ) -> Result<Option<(Message, Vec<OwnedFd>)>, String> {
        let result = self.assemble(packet, fds, truncated);
        if result.is_err() {
            *self = Assembler::default();
        }
        result
    }

    fn assemble(
        &mut self,
        packet: &[u8],
        fds: Vec<OwnedFd>,
        truncated: bool,
    ) -> Result<Option<(Message, Vec<OwnedFd>)>, String> {
        let brings = fds.len();
        self.fds.extend(fds);
        if truncated {
            return Err(format!("a packet was cut by the kernel after {} bytes", packet.len()));
        }
        let Some((header, body)) = packet.split_first_chunk::<HEADER>() else {
            return Err(format!("a packet of {} bytes is too short", packet.len()));
        };
        let [a, b, c, d, e, f, g, h] = *header;
        let claim = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
        if claim.0 > MESSAGE || claim.1 > DESCRIPTORS {
            return Err(format!("a message of {} bytes and {} descriptors is too large", claim.0, claim.1));
        }
        if *self.expected.get_or_insert(claim) != claim {
            return Err("a packet of another message came before the message was whole".to_owned());
        }
        self.bytes.extend_from_slice(body);
        if self.bytes.len() > claim.0 || self.fds.len() > claim.1 {
            return Err(format!(
                "a message of {} bytes and {} descriptors has {} and {}",
                claim.0,
                claim.1,
                self.bytes.len(),
                self.fds.len()
            ));
        }
        // A packet that brings nothing would let a stranger keep us here for ever.
        if (self.bytes.len(), self.fds.len()) == claim {
            let whole = std::mem::take(self);
            return Message::decode(&whole.bytes).map(|message| Some((message, whole.fds.into())));
        }
        if body.is_empty() && brings == 0 {
            return Err("a packet brings nothing to a message that is not whole".to_owned());
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, RawFd};

    use super::*;

    /// Longer than three packets, and with more descriptors than two carry.
    fn long() -> (Message, Vec<OwnedFd>) {
        let text = (0..30_000).map(|number| format!("{number:06} ")).collect();
        let null = File::open("/dev/null").unwrap();
        (Message::Words(text), (0..600).map(|_| null.try_clone().unwrap().into()).collect())
    }

    fn numbers(fds: &[OwnedFd]) -> Vec<RawFd> {
        fds.iter().map(AsRawFd::as_raw_fd).collect()
    }

    #[test]
    fn long_message_with_many_descriptors_arrives_whole() {
        let (message, fds) = long();
        let (bytes, sent) = (message.encode(), numbers(&fds));
        assert!(bytes.len() > 200_000);
        let packets = packets(&bytes, fds.len());
        assert!(packets.iter().all(|(packet, count)| packet.len() <= PACKET && *count <= crate::sys::fd::MAX_FDS));
        let (mut fds, mut assembler, last) = (fds.into_iter(), Assembler::default(), packets.len() - 1);
        for (at, (packet, count)) in packets.iter().enumerate() {
            let taken = assembler.take(packet, fds.by_ref().take(*count).collect(), false).unwrap();
            assert_eq!(taken.is_some(), at == last);
            assert_eq!(assembler.is_amid(), at != last);
            if let Some((message, received)) = taken {
                assert_eq!(message.encode(), bytes);
                assert_eq!(numbers(&received), sent);
            }
        }
        assert!(fds.next().is_none());
    }

    #[test]
    fn descriptors_may_need_more_packets_than_bytes() {
        let (_, fds) = long();
        let sent = numbers(&fds);
        let packets = packets(&Message::Ready.encode(), fds.len());
        assert_eq!(packets.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [253, 253, 94]);
        let (mut fds, mut assembler) = (fds.into_iter(), Assembler::default());
        let mut take = |(packet, count): &(Vec<u8>, usize)| {
            assembler.take(packet, fds.by_ref().take(*count).collect(), false).unwrap()
        };
        assert!(take(&packets[0]).is_none() && take(&packets[1]).is_none());
        let (message, received) = take(&packets[2]).unwrap();
        assert!(matches!(message, Message::Ready));
        assert_eq!(numbers(&received), sent);
    }

    #[test]
    fn packet_that_is_left_out_is_noticed_and_nothing_stays_open() {
        let (message, fds) = long();
        let packets = packets(&message.encode(), fds.len());
        let (mut fds, mut assembler) = (fds.into_iter(), Assembler::default());
        for at in [0, 2] {
            let (packet, count) = &packets[at];
            let fds = fds.by_ref().take(*count).collect();
            assert!(assembler.take(packet, fds, false).unwrap().is_none());
        }
        assert!(assembler.is_amid());
        // The next message's header is not this one's.
        let (next, _) = &super::packets(&Message::Ready.encode(), 0)[0];
        let refused = assembler.take(next, vec![], false).unwrap_err();
        assert_eq!(refused, "a packet of another message came before the message was whole");
        assert!(!assembler.is_amid() && assembler.fds.is_empty() && assembler.bytes.is_empty());
        assert!(matches!(assembler.take(next, vec![], false), Ok(Some((Message::Ready, _)))));
    }
}
