//! The schema of a released version, in a file of the repository.

use std::fmt::Write as _;
use std::path::Path;

use crate::handoff::{Handoff, Schema};

const VARIABLE: &str = "FLIP_SNAPSHOT";
/// Between what people read and what is compared.
const EXACTLY: &str = "# The same, as it is compared:";
/// Bytes on one line.
const LINE: usize = 48;

/// Fails where the state of the released version could not be handed over to this one.
///
/// ```
/// # #[derive(flip::Handoff)]
/// # struct Visits { total: u64 }
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("tests/visits.flip");
/// # /*
/// #[test]
/// fn released_state_can_be_handed_over() {
///     flip::testing::snapshot::<Visits>("tests/visits.flip");
/// }
/// # */
/// # flip::testing::snapshot::<Visits>(&path);
/// # let file = std::fs::read_to_string(&path).unwrap();
/// # assert!(file.contains("struct Visits {\n    total: u64,\n}\n"), "{file}");
/// ```
///
/// The file has the released version's schema, as text whose differences can be read; a relative path starts at the package, where
/// cargo runs its tests. It belongs into the repository. What a type may become is in the table of [`trait@Handoff`]; types that
/// only serde knows are compared as well, by what their `Deserialize` takes.
///
/// - Where there is no file, it is written.
/// - Where the type changed in a way that the released version can hand over to, the test passes and says so on standard error, and
///   what would not work on the way back. After the next release, write the file anew: `FLIP_SNAPSHOT=update cargo test`.
/// - Where it changed in another way, the test fails with what an upgrade would say, and what would help.
///
/// `FLIP_SNAPSHOT=check`, for continuous integration, fails where there is no file: one that was never committed guards nothing.
///
/// What only values can tell (a number that no longer fits, a variant that is gone) passes; [`migrated`](super::migrated) shows what
/// becomes of one.
///
/// # Panics
/// As said; and where the file cannot be read, understood or written.
#[track_caller]
pub fn snapshot<T: Handoff>(path: impl AsRef<Path>) {
    finish(check(&Schema::of::<T>(), path.as_ref(), Mode::asked_for(), false));
}

/// [`snapshot`] that fails, too, where this version could not hand over to the released one: for services that must be able to
/// go back.
///
/// Types that only serde knows are taken to be readable there: the program that would read them is not here.
///
/// ```
/// # #[derive(flip::Handoff)]
/// # struct Visits { total: u64 }
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("visits.flip");
/// flip::testing::snapshot_both_ways::<Visits>(&path);
/// ```
///
/// # Panics
/// As [`snapshot`] does, and for the way back.
#[track_caller]
pub fn snapshot_both_ways<T: Handoff>(path: impl AsRef<Path>) {
    finish(check(&Schema::of::<T>(), path.as_ref(), Mode::asked_for(), true));
}

