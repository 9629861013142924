use std::collections::{BTreeMap, HashMap};

use super::*;

macro_rules! differ {
    ({ $($ours:tt)* } { $($theirs:tt)* } => $message:expr) => {{
        mod ours {
            #[derive(flip::Handoff)]
            #[allow(dead_code)]
            pub $($ours)*
        }
        mod theirs {
            #[derive(flip::Handoff)]
            #[allow(dead_code)]
            pub $($theirs)*
        }
        let theirs = Schema::decode(&Schema::of::<theirs::Visits>().encode()).unwrap();
        let mismatch = Schema::of::<ours::Visits>().plan(&theirs).err();
        assert_eq!(mismatch.map(|mismatch| mismatch.to_string()).as_deref(), $message);
    }};
}

#[test]
fn what_differs_is_named() {
    differ!({ struct Visits { total: u64 } } { struct Visits { total: String } }
        => Some("`Visits.total` is u64 here and String in the running process: convert it: `#[handoff(from = \"…\", \
            migrate = …)]`, or give the field a new name and a default"));
    differ!({ struct Visits { total: u64, new: u8 } } { struct Visits { total: u64 } }
        => Some("`Visits.new` is u8 without a default here and absent in the running process: give it a default, \
            `#[handoff(default)]`"));
    differ!({ struct Visits { count: u64 } } { struct Visits { total: u64 } }
        => Some("`Visits.count` is u64 without a default here and absent in the running process: give it a default, \
            `#[handoff(default)]`, or say what it was called, `#[handoff(alias = \"total\")]`"));
    // One that it may have been called is of a type that it can be of, and the better the rather.
    differ!({ struct Visits { count: u64 } } { struct Visits { name: String, first: u32, total: u64, until: u64 } }
        => Some("`Visits.count` is u64 without a default here and absent in the running process: give it a default, \
            `#[handoff(default)]`, or say what it was called, `#[handoff(alias = \"total\")]`"));
    differ!({ struct Visits { count: u64 } } { struct Visits { name: String } }
        => Some("`Visits.count` is u64 without a default here and absent in the running process: give it a default, \
            `#[handoff(default)]`"));
    differ!({
            struct Visits { #[handoff(from = "String", migrate = parsed)] count: u64 }
            fn parsed(_: String) -> u64 { 0 }
        } { struct Visits { name: String } }
        => Some("`Visits.count` is u64 without a default here and absent in the running process: give it a default, \
            `#[handoff(default)]`, or say what it was called, `#[handoff(alias = \"name\")]`"));
    differ!({ struct Visits { list: Vec<Option<u64>> } } { struct Visits { list: Vec<Option<bool>> } }
        => Some("`Visits.list[]` is u64 here and bool in the running process: convert it: `#[handoff(from = \"…\", \
            migrate = …)]`, or give the field a new name and a default"));
    differ!({ struct Visits([u8; 3], u8); } { struct Visits([u8; 4], u8); }
        => Some("`Visits.0` is [u8; 3] here and [u8; 4] in the running process: convert it: `#[handoff(from = \"…\", \
            migrate = …)]`, or give the whole another name, under which it begins anew"));
    differ!({ enum Visits { A(u8) } } { enum Visits { A(f64) } }
        => Some("`Visits.A.0` is u8 here and f64 in the running process: convert it: `#[handoff(from = \"…\", \
            migrate = …)]`, or give the whole another name, under which it begins anew"));
    differ!({ enum Visits { A, B(u8) } } { enum Visits { C, D } }
        => Some("`Visits` is one of `A`, `B` here and one of `C`, `D` in the running process: keep one of these, or say \
            what it is called now, `#[handoff(alias = \"C\")]`"));
    differ!({ struct Visits { list: Vec<Kind> } #[derive(flip::Handoff)] pub enum Kind {} }
        { struct Visits { list: Vec<Kind> } #[derive(flip::Handoff)] pub enum Kind { A } }
        => Some("`Visits.list[]` is without a variant here and always `A` in the running process: keep one of these, or \
            say what it is called now, `#[handoff(alias = \"A\")]`"));
    differ!({ enum Visits { #[handoff(alias = "C")] A, B } } { enum Visits { C, D } } => None::<&str>);
    differ!({ enum Visits { A } } { enum Visits {} } => None::<&str>);
    differ!({ enum Visits {} } { struct Visits; }
        => Some("`Visits` is the enum `Visits` here and the struct `Visits` in the running process: convert it: \
            `#[handoff(from = \"…\", migrate = …)]`, or give the whole another name, under which it begins anew"));
    differ!({ struct Visits { n: Option<Box<Visits>>, x: u8 } } { struct Visits { n: Option<Box<Visits>>, x: char } }
        => Some("`Visits.x` is u8 here and char in the running process: convert it: `#[handoff(from = \"…\", \
            migrate = …)]`, or give the field a new name and a default"));
}

#[test]
fn what_is_the_same_is_equal() {
    macro_rules! same {
        ({ $($ours:tt)* } { $($theirs:tt)* }) => {{
            mod ours {
                #[derive(flip::Handoff)]
                #[allow(dead_code)]
                pub $($ours)*
            }
            mod theirs {
                #[derive(flip::Handoff)]
                #[allow(dead_code)]
                pub $($theirs)*
            }
            assert_eq!(Schema::of::<ours::Visits>(), Schema::of::<theirs::Visits>());
        }};
    }
    same!({ struct Visits { #[handoff(rename = "total")] count: usize } } { struct Visits { total: u64 } });
    same!({ struct Visits { a: Box<u64>, #[handoff(skip)] b: u8 } } { struct Visits { a: u64 } });
    same!({ enum Visits { #[handoff(rename = "A")] B } } { enum Visits { A } });
    same!({ struct Visits { #[handoff(default)] a: u8 } } { struct Visits { a: u8 } });
    same!({ struct Visits { a: u8, b: u16 } } { struct Visits { b: u16, a: u8 } });
    same!({ enum Visits { A(u8), B } } { enum Visits { B, A(u8) } });
    same!({ struct Visits(u64); } { struct Visits(u64); });
    assert_eq!(Schema::of::<HashMap<String, u8>>(), Schema::of::<BTreeMap<Box<str>, u8>>());
    assert_ne!(Schema::of::<u8>(), Schema::of::<u16>());
}

#[test]
fn deep_inside_the_path_leads_there() {
    mod ours {
        #[derive(flip::Handoff)]
        pub struct Visits {
            #[allow(dead_code)]
            sessions: Vec<Session>,
        }
        #[derive(flip::Handoff)]
        pub struct Session {
            #[allow(dead_code)]
            peers: std::collections::HashMap<String, Peer>,
        }
        #[derive(flip::Handoff)]
        pub struct Peer {
            #[allow(dead_code)]
            age: u64,
        }
    }
    mod theirs {
        #[derive(flip::Handoff)]
        pub struct Visits {
            #[allow(dead_code)]
            sessions: Vec<Session>,
        }
        #[derive(flip::Handoff)]
        pub struct Session {
            #[allow(dead_code)]
            peers: std::collections::HashMap<String, Peer>,
        }
        #[derive(flip::Handoff)]
        pub struct Peer {
            #[allow(dead_code)]
            age: std::time::Duration,
        }
    }
    let mismatch = Schema::of::<ours::Visits>().plan(&Schema::of::<theirs::Visits>()).unwrap_err();
    assert_eq!(mismatch.path, "Visits.sessions[].peers[].age");
    assert_eq!((&*mismatch.ours, &*mismatch.theirs), ("u64", "Duration"));

    // Where there is no field, none can have another name.
    let whole = Schema::of::<Vec<(u64, u8)>>().plan(&Schema::of::<Vec<(String, u8)>>()).unwrap_err();
    assert!(whole.remedy.ends_with("or give the whole another name, under which it begins anew"), "{whole}");
}
