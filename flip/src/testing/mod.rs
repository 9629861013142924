//! For tests of one's own state: what an upgrade would do with it, without a second process.
//!
//! ```
//! #[derive(Default, flip::Handoff)]
//! struct Visits {
//!     total: u64,
//! }
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("visits.flip");
//! # /*
//! #[test]
//! fn released_state_can_be_handed_over() {
//!     flip::testing::snapshot::<Visits>("tests/visits.flip");
//! }
//! # */
//! # flip::testing::snapshot::<Visits>(&path);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! | | |
//! | --- | --- |
//! | [`snapshot`] | fails where the released version could not hand over to this one |
//! | [`migrated`] | a value of the older type, as the new process would have it |
//! | [`restored`] | a value, saved and restored |
//! | [`Process`] | a whole handoff of several states, and roll-backs |
//!
//! It needs no running flip and no async runtime. Where a test runs on tokio, what is restored is registered with that runtime.

mod process;
mod snapshot;

pub use process::Process;
pub use snapshot::{snapshot, snapshot_both_ways};

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::entry::shielded;
use crate::handoff::{self, Handoff, Limits, Plan, Restorer, Schema, Sink, Source};

/// Why a state would not be handed over, and when an upgrade would find that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandoffError {
    /// Found before anything stops: the old process serves on undisturbed.
    #[error("refused before the freeze: {0}")]
    BeforeFreeze(String),
    /// Found during the freeze, by the values themselves: the old process goes on, and clients waited for a moment.
    #[error("rolled back: {0}")]
    RolledBack(String),
}

/// The value as the next process would have it, if it ran the same program.
///
/// ```
/// use std::{fs::File, io::{Read, Write}};
///
/// #[derive(flip::Handoff)]
/// struct Upload {
///     name: String,
///     file: File,
///     #[handoff(skip)]
///     cache: Vec<u8>,
/// }
///
/// let file = tempfile::tempfile()?;
/// let upload = Upload { name: "a".into(), file, cache: vec![1, 2, 3] };
/// let restored = flip::testing::restored(&upload)?;
/// assert_eq!((&*restored.name, restored.cache.len()), ("a", 0));
/// # let mut upload = upload;
/// // A duplicate of the descriptor: both have one file, and one position in it.
/// upload.file.write_all(b"more")?;
/// assert_eq!(restored.file.metadata()?.len(), 4);
/// # Ok::<(), flip::BoxError>(())
/// ```
///
/// Descriptors are duplicated. The memory of a [`Region`](crate::Region) is shared by both, as during a freeze: do not write to one
/// while the other is there.
///
/// # Errors
/// What an upgrade would say.
pub fn restored<T: Handoff>(value: &T) -> Result<T, HandoffError> {
    migrated::<T, T>(value)
}

/// The value of the old release's type as the new process would have it, whose type is another.
///
/// The older types stay in the test, each in a module of its own:
///
/// ```
/// use flip::testing::{HandoffError, migrated};
///
/// mod v1 {
///     #[derive(flip::Handoff)]
///     pub struct Visits {
///         pub total: i64,
///     }
/// }
///
/// #[derive(flip::Handoff)]
/// struct Visits {
///     #[handoff(alias = "total")]
///     count: u32,
///     #[handoff(default)]
///     owner: String,
/// }
///
/// let visits: Visits = migrated(&v1::Visits { total: 7 })?;
/// assert_eq!((visits.count, &*visits.owner), (7, ""));
///
/// // What only the values can tell is found during the freeze, and rolls back.
/// let error = migrated::<_, Visits>(&v1::Visits { total: -1 }).err().unwrap();
/// assert!(error.to_string().starts_with("rolled back: Visits.total: -1, i64 in the running process, does not fit into u32"));
///
/// // The way back is another upgrade. The older type knows no `owner`, and loses it.
/// let back: v1::Visits = migrated(&visits)?;
/// assert_eq!(back.total, 7);
/// # Ok::<(), HandoffError>(())
/// ```
///
/// # Errors
/// What an upgrade would say, the text of a panic in `migrate` among it.
pub fn migrated<Old: Handoff, New: Handoff>(old: &Old) -> Result<New, HandoffError> {
    let refused = |why: String| HandoffError::BeforeFreeze(why);
    // As it travels: without what only the running program knows of its own types.
    let theirs = Schema::decode(&Schema::of::<Old>().encode()).map_err(|error| refused(error.to_string()))?;
    let plan = Schema::of::<New>().plan(&theirs).map_err(|mismatch| refused(mismatch.to_string()))?;
    shielded(|| {
        let mut kept = Kept::default();
        handoff::save(old, &mut kept).map_err(|error| error.to_string())?;
        handed_over(&mut kept, &plan)
    })
    .map_err(HandoffError::RolledBack)
}

fn handed_over<T: Handoff>(kept: &mut Kept, plan: &Plan) -> Result<T, String> {
    let mut input = Restorer::new(kept, Limits::default());
    let value = if plan.is_needed() {
        handoff::restore_matched(input, plan, Limits::default())
    } else {
        handoff::restore(&mut input).and_then(|value| input.finish().map(|()| value))
    };
    value.map_err(|error| error.to_string())
}

/// Keeps what is sent, with duplicates of the descriptors.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Sink for Kept {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        for fd in fds {
            self.fds.push_back(fd.try_clone_to_owned()?);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Source for Kept {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let length = self.bytes.len();
        bytes.append(&mut self.bytes);
        fds.append(&mut self.fds);
        Ok(length)
    }
}
