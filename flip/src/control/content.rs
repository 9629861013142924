//! The content on its way: sections of frames on a stream socket, written and read by threads of their own.
//!
//! ```text
//! header section: who drains, with their descriptors; the names of the states, in order
//! one section a state
//! the trailer: without it the content is not whole; with it, old holds none of its exclusives any more
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::handoff::{Sink, Source, codec};
use crate::live::Looked;
use crate::shared::{Note, Shared};
use crate::sys::fd;

const TRAILER: &[u8] = b"flip: whole";
/// The most bytes in one frame.
const FRAME: usize = 1024 * 1024;
/// The most bytes of the header section.
const HEADER: usize = 4 * 1024 * 1024;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) draining: Vec<Earlier>,
    states: Vec<String>,
}

/// How many descriptors an [`Earlier`] has.
pub(super) const EARLIER: usize = 4;

/// An earlier generation that drains: its channel, its pidfd, and its sockets for calls and connections travel beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Earlier {
    pub(crate) pid: i32,
    pub(crate) generation: u64,
}

struct Writer<'a> {
    socket: OwnedFd,
    shared: &'a Shared,
}

impl Writer<'_> {
    fn end_section(&mut self) -> io::Result<()> {
        self.put(&[0; 8])
    }

    /// All of it, and never with a signal: the program may have left SIGPIPE at its default.
    fn put(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[fd::send(self.socket.as_fd(), bytes, &[])?..];
        }
        Ok(())
    }
}

impl Sink for Writer<'_> {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() && fds.is_empty() {
            return Ok(());
        }
        let mut frame = [0; 8];
        frame[..4].copy_from_slice(&u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
        frame[4..].copy_from_slice(&u32::try_from(fds.len()).map_err(io::Error::other)?.to_le_bytes());
        // The descriptors go with the first byte of the frame.
        let sent = fd::send(self.socket.as_fd(), &frame, fds)?;
        self.put(&frame[sent..])?;
        self.put(bytes)?;
        self.shared.progress.mark();
        Ok(())
    }
}

/// Later than any freeze lasts.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(24 * 3600)
}

/// Old's side, on a thread of its own: waits for what runs, holds writers back, sends everything, and closes what only one
/// process may hold.
///
/// # Errors
/// What failed, and in which state.
pub(super) fn freeze_and_send(
    shared: &Shared,
    attempt: u64,
    socket: OwnedFd,
    draining: Vec<(Earlier, [OwnedFd; EARLIER])>,
    quiesce: Duration,
) -> Result<(), String> {
    // An accept is one system call; whoever is inside leaves by itself.
    let deadline = Instant::now().checked_add(quiesce).unwrap_or_else(far_away);
    shared.accepting.wait_empty(deadline);
    // Requests that were being read when the freeze began are dispatched, and then count as handlers that run.
    shared.dispatching.wait_empty(deadline);
    shared.handlers.wait_idle(deadline);
    let states = shared.states.all();
    // A roll-back may have come and gone meanwhile: then nothing is held back any more.
    if !shared.freeze.hold_back(attempt, &shared.hold) {
        return Ok(());
    }
    drop(shared.hold.calling());
    states.iter().for_each(|state| state.settle());
    if !shared.exclusives.settle(shared, attempt) {
        return Ok(());
    }

    let mut writer = Writer { socket, shared };
    let lost = |error: io::Error| format!("the new process does not take the content: {error}");
    let (draining, fds): (Vec<_>, Vec<_>) = draining.into_iter().unzip();
    let fds: Vec<_> = fds.into_iter().flatten().collect();
    let header = Header { draining, states: states.iter().map(|state| state.name().to_owned()).collect() };
    let header = codec::to_named(&header).map_err(|error| error.to_string())?;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    writer.send(&header, &borrowed).and_then(|()| writer.end_section()).map_err(lost)?;
    for state in states {
        state.save(&mut writer)?;
        writer.end_section().map_err(lost)?;
    }
    // While new still decodes, and as late as can be: what fails before this has closed nothing.
    shared.exclusives.close_all(shared, attempt)?;
    writer.send(TRAILER, &[]).and_then(|()| writer.end_section()).map_err(lost)
}

struct Reader<'a> {
    socket: File,
    shared: &'a Shared,
    section_ended: bool,
    /// The old process closed its end.
    ended: bool,
}

