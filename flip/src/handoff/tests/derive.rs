use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::File,
    marker::PhantomData,
};

use super::*;

/// What has serde's two traits and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct OnlySerde {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    first: Option<u8>,
    second: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

fn only_serde() -> OnlySerde {
    OnlySerde { first: None, second: 7, rest: BTreeMap::from([("x".into(), 1)]) }
}

/// What is handed over and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Handoff)]
struct OnlyHandoff(u8);

#[derive(Debug, PartialEq, Handoff)]
struct Unit;

#[derive(Debug, PartialEq, Handoff)]
enum Mode {
    Idle,
    Fast(u8, OnlySerde),
    Named { r#type: String, next: Option<Box<Mode>> },
}

#[test]
fn structs_and_enums() {
    assert_eq!(round_trip(&Unit), Unit);
    assert_eq!(round_trip(&OnlyHandoff(3)), OnlyHandoff(3));
    let next = Some(Box::new(Mode::Fast(1, only_serde())));
    let mode = Mode::Named { r#type: "t".into(), next };
    assert_eq!(round_trip(&mode), mode);
    assert_eq!(round_trip(&Mode::Idle), Mode::Idle);
}

/// What is written for equal schemas is what bincode writes of the fields in the order of their names, and nothing else.
#[test]
fn bytes_are_bincode_s() {
    #[derive(Handoff)]
    struct All {
        e: (i16, char, bool, f64),
        d: Vec<String>,
        c: Option<Box<Inner>>,
        b: BTreeMap<String, u64>,
        a: u128,
        f: [i32; 2],
        g: Vec<u8>,
    }
    #[derive(Handoff)]
    enum Inner {
        First,
        Second { n: i64, m: String },
    }
    let (d, b) = (vec!["x".to_owned(), "y".repeat(300)], BTreeMap::from([("k".to_owned(), 70_000)]));
    let e = (-300, 'ß', true, 0.1);
    let inner = Inner::Second { n: -5, m: "m".into() };
    assert!(!matches!(inner, Inner::First));
    let all = All { e, d: d.clone(), c: Some(Box::new(inner)), b: b.clone(), a: 1 << 100, f: [1, -1], g: vec![9; 251] };
    // As bincode's own derive has them: fields one after the other, and a variant behind its number.
    let fields = (1_u128 << 100, b, Some((1_u32, ("m", -5_i64))), d, e);
    let mut bytes = bincode::encode_to_vec(&fields, bincode::config::standard()).unwrap();
    // Elements that are numbers have their full width.
    bytes.extend([1, 0, 0, 0, 255, 255, 255, 255]);
    bytes.extend(bincode::encode_to_vec(vec![9_u8; 251], bincode::config::standard()).unwrap());
    assert_eq!(sent(&all).bytes(), bytes);
}

#[derive(Debug, PartialEq, Handoff)]
struct Mixed {
    serde: OnlySerde,
    list: Vec<OnlySerde>,
    both: HashMap<OnlySerde, OnlyHandoff>,
    deep: BTreeMap<String, Option<Vec<(OnlySerde, OnlyHandoff)>>>,
    array: [(OnlySerde, OnlyHandoff); 2],
    set: HashSet<OnlyHandoff>,
    result: Result<OnlyHandoff, OnlySerde>,
    boxed: Box<[(OnlyHandoff, OnlySerde)]>,
    deque: VecDeque<Option<(OnlySerde, OnlyHandoff)>>,
    value: serde_json::Value,
    #[handoff(serde)]
    forced: Vec<u64>,
}

#[test]
fn serde_and_handoff_in_all_mixtures() {
    let mixed = Mixed {
        serde: only_serde(),
        list: vec![only_serde(); 3],
        both: HashMap::from([(only_serde(), OnlyHandoff(1))]),
        deep: BTreeMap::from([("a".into(), Some(vec![(only_serde(), OnlyHandoff(2))])), ("b".into(), None)]),
        array: [(only_serde(), OnlyHandoff(3)), (only_serde(), OnlyHandoff(4))],
        set: HashSet::from([OnlyHandoff(9)]),
        result: Err(only_serde()),
        boxed: Box::new([(OnlyHandoff(5), only_serde())]),
        deque: VecDeque::from([None, Some((only_serde(), OnlyHandoff(6)))]),
        value: serde_json::json!({"a": [1, 2.5, null]}),
        forced: vec![1, 2],
    };
    assert_eq!(round_trip(&mixed), mixed);
}

#[test]
fn descriptors_next_to_serde() {
    #[derive(Handoff)]
    struct Peers {
        all: HashMap<String, (OnlySerde, Vec<File>)>,
    }
    let file = || File::open("/dev/null").unwrap();
    let peers = Peers { all: HashMap::from([("a".into(), (only_serde(), vec![file(), file()]))]) };
    assert_eq!(round_trip(&peers).all["a"].1.len(), 2);
}

#[derive(Debug, PartialEq, Handoff)]
struct Left {
    kept: u8,
    #[handoff(skip)]
    gone: Vec<u8>,
    #[handoff(skip, default = 40 + 2)]
    computed: u32,
    #[handoff(default)]
    new: u8,
    #[handoff(default = String::from("d"))]
    newer: String,
}

#[test]
fn skipped_fields_are_made_anew() {
    let old = Left { kept: 1, gone: vec![1], computed: 1, new: 2, newer: "n".into() };
    let new = round_trip(&old);
    assert_eq!(new, Left { gone: vec![], computed: 42, ..old });
}

#[derive(Handoff)]
struct Generic<'a, T, U, const N: usize>
where
    U: Iterator,
{
    list: Vec<T>,
    item: Option<U::Item>,
    text: std::borrow::Cow<'a, str>,
    numbers: [u8; N],
    tag: PhantomData<U>,
}

#[test]
fn generics_are_bound_where_a_field_mentions_them() {
    // The iterator is not `Handoff`, and need not be: only its items travel.
    type Here = Generic<'static, Serde<OnlySerde>, std::vec::IntoIter<u16>, 3>;
    let value: Here =
        Generic { list: vec![Serde(only_serde())], item: Some(8), text: "t".into(), numbers: [1; 3], tag: PhantomData };
    let new = round_trip(&value);
    assert_eq!((new.list, new.item, new.text, new.numbers), (value.list, value.item, value.text, value.numbers));
}

#[test]
fn bounds_of_the_users_own() {
    #[derive(Debug, PartialEq, Handoff)]
    #[handoff(bound = "T: serde::Serialize + serde::de::DeserializeOwned")]
    struct Wrap<T> {
        value: T,
    }
    assert_eq!(round_trip(&Wrap { value: only_serde() }), Wrap { value: only_serde() });
}

#[derive(Debug, PartialEq, Handoff)]
struct Node {
    value: u32,
    children: Vec<Node>,
    next: Option<Box<Node>>,
}

fn chain(length: usize) -> Node {
    (1..length).fold(Node { value: 0, children: vec![], next: None }, |next, value| Node {
        value: value as u32,
        children: vec![Node { value: 1, children: vec![], next: None }],
        next: Some(Box::new(next)),
    })
}

#[test]
fn recursive_types() {
    let node = chain(100);
    assert_eq!(round_trip(&node), node);
}

#[test]
fn what_is_too_deep_is_refused_when_it_is_written() {
    let error = save(&chain(200), &mut Kept::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("Node.next.next") && text.contains('…'), "{text}");
    assert!(text.ends_with("next.children[0]: values lie more than 128 deep in each other"), "{text}");
}

#[test]
fn types_of_one_name_are_told_apart() {
    fn schema(first: bool) -> std::sync::Arc<Schema> {
        if first {
            #[derive(Handoff)]
            struct Same(u8);
            Schema::of::<Same>()
        } else {
            #[derive(Handoff)]
            struct Same(String);
            Schema::of::<Same>()
        }
    }
    #[derive(Handoff)]
    struct Both {
        a: A,
        b: B,
    }
    type A = one::Same;
    type B = two::Same;
    mod one {
        #[derive(flip::Handoff)]
        pub struct Same(u8);
    }
    mod two {
        #[derive(flip::Handoff)]
        pub struct Same(String);
    }
    assert_ne!(schema(true), schema(false));
    assert!(Schema::decode(&Schema::of::<Both>().encode()).unwrap() == *Schema::of::<Both>());
}

#[test]
fn a_users_type_may_be_called_as_one_of_stds() {
    mod mine {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct Vec<T>(pub T);
        #[derive(Debug, PartialEq, flip::Handoff)]
        pub struct Cell {
            pub alive: bool,
        }
        #[derive(Debug, PartialEq, flip::Handoff)]
        pub struct HashMap<const N: usize>(pub [u8; N]);
    }
    #[derive(Debug, PartialEq, Handoff)]
    struct Life {
        cells: Vec<mine::Cell>,
        one: mine::Vec<OnlySerde>,
        map: mine::HashMap<2>,
    }
    let life =
        Life { cells: vec![mine::Cell { alive: true }], one: mine::Vec(only_serde()), map: mine::HashMap([1, 2]) };
    assert_eq!(round_trip(&life), life);
}

#[test]
fn nothing_of_the_users_gets_in_the_way() {
    #![allow(dead_code)]
    mod shadow {
        type Result = ();
        type Option = ();
        type Vec = ();
        struct Some;
        struct Ok;
        trait Codec {
            fn save(&self) {}
            fn restore(&self) {}
            fn schema(&self) {}
        }
        impl<T> Codec for T {}

        #[derive(flip::Handoff)]
        pub struct Fields {
            pub out: u8,
            pub input: u8,
            pub self_: u8,
            pub r#fn: u8,
        }
        #[derive(flip::Handoff)]
        pub enum Never {}
        #[derive(flip::Handoff)]
        #[handoff(crate = ::flip)]
        pub enum Variants {
            Ok { field0: u8 },
            Err(),
            None {},
        }
        macro_rules! made {
            ($name:ident, $field:ident: $ty:ty) => {
                #[derive(flip::Handoff)]
                pub struct $name {
                    pub $field: $ty,
                    pub own: u8,
                }
            };
        }
        made!(Made, theirs: std::vec::Vec<u8>);
    }
    let made = round_trip(&shadow::Made { theirs: vec![1], own: 2 });
    assert_eq!((made.theirs, made.own), (vec![1], 2));
    assert_eq!(round_trip(&shadow::Fields { out: 1, input: 2, self_: 3, r#fn: 4 }).r#fn, 4);
    assert!(matches!(round_trip(&shadow::Variants::Ok { field0: 5 }), shadow::Variants::Ok { field0: 5 }));
    assert!(received::<shadow::Never>(sent(&0u8)).is_err());
}

#[test]
fn errors_say_type_and_field() {
    #[derive(Handoff)]
    #[handoff(rename = "Visits")]
    struct Bad {
        #[handoff(rename = "sessions")]
        #[allow(dead_code)]
        list: Vec<Inner>,
    }
    #[derive(Handoff)]
    struct Inner {
        #[allow(dead_code)]
        peer: bool,
    }
    let error = received::<Bad>(sent(&vec![0u8, 1, 1, 9])).err().unwrap();
    assert_eq!(error.path(), "Visits.sessions[3].peer");
    let error = received::<Mode>(sent(&9u8)).err().unwrap();
    assert!(error.to_string().ends_with("has no variant 9"), "{error}");
}
