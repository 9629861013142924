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
        let mismatch = Schema::of::<ours::Visits>().mismatch(&theirs);
        assert_eq!(mismatch.map(|mismatch| mismatch.to_string()).as_deref(), $message);
    }};
}

#[test]
fn what_differs_is_named() {
    differ!({ struct Visits { total: u64 } } { struct Visits { total: u32 } }
        => Some("`Visits.total` is u64 here and u32 in the running process"));
    differ!({ struct Visits { total: u64, new: u8 } } { struct Visits { total: u64 } }
        => Some("`Visits.new` is a field here and absent in the running process"));
    differ!({ struct Visits { total: u64 } } { struct Visits { total: u64, old: u8 } }
        => Some("`Visits.old` is absent here and a field in the running process"));
    differ!({ struct Visits { a: u64, b: u64 } } { struct Visits { b: u64, a: u64 } }
        => Some("`Visits.a` is field 1 here and field 2 in the running process"));
    differ!({ struct Visits { list: Vec<Option<u64>> } } { struct Visits { list: Vec<Option<u8>> } }
        => Some("`Visits.list[]` is u64 here and u8 in the running process"));
    differ!({ struct Visits(Vec<u8>); } { struct Visits(std::collections::HashSet<u8>); }
        => Some("`Visits.0` is a list of u8 here and a set of u8 in the running process"));
    differ!({ struct Visits([u8; 3]); } { struct Visits([u8; 4]); }
        => Some("`Visits.0` is [u8; 3] here and [u8; 4] in the running process"));
    differ!({ enum Visits { A, B } } { enum Visits { A } }
        => Some("`Visits.B` is a variant here and absent in the running process"));
    differ!({ enum Visits { A(u8) } } { enum Visits { A(u16) } }
        => Some("`Visits.A.0` is u8 here and u16 in the running process"));
    differ!({ enum Visits {} } { struct Visits; }
        => Some("`Visits` is the enum `Visits` here and the struct `Visits` in the running process"));
    differ!({ struct Visits { n: Option<Box<Visits>>, x: u8 } } { struct Visits { n: Option<Box<Visits>>, x: i8 } }
        => Some("`Visits.x` is u8 here and i8 in the running process"));
}

#[test]
fn what_is_the_same_is_equal() {
    differ!({ struct Visits { #[handoff(rename = "total")] count: usize } } { struct Visits { total: u64 } } => None);
    differ!({ struct Visits { a: Box<u64>, #[handoff(skip)] b: u8 } } { struct Visits { a: u64 } } => None);
    differ!({ enum Visits { #[handoff(rename = "A")] B } } { enum Visits { A } } => None);
    differ!({ struct Visits { #[handoff(default)] a: u8 } } { struct Visits { a: u8 } } => None);
    assert_eq!(Schema::of::<HashMap<String, u8>>(), Schema::of::<BTreeMap<Box<str>, u8>>());
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
    let mismatch = Schema::of::<ours::Visits>().mismatch(&Schema::of::<theirs::Visits>()).unwrap();
    assert_eq!(mismatch.path, "Visits.sessions[].peers[].age");
    assert_eq!((&*mismatch.ours, &*mismatch.theirs), ("u64", "Duration"));
}
