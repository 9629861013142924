//! What can go wrong, and who has to act.

use std::fmt;

/// Any error of the user's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why this process could not start, or could not go on.
///
/// Its text says what happened and to which parameter; [`source`](std::error::Error::source) has the rest.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    source: Option<BoxError>,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program or its configuration: a parameter, an option, an address.
    Program,
    /// The other process of a handoff: what it offered does not fit.
    Peer,
    /// The system: descriptors, memory, permissions.
    System,
}

impl Error {
    pub(crate) fn program(what: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Program, what: what.into(), source: None }
    }

    pub(crate) fn peer(what: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Peer, what: what.into(), source: None }
    }

    /// `doing` completes the sentence "cannot …".
    pub(crate) fn system(doing: impl fmt::Display, source: impl Into<BoxError>) -> Error {
        Error { kind: ErrorKind::System, what: format!("cannot {doing}"), source: Some(source.into()) }
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// An error and its sources in one line, as it is printed and as it crosses to the old process.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        // Many errors repeat their source in their own text.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    // Some parsers end theirs with an empty line; ours may go on behind it.
    text.truncate(text.trim_end().len());
    text
}
