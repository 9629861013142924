//! Bytes from one thread to another, in each way in which a state could go: what the kernel asks for it, and nothing else.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

const PIECE: usize = 16 * 1024 * 1024;
/// The most that one write is given; flip's own.
const WRITE: usize = 256 * 1024;
const BUFFER: usize = 4 * 1024 * 1024;
/// The most that one packet is given.
const PACKET: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// With room for so many bytes.
    Pipe(usize),
    /// What flip takes.
    Stream,
    Packets,
    /// All of it is written to a file in memory before it is read.
    Memfd,
}

impl Way {
    pub const ALL: [Way; 5] = [Way::Pipe(64 * 1024), Way::Pipe(1024 * 1024), Way::Stream, Way::Packets, Way::Memfd];

    pub fn name(self) -> String {
        match self {
            Way::Pipe(room) => format!("pipe of {} KiB", room / 1024),
            Way::Stream => "stream socket, writes of 256 KiB".to_owned(),
            Way::Packets => "seqpacket socket, packets of 128 KiB".to_owned(),
            Way::Memfd => "memfd".to_owned(),
        }
    }

    fn ends(self) -> io::Result<(OwnedFd, OwnedFd)> {
        let sockets = |kind| -> io::Result<(OwnedFd, OwnedFd)> {
            let (from, to) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
            // As much as flip asks for. With the default few packets fit, and the two ends wait for each other.
            setsockopt(&from, sockopt::SndBuf, &BUFFER)?;
            Ok((from, to))
        };
        match self {
            Way::Pipe(room) => {
                let (to, from) = nix::unistd::pipe()?;
                fcntl(&from, FcntlArg::F_SETPIPE_SZ(i32::try_from(room).map_err(io::Error::other)?))?;
                Ok((from, to))
            }
            Way::Stream => sockets(SockType::Stream),
            Way::Packets => sockets(SockType::SeqPacket),
            Way::Memfd => {
                let file = memfd_create(c"copy", MFdFlags::MFD_CLOEXEC)?;
                Ok((file.try_clone()?, file))
            }
        }
    }
}

/// Memory that has been written to, in pieces.
pub fn touched(bytes: usize) -> Vec<Vec<u8>> {
    let piece = |at: usize| vec![1; PIECE.min(bytes - at)];
    (0..bytes).step_by(PIECE).map(piece).collect()
}

/// Memory that the kernel has yet to give.
pub fn untouched(bytes: usize) -> Vec<Vec<u8>> {
    let piece = |at: usize| vec![0; PIECE.min(bytes - at)];
    (0..bytes).step_by(PIECE).map(piece).collect()
}

/// How long it takes until everything lies in `to`, which is as large.
///
/// # Errors
/// What the kernel says.
pub fn copy(way: Way, from: &[Vec<u8>], to: &mut [Vec<u8>]) -> io::Result<Duration> {
    let (sender, receiver) = way.ends()?;
    let (mut sender, mut receiver) = (File::from(sender), File::from(receiver));
    let begin = Instant::now();
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let most = if way == Way::Packets { PACKET } else { WRITE };
            from.iter().flat_map(|piece| piece.chunks(most)).try_for_each(|chunk| sender.write_all(chunk))
        });
        if way == Way::Memfd {
            sent.join().map_err(|_| Errno::EIO)??;
            receiver.rewind()?;
            return to.iter_mut().try_for_each(|piece| receiver.read_exact(piece));
        }
        to.iter_mut().try_for_each(|piece| receiver.read_exact(piece))?;
        sent.join().map_err(|_| Errno::EIO)?
    })?;
    Ok(begin.elapsed())
}
