//! The page "Your framework" shows programs that no test of the documentation compiles: they are those of this package.

use std::path::Path;

#[test]
fn what_is_shown_is_in_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("flip/docs/your-framework.md")).unwrap();
    let mut shown = vec![];
    for (at, fence) in page.match_indices("\n```text\n") {
        let name =
            page[..at].trim_end().lines().last().and_then(|line| line.strip_prefix("From `")?.strip_suffix("`:"));
        let name = name.expect("the line before says whose it is");
        let program = std::fs::read_to_string(root.join(name)).unwrap();
        let mut lines = program.lines();
        let quoted = page[at + fence.len()..].split("\n```").next().expect("a split has a first part");
        for line in quoted.lines() {
            // In this order, though the program may have more in between.
            assert!(lines.any(|other| other == line), "{name} has no line (or not there): {line}");
        }
        shown.push(name);
    }
    assert_eq!(shown, ["examples/stacks/src/bin/grpc.rs", "examples/stacks/src/bin/actix.rs"]);
}
