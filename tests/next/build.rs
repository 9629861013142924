//! Tells the sources that they stand for a later release.

fn main() {
    println!("cargo::rustc-cfg=flip_next");
    println!("cargo::rerun-if-changed=build.rs");
}
