//! What can be wrong with a listener, told so that the reader knows what to change.

use std::fmt;
use std::io;

/// A source of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A listener cannot be had.
#[derive(Debug)]
pub struct ListenError {
    pub(crate) name: String,
    /// As it is configured.
    pub(crate) address: String,
    pub(crate) kind: ListenErrorKind,
    pub(crate) source: Option<BoxError>,
}

/// Split by who must act.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenErrorKind {
    /// The program or its configuration: what is asked for makes no sense.
    Asked(String),
    /// Somebody else has the address.
    InUse {
        /// Who it is and what to do, as far as that could be found.
        holder: String,
    },
    /// The system refuses this step.
    System(&'static str),
}

impl ListenError {
    pub(crate) fn asked(name: &str, address: &dyn fmt::Display, what: impl Into<String>) -> ListenError {
        let kind = ListenErrorKind::Asked(what.into());
        ListenError { name: name.to_owned(), address: address.to_string(), kind, source: None }
    }

    pub(crate) fn system(
        name: &str,
        address: &dyn fmt::Display,
        step: &'static str,
        source: impl Into<BoxError>,
    ) -> ListenError {
        let kind = ListenErrorKind::System(step);
        ListenError { name: name.to_owned(), address: address.to_string(), kind, source: Some(source.into()) }
    }

    /// Who must act.
    pub fn kind(&self) -> &ListenErrorKind {
        &self.kind
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener `{}` at {}: ", self.name, self.address)?;
        match &self.kind {
            ListenErrorKind::Asked(what) => f.write_str(what),
            ListenErrorKind::InUse { holder } => write!(f, "the address is in use: {holder}"),
            ListenErrorKind::System(step) => write!(f, "{step} failed"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> io::Error {
        let kind = match (&error.kind, &error.source) {
            (ListenErrorKind::InUse { .. }, _) => io::ErrorKind::AddrInUse,
            (ListenErrorKind::Asked(_), _) => io::ErrorKind::InvalidInput,
            (ListenErrorKind::System(_), source) => source
                .as_ref()
                .and_then(|s| s.downcast_ref::<io::Error>())
                .map_or(io::ErrorKind::Other, io::Error::kind),
        };
        io::Error::new(kind, error)
    }
}
