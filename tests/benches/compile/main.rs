//! The compile benchmark: how long a debug build takes after a change, with flip's derive and with serde's two.
//!
//! `cargo bench -p flip-tests --bench compile -- [--rounds N]`
//!
//! Two crates are made in a temporary directory, each of 50 structs with 10 fields, which it writes and reads, alike but for
//! the derive and who writes (serde_json there). Both are built once. Then, in turns, one field of one struct is renamed, or a comment is added, and the build, or check, is timed. Nothing is
//! asserted about times.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const STRUCTS: usize = 50;

fn main() -> ExitCode {
    match rounds().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compile benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rounds() -> Result<usize, String> {
    // cargo says `--bench` to every benchmark.
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(9),
        ["--rounds", rounds] => rounds.parse().ok().filter(|&rounds| rounds > 0).ok_or("how many rounds?".to_owned()),
        _ => Err("usage: compile [--rounds N]".to_owned()),
    }
}

fn run(rounds: usize) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let contenders = [
        Crate::new(
            dir.path(),
            "by_serde",
            "serde::Serialize, serde::Deserialize",
            "serde_json::to_writer(&mut bytes, &value).unwrap(); value = serde_json::from_slice(&bytes).unwrap();",
        )?,
        Crate::new(
            dir.path(),
            "by_flip",
            "flip::Handoff",
            "use flip::__private::bench::{restore, save}; save(&value, &mut bytes).unwrap(); value = restore(&bytes).unwrap();",
        )?,
    ];
    for contender in &contenders {
        println!("{}: first build, which is not timed", contender.name);
        contender.write(0, 0)?;
        contender.cargo("build")?;
        contender.cargo("check")?;
    }

    for (what, command, comments) in [
        ("build, a field of one struct renamed", "build", false),
        ("build, a comment added", "build", true),
        ("check, a field of one struct renamed", "check", false),
    ] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 1..=rounds {
            for place in 0..2 {
                let at = (round + place) % 2;
                // Another text each time, and never one that was built before.
                let (field, comment) = if comments { (rounds, round) } else { (round, 0) };
                contenders[at].write(field, comment)?;
                times[at].push(contenders[at].cargo(command)?);
            }
            println!(
                "{what}, round {round} of {rounds}: serde {:.2} s, flip {:.2} s",
                last(&times[0]),
                last(&times[1])
            );
        }
        let [low, ratio, high] = spread(times[1].iter().zip(&times[0]).map(|(flip, serde)| flip / serde).collect());
        println!("\n== {what}: median of {rounds} rounds (least to most)");
        for (contender, times) in contenders.iter().zip(times) {
            let [least, median, most] = spread(times);
            println!("{:<10} {median:.2} s ({least:.2} to {most:.2})", contender.name);
        }
        println!("ratio      {ratio:.2} x ({low:.2} to {high:.2})   at most 1.5 wanted\n");
    }
    Ok(())
}

fn last(times: &[f64]) -> f64 {
    times.last().copied().unwrap_or(f64::NAN)
}

/// The least, the middle and the most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

struct Crate {
    name: &'static str,
    dir: PathBuf,
    derive: &'static str,
    /// What is done with `value` and `bytes`, so that the code is not only expanded but compiled.
    used: &'static str,
}

impl Crate {
    fn new(parent: &Path, name: &'static str, derive: &'static str, used: &'static str) -> Result<Self, String> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace is gone")?;
        let dir = parent.join(name);
        fs::create_dir_all(dir.join("src")).map_err(|error| error.to_string())?;
        // Both depend on both, so that nothing differs but what is written in them.
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
             flip = {{ path = {:?}, default-features = false }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\n",
            workspace.join("flip")
        );
        let written = fs::write(dir.join("Cargo.toml"), manifest)
            .and_then(|()| fs::copy(workspace.join("Cargo.lock"), dir.join("Cargo.lock")));
        written.map_err(|error| error.to_string())?;
        Ok(Self { name, dir, derive, used })
    }

    /// The program, with `field` in the name of one field and `comment` in a comment.
    fn write(&self, field: usize, comment: usize) -> Result<(), String> {
        let mut text = format!("// {comment}\n#![allow(dead_code)]\nuse std::collections::HashMap;\n");
        for n in 0..STRUCTS {
            let (renamed, inner) = (if n == STRUCTS / 2 { field } else { 0 }, n.checked_sub(1));
            let inner = inner.map_or("u8".to_owned(), |inner| format!("Type{inner}"));
            let _ = write!(
                text,
                "#[derive(Default, {})]\npub struct Type{n} {{ pub a{renamed}: u64, pub b: String, pub c: Vec<u16>, pub d: Option<{inner}>, \
                 pub e: HashMap<String, u32>, pub f: bool, pub g: (u8, i64), pub h: f64, pub i: Vec<String>, pub j: Option<String> }}\n",
                self.derive
            ); // Writing to a `String` cannot fail.
        }
        let _ = writeln!(
            text,
            "fn main() {{ let mut value = Type{}::default(); let mut bytes = Vec::new(); {} std::hint::black_box(value); }}",
            STRUCTS - 1,
            self.used
        ); // As above.
        fs::write(self.dir.join("src/main.rs"), text).map_err(|error| error.to_string())
    }

    fn cargo(&self, command: &str) -> Result<f64, String> {
        let start = Instant::now();
        let output = Command::new(env!("CARGO"))
            .args([command, "--quiet", "--offline"])
            .current_dir(&self.dir)
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        let taken = start.elapsed().as_secs_f64();
        if output.status.success() { Ok(taken) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}
