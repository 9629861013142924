//! The other end of a channel, spoken by hand: for processes that are not flip, or no longer.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A channel: the two ends of it.
pub fn channel() -> (Peer, OwnedFd) {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .expect("a pair of sockets can be made");
    (Peer(ours), theirs)
}

/// One end of a channel.
pub struct Peer(pub OwnedFd);

/// What arrived.
pub struct Message {
    pub value: Value,
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Deserialize)]
struct Head {
    version: Option<u32>,
    generation: Option<u64>,
}

/// What crosses the channel: the length and the number of descriptors, then the message.
pub fn packet(value: &Value, descriptors: usize) -> Vec<u8> {
    let body = rmp_serde::to_vec_named(value).expect("plain values can be written");
    framed(&body, body.len(), descriptors)
}

/// A packet that claims to begin a message of this size.
pub fn framed(body: &[u8], length: usize, descriptors: usize) -> Vec<u8> {
    let claim = |number: usize| u32::try_from(number).expect("a claim fits").to_le_bytes();
    [&claim(length)[..], &claim(descriptors), body].concat()
}

impl Peer {
    /// Sends these bytes as they are.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Sends a message as flip would.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn say(&self, value: &Value, descriptors: &[&dyn AsFd]) -> io::Result<()> {
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
        self.send(&packet(value, descriptors.len()), &descriptors)
    }

    /// Waits until something is there to be heard.
    ///
    /// # Errors
    /// Nothing came within the time.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(patience).expect("a few seconds fit");
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// The next message, of one packet; none where the other end is closed.
    ///
    /// # Errors
    /// Nothing came within the time.
    pub fn hear(&self, patience: Duration) -> io::Result<Option<Message>> {
        self.wait(patience)?;
        let mut buffer = vec![0; 1 << 16];
        let mut space = cmsg_space!([RawFd; 253]);
        let (bytes, descriptors) = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                // What it had not read before it was closed is lost.
                Err(Errno::ECONNRESET) => return Ok(None),
                received => received?,
            };
            let mut descriptors = vec![];
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    // SAFETY: the kernel has just opened them, for this message alone.
                    descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            (received.bytes, descriptors)
        };
        if bytes == 0 {
            return Ok(None);
        }
        let body = &buffer[8..bytes];
        // A schema is bytes, for which JSON has nothing: then the name of the message will do, and what an offer begins with.
        let value = rmp_serde::from_slice(body).or_else(|_| {
            let named: HashMap<String, Head> = rmp_serde::from_slice(body).map_err(io::Error::other)?;
            let head = |head: Head| json!({ "version": head.version, "generation": head.generation });
            Ok::<_, io::Error>(named.into_iter().map(|(name, message)| (name, head(message))).collect())
        })?;
        Ok(Some(Message { value, descriptors }))
    }
}
