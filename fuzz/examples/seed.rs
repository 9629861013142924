//! Writes what is good into the folders of the corpus: `cargo run --example seed`.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (number, (target, bytes)) in flip::__fuzzing::seeds().into_iter().enumerate() {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(format!("seed-{number:02}")), bytes)?;
    }
    Ok(())
}
