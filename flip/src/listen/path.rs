//! Unix sockets that have a path: who owns it, who may replace it, who removes it.
//!
//! A path is bound under a lock file beside it. A socket that is already there is replaced only if nobody lives behind it,
//! or if the old process does and hands over; a handoff never unlinks, the last stop does, and only its own inode.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket};

use super::kind::Kind;
use super::options::ListenOptions;

/// A path, and the socket there that is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathInode {
    path: Vec<u8>,
    dev: u64,
    ino: u64,
}

impl PathInode {
    fn of(path: &Path, at: &Path) -> io::Result<PathInode> {
        let found = std::fs::symlink_metadata(at)?;
        // The working directory may change before it is unlinked.
        let path = std::path::absolute(path)?.into_os_string().into_vec();
        Ok(PathInode { path, dev: found.dev(), ino: found.ino() })
    }

    /// One that was written down.
    pub(super) fn known(path: &Path, dev: u64, ino: u64) -> Option<PathInode> {
        let path = std::path::absolute(path).ok()?.into_os_string().into_vec();
        Some(PathInode { path, dev, ino })
    }

    pub(super) fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.path.clone()))
    }

    pub(super) fn is_at(&self, path: &Path) -> bool {
        std::path::absolute(path).is_ok_and(|path| path == self.path())
    }

    fn is(&self, found: &std::fs::Metadata) -> bool {
        found.dev() == self.dev && found.ino() == self.ino
    }

    /// Whether our socket is still what clients of the path reach.
    pub(super) fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(self.path()).is_ok_and(|found| self.is(&found))
    }

    /// The permissions of the path, if our socket is there.
    pub(super) fn mode(&self) -> Option<u32> {
        let found = std::fs::symlink_metadata(self.path()).ok().filter(|found| self.is(found))?;
        Some(found.permissions().mode() & 0o7777)
    }

    /// Removes the socket if it still is ours. Never blocks: who holds the lock is about to replace it.
    pub(super) fn unlink(&self) -> io::Result<()> {
        let path = self.path();
        let Some(_lock) = lock(&path, FlockArg::LockExclusiveNonblock)? else { return Ok(()) };
        if self.is_in_place() { remove(&path) } else { Ok(()) }
    }
}

/// A path that this process bound or inherited.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) inode: PathInode,
    /// Bound here, and not yet renamed to its path.
    temporary: Option<PathBuf>,
    /// Nobody was ever served through it: it goes if this process gives up.
    fresh: bool,
}

impl Owned {
    pub(super) fn inherited(inode: PathInode) -> Owned {
        Owned { inode, temporary: None, fresh: false }
    }

    /// The socket serves from here on.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            // Clients reach one socket or the other, at every moment (rename(2)).
            std::fs::rename(temporary, self.inode.path())?;
            self.temporary = None;
        }
        self.fresh = false;
        Ok(())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.fresh {
            return;
        }
        let removed = match &self.temporary {
            Some(temporary) => remove(temporary),
            None => self.inode.unlink(),
        };
        if let Err(error) = removed {
            tracing::debug!(path = %self.inode.path().display(), %error, "cannot remove a socket that never served");
        }
    }
}

/// Why a path cannot be bound.
#[derive(Debug)]
pub(super) enum Refused {
    /// It cannot be right as it is configured.
    Asked(String),
    /// Somebody lives behind it.
    Live(String),
    System(&'static str, io::Error),
}

/// Held until the socket listens, so that nobody takes it for a dead one before.
#[must_use]
pub(super) struct Lock {
    _held: Option<Flock<File>>,
}

/// Binds `path`, under another name: a client finds it only when the socket is [published](Owned::publish), and what is
/// there is replaced only then. `theirs` says whether that belongs to the process that hands over.
pub(super) fn bind(
    kind: Kind,
    path: &Path,
    options: &ListenOptions,
    theirs: impl Fn(&Path) -> bool,
) -> Result<(Socket, Owned, Lock), Refused> {
    let address = sockaddr(path)?;
    let held = lock(path, FlockArg::LockExclusive).map_err(|error| Refused::System("locking its path", error))?;
    let lock = Lock { _held: held };

    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => return Err(Refused::System("looking at its path", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Refused::Asked("something that is no socket is at the path; it is left alone".to_owned()));
        }
        Ok(_) if theirs(path) => Found::Theirs,
        Ok(_) => probe(kind, &address)?,
    };
    let name = temporary_name(path);
    // Where nothing is at the path and the other name is too long for a socket (unix(7)), it is bound in its place.
    let temporary = (!matches!(found, Found::Nothing) || sockaddr(&name).is_ok()).then_some(name);
    let at = temporary.clone().unwrap_or_else(|| path.to_path_buf());
    let address = sockaddr(&at)?;
    if temporary.is_some() {
        // Left by one that was killed before it served; the lock says that nobody is at it now.
        remove(&at).map_err(|error| Refused::System("removing a leftover", error))?;
    }

