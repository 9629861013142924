use std::{borrow::Cow, error::Error, fmt, io};

/// Why a value could not be written for the new process.
///
/// Says where in the value, as far as it is known: `Visits.sessions[3].peer: …`.
#[derive(Debug)]
pub struct SaveError(Box<Inner>);

/// Why a value could not be read from the old process.
///
/// Says where in the value, as far as it is known: `Visits.sessions[3].peer: …`.
#[derive(Debug)]
pub struct RestoreError(Box<Inner>);

// Boxed, so that a `Result` of either is as small as it can be where everything goes well.
#[derive(Debug)]
struct Inner {
    path: String,
    what: Cow<'static, str>,
    source: Option<io::Error>,
    /// The path leads from the type on already.
    whole: bool,
}

impl Inner {
    fn prepend(&mut self, segment: fmt::Arguments<'_>) {
        use fmt::Write as _;
        let rest = std::mem::take(&mut self.path);
        // Writing to a `String` cannot fail.
        let _ = write!(self.path, "{segment}{rest}");
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.strip_prefix('.').unwrap_or(&self.path) {
            "" => f.write_str(&self.what)?,
            path => write!(f, "{}: {}", shortened(path), self.what)?,
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// Where values lie deep in each other, only the ends of the path say anything.
pub(super) fn shortened(path: &str) -> Cow<'_, str> {
    const SHOWN: usize = 100;
    let count = path.chars().count();
    if count <= 2 * SHOWN + 1 {
        return path.into();
    }
    let start = path.chars().take(SHOWN);
    let end = path.chars().skip(count - SHOWN);
    start.chain(['…']).chain(end).collect::<String>().into()
}

macro_rules! both {
    ($($error:ident)*) => { $(
        impl $error {
            #[cold]
            pub(crate) fn new(what: impl Into<Cow<'static, str>>) -> Self {
                Self(Box::new(Inner { path: String::new(), what: what.into(), source: None, whole: false }))
            }

            #[cold]
            pub(crate) fn io(what: &'static str, source: io::Error) -> Self {
                Self(Box::new(Inner { path: String::new(), what: what.into(), source: Some(source), whole: false }))
            }

            #[cold]
            pub(crate) fn in_type(mut self, name: &str) -> Self {
                self.0.prepend(format_args!("{name}"));
                self
            }

            #[cold]
            pub(crate) fn in_field(mut self, name: &str) -> Self {
                if !self.0.whole {
                    self.0.prepend(format_args!(".{name}"));
                }
                self
            }

            #[cold]
            pub(crate) fn at(mut self, index: usize) -> Self {
                if !self.0.whole {
                    self.0.prepend(format_args!("[{index}]"));
                }
                self
            }

            /// Where in the value: `Visits.sessions[3].peer`. Empty where it is the whole.
            pub fn path(&self) -> &str {
                self.0.path.strip_prefix('.').unwrap_or(&self.0.path)
            }
        }

        impl fmt::Display for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Error for $error {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.0.source.as_ref().map(|source| source as _)
            }
        }
    )* };
}

both!(SaveError RestoreError);

impl RestoreError {
    /// Its path is complete: what the reader was at says nothing of it.
    pub(super) fn whole(mut self) -> Self {
        self.0.whole = true;
        self
    }
}