#[track_caller]
fn finish(checked: Result<Option<String>, String>) {
    match checked {
        Ok(None) => {}
        // Past what a test's output is kept back by: the test passes, and this is to be read.
        Ok(Some(note)) => crate::log::print(format_args!("{note}")),
        Err(why) => panic!("{why}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Usual,
    /// The file is written anew.
    Update,
    /// The file must be there.
    Check,
}

impl Mode {
    #[track_caller]
    fn asked_for() -> Mode {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("") => Mode::Usual,
            Ok("update") => Mode::Update,
            Ok("check") => Mode::Check,
            Ok(other) => panic!("{VARIABLE} is `update`, `check` or not set, and not `{other}`"),
        }
    }
}

/// What there is to say of a schema that passes, if anything is.
fn check(ours: &Schema, path: &Path, mode: Mode, both_ways: bool) -> Result<Option<String>, String> {
    let at = path.display();
    let file = match std::fs::read_to_string(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{at} cannot be read: {error}")),
    };
    let file = match (file, mode) {
        (None, Mode::Check) => {
            return Err(format!("{at} is not there: run the test without {VARIABLE}, and commit what it writes"));
        }
        (Some(file), Mode::Usual | Mode::Check) => file,
        (file, _) => {
            let text = written(ours);
            if file.as_deref() == Some(&*text) {
                return Ok(None);
            }
            let parent = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            parent
                .and_then(|()| std::fs::write(path, text))
                .map_err(|error| format!("{at} cannot be written: {error}"))?;
            return Ok(Some(format!("{at} is written: commit it")));
        }
    };
    let anew = format!("{VARIABLE}=update cargo test");
    let released = read(&file).map_err(|why| {
        format!("{at} cannot be understood: {why}; take it from the released version, or write it anew: {anew}")
    })?;
    if released.without_names().encode() == ours.without_names().encode() {
        return Ok(None);
    }
    if let Err(mismatch) = ours.plan(&released) {
        return Err(format!(
            "{at}: the released version cannot hand `{}` over to this one: {mismatch}\n\
             Where that version runs nowhere any more, write the file anew: {anew}",
            ours.name()
        ));
    }
    let back = released.plan(ours).err().map(|mismatch| {
        format!(
            "{at}: this version cannot hand `{}` back to the released one, which would say: {mismatch}",
            ours.name()
        )
    });
    match back {
        Some(back) if both_ways => Err(format!("{back}\nWhere nobody has to go back, `snapshot` looks only ahead")),
        back => Ok(Some(format!(
            "{at}: `{}` has changed, and the released version can hand it over; after the release, write the file anew: {anew}{}",
            ours.name(),
            back.map(|back| format!("\nflip: {back}")).unwrap_or_default(),
        ))),
    }
}

fn written(schema: &Schema) -> String {
    let mut text = format!(
        "# What the released version hands over as `{}`; flip::testing::snapshot compares it with what the program has now.\n\
         # After a release, write it anew: {VARIABLE}=update cargo test\n\n{}\n{EXACTLY}\n",
        schema.name(),
        schema.text(),
    );
    for line in schema.encode().chunks(LINE) {
        for byte in line {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

/// The schema of a file.
fn read(file: &str) -> Result<Schema, String> {
    let mut lines = file.lines().skip_while(|line| line.trim_end() != EXACTLY);
    lines.next().ok_or_else(|| format!("there is no line `{EXACTLY}`"))?;
    let digits: Vec<char> = lines.flat_map(|line| line.trim().chars()).collect();
    let byte = |pair: &[char]| match *pair {
        [high, low] => Some((high.to_digit(16)? * 16 + low.to_digit(16)?) as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let bytes = bytes.ok_or("what is compared is no longer hexadecimal")?;
    Schema::decode(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    mod released {
        #[derive(flip::Handoff)]
        pub(super) struct State {
            pub(super) total: u32,
            pub(super) names: Vec<String>,
            pub(super) config: super::Config,
        }
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Config {
        name: String,
    }

    fn here<T: Handoff>(path: &Path, mode: Mode) -> Result<Option<String>, String> {
        check(&Schema::of::<T>(), path, mode, false)
    }

    /// The file of the released state.
    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state.flip");
        let said = here::<released::State>(&path, Mode::Usual).unwrap().unwrap();
        assert!(said.ends_with("state.flip is written: commit it"), "{said}");
        (dir, path)
    }

    #[test]
    fn file_can_be_read() {
        #[derive(flip::Handoff)]
        enum Kind {
            Plain,
            #[handoff(alias = "Two")]
            Pair(u8, Option<String>),
            Known {
                since: std::time::Instant,
            },
        }
        mod other {
            #[derive(flip::Handoff)]
            pub(super) struct Kind(pub(super) [u8; 4]);
        }
        #[derive(serde::Serialize, serde::Deserialize)]
        enum Place {
            Here,
            There(Config),
            Between { from: u8, to: Option<Box<Place>> },
        }
        #[derive(flip::Handoff)]
        struct All {
            #[handoff(alias = "sort", alias = "sorts", default)]
            kinds: BTreeMap<u64, Vec<Kind>>,
            other: (other::Kind, Result<(), HashSet<u8>>),
            #[handoff(from = "u64", migrate = std::time::Duration::from_millis)]
            timeout: std::time::Duration,
            place: Place,
            #[handoff(default)]
            more: Vec<Config>,
        }
        let text = written(&Schema::of::<All>());
        let (text, bytes) = text.split_once(EXACTLY).unwrap();
        assert_eq!(
            text,
            "# What the released version hands over as `All`; flip::testing::snapshot compares it with what the program has now.
# After a release, write it anew: FLIP_SNAPSHOT=update cargo test

All

struct All {
    #[handoff(alias = \"sort\", alias = \"sorts\", default)]
    kinds: Map<u64, List<Kind>>,
    #[handoff(default)]
    more: serde Vec<Config>,
    other: (Kind2, Result<(), Set<u8>>),
    place: serde Place,
    #[handoff(from = \"u64\")]
    timeout: Duration,
}

enum Kind {
    Known {
        since: Instant,
    },
    #[handoff(alias = \"Two\")]
    Pair {
        0: u8,
        1: Option<String>,
    },
    Plain,
}

struct Kind2 {
    0: [u8; 4],
}

serde Vec<Config> {
    List<Config>
    struct Config { name: a string }
}

serde Place {
    enum Place {
        Here,
        There(Config),
        Between { from: u8, to: Option<Place> },
    }
    struct Config { name: a string }
}

"
        );
        assert!(bytes.lines().all(|line| line.len() <= 2 * LINE), "{bytes}");
    }

    #[test]
    fn same_type_has_nothing_to_say() {
        let (_dir, path) = file();
        let before = std::fs::read_to_string(&path).unwrap();
        for mode in [Mode::Usual, Mode::Check, Mode::Update] {
            assert_eq!(here::<released::State>(&path, mode), Ok(None));
        }
        // As some checkouts have it.
        std::fs::write(&path, before.replace('\n', "\r\n")).unwrap();
        assert_eq!(here::<released::State>(&path, Mode::Usual), Ok(None));
    }

    #[test]
    fn allowed_change_passes_and_names_what_does_not_work_on_the_way_back() {
        #[derive(flip::Handoff)]
        struct State {
            #[handoff(alias = "total")]
            count: u64,
            config: Config,
            #[handoff(default)]
            fresh: bool,
        }
        let (_dir, path) = file();
        let before = std::fs::read_to_string(&path).unwrap();
        let said = here::<State>(&path, Mode::Check).unwrap().unwrap();
        assert!(
            said.contains("`State` has changed, and the released version can hand it over; after the release"),
            "{said}"
        );
        let back = "this version cannot hand `State` back to the released one, which would say: `State.names` is a list of \
                    String without a default here and absent in the running process";
        assert!(said.contains(back), "{said}");
        let error = check(&Schema::of::<State>(), &path, Mode::Usual, true).unwrap_err();
        assert!(error.contains(back), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "it is the released version's");

        here::<State>(&path, Mode::Update).unwrap().unwrap();
        assert_eq!(here::<State>(&path, Mode::Check), Ok(None));
        // What was the new release's is the old one's now.
        assert!(here::<released::State>(&path, Mode::Usual).unwrap_err().contains("`State.names`"));
    }

    #[test]
    fn other_change_fails_with_what_would_help() {
        #[derive(flip::Handoff)]
        struct State {
            total: u32,
            lines: Vec<String>,
            config: Config,
        }
        let (_dir, path) = file();
        let error = here::<State>(&path, Mode::Usual).unwrap_err();
        let expected = "state.flip: the released version cannot hand `State` over to this one: `State.lines` is a list of \
                        String without a default here and absent in the running process: give it a default, \
                        `#[handoff(default)]`, or say what it was called, `#[handoff(alias = \"names\")]`\n\
                        Where that version runs nowhere any more, write the file anew: FLIP_SNAPSHOT=update cargo test";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn what_only_serde_knows_is_compared() {
        mod now {
            #[derive(serde::Serialize, serde::Deserialize)]
            pub(super) struct Config {
                pub(super) name: String,
                pub(super) color: String,
            }
            #[derive(serde::Serialize, serde::Deserialize)]
            pub(super) struct Mild {
                pub(super) name: String,
                #[serde(default)]
                pub(super) color: String,
            }
        }
        #[derive(flip::Handoff)]
        struct State<C: serde::Serialize + serde::de::DeserializeOwned> {
            total: u32,
            names: Vec<String>,
            #[handoff(serde)]
            config: C,
        }
        let (_dir, path) = file();
        let error = here::<State<now::Config>>(&path, Mode::Usual).unwrap_err();
        assert!(error.contains("missing field `color`; serde's own attributes say what may change"), "{error}");
        let said = here::<State<now::Mild>>(&path, Mode::Usual).unwrap().unwrap();
        assert!(said.contains("can hand it over") && !said.contains("back"), "{said}");
    }

    /// How rustc writes the name of a type, and where it lies, is in messages only.
    #[test]
    fn what_rustc_calls_a_type_is_not_compared() {
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(rename = "Config")]
        struct Moved {
            name: String,
        }
        #[derive(flip::Handoff)]
        struct State {
            total: u32,
            names: Vec<String>,
            config: Moved,
        }
        let (_dir, path) = file();
        assert_eq!(here::<State>(&path, Mode::Check), Ok(None));
    }

    #[test]
    fn file_that_is_not_there_or_broken_is_named() {
        let (_dir, path) = file();
        let text = std::fs::read_to_string(&path).unwrap();
        for broken in ["", &text[..text.len() - 3], &text.replace(EXACTLY, "<<<<<<<"), &format!("{text}=======\n")] {
            std::fs::write(&path, broken).unwrap();
            let error = here::<released::State>(&path, Mode::Usual).unwrap_err();
            assert!(error.contains("state.flip cannot be understood: "), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = here::<released::State>(&path, Mode::Check).unwrap_err();
        assert!(error.contains("state.flip is not there: run the test without FLIP_SNAPSHOT"), "{error}");
        assert!(!path.exists());
    }
}
