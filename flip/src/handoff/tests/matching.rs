//! What may change between two programs, with real types: as the old one writes it, so the new one has it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::Write as _,
    os::unix::net::UnixStream,
    time::Duration,
};

use super::*;

/// Through the plan of two schemas, whole and in parts that end inside of most things.
fn become_<Old: Handoff, New: Handoff>(old: &Old) -> Result<New, String> {
    let theirs = Schema::decode(&Schema::of::<Old>().encode()).unwrap();
    let plan = Schema::of::<New>().plan(&theirs).map_err(|mismatch| format!("before the freeze: {mismatch}"))?;
    let mut dribbling = sent(old);
    dribbling.dribble = Some(1);
    let one = |mut kept: Kept| {
        let input = Restorer::new(&mut kept, Limits::default());
        restore_matched::<New>(input, &plan, Limits::default()).map_err(|error| error.to_string())
    };
    drop(one(dribbling)?);
    one(sent(old))
}

fn same<Old: Handoff, New: Handoff + PartialEq + std::fmt::Debug>(old: &Old, new: &New) {
    assert_eq!(become_::<Old, New>(old).as_ref(), Ok(new));
}

macro_rules! both {
    ($(#[$meta:meta])* $old:item $new:item) => {
        mod old {
            #[allow(unused_imports)]
            use super::*;
            #[derive(Clone, Debug, PartialEq, flip::Handoff)]
            $old
        }
        mod new {
            #[allow(unused_imports)]
            use super::*;
            #[derive(Clone, Debug, PartialEq, flip::Handoff)]
            $new
        }
    };
}

#[test]
fn fields_are_added_removed_and_renamed() {
    both!(
        pub struct State {
            pub total: u64,
            pub gone: Vec<String>,
            pub name: String,
            pub zone: u8,
        }
        pub struct State {
            pub zone: u8,
            #[handoff(alias = "total")]
            pub count: u64,
            #[handoff(default)]
            pub fresh: Vec<u8>,
            #[handoff(default = "anybody".to_owned())]
            pub owner: String,
            pub name: String,
        }
    );
    let one = old::State { total: 7, gone: vec!["a".into(), "b".into()], name: "n".into(), zone: 3 };
    let two = new::State { zone: 3, count: 7, fresh: vec![], owner: "anybody".into(), name: "n".into() };
    same(&one, &two);
    // The older program does not know what the newer one calls it, but the newer one says so.
    let back = become_::<new::State, old::State>(&two).unwrap_err();
    assert!(back.starts_with("before the freeze: `State.gone` is a list of String without a default here"), "{back}");
}

/// The reader has all it wants before what is gone over; that is read, and not left over.
#[test]
fn what_is_removed_may_come_last() {
    both!(
        pub struct State {
            pub data: Vec<u8>,
            pub gone: (u32, String),
        }
        pub struct State {
            pub data: Vec<u8>,
        }
    );
    let plan = Schema::of::<new::State>().plan(&Schema::of::<old::State>()).unwrap();
    for size in [0, CHUNK - 6, CHUNK - 5, CHUNK - 4, CHUNK, 2 * CHUNK - 5] {
        let mut kept = sent(&old::State { data: vec![7; size], gone: (300, "gone".to_owned()) });
        let bytes = kept.bytes();
        for input in [Restorer::from_bytes(bytes, Limits::default()), Restorer::new(&mut kept, Limits::default())] {
            let state = restore_matched::<new::State>(input, &plan, Limits::default());
            assert_eq!(state.map(|state| state.data.len()).map_err(|error| error.to_string()), Ok(size));
        }
        assert!(kept.chunks.is_empty(), "something of {size} bytes was not read");
    }
}

#[test]
fn going_back_finds_the_earlier_name() {
    both!(
        pub struct State {
            pub total: u64,
            pub other: u8,
        }
        pub struct State {
            #[handoff(alias = "total")]
            pub a_count: u64,
            pub other: u8,
        }
    );
    same(&old::State { total: 7, other: 1 }, &new::State { a_count: 7, other: 1 });
    same(&new::State { a_count: 7, other: 1 }, &old::State { total: 7, other: 1 });
}

#[test]
fn fields_that_change_places_by_a_new_name_are_held_until_their_turn() {
    both!(
        pub struct State {
            pub a: Vec<u64>,
            pub b: String,
            pub c: Option<(u8, String)>,
        }
        pub struct State {
            #[handoff(alias = "a")]
            pub z: Vec<u64>,
            pub b: String,
            #[handoff(alias = "c")]
            pub a2: Option<(u8, String)>,
        }
    );
    let one = old::State { a: vec![1, 2], b: "b".into(), c: Some((1, "c".into())) };
    same(&one, &new::State { z: vec![1, 2], b: "b".into(), a2: Some((1, "c".into())) });
}

#[test]
fn numbers_widen_and_narrow_if_they_fit() {
    same(&vec![1u8, 255], &vec![1u64, 255]);
    same(&(1u32, -1i8, 2u64), &(1i64, -1i128, 2u128));
    same(&1.5f32, &1.5f64);
    same(&1.5f64, &1.5f32);
    same(&vec![1u128, 7], &vec![1i8, 7]);
    same(&HashMap::from([(1u8, 2u16)]), &BTreeMap::from([(1i64, 2u32)]));
    same(&[1u16; 3], &[1i32; 3]);
    same(&u128::MAX, &u128::MAX);
    let error = become_::<_, Vec<u8>>(&vec![1u64, 256]).unwrap_err();
    assert_eq!(
        error,
        "a list of u8[1]: 256, u64 in the running process, does not fit into u8 here: keep u64, or convert \
         the field, from the type that it had: `#[handoff(from = \"…\", migrate = …)]`"
    );
    assert!(become_::<_, u64>(&-1i64).unwrap_err().contains(": -1, i64 in the running process, does not fit into u64"));
    assert!(become_::<_, i128>(&u128::MAX).is_err());
    let error = become_::<_, f32>(&0.1f64).unwrap_err();
    assert!(error.contains("0.1, f64 in the running process, does not fit into f32 here: keep f64"), "{error}");
    assert!(become_::<_, f64>(&1u64).unwrap_err().starts_with("before the freeze"));
}

#[test]
fn optional_and_not() {
    same(&5u8, &Some(5u16));
    same(&Some(5u8), &5u16);
    same(&vec![1u64], &vec![Some(1u64)]);
    same(&Some(Some(1u8)), &Some(1u8));
    let error = become_::<_, Vec<u8>>(&vec![Some(1u8), None]).unwrap_err();
    assert_eq!(
        error,
        "a list of u8[1]: it is none in the running process, where it is optional, and u8 here: keep it an `Option`, or \
         convert the field, from the type that it had: `#[handoff(from = \"…\", migrate = …)]`"
    );
}

#[test]
fn lists_and_sets() {
    same(&vec![3u8, 1, 1], &BTreeSet::from([1u8, 3]));
    same(&HashSet::from(["a".to_owned()]), &vec!["a".to_owned()]);
    same(&vec!["a".to_owned()], &HashSet::from(["a".to_owned()]));
}

#[test]
fn newtypes_and_what_is_inside() {
    #[derive(Clone, Debug, PartialEq, Eq, Hash, Handoff)]
    struct Id(u64);
    #[derive(Clone, Debug, PartialEq, Eq, Hash, Handoff)]
    struct Outer(Id);
    same(&Id(4), &4u64);
    same(&4u32, &Id(4));
    same(&vec![Id(4), Id(300)], &vec![4u64, 300]);
    same(&vec![4u64, 300], &vec![Outer(Id(4)), Outer(Id(300))]);
    same(&HashMap::from([(Id(1), Box::new(Id(2)))]), &HashMap::from([(1u64, Id(2))]));
    same(&Outer(Id(1)), &Some(Id(1)));
    same(&Some(Outer(Id(1))), &1u64);
}

#[test]
fn a_struct_of_one_field_without_a_name_gains_loses_and_renames_fields() {
    mod one {
        #[derive(Clone, Debug, PartialEq, flip::Handoff)]
        pub struct P(pub u64);
    }
    mod two {
        #[derive(Clone, Debug, PartialEq, flip::Handoff)]
        pub struct P(pub u64, #[handoff(default)] pub u32);
    }
    mod named {
        #[derive(Clone, Debug, PartialEq, flip::Handoff)]
        pub struct P {
            #[handoff(alias = "0")]
            pub n: u64,
        }
    }
    mod strict {
        #[derive(Debug, flip::Handoff)]
        #[allow(dead_code)]
        pub struct P(pub u64, pub u32);
    }
    same(&one::P(7), &two::P(7, 0));
    same(&two::P(7, 1), &one::P(7));
    same(&one::P(7), &named::P { n: 7 });
    same(&named::P { n: 7 }, &one::P(7));
    same(&vec![named::P { n: 7 }], &vec![Some(one::P(7))]);
    let error = become_::<_, strict::P>(&one::P(7)).unwrap_err();
    assert_eq!(
        error,
        "before the freeze: `P.1` is u32 without a default here and absent in the running process: give it a default, \
         `#[handoff(default)]`"
    );
}

/// What lies inside of a struct of one field may have fields without names as well.
#[test]
fn a_struct_of_one_field_may_hold_what_looks_like_it() {
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Coordinate(u8, u8);
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Point(Coordinate, #[handoff(default)] Option<Box<Point>>);
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Mark(Point);
    let point = Point(Coordinate(1, 2), Some(Box::new(Point(Coordinate(3, 4), None))));
    same(&point, &Mark(point.clone()));
    same(&Mark(point.clone()), &point);
    same(&(point.clone(), 1u8), &(Mark(point), 1u16));
}

#[test]
fn a_struct_of_one_field_may_hold_itself() {
    mod one {
        #[derive(Clone, Debug, PartialEq, flip::Handoff)]
        pub struct List(pub Option<Box<List>>);
    }
    mod two {
        #[derive(Clone, Debug, PartialEq, flip::Handoff)]
        pub struct List(pub Option<Box<List>>, #[handoff(default)] pub u8);
    }
    let one = one::List(Some(Box::new(one::List(None))));
    let two = two::List(Some(Box::new(two::List(None, 0))), 0);
    same(&one, &two);
    same(&two, &one);
}

#[test]
fn variants_are_added_removed_and_reordered() {
    both!(
        pub enum Kind {
            A,
            B(u8),
            Gone(String),
            D { x: u8, y: u8 },
        }
        pub enum Kind {
            D {
                y: u16,
                x: u8,
                #[handoff(default)]
                z: u8,
            },
            A0,
            #[handoff(alias = "B")]
            Bee(u64),
            A,
        }
    );
    let all = vec![old::Kind::A, old::Kind::B(3), old::Kind::D { x: 1, y: 2 }];
    let now = vec![new::Kind::A, new::Kind::Bee(3), new::Kind::D { y: 2, x: 1, z: 0 }];
    same(&all, &now);
    same(&now, &all);
    let error = become_::<_, Vec<new::Kind>>(&vec![old::Kind::A, old::Kind::Gone("x".into())]).unwrap_err();
    assert!(
        error.contains("[1]: it is `Gone` in the running process, a variant that the enum `Kind` does not have here"),
        "{error}"
    );
}

#[test]
fn older_types_are_migrated() {
    #[derive(Handoff)]
    struct Before {
        timeout: u64,
        names: Vec<String>,
        inner: Inner,
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct After {
        #[handoff(from = "u64", migrate = Duration::from_millis)]
        timeout: Duration,
        #[handoff(default, from = "Vec<String>", migrate = |names: Vec<String>| names.join(" "))]
        names: String,
        inner: Whole,
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Inner {
        first: String,
        last: String,
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "Inner", migrate = Whole::join)]
    struct Whole {
        full: String,
        #[handoff(default)]
        age: Option<u8>,
    }
    impl Whole {
        fn join(inner: Inner) -> Whole {
            Whole { full: format!("{} {}", inner.first, inner.last), age: None }
        }
    }
    let inner = Inner { first: "a".into(), last: "b".into() };
    let one = Before { timeout: 1500, names: vec!["x".into(), "y".into()], inner };
    let two = After {
        timeout: Duration::from_millis(1500),
        names: "x y".into(),
        inner: Whole { full: "a b".into(), age: None },
    };
    same(&one, &two);
    same(&two, &two);

    // Where something else changed, what has the new type already is taken as it is.
    same(&(two.clone(), 1u8), &(two, 1u64));
    let error = become_::<_, Whole>(&(1u8, 2u8)).unwrap_err();
    assert_eq!(
        error,
        "before the freeze: `Whole` is the struct `Whole` here and (u8, u8) in the running process: nor does it come \
         from the struct `Inner`: name in that `from` what is there"
    );
}

#[test]
fn an_older_type_may_be_made_of_an_older_one_still() {
    #[derive(Handoff)]
    struct One(u64);
    #[derive(Handoff)]
    #[handoff(from = "One", migrate = |one| Two { ms: one.0 })]
    struct Two {
        ms: u64,
    }
    #[derive(Debug, PartialEq, Handoff)]
    #[handoff(from = "Two", migrate = |two| Three { span: Duration::from_millis(two.ms) })]
    struct Three {
        span: Duration,
    }
    let three = Three { span: Duration::from_secs(2) };
    same(&One(2000), &three);
    same(&Two { ms: 2000 }, &three);
    same(&vec![Two { ms: 2000 }], &vec![Some(Three { span: Duration::from_secs(2) })]);
}

#[test]
fn a_type_that_holds_itself_is_migrated_all_the_way_down() {
    #[derive(Handoff)]
    struct Old {
        size: String,
        next: Option<Box<Old>>,
    }
    #[derive(Debug, PartialEq, Handoff)]
    struct New {
        #[handoff(from = "String", migrate = |size: String| size.len() as u64)]
        size: u64,
        next: Option<Box<New>>,
        #[handoff(default)]
        fresh: u8,
    }
    let old = |size: &str, next| Old { size: size.into(), next };
    let new = |size, next| New { size, next, fresh: 0 };
    same(&old("abc", Some(Box::new(old("a", None)))), &new(3, Some(Box::new(new(1, None)))));
}

/// The older type need not repeat the whole of it: what lies within is of the newer type, made of the older one in turn.
#[test]
fn an_older_type_may_hold_the_newer_one() {
    mod released {
        #[derive(Clone, flip::Handoff)]
        pub struct Node {
            pub x: u64,
            pub next: Option<Box<Node>>,
        }
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "OldNode", migrate = |old: OldNode| Node { x: old.x.to_string(), next: old.next })]
    struct Node {
        x: String,
        next: Option<Box<Node>>,
    }
    #[derive(Handoff)]
    struct OldNode {
        x: u64,
        next: Option<Box<Node>>,
    }
    let old = |x, next: Option<released::Node>| released::Node { x, next: next.map(Box::new) };
    let new = |x: &str, next: Option<Node>| Node { x: x.into(), next: next.map(Box::new) };
    let nodes = new("1", Some(new("2", Some(new("3", None)))));
    same(&old(1, Some(old(2, Some(old(3, None))))), &nodes);
    same(&(nodes.clone(), 1u8), &(nodes, 1u16));
}

#[test]
fn older_types_may_hold_each_others_newer_ones() {
    mod released {
        #[derive(flip::Handoff)]
        pub struct Folder {
            pub name: u64,
            pub files: Vec<File>,
        }
        #[derive(flip::Handoff)]
        pub struct File {
            pub size: u64,
            pub links: Vec<Folder>,
        }
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "OldFolder", migrate = |old: OldFolder| Folder { name: old.name.to_string(), files: old.files })]
    struct Folder {
        name: String,
        files: Vec<File>,
    }
    #[derive(Handoff)]
    struct OldFolder {
        name: u64,
        files: Vec<File>,
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "OldFile", migrate = |old: OldFile| File { size: old.size.to_string(), links: old.links })]
    struct File {
        size: String,
        links: Vec<Folder>,
    }
    #[derive(Handoff)]
    struct OldFile {
        size: u64,
        links: Vec<Folder>,
    }
    let linked = released::Folder { name: 3, files: vec![] };
    let old = released::Folder { name: 1, files: vec![released::File { size: 2, links: vec![linked] }] };
    let linked = Folder { name: "3".into(), files: vec![] };
    let new = Folder { name: "1".into(), files: vec![File { size: "2".into(), links: vec![linked] }] };
    same(&old, &new);
    same(&vec![new.clone()], &vec![Some(new)]);
}

/// A struct that has a default for everything fits whatever there is, by leaving all of it behind.
#[test]
fn what_leaves_less_behind_fits_better() {
    mod later {
        #[derive(flip::Handoff)]
        pub struct Settings {
            pub id: u8,
            pub timeout_ms: u64,
            pub who: String,
            pub extra: u8,
        }
    }
    #[derive(Handoff)]
    struct First {
        id: u8,
        timeout_ms: u64,
        who: String,
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "First", migrate = Settings::second)]
    struct Settings {
        id: u8,
        #[handoff(default)]
        timeout: Duration,
        #[handoff(default)]
        name: String,
    }
    impl Settings {
        fn second(first: First) -> Settings {
            Settings { id: first.id, timeout: Duration::from_millis(first.timeout_ms), name: first.who }
        }
    }
    let settings = Settings { id: 1, timeout: Duration::from_millis(5), name: "me".into() };
    same(&First { id: 1, timeout_ms: 5, who: "me".into() }, &settings);
    same(&later::Settings { id: 1, timeout_ms: 5, who: "me".into(), extra: 1 }, &settings);
    same(&settings, &settings);
}

/// That too many lie within each other is found out once, and not in each of the ways that lead there.
#[test]
fn older_types_within_each_other_are_followed_so_far() {
    #[derive(Handoff)]
    struct Released<T> {
        x: u64,
        inner: T,
    }
    #[derive(Handoff)]
    #[handoff(from = "Released<T>", migrate = |old: Released<T>| Level { x: old.x.to_string(), inner: old.inner })]
    struct Level<T: Handoff> {
        x: String,
        inner: T,
    }
    type Released8<T> = Released<Released<Released<Released<Released<Released<Released<Released<T>>>>>>>>;
    type Level8<T> = Level<Level<Level<Level<Level<Level<Level<Level<T>>>>>>>>;
    let plan = |ours: &Schema, theirs: &Schema| ours.plan(theirs).map_err(|mismatch| mismatch.to_string());
    let (ours, theirs) = (Schema::of::<Level8<Level8<u8>>>(), Schema::of::<Released8<Released8<u8>>>());
    assert!(plan(&ours, &theirs).is_ok_and(|plan| plan.is_needed()));
    let ours = Schema::of::<Level8<Level8<Level8<Level8<Level8<u8>>>>>>();
    let theirs = Schema::of::<Released8<Released8<Released8<Released8<Released8<u8>>>>>>();
    let error = plan(&ours, &theirs).unwrap_err();
    assert!(error.contains("lie within each other than flip follows: take `from` off"), "{error}");
}

#[test]
fn descriptors_of_removed_fields_are_closed_and_others_stay_with_theirs() {
    #[derive(Handoff)]
    struct OldPeer {
        name: u8,
        log: Option<UnixStream>,
        stream: UnixStream,
    }
    #[derive(Handoff)]
    struct NewPeer {
        name: u64,
        stream: UnixStream,
    }
    #[derive(Handoff)]
    struct Before {
        a: OldPeer,
        list: Vec<OldPeer>,
        z: OldPeer,
    }
    #[derive(Handoff)]
    struct After {
        #[handoff(alias = "z")]
        b: NewPeer,
        #[handoff(alias = "list")]
        aa: Vec<NewPeer>,
    }
    let mut others = Vec::new();
    let mut peer = |name| {
        let ((stream, other), (log, log_end)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        others.push((other, log_end));
        OldPeer { name, log: Some(log), stream }
    };
    let old = Before { a: peer(0), list: vec![peer(1), peer(2)], z: peer(3) };
    let theirs = Schema::of::<Before>();
    let plan = Schema::of::<After>().plan(&theirs).unwrap();
    let mut kept = sent(&old);
    drop(old);
    let new: After = restore_matched(Restorer::new(&mut kept, Limits::default()), &plan, Limits::default()).unwrap();
    drop(kept);
    for (name, mut stream) in new.aa.into_iter().chain([new.b]).map(|peer| (peer.name, peer.stream)) {
        stream.write_all(&[name as u8]).unwrap();
    }
    use std::io::Read as _;
    for (name, (mut other, mut log_end)) in others.into_iter().enumerate() {
        let mut read = Vec::new();
        other.read_to_end(&mut read).unwrap();
        // The first was removed, and with it its descriptor.
        assert_eq!(read, if name == 0 { vec![] } else { vec![name as u8] });
        assert_eq!(log_end.read(&mut [0]).unwrap(), 0, "the log of {name} is closed");
    }
}

#[test]
fn what_serde_wrote_is_read_by_serdes_rules() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Old {
        name: String,
        gone: u8,
    }
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct New {
        #[serde(alias = "name")]
        title: String,
        #[serde(default)]
        fresh: Vec<u8>,
    }
    let new = New { title: "t".into(), fresh: vec![] };
    same(&(Serde(Old { name: "t".into(), gone: 1 }), 1u8), &(Serde(new), 1u16));
}

#[test]
fn what_differs_deep_inside_is_said_with_the_path_of_the_value() {
    both!(
        pub struct State {
            pub rooms: BTreeMap<String, Vec<(u8, u64)>>,
        }
        pub struct State {
            pub rooms: BTreeMap<String, Vec<(u8, u8)>>,
            #[handoff(default)]
            pub more: u8,
        }
    );
    let rooms = BTreeMap::from([("a".to_owned(), vec![]), ("b".to_owned(), vec![(1, 1), (2, 999)])]);
    let error = become_::<_, new::State>(&old::State { rooms }).unwrap_err();
    assert_eq!(
        error,
        "State.rooms[1][1].1: 999, u64 in the running process, does not fit into u8 here: keep u64, or convert \
         the field, from the type that it had: `#[handoff(from = \"…\", migrate = …)]`"
    );
}

#[test]
fn what_serde_cannot_read_is_found_before_the_freeze() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Old {
        inner: Vec<OldInner>,
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    struct OldInner {
        name: String,
    }
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    struct New {
        inner: Vec<NewInner>,
    }
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    struct NewInner {
        name: u64,
    }
    let old = Serde(Old { inner: vec![OldInner { name: "n".into() }] });
    let error = become_::<_, (Serde<New>,)>(&(old,)).unwrap_err();
    assert_eq!(
        error,
        "before the freeze: `(`New` through serde).0.inner[].name` is part of `New` through serde here and not what that \
         reads in `Old` through serde in the running process: invalid type: string, expected u64; serde's own attributes \
         say what may change (`default`, `alias`, …)"
    );
}

#[test]
fn what_lies_in_a_checkpoint_is_said_to_lie_there() {
    let plan = |theirs: &Schema| Schema::of::<(u64, Option<u8>)>().plan(theirs);
    let mismatch = plan(&Schema::of::<(String, Option<u8>)>()).unwrap_err();
    assert!(mismatch.with_checkpoint().contains("is u64 here and String in the checkpoint: "), "{mismatch}");
    let plan = plan(&Schema::of::<(i64, Option<u8>)>()).unwrap().of_checkpoint();
    let mut kept = sent(&(-1_i64, None::<u8>));
    let input = Restorer::new(&mut kept, Limits::default());
    let error = restore_matched::<(u64, Option<u8>)>(input, &plan, Limits::default()).unwrap_err().to_string();
    assert!(error.contains("-1, i64 in the checkpoint, does not fit into u64 here"), "{error}");
}

#[test]
fn older_types_within_each_other_are_tried_once_each() {
    // Tried again in every combination, these would take longer than anybody waits.
    #[derive(Handoff)]
    #[handoff(from = "Option<Box<Deep>>", migrate = Deep)]
    struct Deep(Option<Box<Deep>>);
    assert!(Schema::of::<Deep>().plan(&Schema::of::<u8>()).is_err());
}

#[test]
fn what_nobody_reads_is_looked_at_all_the_same() {
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Nothing {}
    #[derive(Clone, Handoff)]
    struct Something {
        #[allow(dead_code)]
        text: String,
    }
    same(&Some(Nothing {}), &Nothing {});
    let error = become_::<_, Nothing>(&None::<Nothing>).unwrap_err();
    assert!(
        error.starts_with(
            "it is none in the running process, where it is optional, and the struct `Nothing` here: keep"
        )
    );
    // In a call nothing follows that would be skipped.
    let something = to_bytes(&Something { text: "t".into() }).unwrap();
    assert_eq!(from_bytes::<Nothing>(&something).unwrap(), Nothing {});
}

#[test]
fn a_type_that_is_a_name_for_another_may_have_a_default_or_an_older_type() {
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Lenient(#[handoff(default)] Vec<u8>);
    same(&vec![3u8, 4], &Lenient(vec![3, 4]));
    same(&Vec::<u8>::new(), &Lenient(vec![]));
    same(&Lenient(vec![3]), &vec![3u64]);
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct Length(#[handoff(default, from = "String", migrate = |text: String| text.len() as u64)] u64);
    same(&"four".to_owned(), &Length(4));
    same(&4u8, &Length(4));
    same(&vec![Length(4)], &vec![Some(4u64)]);
}

#[test]
fn a_field_and_its_type_may_each_know_an_older_type() {
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "String", migrate = |text: String| Size { bytes: text.len() as u64 })]
    struct Size {
        bytes: u64,
    }
    #[derive(Clone, Debug, PartialEq, Handoff)]
    struct State {
        #[handoff(from = "bool", migrate = |large: bool| Size { bytes: if large { 1000 } else { 1 } })]
        size: Size,
        more: u16,
    }
    macro_rules! older {
        ($ty:ty, $value:expr) => {{
            #[derive(Handoff)]
            struct State {
                size: $ty,
                more: u8,
            }
            State { size: $value, more: 7 }
        }};
    }
    let now = |bytes| State { size: Size { bytes }, more: 7 };
    same(&older!(bool, true), &now(1000));
    same(&older!(String, "four".to_owned()), &now(4));
    same(&older!(Size, Size { bytes: 9 }), &now(9));
}

#[test]
fn an_older_type_may_be_optional() {
    #[derive(Clone, Debug, PartialEq, Handoff)]
    #[handoff(from = "String", migrate = |text: String| Size { bytes: text.len() as u64 })]
    struct Size {
        bytes: u64,
    }
    same(&Some(Size { bytes: 1 }), &Size { bytes: 1 });
    same(&Some("four".to_owned()), &Size { bytes: 4 });
    same(&Size { bytes: 1 }, &Some(Size { bytes: 1 }));
    same(&"four".to_owned(), &Some(Size { bytes: 4 }));
    same(&(Some(Some(Size { bytes: 1 })), 2u8), &(Size { bytes: 1 }, 2u8));
    assert!(become_::<_, Size>(&None::<String>).is_err());
}

#[test]
fn a_descriptor_that_is_all_there_is_arrives() {
    let (stream, mut other) = UnixStream::pair().unwrap();
    let mut stream: UnixStream = become_(&Some(stream)).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(io::Read::read(&mut other, &mut [0]).unwrap(), 1);
}
