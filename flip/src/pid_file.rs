//! The file with the number of the process that serves, for those who cannot be told: locked by it, and replaced as a whole.
//!
//! Who serves has a lock on the file that is at the path, flock(2). It was written beside it, locked, and then put in its place in one
//! step, link(2) or rename(2), so whoever reads it reads a whole number, and whoever starts a second service finds it locked.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;
use crate::log::say;

/// It is this process's, until this is dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: Flock<File>,
}

impl PidFile {
    /// At a start without an old process.
    ///
    /// # Errors
    /// Another process that lives has it, or it cannot be written, or it is no file.
    pub(crate) fn take(path: &Path) -> Result<PidFile, Error> {
        PidFile::take_when(path, || {})
    }

    /// `opened`: what happens between the opening of what is there and its lock.
    fn take_when(path: &Path, mut opened: impl FnMut()) -> Result<PidFile, Error> {
        let failed = |what: &str, error: io::Error| {
            Error::program(format!("the pid file {} cannot be {what}", path.display())).because(error)
        };
        let ours = write_beside(path).map_err(|error| failed("written", error))?;
        // Held until the new one is in its place, so that nobody else finds it free meanwhile.
        let stale = loop {
            // Only where there is none yet: of two that start at once one finds the other's.
            match std::fs::hard_link(&ours.beside, path) {
                Ok(()) => return ours.placed(path, |_| Ok(())).map_err(|error| failed("written", error)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("written", error)),
            }
            let there = match open(path) {
                Ok(there) => there,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("used", error)),
            };
            opened();
            let there = Flock::lock(there, FlockArg::LockExclusiveNonblock).map_err(|(mut there, errno)| {
                if errno != Errno::EWOULDBLOCK {
                    return failed("locked", errno.into());
                }
                let mut text = String::new();
                let _ = (&mut there).take(20).read_to_string(&mut text);
                Error::program(format!(
                    "the pid file {} is locked by a service that runs, pid {}: stop that one first, or give this one a file of its own",
                    path.display(),
                    text.trim()
                ))
            })?;
            // Or somebody has put another one in its place meanwhile, and has that one locked.
            if is_at(&there, path) {
                break there;
            }
        };
        let placed =
            ours.placed(path, |beside| std::fs::rename(beside, path)).map_err(|error| failed("written", error));
        drop(stale);
        placed
    }

    /// From the process before, which this one replaces. Where it cannot be rewritten the service goes on, which is said, and `later` gets
    /// what there is, once the process before has let go of its lock: nobody starts a second service then either.
    pub(crate) fn take_over(path: &Path, later: impl FnOnce(PidFile) + Send + 'static) -> Option<PidFile> {
        let error = match write_beside(path).and_then(|ours| ours.placed(path, |beside| std::fs::rename(beside, path)))
        {
            Ok(taken) => return Some(taken),
            Err(error) => error,
        };
        say!(
            warn,
            "the pid file {} still names the process before: {error}; its directory must be writable for the user that the \
             service runs as",
            path.display()
        );
        let at = path.to_owned();
        let waiting = std::thread::Builder::new().name("flip-pid-file".into()).spawn(move || {
            let Ok(mut file) = open(&at) else { return };
            let file = loop {
                match Flock::lock(file, FlockArg::LockExclusive) {
                    Ok(file) => break file,
                    Err((again, Errno::EINTR)) => file = again,
                    Err(_) => return,
                }
            };
            if is_at(&file, &at) {
                later(PidFile { path: at, file });
            }
        });
        if let Err(error) = waiting {
            say!(warn, "the pid file {} is not locked any more: {error}", path.display());
        }
        None
    }

    /// The service ends. What is not ours any more stays.
    pub(crate) fn remove(self) {
        if is_at(&self.file, &self.path)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            say!(warn, "the pid file {} cannot be removed: {error}", self.path.display());
        }
    }
}

/// What is there, if it is a file.
fn open(path: &Path) -> io::Result<File> {
    // What a symbolic link leads to is not this program's to replace, and the link may be a trap.
    let there = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let there = there.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link; give the path of the file itself"),
        _ => error,
    })?;
    if !there.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(there)
}

/// It is this one that is at the path.
fn is_at(file: &File, path: &Path) -> bool {
    let there = std::fs::symlink_metadata(path);
    let same =
        |there: Metadata| file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()));
    there.is_ok_and(same)
}

/// A file that is not at its place yet.
struct Beside {
    beside: PathBuf,
    file: Option<Flock<File>>,
}

fn write_beside(path: &Path) -> io::Result<Beside> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    // Of a process that had this number before us.
    let _ = std::fs::remove_file(&beside);
    let file = File::options().write(true).create_new(true).mode(0o644).open(&beside)?;
    let mut ours = Beside { beside, file: None };
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
    writeln!(&mut *file, "{}", std::process::id())?;
    ours.file = Some(file);
    Ok(ours)
}

impl Beside {
    fn placed(mut self, path: &Path, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PidFile> {
        place(&self.beside)?;
        let file = self.file.take().ok_or(io::ErrorKind::NotFound)?;
        Ok(PidFile { path: path.to_owned(), file })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It is at its place under another name, or is not wanted.
        let _ = std::fs::remove_file(&self.beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    fn names_in(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn refused(path: &Path) -> String {
        chain(&PidFile::take(path).unwrap_err())
    }

    #[test]
    fn it_is_there_while_somebody_has_it_and_nobody_else_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let first = PidFile::take(&path).unwrap();
        let this = format!("{}\n", std::process::id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), this);
        let why = refused(&path);
        assert!(
            why.contains("a.pid") && why.contains(&format!("locked by a service that runs, pid {}", this.trim())),
            "{why}"
        );
        assert_eq!(names_in(dir.path()), ["a.pid"]);

        // The process before removes nothing of the next one's.
        let second = PidFile::take_over(&path, |_| panic!("it is written")).unwrap();
        first.remove();
        assert_eq!(names_in(dir.path()), ["a.pid"]);
        assert!(refused(&path).contains("locked"));
        second.remove();
        assert_eq!(names_in(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        std::fs::write(&path, "4711 and more").unwrap();
        let taken = PidFile::take(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert!(refused(&path).contains("locked"));
        taken.remove();
    }

    #[test]
    fn what_cannot_be_one_is_named_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(refused(&link).contains("it is a symbolic link"), "{}", refused(&link));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        assert!(refused(&below).contains("it is no file"), "{}", refused(&below));
        let nowhere = dir.path().join("nowhere/a.pid");
        assert!(refused(&nowhere).contains("nowhere/a.pid cannot be written"), "{}", refused(&nowhere));
        assert!(PidFile::take_over(&nowhere, |_| panic!("there is none")).is_none());
        assert_eq!(names_in(dir.path()), ["below", "link", "target"]);
    }

    /// Whoever opened what the process before had, and locks it when that one has let go.
    #[test]
    fn what_was_replaced_meanwhile_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        let mut before = Some(PidFile::take(&path).unwrap());
        // As another process does that takes over.
        let beside = dir.path().join("beside");
        std::fs::write(&beside, "4711").unwrap();
        let next = Flock::lock(File::open(&beside).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let second = PidFile::take_when(&path, || {
            if let Some(before) = before.take() {
                std::fs::rename(&beside, &path).unwrap();
                drop(before);
            }
        });
        assert!(chain(&second.unwrap_err()).contains("locked by a service that runs, pid 4711"));
        assert!(is_at(&next, &path));
        assert_eq!(names_in(dir.path()), ["a.pid"]);
    }
}
