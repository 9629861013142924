use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    ops::Range,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{super::codec, *};

/// The whole shape in one line. A container is written out where it first stands, and is its number afterwards; `?` is
/// what is unknown, `~` stands before what is picky, `!` before a struct that was never read whole.
fn shown<T: DeserializeOwned>() -> String {
    let shapes = Shapes::trace::<T>();
    assert_eq!(Shapes::decode(&shapes.encode()).as_ref(), Ok(&shapes), "both ways");
    Line { shapes: &shapes, seen: HashSet::new() }.shape(&shapes.root)
}

struct Line<'s> {
    shapes: &'s Shapes,
    seen: HashSet<usize>,
}

impl Line<'_> {
    fn shape(&mut self, shape: &Shape) -> String {
        match shape {
            Shape::Unknown => "?".to_owned(),
            Shape::Unit => "()".to_owned(),
            Shape::UnitStruct => "unit".to_owned(),
            Shape::Option(inner) => format!("{}|none", self.shape(inner)),
            Shape::Seq(inner) => format!("[{}]", self.shape(inner)),
            Shape::Tuple(items) => format!("({})", self.list(items)),
            Shape::Map(key, value) => format!("[{}: {}]", self.shape(key), self.shape(value)),
            Shape::Newtype(inner) => format!("<{}>", self.shape(inner)),
            Shape::Leaf { kind, picky, .. } => {
                let kind = kind.text().trim_start_matches("a ");
                format!("{}{kind}", if *picky { "~" } else { "" })
            }
            Shape::Container(place) if !self.seen.insert(*place) => format!("#{place}"),
            Shape::Container(place) => match &self.shapes.containers[*place] {
                Container::Struct { fields, .. } => self.fields(fields),
                Container::Enum { variants, .. } => {
                    let variants: Vec<_> = variants
                        .iter()
                        .map(|Variant { name, content }| match content {
                            Content::Unknown => format!("{name}?"),
                            Content::Unit => name.clone(),
                            Content::Newtype(shape) => format!("{name}({})", self.shape(shape)),
                            Content::Tuple(items) => format!("{name}({})", self.list(items)),
                            Content::Struct(fields) => format!("{name} {}", self.fields(fields)),
                        })
                        .collect();
                    format!("<{}>", variants.join(" / "))
                }
            },
        }
    }

    fn list(&mut self, items: &[Shape]) -> String {
        items.iter().map(|item| self.shape(item)).collect::<Vec<_>>().join(", ")
    }

    fn fields(&mut self, fields: &Fields) -> String {
        let list: Vec<_> = fields.list.iter().map(|(name, shape)| format!("{name}: {}", self.shape(shape))).collect();
        format!("{}{{{}}}", if fields.settled { "" } else { "!" }, list.join(", "))
    }
}

macro_rules! types {
    ($($item:item)*) => { $(
        #[derive(Debug, Serialize, Deserialize)]
        #[allow(dead_code)]
        $item
    )* };
}

types! {
    struct Plain { a: u8, b: Option<String>, c: Vec<u16>, d: BTreeMap<String, i64>, e: (bool, char), f: [f32; 2] }
    struct Empty {}
    struct Unit;
    struct New(u64);
    struct Pair(u8, String);
    struct Generic<T> { inner: T, list: Vec<T> }
    enum Kind { Unit, New(u8), Pair(u8, String), Named { x: i32, y: Option<Box<Kind>> } }
    enum First { Again(Box<First>), Both(Box<First>, Box<First>), Many(Vec<First>), End }
    struct Node { name: String, next: Option<Box<Node>>, children: Vec<Node>, named: HashMap<String, Node> }
    struct Nested { kind: Kind, again: Vec<Kind>, first: First }
}

#[test]
fn what_derive_makes() {
    let plain = "{a: u8, b: string|none, c: [u16], d: [string: i64], e: (bool, char), f: (f32, f32)}";
    assert_eq!(shown::<Plain>(), plain);
    assert_eq!(shown::<Empty>(), "{}");
    assert_eq!(shown::<Unit>(), "unit");
    assert_eq!(shown::<()>(), "()");
    assert_eq!(shown::<New>(), "<u64>");
    assert_eq!(shown::<Pair>(), "(u8, string)");
    assert_eq!(
        shown::<(Generic<u8>, Generic<String>, Generic<Vec<u8>>)>(),
        "({inner: u8, list: [u8]}, {inner: string, list: [string]}, {inner: [u8], list: [[u8]]})"
    );
    assert_eq!(
        shown::<Kind>(),
        "<Unit / New(u8) / Pair(u8, string) / Named {x: i32, y: #0|none}>"
            .replace("#0", "<Unit / New(u8) / Pair(u8, string) / Named {x: i32, y: #1|none}>")
    );
    assert_eq!(shown::<(u128, i128, f64)>(), "(u128, i128, f64)");
}

#[test]
fn what_is_in_itself_ends() {
    assert_eq!(
        shown::<Node>(),
        "{name: string, next: {name: string, next: #1|none, children: [#0], \
        named: [string: #0]}|none, children: [#0], named: [string: #0]}"
    );
    let inner = "<Again(#1) / Both(#1, #1) / Many([#0]) / End>";
    assert_eq!(shown::<First>(), format!("<Again({inner}) / Both(#1, #1) / Many([#0]) / End>"));
    assert!(!shown::<Nested>().contains(['?', '!']), "{}", shown::<Nested>());
}

