//! Whatever stands around it, the expansion finds what it needs.
#![no_implicit_prelude]

use ::std as flip;

type Result = ();
type Option = ();
type String = u8;

#[derive(::flip::Handoff)]
struct Visits {
    total: u64,
    name: String,
    list: ::std::vec::Vec<(u8, flip::string::String)>,
    #[handoff(default = 5)]
    some: u8,
}

#[derive(::flip::Handoff)]
enum Mode {
    Ok { out: u8 },
    Err(Result),
    None,
}

fn main() {}
