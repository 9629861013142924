//! A supervisor that listens at `NOTIFY_SOCKET`, and keeps what it is given.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};

use crate::PATIENCE;

/// One that is told.
pub struct Supervisor {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` is to say.
    pub name: String,
}

impl Supervisor {
    pub fn new(name: &str) -> Supervisor {
        let name = format!("flip-test-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).expect("a socket of the test's own"))
            .expect("a socket of the test's own");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket of the test's own");
        setsockopt(&socket, sockopt::PassCred, &true).expect("a socket of the test's own");
        Supervisor { socket, name: format!("@{name}") }
    }

    /// The next that is more than a status or that something still takes its time, and who said it. A barrier is lifted by this.
    pub fn hears(&self) -> (i32, String) {
        loop {
            let (pid, text, _) = self.next();
            let is_repeated =
                ["STATUS=", "EXTEND_TIMEOUT_USEC=", "FDSTORE"].iter().any(|start| text.starts_with(start));
            if !is_repeated || (text.lines().count() > 1 && !text.starts_with("FDSTORE")) {
                return (pid, text);
            }
        }
    }

    /// What comes next, from whom, and with which descriptors.
    pub fn next(&self) -> (i32, String, Vec<OwnedFd>) {
        let mut buffer = [0; 5000];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!(UnixCredentials, [RawFd; 1]);
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())
            .expect("a socket of the test's own");
        let (mut sender, mut kept) = (None, vec![]);
        for part in message.cmsgs().expect("a socket of the test's own") {
            match part {
                ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials.pid()),
                ControlMessageOwned::ScmRights(fds) => {
                    // SAFETY: the kernel has just made them, for this process alone.
                    kept.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
                _ => {}
            }
        }
        let (pid, len) = (sender.expect("a socket of the test's own"), message.bytes);
        let text = String::from_utf8(buffer[..len].to_vec()).expect("a socket of the test's own");
        (pid, text, kept)
    }

    /// The next word about the store: what was put there by which name, or taken away.
    pub fn keeps(&self, pid: i32) -> (String, Option<OwnedFd>) {
        loop {
            let (from, text, mut fds) = self.next();
            if let Some(text) = text.strip_prefix("FDSTORE=1\nFDPOLL=0\nFDNAME=") {
                assert_eq!((from, fds.len()), (pid, 1), "{text}");
                return (text.to_owned(), fds.pop());
            }
            if let Some(text) = text.strip_prefix("FDSTOREREMOVE=1\nFDNAME=") {
                assert_eq!((from, fds.len()), (pid, 0), "{text}");
                return (text.to_owned(), None);
            }
        }
    }

    /// The same, which is said by this process, and has all of these fields.
    pub fn hears_from(&self, pid: i32, fields: &[&str]) -> String {
        let (from, text) = self.hears();
        assert_eq!(from, pid, "{text}");
        for field in fields {
            assert!(text.lines().any(|line| line.starts_with(field)), "{field} in {text}");
        }
        text
    }
}
