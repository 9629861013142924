//! What compiles, and what is said where something does not. `TRYBUILD=overwrite` writes anew what is said.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/*/pass/*.rs");
    cases.compile_fail("tests/ui/*/fail/*.rs");
}