    let socket = kind.open(Domain::UNIX).map_err(|error| Refused::System("socket(2)", error))?;
    options.apply(&socket).map_err(|error| Refused::System("setting its options", error))?;
    if let Some(mode) = options.mode {
        // The path is created with the socket's own mode, less the umask: at no moment with more than is asked for.
        nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(mode))
            .map_err(|error| Refused::System("fchmod(2)", error.into()))?;
    }
    socket.bind(&address).map_err(|error| Refused::System("bind(2)", error))?;
    let inode = PathInode::of(path, &at).map_err(|error| Refused::System("looking at its path", error))?;
    let owned = Owned { inode, temporary, fresh: true };
    if let Some(mode) = options.mode {
        // What the umask took away.
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode))
            .map_err(|error| Refused::System("setting its mode", error))?;
    }
    Ok((socket, owned, lock))
}

enum Found {
    Nothing,
    Dead,
    Theirs,
}

/// Whether anybody lives behind the socket at a path.
fn probe(kind: Kind, address: &SockAddr) -> Result<Found, Refused> {
    let probe = kind.open(Domain::UNIX).map_err(|error| Refused::System("socket(2)", error))?;
    let Err(error) = probe.connect(address) else {
        return Err(Refused::Live("a live process listens there".to_owned()));
    };
    match error.raw_os_error().map(Errno::from_raw) {
        // Nobody holds the socket, or nobody listens on it (connect(2), unix(7)).
        Some(Errno::ECONNREFUSED) => Ok(Found::Dead),
        Some(Errno::ENOENT) => Ok(Found::Nothing),
        // Its backlog is full: it is alive, and busy.
        Some(Errno::EAGAIN) => Err(Refused::Live("a live process listens there, and is busy".to_owned())),
        Some(Errno::EPROTOTYPE) => {
            Err(Refused::Live("a live process has a Unix socket of another kind there".to_owned()))
        }
        _ => Err(Refused::Live(format!("whether anybody lives behind it cannot be told: {error}"))),
    }
}

fn sockaddr(path: &Path) -> Result<SockAddr, Refused> {
    SockAddr::unix(path).map_err(|_| {
        let length = path.as_os_str().len();
        Refused::Asked(format!("{} has {length} bytes, and the path of a Unix socket has at most 107", path.display()))
    })
}

/// In the same directory, and always the same, so that at most one is ever left over.
fn temporary_name(path: &Path) -> PathBuf {
    let mut hash = DefaultHasher::new();
    path.file_name().hash(&mut hash);
    path.with_file_name(format!(".flip{:08x}", hash.finish() as u32))
}

/// `None` if somebody else has the lock and `how` does not wait.
fn lock(path: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or(path.as_os_str()));
    name.push(".lock");
    // Readable is enough for flock(2), and lets another user of the service take it too.
    let name = path.with_file_name(name);
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags | libc::O_NOFOLLOW).open(&name);
    // Creating one that exists is refused in a sticky directory where it is another user's (protected_regular, proc(5)).
    let mut file = match open(0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(libc::O_CREAT)?,
        opened => opened?,
    };
    loop {
        match Flock::lock(file, how) {
            Ok(held) => return Ok(Some(held)),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, error)) => return Err(error.into()),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
