//! One end of a channel: messages in, messages out, never blocking.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::protocol::{Assembler, Message, PACKET, has_all_bytes, packets};
use crate::sys::fd;

pub(super) struct Link {
    socket: OwnedFd,
    assembler: Assembler,
    out: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// The other end is closed, or sent what makes no sense: nothing more is read or written.
    closed: bool,
    reset: bool,
    /// It was closed by a message of which the kernel had no descriptors to give, and of which nothing is still to come.
    cut: bool,
}

/// What was read.
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) fds: Vec<OwnedFd>,
    /// The sender, as the kernel knows it, where it was asked to say so.
    pub(super) pid: Option<i32>,
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Link> {
        fd::set_nonblocking(socket.as_fd(), true)?;
        Ok(Link {
            socket,
            assembler: Assembler::default(),
            out: VecDeque::new(),
            closed: false,
            reset: false,
            cut: false,
        })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Part of a message was read, and the rest is still to come.
    pub(super) fn is_amid(&self) -> bool {
        self.assembler.is_amid()
    }

    /// Nothing more is read or written, here or there.
    pub(super) fn close(&mut self) {
        fd::shutdown(self.socket());
        self.closed = true;
    }

    /// After an error: whether it was about one message and no more, so that the next one can be read.
    pub(super) fn goes_on(&mut self) -> bool {
        let cut = std::mem::take(&mut self.cut);
        self.closed &= !cut;
        cut
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.closed && !self.out.is_empty()
    }

    /// Sends what fits now, the rest when there is room. Where nobody listens it is dropped: the reader's death is an
    /// event of its own.
    pub(super) fn send(&mut self, message: &Message, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        for (bytes, count) in packets(&message.encode(), fds.len()) {
            self.out.push_back((bytes, fds.by_ref().take(count).collect()));
        }
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while let Some((bytes, fds)) = self.out.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match fd::send(self.socket.as_fd(), bytes, &borrowed) {
                Ok(_) => drop(self.out.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.out.clear(),
            }
        }
    }

    /// One message, where one is whole.
    ///
    /// # Errors
    /// A sentence on what is wrong with what came; the link is closed then.
    pub(super) fn receive(&mut self) -> Result<Option<Received>, String> {
        let mut buffer = vec![0; PACKET];
        while !self.closed {
            let packet = match fd::recv(self.socket.as_fd(), &mut buffer) {
                Ok(packet) => packet,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // Said once, of an end that closed with something unread, and before what that end had sent.
                Err(error) if error.kind() == ErrorKind::ConnectionReset && !self.reset => {
                    self.reset = true;
                    continue;
                }
                Err(_) => {
                    self.closed = true;
                    return Ok(None);
                }
            };
            if packet.is_eof() {
                self.closed = true;
                return Ok(None);
            }
            let amid = self.assembler.is_amid();
            let pid = packet.pid.map(nix::unistd::Pid::as_raw);
            match self.assembler.take(&buffer[..packet.len], packet.fds, packet.truncated) {
                Ok(Some((message, fds))) => return Ok(Some(Received { message, fds, pid })),
                Ok(None) => {}
                Err(text) => {
                    self.closed = true;
                    self.cut = packet.truncated && !amid && has_all_bytes(&buffer[..packet.len]);
                    return Err(text);
                }
            }
        }
        Ok(None)
    }
}
