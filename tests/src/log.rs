//! What a service and all its generations say on stdout and stderr, line by line.

use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::PATIENCE;

/// The lines so far, from all processes of a chain.
#[derive(Default)]
pub struct Log {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// Nobody has the pipe open any more: the service and all that it started are gone.
    over: bool,
}

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Log {
    /// Reads the pipe until its last writer is gone.
    pub(crate) fn read(pipe: PipeReader) -> (Arc<Log>, JoinHandle<()>) {
        let log = Arc::new(Log::default());
        let reader = Arc::clone(&log);
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                reader.said().lines.push(String::from_utf8_lossy(&line).into_owned());
                reader.more.notify_all();
            }
            reader.said().over = true;
            reader.more.notify_all();
        });
        (log, thread)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Here: where a look at what is said from now on begins.
    pub fn mark(&self) -> Mark {
        Mark(self.said().lines.len())
    }

    /// Everything said so far.
    pub fn text(&self) -> String {
        self.said().lines.join("\n")
    }

    /// How many lines so far contain this.
    pub fn count(&self, text: &str) -> usize {
        self.said().lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for the first line that `find` accepts, from the beginning.
    ///
    /// # Errors
    /// The last [`PATIENCE`] has passed, or nobody is left who could say it.
    pub(crate) fn find<T>(&self, from: Mark, mut find: impl FnMut(&str) -> Option<T>) -> Result<T, &'static str> {
        let deadline = Instant::now() + PATIENCE;
        let mut next = from.0;
        let mut said = self.said();
        loop {
            while let Some(line) = said.lines.get(next) {
                if let Some(found) = find(line) {
                    return Ok(found);
                }
                next += 1;
            }
            if said.over {
                return Err("nobody is left who could say it");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("it was not said in time");
            }
            said = self.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until nobody has the pipe open.
    pub(crate) fn wait_over(&self) -> bool {
        let said = self.more.wait_timeout_while(self.said(), PATIENCE, |said| !said.over);
        said.unwrap_or_else(PoisonError::into_inner).0.over
    }
}

impl Mark {
    /// The beginning of the log.
    pub const START: Mark = Mark(0);
}

/// The number that follows `text` in a line.
pub fn number_after(line: &str, text: &str) -> Option<i32> {
    let (_, rest) = line.split_once(text)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}
