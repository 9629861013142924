//! Of what a merge looked at, keeps the few inputs in the corpus that reach the most:
//!
//! ```text
//! <target> -merge=1 -max_len=1000 -merge_control_file=control work/<target>.new work/<target>
//! cargo run --example keep <target> control
//! ```

use std::{
    collections::{HashMap, HashSet},
    env, fs, io,
    path::Path,
};

/// How many are kept of each target.
const KEPT: usize = 32;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().collect();
    let [_, target, control] = &arguments[..] else { return Err(io::Error::other("<target> <control file>")) };
    let control = fs::read_to_string(control)?;
    let mut lines = control.lines();
    let count = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    let files: Vec<_> = lines.by_ref().skip(1).take(count).collect();
    let mut reached: HashMap<usize, HashSet<&str>> = HashMap::new();
    for line in lines {
        let mut words = line.split(' ');
        if let (Some("FT"), Some(Ok(number))) = (words.next(), words.next().map(str::parse)) {
            reached.insert(number, words.collect());
        }
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    for _ in 0..KEPT {
        let Some(best) = reached.iter().max_by_key(|(number, more)| (more.len(), **number)).map(|(best, _)| *best)
        else {
            break;
        };
        let more = reached.remove(&best).unwrap_or_default();
        if more.is_empty() {
            break;
        }
        reached.values_mut().for_each(|others| others.retain(|other| !more.contains(other)));
        let file = Path::new(files[best]);
        fs::copy(file, corpus.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}