#[test]
fn what_std_has() {
    assert_eq!(shown::<NonZero<u32>>(), "u32");
    assert_eq!(shown::<IpAddr>(), "<V4((u8, u8, u8, u8)) / V6(({}))>".replace("{}", &["u8"; 16].join(", ")));
    assert!(!shown::<SocketAddr>().contains(['?', '!']));
    assert_eq!(shown::<Duration>(), "{secs: u64, nanos: u32}");
    assert_eq!(shown::<SystemTime>(), "{secs_since_epoch: u64, nanos_since_epoch: u32}");
    assert_eq!(shown::<Range<u8>>(), "{start: u8, end: u8}");
    assert_eq!(shown::<Result<u8, String>>(), "<Ok(u8) / Err(string)>");
    assert_eq!(shown::<PathBuf>(), "string");
    assert_eq!(shown::<HashMap<IpAddr, HashSet<u8>>>().rsplit_once(": ").unwrap().1, "[u8]]");
    assert_eq!(shown::<std::ffi::CString>(), "bytes");
    assert_eq!(shown::<std::ffi::OsString>(), "<Unix([u8]) / Windows?>");
}

#[test]
fn what_parses_is_picky() {
    assert_eq!(shown::<chrono::DateTime<chrono::Utc>>(), "~string");
    assert_eq!(shown::<chrono::NaiveDate>(), "~string");
    assert_eq!(shown::<chrono::NaiveTime>(), "~string");
    assert_eq!(shown::<chrono::NaiveDateTime>(), "~string");
    assert_eq!(shown::<uuid::Uuid>(), "~bytes");
    assert_eq!(shown::<url::Url>(), "~string");
    assert_eq!(shown::<Even>(), "~u8");
    assert_eq!(shown::<BTreeMap<uuid::Uuid, Vec<url::Url>>>(), "[~bytes: [~string]]");
}

/// Reads a number first and looks at it afterwards.
#[derive(Debug, Serialize)]
struct Even(u8);

impl<'de> Deserialize<'de> for Even {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        if number & 1 == 0 { Ok(Self(number)) } else { Err(de::Error::custom("odd")) }
    }
}

/// Rejects whatever it is given.
#[derive(Debug, Serialize)]
struct Never(String);

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?;
        Err(de::Error::custom("never"))
    }
}

/// Reads a list, each element as something else.
#[derive(Debug, Serialize)]
struct Row(Vec<u8>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> de::Visitor<'de> for Elements {
            type Value = Row;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number and a text")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Row, A::Error> {
                items.next_element::<u8>()?;
                items.next_element::<String>()?;
                Ok(Row(Vec::new()))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

#[derive(Debug, Serialize)]
struct Panics;

impl<'de> Deserialize<'de> for Panics {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("on purpose");
    }
}

types! {
    struct TupVal(Never, String);
    struct Around { a: u8, never: Never, b: u8 }
    enum Some1 { Bad(Never), Good(u8) }
    struct ManyBad { list: Vec<Never>, some: Option<Never>, rest: u8 }
}

#[test]
fn what_rejects_everything_is_unknown() {
    assert_eq!(shown::<Never>(), "?");
    assert_eq!(shown::<TupVal>(), "(?, ?)");
    assert_eq!(shown::<Around>(), "!{a: u8, never: ?, b: u8}");
    assert_eq!(shown::<Some1>(), "<Bad(?) / Good(u8)>");
    assert_eq!(shown::<ManyBad>(), "{list: [?], some: ?|none, rest: u8}");
    assert_eq!(shown::<Row>(), "[?]");
    assert_eq!(shown::<(u8, Panics)>(), "?");
}

#[derive(Serialize, Deserialize)]
#[allow(dead_code)]
struct Attributes {
    #[serde(rename = "name")]
    renamed: u8,
    #[serde(alias = "older", alias = "a_oldest")]
    aliased: u16,
    #[serde(default)]
    defaulted: u32,
    #[serde(skip)]
    skipped: u64,
    #[serde(with = "as_text")]
    with: u64,
}

