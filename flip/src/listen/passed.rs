//! Sockets that a service manager passed at the start: sd_listen_fds(3), systemd.socket(5).
//!
//! They are the manager's: it keeps its own descriptors of them, and with those the queues, whatever becomes of this process. So
//! nothing of theirs is removed here when the service stops, and no option of theirs changes.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockAddr, Socket, Type};

use super::kind::Kind;
use crate::log::say;

/// What [names](crate::sys::env::take_passed) a socket that got no name, sd_listen_fds_with_names(3).
const NAMELESS: &str = "unknown";
/// A socket unit names its sockets after itself, unless it has a `FileDescriptorName=`.
const UNIT: &str = ".socket";

/// One of them that nobody has asked for yet.
#[derive(Debug)]
pub(super) struct Passed {
    name: String,
    pub(super) socket: Socket,
    pub(super) local: SockAddr,
}

impl Passed {
    /// Those that are sockets. What is none stays open, and is somebody else's to understand.
    pub(super) fn sort(passed: Vec<(String, OwnedFd)>) -> Vec<Passed> {
        let sockets = passed.into_iter().filter_map(|(name, fd)| {
            let fd = Socket::from(fd);
            match fd.domain().and_then(|_| fd.local_addr()) {
                Ok(local) => Some(Passed { name, socket: fd, local }),
                Err(error) => {
                    say!(
                        warn,
                        "what was passed as `{name}` (LISTEN_FDS) is no socket that can be listened with: {error}"
                    );
                    // It is not flip's to close.
                    std::mem::forget(fd);
                    None
                }
            }
        });
        sockets.collect()
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.name.strip_suffix(UNIT) == Some(name)
    }

    /// Nobody has chosen its name.
    fn is_nameless(&self) -> bool {
        self.name == NAMELESS || self.name.ends_with(UNIT)
    }

    /// Whether a listener of this kind can use it, or why not.
    pub(super) fn check(&self, kind: Kind) -> Result<(), String> {
        let failed = |error: io::Error| format!("{self} does not say what it is: {error}");
        if !kind.fits(&self.socket).map_err(failed)? {
            return Err(format!("{self} was passed, which is no {kind}"));
        }
        if kind.accepts() && !self.socket.is_listener().map_err(failed)? {
            return Err(match self.socket.peer_addr() {
                Ok(_) => format!("{self} is a connection: the socket unit needs Accept=no"),
                Err(_) => format!("{self} does not listen: whoever passes it has to call listen(2)"),
            });
        }
        Ok(())
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (self.socket.domain(), self.socket.r#type()) {
            (Ok(Domain::UNIX), Ok(Type::STREAM)) => "Unix",
            (Ok(Domain::UNIX), Ok(Type::DGRAM)) => "Unix datagram",
            (Ok(Domain::UNIX), Ok(Type::SEQPACKET)) => "Unix seqpacket",
            (Ok(Domain::IPV4 | Domain::IPV6), Ok(Type::STREAM)) => "TCP",
            (Ok(Domain::IPV4 | Domain::IPV6), Ok(Type::DGRAM)) => "UDP",
            _ => "another kind of socket",
        };
        write!(f, "`{}` ({kind}", self.name)?;
        match (self.local.as_socket(), self.local.as_pathname()) {
            (Some(at), _) => write!(f, " {at})"),
            (None, Some(path)) => write!(f, " {})", path.display()),
            (None, None) => f.write_str(")"),
        }
    }
}

/// Which of them have this name, by their place. One alone that nobody has named answers to any.
pub(super) fn named(passed: &[Passed], name: &str) -> Vec<usize> {
    match passed {
        [one] if one.is_nameless() => vec![0],
        _ => (0..passed.len()).filter(|at| passed[*at].is(name)).collect(),
    }
}

/// Why there is none of this name: `passed` is what there was at the start.
pub(super) fn missing(name: &str, passed: &[String]) -> String {
    if passed.is_empty() {
        return "no socket was passed at the start (LISTEN_FDS): start the service by its socket unit, or by systemd-socket-activate(1)"
            .to_owned();
    }
    format!(
        "no socket of this name is left; passed were {}; write FileDescriptorName={name} into the socket unit",
        passed.join(", ")
    )
}