impl Reader<'_> {
    /// Reads what is left of the section, so that the next one can begin.
    fn skip_section(&mut self) -> io::Result<()> {
        let (mut bytes, mut fds) = (Vec::new(), VecDeque::new());
        while !self.section_ended {
            bytes.clear();
            fds.clear();
            self.receive(&mut bytes, &mut fds)?;
        }
        self.section_ended = false;
        Ok(())
    }

    fn read_exactly(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let result = self.socket.read_exact(bytes);
        self.ended |= result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        result
    }

    fn section(&mut self, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (mut bytes, mut fds) = (Vec::new(), VecDeque::new());
        while self.receive(&mut bytes, &mut fds)? > 0 {
            if bytes.len() > limit {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a section is too long"));
            }
        }
        self.section_ended = false;
        Ok((bytes, fds.into()))
    }
}

impl Source for Reader<'_> {
    fn receive(&mut self, buffer: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        if self.section_ended {
            return Ok(0);
        }
        let mut frame = [0; 8];
        let first = match fd::recv(self.socket.as_fd(), &mut frame) {
            // What its end says when the old process died with something unread there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.ended = true;
                return Err(error);
            }
            first => first?,
        };
        if first.is_eof() {
            self.ended = true;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first.truncated {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "descriptors were lost on the way: is the limit reached?",
            ));
        }
        let have = first.len;
        self.read_exactly(&mut frame[have..])?;
        let [a, b, c, d, e, f, g, h] = frame;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if first.fds.len() != u32::from_le_bytes([e, f, g, h]) as usize || length > FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of the content makes no sense"));
        }
        let none = first.fds.is_empty();
        fds.extend(first.fds);
        if length == 0 && none {
            self.section_ended = true;
            return Ok(0);
        }
        let start = buffer.len();
        buffer.resize(start + length, 0);
        self.read_exactly(&mut buffer[start..])?;
        self.shared.progress.mark();
        // A frame of descriptors alone is not the end.
        if length == 0 { self.receive(buffer, fds) } else { Ok(length) }
    }
}

/// New's side, on a thread of its own: restores each state as it arrives, opens what old has closed, and tells the control
/// thread.
pub(super) fn receive_and_restore(shared: &Arc<Shared>, socket: OwnedFd) {
    let mut reader = Reader { socket: File::from(socket), shared, section_ended: false, ended: false };
    let note = match crate::entry::shielded(|| receive(shared, &mut reader)) {
        Ok((header, fds)) => Note::Restored(header, fds),
        Err(text) if reader.ended => Note::ContentEnded(text),
        Err(text) => Note::RestoreFailed(text),
    };
    shared.notes.send(note);
}

fn receive(shared: &Shared, reader: &mut Reader<'_>) -> Result<(Vec<Earlier>, Vec<OwnedFd>), String> {
    let cut = |error: io::Error| format!("the content of the old process is not whole: {error}");
    let (header, fds) = reader.section(HEADER).map_err(cut)?;
    let header: Header =
        codec::from_named(&header).map_err(|error| format!("the content's header does not decode: {error}"))?;
    if fds.len() != header.draining.len() * EARLIER {
        return Err("the content's header has the wrong number of descriptors".to_owned());
    }
    let mut early = Vec::new();
    for name in &header.states {
        match shared.states.look_for(name) {
            Looked::Declared(state) => {
                // Who declares states has started the runtime.
                let _entered = shared.enter();
                state.restore(reader)?;
            }
            // `main` may be waiting for one that comes later, and asks for this one only then.
            Looked::Unknown => {
                let (bytes, fds) = reader.section(usize::MAX).map_err(cut)?;
                early.push((name, Early { bytes, fds }));
                continue;
            }
            // Those were reported when `main` had all of its parameters.
            Looked::Unwanted => {}
        }
        reader.skip_section().map_err(cut)?;
    }
    let (trailer, _) = reader.section(TRAILER.len()).map_err(cut)?;
    if trailer != TRAILER {
        return Err("the content of the old process ends in an unknown way".to_owned());
    }
    {
        let _entered = shared.enter();
        shared.exclusives.open_all(shared)?;
    }
    while !early.is_empty() {
        // Whichever is asked for first: the others may never be, as long as that one has no content.
        let names: Vec<_> = early.iter().map(|(name, _)| name.as_str()).collect();
        let (at, state) = shared.states.wait_for_any(&names);
        let (_, mut section) = early.remove(at);
        if let Some(state) = state {
            let _entered = shared.enter();
            state.restore(&mut section)?;
        }
    }
    Ok((header.draining, fds))
}

/// The content of a state that nobody has asked for yet.
struct Early {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Source for Early {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let length = self.bytes.len();
        bytes.append(&mut self.bytes);
        fds.extend(self.fds.drain(..));
        Ok(length)
    }
}
