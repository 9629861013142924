//! The socket on which systemd hears: how something is said, and what becomes of it where nobody listens.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::log::say;
use crate::sys::fd::{self, PollEntry};

/// How much waits for a reader that is behind. More than a service says between two of its turns.
const WAITING: usize = 16;

/// A connection to where `NOTIFY_SOCKET` leads. Nothing here blocks but [`finish`](Self::finish), and nothing that fails is
/// more than a warning: no supervisor is worth a service.
pub(crate) struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
    connected: bool,
    /// What was not taken yet, in order.
    waiting: VecDeque<String>,
    /// Who is to hear it, in a text.
    listener: &'static str,
    warned: bool,
}

impl Socket {
    /// # Errors
    /// A name that leads to no socket of this kind: it is neither a path nor abstract (`@`), or too long.
    pub(crate) fn open(name: &OsStr, listener: &'static str) -> io::Result<Socket> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("it is neither an absolute path nor begins with @")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let mut socket =
            Socket { socket, address, connected: false, waiting: VecDeque::new(), listener, warned: false };
        // At once: later there may be no way to a path any more.
        if let Err(error) = socket.connect() {
            socket.warn(&error);
        }
        Ok(socket)
    }

    /// Says something that must be heard: where there is no room for it now, later.
    pub(crate) fn say(&mut self, text: String) {
        if self.waiting.len() == WAITING {
            // A later word says more than an earlier one.
            self.waiting.pop_front();
        }
        self.waiting.push_back(text);
        self.flush();
    }

    /// Says something that will be said again: where there is no room for it, not at all.
    pub(crate) fn mention(&mut self, text: &str) {
        if self.waiting.is_empty()
            && let Err(error) = self.send(text, &[])
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.warn(&error);
        }
    }

    /// Says something with a descriptor, and whether it was taken: where there is no room for it, it is to be tried again.
    pub(super) fn give(&mut self, text: &str, fds: &[BorrowedFd<'_>]) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        match self.send(text, fds) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                self.warn(&error);
                // Nobody listens, so nobody has a store.
                true
            }
        }
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn flush(&mut self) {
        while let Some(text) = self.waiting.pop_front() {
            match self.send(&text, &[]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.waiting.push_front(text),
                Err(error) => self.warn(&error),
            }
        }
    }

    /// Waits until all that was said here is not only sent, but dealt with: systemd closes what comes with a barrier
    /// when it gets to it.
    pub(super) fn finish(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let left = || until.saturating_duration_since(Instant::now());
        while self.wants_to_write() && !left().is_zero() {
            // Without memory to wait, the barrier below fails as well, and this process ends all the same.
            if fd::poll(&mut [PollEntry::writable(self.socket.as_fd())], Some(left())).is_err() {
                break;
            }
            self.flush();
        }
        if let Ok(read) = self.bar() {
            let _ = fd::poll(&mut [PollEntry::readable(read.as_fd())], Some(left()));
        }
    }

    /// What becomes readable when all that was said here has been dealt with.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room for the question yet; otherwise nobody listens.
    pub(super) fn bar(&mut self) -> io::Result<PipeReader> {
        if self.wants_to_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (read, write) = io::pipe()?;
        self.send("BARRIER=1", &[write.as_fd()])?;
        // Readable at its end, which is when nobody has the other one any more.
        Ok(read)
    }

    fn connect(&mut self) -> io::Result<()> {
        self.socket.connect_addr(&self.address)?;
        self.connected = true;
        Ok(())
    }

    fn send(&mut self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if self.connected {
            match fd::send(self.socket.as_fd(), text.as_bytes(), fds) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // Whoever listened may listen anew, under the same name.
                Err(_) => self.connected = false,
            }
        }
        self.connect()?;
        fd::send(self.socket.as_fd(), text.as_bytes(), fds).map(drop)
    }

    fn warn(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            say!(warn, "{} does not hear this service (NOTIFY_SOCKET): {error}", self.listener);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(by: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let len = by.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn paths_and_abstract_names_are_spoken_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listens = UnixDatagram::bind(&path).unwrap();
        Socket::open(path.as_os_str(), "systemd").unwrap().say("READY=1".to_owned());
        assert_eq!(heard(&listens), "READY=1");

        let name = format!("flip-test-{}", std::process::id());
        let listens = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Socket::open(OsStr::new(&format!("@{name}")), "systemd").unwrap().mention("WATCHDOG=1");
        assert_eq!(heard(&listens), "WATCHDOG=1");
    }

    #[test]
    fn names_that_lead_nowhere_are_errors() {
        for name in ["vsock:2:1234", "relative", "", &format!("/{}", "n".repeat(108)), &format!("@{}", "n".repeat(108))]
        {
            assert!(Socket::open(OsStr::new(name), "systemd").is_err(), "{name}");
        }
    }

    #[test]
    fn whoever_listens_again_is_heard_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        // Nobody there yet, then somebody, then nobody, then another.
        let mut socket = Socket::open(path.as_os_str(), "systemd").unwrap();
        socket.say("lost".to_owned());
        for text in ["one", "two"] {
            let listens = UnixDatagram::bind(&path).unwrap();
            socket.say(text.to_owned());
            assert_eq!(heard(&listens), text);
            drop(listens);
            std::fs::remove_file(&path).unwrap();
            socket.mention("lost");
        }
        assert!(!socket.wants_to_write());
        socket.finish(Duration::from_secs(30));
    }

    #[test]
    fn a_reader_that_is_behind_blocks_nobody_and_gets_the_rest_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listens = UnixDatagram::bind(&path).unwrap();
        let mut socket = Socket::open(path.as_os_str(), "systemd").unwrap();
        let mut said = 0;
        while !socket.wants_to_write() {
            socket.say(said.to_string());
            said += 1;
        }
        socket.mention("not now");
        socket.say(said.to_string());
        for number in 0..=said {
            assert_eq!(heard(&listens), number.to_string());
            socket.flush();
        }
        assert!(!socket.wants_to_write());
    }

    #[test]
    fn the_end_waits_for_a_barrier_and_for_nobody_who_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listens = UnixDatagram::bind(&path).unwrap();
        let mut socket = Socket::open(path.as_os_str(), "systemd").unwrap();
        // Nobody reads it: the time passes, and that is all.
        socket.finish(Duration::from_millis(1));
        let mut buffer = [0; 32];
        let kept = fd::recv(listens.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..kept.len], kept.fds.len()), (&b"BARRIER=1"[..], 1));
        drop(kept);
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| socket.finish(Duration::from_secs(3600)));
            drop(fd::recv(listens.as_fd(), &mut buffer).unwrap());
            ended.join().unwrap();
        });
    }
}
