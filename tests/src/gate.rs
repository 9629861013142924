//! A place in a service where whoever comes by waits until the test lets it go on.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

/// A gate that is shut, until [`open`](Gate::open). A FIFO: coming by is reading a byte of it.
pub struct Gate {
    path: PathBuf,
    fifo: File,
}

impl Gate {
    pub(crate) fn shut(path: &Path) -> Gate {
        let name = CString::new(path.as_os_str().as_bytes()).expect("a path has no zero byte");
        nix::unistd::mkfifo(name.as_c_str(), Mode::S_IRWXU).expect("a fifo in the test's own directory");
        // Both ends, so that neither side waits in open(2) for the other.
        let fifo = OpenOptions::new().read(true).write(true).open(path).expect("the fifo was just made");
        Gate { path: path.to_owned(), fifo }
    }

    /// Whoever comes later finds no gate, and who waits goes on waiting.
    pub fn forget(&self) {
        std::fs::remove_file(&self.path).expect("it is in the test's own directory");
    }

    /// Whoever waits goes on, and whoever comes later finds no gate.
    pub fn open(&mut self) {
        // A second opening finds it gone, and there is nothing to do.
        if std::fs::remove_file(&self.path).is_ok() {
            self.fifo.write_all(&[0; 1024]).expect("a pipe takes a kilobyte");
        }
    }
}
