//! The documents name tests and files for what they promise: each is there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// The links of a document, and the definitions of those that have one: their text and where they lead.
fn links(text: &str) -> Vec<(&str, &str)> {
    let mut links: Vec<_> = text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).collect();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().expect("a split has a first part");
        let label = text[..at].rsplit('[').next().expect("a split has a first part");
        links.push((label, target));
    }
    links
}

fn is_name(label: &str) -> Option<&str> {
    let name = label.strip_prefix('`')?.strip_suffix('`')?;
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_').then_some(name)
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = vec![];
    let pages = ["changing-state", "checkpoints", "containers", "systemd", "your-framework"];
    let pages = pages.map(|page| format!("flip/docs/{page}.md"));
    let documents = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md"].map(str::to_owned);
    for document in documents.iter().chain(&pages) {
        let path = root().join(document);
        let text = std::fs::read_to_string(&path).unwrap();
        let is_file = |target: &str| !target.starts_with("https:") && !target.starts_with('#');
        for (label, target) in links(&text).into_iter().filter(|(_, target)| is_file(target)) {
            let file = path.parent().expect("a file lies in a directory").join(target);
            if !file.exists() {
                wrong.push(format!("{document}: {target} is not there"));
                continue;
            }
            // In `[`name`](….rs)` the name is a test's, but in the lists of programs.
            let Some(name) = is_name(label).filter(|_| target.ends_with(".rs") && !target.contains("src/bin/")) else {
                continue;
            };
            let source = std::fs::read_to_string(&file).unwrap();
            // A function, or a case of a macro that writes tests.
            let is_function = ["(", "<"].iter().any(|next| source.contains(&format!("fn {name}{next}")));
            if !is_function && !source.contains(&format!("{name}:")) {
                wrong.push(format!("{document}: {target} has no test {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