mod as_text {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[test]
fn attributes_of_fields() {
    assert_eq!(shown::<Attributes>(), "{name: u8, aliased: u16, defaulted: u32, with: ~string}");
}

types! {
    struct Flat { a: u8, #[serde(flatten)] rest: Empty }
    struct FlatMap { #[serde(flatten)] rest: BTreeMap<String, u8> }
    #[serde(untagged)] enum Untagged { A(u8), B(String) }
    #[serde(tag = "t")] enum Internal { A { x: u8 }, B { y: String } }
    #[serde(tag = "t", content = "c")] enum Adjacent { A(u8), B(String), C }
    struct WithValue { value: serde_json::Value, after: u8 }
    struct WithAll { flat: Flat, untagged: Untagged, internal: Internal, adjacent: Adjacent, ignored: (), last: u8 }
}

#[test]
fn what_depends_on_data_is_unknown() {
    assert_eq!(shown::<Flat>(), "?");
    assert_eq!(shown::<FlatMap>(), "?");
    assert_eq!(shown::<Untagged>(), "?");
    assert_eq!(shown::<Internal>(), "?");
    assert_eq!(shown::<Adjacent>(), "?");
    assert_eq!(shown::<serde_json::Value>(), "?");
    assert_eq!(shown::<de::IgnoredAny>(), "?");
    assert_eq!(shown::<WithValue>(), "{value: ?, after: u8}");
    assert_eq!(shown::<WithAll>(), "!{flat: ?, untagged: ?, internal: ?, adjacent: ?, ignored: (), last: u8}");
}

#[test]
fn two_types_of_one_name_are_two() {
    fn other() -> String {
        types! { struct Node { other: u8 } }
        shown::<(Node, tests::Node)>()
    }
    assert!(other().starts_with("({other: u8}, {name: string"), "{}", other());
}

fn checked<Old: DeserializeOwned, New: DeserializeOwned>() -> Option<String> {
    let shapes = Shapes::decode(&Shapes::trace::<Old>().encode()).unwrap();
    shapes.check::<New>().err().map(|ShapeMismatch { path, what }| format!("{path}: {what}"))
}

fn decoded<Old: Serialize, New: DeserializeOwned>(old: &Old) -> Result<New, String> {
    let mut bytes = Vec::new();
    codec::put_named(old, &mut bytes, 64).unwrap();
    codec::take_named(&bytes[..], 64)
}

/// What is refused fails with this value, too.
fn refused<Old: Serialize + DeserializeOwned, New: DeserializeOwned + Debug>(old: Old, message: &str) {
    assert_eq!(checked::<Old, New>().as_deref(), Some(message));
    if let Ok(read) = decoded::<Old, New>(&old) {
        panic!("refused, and yet it is {read:?}");
    }
}

/// What is taken can be decoded, at least from this value, as what it then is.
fn taken<Old: Serialize + DeserializeOwned, New: DeserializeOwned + Debug>(old: Old, read: &str) {
    assert_eq!(checked::<Old, New>(), None);
    match decoded::<Old, New>(&old) {
        Ok(new) => assert_eq!(format!("{new:?}"), read),
        Err(error) => panic!("taken, and yet: {error}"),
    }
}

/// What only the data can tell is not refused, though this value cannot be decoded.
fn left_to_the_data<Old: Serialize + DeserializeOwned, New: DeserializeOwned + Debug>(old: Old) {
    assert_eq!(checked::<Old, New>(), None);
    if let Ok(read) = decoded::<Old, New>(&old) {
        panic!("it can be decoded: {read:?}");
    }
}

/// The old types are the test's own, the new ones stand in a module.
macro_rules! cases {
    ($($name:ident { $($old:tt)* } { $($new:tt)* } $verdict:ident ($value:expr $(, $message:literal)?);)*) => { $(
        #[test]
        fn $name() {
            types! { $($old)* }
            #[allow(unused_imports)]
            mod new {
                use super::*;
                types! { $($new)* }
            }
            $verdict::<State, new::State>($value $(, $message)?);
        }
    )* };
}

cases! {
    the_same { struct State { a: u8, b: Vec<String> } } { pub struct State { a: u8, b: Vec<String> } }
        taken(State { a: 1, b: vec!["x".into(), String::new()] }, r#"State { a: 1, b: ["x", ""] }"#);
    added_with_a_default { struct State { a: u8 } } { pub struct State { a: u8, #[serde(default)] b: u8 } }
        taken(State { a: 1 }, "State { a: 1, b: 0 }");
    added_as_an_option { struct State { a: u8 } } { pub struct State { a: u8, b: Option<u8> } }
        taken(State { a: 1 }, "State { a: 1, b: None }");
    added { struct State { a: u8 } } { pub struct State { b: u8, a: u8 } }
        refused(State { a: 1 }, ": missing field `b`");
    added_deep_inside { struct State { list: Vec<Option<Item>> } struct Item { name: String } }
        { pub struct State { list: Vec<Option<Item>> } struct Item { name: String, age: u8 } }
        refused(State { list: vec![Some(Item { name: String::new() })] }, ".list[]: missing field `age`");
    removed { struct State { a: u8, b: Vec<u8> } } { pub struct State { a: u8 } }
        taken(State { a: 1, b: vec![1] }, "State { a: 1 }");
    removed_where_nobody_may_have_it { struct State { a: u8, b: u8 } }
        { #[serde(deny_unknown_fields)] pub struct State { a: u8 } }
        refused(State { a: 1, b: 1 }, ": unknown field `b`");
    reordered { struct State { a: u8, b: String } } { pub struct State { b: String, a: u8 } }
        taken(State { a: 1, b: "b".into() }, r#"State { b: "b", a: 1 }"#);
    renamed_with_an_alias { struct State { old: u8 } } { pub struct State { #[serde(alias = "old")] new: u8 } }
        taken(State { old: 1 }, "State { new: 1 }");
    renamed { struct State { old: u8 } } { pub struct State { new: u8 } }
        refused(State { old: 1 }, ": missing field `new`");
    an_alias_is_not_written { struct State { #[serde(alias = "a_old")] b: u8, c: u8 } }
        { #[serde(deny_unknown_fields)] pub struct State { b: u8, c: u8 } }
        taken(State { b: 1, c: 2 }, "State { b: 1, c: 2 }");
    alias_of_what_is_rejected { struct State { #[serde(alias = "a", alias = "c")] b: Never } }
        { #[serde(deny_unknown_fields)] pub struct State { b: String } }
        taken(State { b: Never("b".into()) }, r#"State { b: "b" }"#);
    type_changed { struct State { a: Vec<u8> } } { pub struct State { a: String } }
        refused(State { a: vec![] }, ".a: invalid type: sequence, expected a string");
    text_to_number { struct State { a: BTreeMap<String, (u8, String)> } } { pub struct State { a: BTreeMap<String, (u8, u64)> } }
        refused(State { a: [("k".into(), (1, "1".into()))].into() }, ".a[].1: invalid type: string, expected u64");
    key_changed { struct State { a: BTreeMap<u8, u8> } } { pub struct State { a: BTreeMap<String, u8> } }
        refused(State { a: [(1, 1)].into() }, ".a[key]: invalid type: integer, expected a string");
    number_to_text { struct State { a: u8 } } { pub struct State { a: String } }
        refused(State { a: 1 }, ".a: invalid type: integer, expected a string");
    float_to_integer { struct State { a: f64 } } { pub struct State { a: u8 } }
        refused(State { a: 1.0 }, ".a: invalid type: floating point number, expected u8");
    integer_to_float { struct State { a: u8 } } { pub struct State { a: f32 } }
        taken(State { a: 1 }, "State { a: 1.0 }");
    narrowed { struct State { a: i64 } } { pub struct State { a: u8 } }
        left_to_the_data(State { a: -1 });
    widened { struct State { a: u8, b: i8 } } { pub struct State { a: u64, b: i128 } }
        taken(State { a: 255, b: -128 }, "State { a: 255, b: -128 }");
    wide_to_small { struct State { a: u128 } } { pub struct State { a: u64 } }
        taken(State { a: 1 }, "State { a: 1 }");
    wide_to_too_small { struct State { a: u128 } } { pub struct State { a: u64 } }
        left_to_the_data(State { a: 1 << 64 });
    sign_lost { struct State { a: i128 } } { pub struct State { a: u128 } }
        left_to_the_data(State { a: -1 });
    sign_gained { struct State { a: u128 } } { pub struct State { a: i128 } }
        left_to_the_data(State { a: u128::MAX });
    float_narrowed { struct State { a: f64 } } { pub struct State { a: f32 } }
        left_to_the_data(State { a: 0.1 });
    positions_to_names { struct State { a: Pt } struct Pt(u8, u8); } { pub struct State { a: Pt } struct Pt { y: u8, x: u8 } }
        refused(State { a: Pt(1, 2) }, ".a: invalid type: sequence, expected struct Pt");
    names_to_positions { struct State { a: Pt } struct Pt { y: u8, x: u8 } } { pub struct State { a: Pt } struct Pt(u8, u8); }
        refused(State { a: Pt { y: 1, x: 2 } }, ".a: invalid type: map, expected tuple struct Pt");
    positions_to_names_in_a_variant { enum State { A(u8, u8) } } { pub enum State { A { y: u8, x: u8 } } }
        refused(State::A(1, 2), ".A: invalid type: sequence, expected struct variant State::A");
    number_to_variant { struct State { a: u8 } } { pub struct State { a: E } enum E { Active, Deleted } }
        refused(State { a: 1 }, ".a: invalid type: integer, expected the name of a variant");
    numbers_to_fields { struct State { a: BTreeMap<u8, String> } }
        { pub struct State { a: Two } struct Two { first: String, second: String } }
        refused(State { a: [(0, "0".into()), (1, "1".into())].into() }, ".a: invalid type: other value, expected the name of a field");
    not_zero { struct State { a: u8 } } { pub struct State { a: NonZero<u8> } }
        left_to_the_data(State { a: 0 });
    to_option { struct State { a: u8 } } { pub struct State { a: Option<u8> } }
        taken(State { a: 1 }, "State { a: Some(1) }");
    from_option { struct State { a: Option<u8> } } { pub struct State { a: u8 } }
        left_to_the_data(State { a: None });
    from_option_of_another { struct State { a: Option<u8> } } { pub struct State { a: String } }
        refused(State { a: Some(1) }, ".a: invalid type: integer, expected a string");
    to_newtype { struct State { a: u8 } } { pub struct State { a: Inner } struct Inner(u8); }
        taken(State { a: 1 }, "State { a: Inner(1) }");
    map_to_struct { struct State { a: BTreeMap<String, u8> } } { pub struct State { a: Inner } struct Inner { x: u8 } }
        left_to_the_data(State { a: [].into() });
    struct_to_map { struct State { a: Inner } struct Inner { x: u8, y: u8 } } { pub struct State { a: BTreeMap<String, u8> } }
        taken(State { a: Inner { x: 1, y: 2 } }, r#"State { a: {"x": 1, "y": 2} }"#);
    struct_to_map_of_others { struct State { a: Inner } struct Inner { x: u8, y: String } } { pub struct State { a: BTreeMap<String, u8> } }
        refused(State { a: Inner { x: 1, y: String::new() } }, ".a.y: invalid type: string, expected u8");
    tuple_longer { struct State { a: (u8, u8) } } { pub struct State { a: (u8, u8, u8) } }
        refused(State { a: (1, 1) }, ".a: invalid length 2, expected a tuple of size 3");
    tuple_shorter { struct State { a: (u8, u8, u8) } } { pub struct State { a: (u8, u8) } }
        refused(State { a: (1, 1, 1) }, ".a: invalid length 3, expected no more than 2");
    tuple_to_list { struct State { a: (u8, u8) } } { pub struct State { a: Vec<u8> } }
        taken(State { a: (1, 2) }, "State { a: [1, 2] }");
    list_to_tuple { struct State { a: Vec<u8> } } { pub struct State { a: (u8, u8) } }
        left_to_the_data(State { a: vec![1] });
    variant_added { enum State { A, B(u8) } } { pub enum State { New, A, B(u8) } }
        taken(State::B(1), "B(1)");
    variant_removed { enum State { A, B(u8), C } } { pub enum State { A, C } }
        left_to_the_data(State::B(1));
    variant_to_other { enum State { A(u8), B } } { pub enum State { A(u8), #[serde(other)] Other } }
        taken(State::B, "Other");
    variant_of_another_type { enum State { A, B { x: u8 }, C } } { pub enum State { A, B { x: String }, C } }
        refused(State::B { x: 1 }, ".B.x: invalid type: integer, expected a string");
    variant_with_content { enum State { A, B } } { pub enum State { A, B(u8) } }
        refused(State::B, ".B: invalid type: unit variant, expected newtype variant");
    variant_without_content { enum State { A, B(u8) } } { pub enum State { A, B } }
        refused(State::B(1), ".B: invalid type: integer, expected unit variant");
    variant_with_a_new_field { enum State { A, B { x: u8 } } } { pub enum State { A, B { x: u8, y: u8 } } }
        refused(State::B { x: 1 }, ".B: missing field `y`");
    variant_deep_in_itself { enum State { Add(Box<State>, Box<State>), Leaf(u8) } }
        { pub enum State { Add(Box<State>, Box<State>), Leaf(String) } }
        refused(State::Leaf(1), ".Add.0.Add.0.Leaf: invalid type: integer, expected a string");
    one_of_two_readers { struct State { a: Kind2, b: Kind2 } enum Kind2 { X(u8), Y(u8) } }
        { pub struct State { a: KindA, b: KindB } enum KindA { X(u8), Y(u8) } enum KindB { X(u8), Y(String) } }
        refused(State { a: Kind2::X(1), b: Kind2::Y(1) }, ".b.Y: invalid type: integer, expected a string");
    list_to_enum { struct State { a: Vec<u8> } } { pub struct State { a: E } enum E { A } }
        refused(State { a: vec![] }, ".a: invalid type: sequence, expected the name of a variant");
    text_to_enum { struct State { a: String } } { pub struct State { a: E } enum E { A } }
        taken(State { a: "A".into() }, "State { a: A }");
    enum_to_text { struct State { a: E } enum E { A } } { pub struct State { a: String } }
        taken(State { a: E::A }, r#"State { a: "A" }"#);
    picky_to_text { struct State { a: url::Url } } { pub struct State { a: String } }
        taken(State { a: "http://b/".parse().unwrap() }, r#"State { a: "http://b/" }"#);
    text_to_picky { struct State { a: String, b: u8 } } { pub struct State { a: url::Url, b: u8 } }
        left_to_the_data(State { a: "no".into(), b: 1 });
    behind_text_to_picky { struct State { a: String, b: u8 } } { pub struct State { a: url::Url, b: u8, c: u8 } }
        refused(State { a: "http://a/".into(), b: 1 }, ": missing field `c`");
    number_to_picky { struct State { a: u8 } } { pub struct State { a: url::Url } }
        refused(State { a: 1 }, ".a: invalid type: integer, expected a string representing an URL");
    behind_what_is_rejected { struct State { a: u8, b: u8 } } { pub struct State { a: NonEven, b: String } }
        refused(State { a: 1, b: 1 }, ".b: invalid type: integer, expected a string");
    unit_struct_to_unit { struct State { a: Unit } } { pub struct State { a: () } }
        refused(State { a: Unit }, ".a: invalid type: sequence, expected unit");
    to_value { struct State { a: u8, b: BTreeMap<String, Kind> } } { pub struct State { a: serde_json::Value, b: serde_json::Value } }
        taken(State { a: 1, b: [("k".into(), Kind::New(1))].into() }, r#"State { a: Number(1), b: Object {"k": Object {"New": Number(1)}} }"#);
    behind_a_value { struct State { v: serde_json::Value } } { pub struct State { v: serde_json::Value, w: u8 } }
        refused(State { v: 1.into() }, ": missing field `w`");
    value_to_number { struct State { v: serde_json::Value } } { pub struct State { v: u8 } }
        taken(State { v: 1.into() }, "State { v: 1 }");
    to_untagged { struct State { a: u8 } } { pub struct State { a: U } #[serde(untagged)] enum U { A(String), B(bool) } }
        left_to_the_data(State { a: 1 });
    to_flattened { struct State { a: u8, b: u8 } }
        { pub struct State { a: u8, #[serde(flatten)] rest: R } struct R { b: u8 } }
        taken(State { a: 1, b: 2 }, "State { a: 1, rest: R { b: 2 } }");
    to_internal { struct State { a: Inner } struct Inner { t: String, x: u8 } }
        { pub struct State { a: I } #[serde(tag = "t")] enum I { A { x: u8 }, B { y: u8 } } }
        taken(State { a: Inner { t: "A".into(), x: 1 } }, "State { a: A { x: 1 } }");
    to_internal_by_variant { struct State { a: Inner } struct Inner { t: T, x: u8 } enum T { A, B } }
        { pub struct State { a: I } #[serde(tag = "t")] enum I { A { x: u8 }, B { y: u8 } } }
        taken(State { a: Inner { t: T::A, x: 1 } }, "State { a: A { x: 1 } }");
    from_flattened { struct State { a: u8, #[serde(flatten)] rest: R } struct R { b: u8 } } { pub struct State { a: u8, b: u8 } }
        taken(State { a: 1, rest: R { b: 2 } }, "State { a: 1, b: 2 }");
    from_adjacent { #[serde(tag = "t", content = "c")] enum State { A(u8), B } } { pub struct State { t: String, c: u8 } }
        taken(State::A(1), r#"State { t: "A", c: 1 }"#);
    not_said { struct State { #[serde(default, skip_serializing_if = "Option::is_none")] a: Option<u8>, b: u8 } }
        { pub struct State { #[serde(default)] a: Option<u8>, b: u8 } }
        taken(State { a: None, b: 1 }, "State { a: None, b: 1 }");
    not_said_between_two { struct State { a: u8, #[serde(default, skip_serializing_if = "Vec::is_empty")] b: Vec<u8>, c: u8 } }
        { pub struct State { a: u8, #[serde(default, skip_serializing_if = "Vec::is_empty")] b: Vec<u16>, c: u16, #[serde(default)] d: u8 } }
        taken(State { a: 1, b: vec![], c: 3 }, "State { a: 1, b: [], c: 3, d: 0 }");
    said_between_two { struct State { a: u8, #[serde(default, skip_serializing_if = "Vec::is_empty")] b: Vec<u8>, c: u8 } }
        { pub struct State { a: u8, #[serde(default, skip_serializing_if = "Vec::is_empty")] b: Vec<u16>, c: u16, #[serde(default)] d: u8 } }
        taken(State { a: 1, b: vec![2], c: 3 }, "State { a: 1, b: [2], c: 3, d: 0 }");
    not_said_and_needed { struct State { a: u8, #[serde(default, skip_serializing_if = "Vec::is_empty")] b: Vec<u8>, c: u8 } }
        { pub struct State { a: u8, b: Vec<u8>, c: u8 } }
        left_to_the_data(State { a: 1, b: vec![], c: 3 });
    option_of_another_in_a_variant { struct State { a: New3 } struct New3(E3); enum E3 { A(Option<bool>, char), B, C(Vec<i64>, (f64, f32, bool)) } }
        { pub struct State { a: New3 } struct New3(E3); enum E3 { A(f32, char), C(Vec<i64>, (f64, f32, bool)) } }
        refused(State { a: New3(E3::A(Some(true), 'c')) }, ".a.A.0: invalid type: boolean, expected f32");
    behind_what_is_in_itself { enum State { Node(K) } enum K { Z, A(Option<bool>), B(Vec<State>) } }
        { pub enum State { Node(K) } enum K { Z, A(Option<String>), B(Vec<State>) } }
        refused(State::Node(K::A(Some(true))), ".Node.A: invalid type: boolean, expected a string");
    untagged_with_more { struct State { a: Vec<U>, b: u8 } #[serde(untagged)] enum U { N(u8), Pair { x: u8, y: u8 } } }
        { pub struct State { a: Vec<U>, b: u16 } #[serde(untagged)] enum U { Text(String), N(u16), Pair { x: u16, #[serde(default)] z: u8, y: u16 } } }
        taken(State { a: vec![U::N(1), U::Pair { x: 2, y: 3 }], b: 4 }, "State { a: [N(1), Pair { x: 2, z: 0, y: 3 }], b: 4 }");
    untagged_with_less { struct State { a: U, b: u8 } #[serde(untagged)] enum U { N(u8), Text(String) } }
        { pub struct State { a: U, b: u8 } #[serde(untagged)] enum U { N(u8) } }
        left_to_the_data(State { a: U::Text("t".into()), b: 1 });
    flattened_with_more { struct State { a: u8, #[serde(flatten)] rest: R, z: u8 } struct R { b: u8 } }
        { pub struct State { a: u8, #[serde(flatten)] rest: R, z: u8 } struct R { #[serde(alias = "b")] c: u16, #[serde(default)] d: u8 } }
        taken(State { a: 1, rest: R { b: 2 }, z: 3 }, "State { a: 1, rest: R { c: 2, d: 0 }, z: 3 }");
    flattened_with_less { struct State { a: u8, #[serde(flatten)] rest: R } struct R { b: u8, c: String } }
        { pub struct State { a: u8, #[serde(flatten)] rest: R } struct R { b: u8 } }
        taken(State { a: 1, rest: R { b: 2, c: "c".into() } }, "State { a: 1, rest: R { b: 2 } }");
    flattened_lacks_one { struct State { a: u8, #[serde(flatten)] rest: R } struct R { b: u8 } }
        { pub struct State { a: u8, #[serde(flatten)] rest: R } struct R { b: u8, c: u8 } }
        left_to_the_data(State { a: 1, rest: R { b: 2 } });
    flattened_map { struct State { a: u8, b: u8, c: u8 } }
        { pub struct State { b: u8, #[serde(flatten)] rest: BTreeMap<String, u8> } }
        taken(State { a: 1, b: 2, c: 3 }, r#"State { b: 2, rest: {"a": 1, "c": 3} }"#);
    internal_with_more { #[serde(tag = "t")] enum State { A { x: u8 }, B { y: u8 } } }
        { #[serde(tag = "t")] pub enum State { C, B { #[serde(default)] w: u8, y: u16 }, A { x: u16 } } }
        taken(State::B { y: 1 }, "B { w: 0, y: 1 }");
}

/// How many samples it takes until nothing is left to look at.
fn samples<T: DeserializeOwned>() -> usize {
    thread_local! {
        static MADE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }
    struct Counted<T>(std::marker::PhantomData<T>);
    impl<'de, T: DeserializeOwned> Deserialize<'de> for Counted<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            MADE.set(MADE.get() + 1);
            T::deserialize(deserializer).map(|_| Counted(std::marker::PhantomData))
        }
    }
    let shapes = Shapes::trace::<T>();
    MADE.set(0);
    assert_eq!(shapes.check::<Counted<T>>(), Ok(()));
    MADE.get()
}

#[test]
fn samples_of_what_is_in_itself_come_to_an_end() {
    types! {
        enum List { Of(Vec<List>), Nothing }
        enum Tree { Node(Kind3) }
        enum Kind3 { Nothing, Perhaps(Option<bool>), More(Vec<Tree>) }
        struct Both { p: One, q: Other }
        enum One { A(Option<Box<Other>>), B(Option<u8>), C(Vec<Other>) }
        enum Other { A(Vec<One>), B(Option<u8>), C(Option<Box<One>>) }
    }
    let all = [samples::<List>(), samples::<Tree>(), samples::<Both>(), samples::<serde_json::Value>()];
    assert!(all.iter().all(|samples| *samples < 100), "{all:?}");
}

/// Says of an odd number that it is not one.
#[derive(Debug, Serialize)]
struct NonEven(u8);

impl<'de> Deserialize<'de> for NonEven {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        Err(de::Error::invalid_type(de::Unexpected::Unsigned(number.into()), &"another"))
    }
}

#[test]
fn types_are_read_by_themselves() {
    fn same<T: DeserializeOwned>() {
        assert_eq!(checked::<T, T>(), None, "{}", shown::<T>());
    }
    same::<(Plain, Empty, Unit, New, Pair, Generic<Kind>)>();
    same::<(Nested, Node, First)>();
    same::<(NonZero<u8>, SocketAddr, Duration, SystemTime, Range<u8>, Result<u8, Kind>, PathBuf)>();
    same::<(chrono::DateTime<chrono::Utc>, uuid::Uuid, url::Url, Even)>();
    same::<(TupVal, Around, Some1, ManyBad, Row)>();
    same::<(Attributes, WithAll, WithValue, FlatMap)>();
    same::<(u8, Panics)>();
    same::<(i128, u128, std::ffi::CString, std::ffi::OsString)>();
}

#[test]
fn what_panics_is_not_checked() {
    assert_eq!(checked::<(u8, u8), (u8, Panics)>(), None);
}

/// xorshift64: the same changes in every run.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

#[test]
fn mutations_never_panic() {
    let valid = Shapes::trace::<(WithAll, Nested, Node, Attributes, uuid::Uuid, Plain, i128)>().encode();
    let mut state = 0x2545_f491_4f6c_dd1d;
    let mut read = 0;
    for _ in 0..2000 {
        let mut bytes = valid.clone();
        for _ in 0..1 + random(&mut state) % 3 {
            let at = random(&mut state) % bytes.len();
            match random(&mut state) % 3 {
                0 => bytes[at] = random(&mut state) as u8 % 34,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random(&mut state) as u8 % 34),
            }
        }
        if let Ok(shapes) = Shapes::decode(&bytes) {
            read += 1;
            assert_eq!(Shapes::decode(&shapes.encode()).as_ref(), Ok(&shapes));
            // What it says is of no interest, but it has to end without a panic that would be swallowed.
            let _ = sample::run(&shapes, |_: (Nested, Node)| ());
            let _ = sample::run(&shapes, |_: serde_json::Value| ());
            let _ = sample::run(&shapes, |_: WithAll| ());
        }
    }
    assert!(read > 100, "only {read} of the changed shapes can be read");
}

#[test]
fn every_cut_is_an_error() {
    let valid = Shapes::trace::<Nested>().encode();
    for length in 0..valid.len() {
        assert!(Shapes::decode(&valid[..length]).is_err(), "{length} of {}", valid.len());
    }
    assert!(Shapes::decode(&[&valid[..], &[0]].concat()).is_err());
}

#[test]
fn what_is_deep_is_refused_or_not_checked() {
    let mut bytes = vec![0];
    bytes.extend([3; 100_000]);
    bytes.push(1);
    let error = Shapes::decode(&bytes).unwrap_err();
    assert!(error.contains("64 deep"), "{error}");

    // A struct whose field is itself.
    let itself = Shapes {
        root: Shape::Container(0),
        containers: vec![Container::Struct {
            name: "S".into(),
            fields: Fields { list: vec![("s".into(), Shape::Container(0))], settled: true },
        }],
    };
    assert_eq!(itself.check::<serde_json::Value>(), Ok(()));
    assert_eq!(itself.check::<Node>(), Err(ShapeMismatch { path: String::new(), what: "missing field `name`".into() }));
}

#[test]
fn what_grows_without_end_is_not_checked() {
    // Each struct holds the next one twice: 2^60 values in all.
    let containers: Vec<_> = (1..=60)
        .map(|next| Container::Struct {
            name: "S".into(),
            fields: Fields {
                list: ["a", "b"].map(|name| (name.to_owned(), Shape::Container(next % 60))).into(),
                settled: true,
            },
        })
        .collect();
    let shapes = Shapes { root: Shape::Container(0), containers };
    assert_eq!(Shapes::decode(&shapes.encode()).as_ref(), Ok(&shapes));
    assert_eq!(shapes.check::<serde_json::Value>(), Ok(()));

    // One option in another, in a list, with more to choose than there are samples.
    let unit = |name: usize| Variant { name: name.to_string(), content: Content::Unit };
    let variants = (0..10_000).map(unit).collect();
    let shapes = Shapes {
        root: Shape::Seq(Box::new(Shape::Container(0))),
        containers: vec![Container::Enum { name: "E".into(), variants }],
    };
    assert_eq!(shapes.check::<Vec<String>>(), Ok(()));
    assert_eq!(shapes.check::<Vec<Option<Kind>>>(), Ok(()));
}

#[test]
fn many_places_come_to_an_end() {
    assert_eq!(checked::<[[[u8; 32]; 32]; 8], Vec<Vec<Vec<u8>>>>(), None);
    assert_eq!(checked::<[[[u8; 32]; 32]; 32], Vec<Vec<Vec<u8>>>>(), None);
}

/// Where a compiler put one list of names in two places, the struct was met as two.
#[test]
fn what_was_met_as_two_is_one() {
    let next = |place| Shape::Option(Box::new(Shape::Container(place)));
    let of = |name: &str, fields: &[(&str, Shape)]| {
        let list = fields.iter().map(|(name, shape)| ((*name).to_owned(), shape.clone())).collect();
        Container::Struct { name: name.into(), fields: Fields { list, settled: true } }
    };
    let twice = Shapes {
        root: Shape::Tuple(vec![Shape::Container(0), Shape::Container(1), Shape::Container(4)]),
        containers: vec![
            of("List", &[("next", next(1)), ("end", Shape::Container(2))]),
            of("List", &[("next", next(0)), ("end", Shape::Container(3))]),
            of("End", &[]),
            of("End", &[]),
            of("List", &[("next", next(4)), ("end", next(3))]),
        ],
    };
    let once = Shapes {
        root: Shape::Tuple(vec![Shape::Container(0), Shape::Container(0), Shape::Container(2)]),
        containers: vec![
            of("List", &[("next", next(0)), ("end", Shape::Container(1))]),
            of("End", &[]),
            of("List", &[("next", next(2)), ("end", next(1))]),
        ],
    };
    assert_eq!(twice.without_twins(), once);
    assert_eq!(once.clone().without_twins(), once);
    assert_eq!(Shapes::unknown().without_twins(), Shapes::unknown());
}

/// Each run of a program has the same schema: it is compared byte by byte, and kept in files.
#[test]
fn what_is_written_besides_has_an_order() {
    #[derive(Default, Serialize, Deserialize)]
    struct Old {
        name: String,
        #[serde(skip_deserializing)]
        one: u8,
        #[serde(skip_deserializing)]
        two: u8,
        #[serde(skip_deserializing)]
        three: u8,
        #[serde(skip_deserializing)]
        four: u8,
        #[serde(skip_deserializing)]
        five: u8,
    }
    let shapes = Shapes::of::<Old>();
    assert!(shapes.text("").contains("five: ?"), "{shapes:?}");
    for _ in 0..20 {
        assert_eq!(Shapes::of::<Old>(), shapes);
    }
}

#[test]
fn what_is_not_written_is_not_believed() {
    #[derive(Serialize, Deserialize)]
    #[allow(dead_code)]
    struct Old {
        name: String,
        #[serde(skip_serializing, default)]
        secret: u8,
        #[serde(skip_deserializing)]
        seen: u8,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        nick: Option<u8>,
        #[serde(with = "as_text")]
        odd: u8,
    }
    mod as_text {
        use serde::{Deserialize, Deserializer, Serializer};

        pub fn serialize<S: Serializer>(value: &u8, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(value)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        }
    }
    let shapes = Shapes::of::<Old>();
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct New {
        name: String,
        // Never written, so it may become anything; the default stands for it.
        #[serde(default)]
        secret: Vec<String>,
        // Written all along.
        seen: u8,
        #[serde(default)]
        nick: Option<u8>,
        odd: String,
    }
    assert_eq!(shapes.check::<New>(), Ok(()));
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Refused {
        #[serde(default)]
        nick: Option<String>,
    }
    assert_eq!(shapes.check::<Refused>().unwrap_err().path, ".nick");

    // Another kind altogether than what is read: nothing is known.
    struct Two(u8);
    impl Serialize for Two {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&self.0)
        }
    }
    impl<'de> Deserialize<'de> for Two {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            u8::deserialize(deserializer).map(Two)
        }
    }
    assert_eq!(Shapes::of::<Two>(), Shapes::unknown());
}

#[test]
fn what_is_written_is_believed() {
    assert_eq!(Shapes::of::<Nested>(), Shapes::trace::<Nested>().without_twins());
    assert_eq!(Shapes::of::<Node>(), Shapes::trace::<Node>().without_twins());
}
