//! MessagePack for what only serde can write, with the names of its fields and variants.
//!
//! The form is the usual one: structs are maps, a variant is its name or a map of one entry, what has no name is a list.
//! Reading is stricter than usual, because what is read was another program's, and a misread is worse than an error:
//!
//! - A struct is read by the names of its fields, a variant by its own, never by position or number.
//! - A number of another type is taken where its value fits; one of 128 bits is written as an integer where 64 are enough,
//!   and otherwise as its sign and 16 bytes.
//! - `Some(None)` and `Some(())` would be nil, as `None` is. They are an extension that says how often `Some` stands there.
//! - Values may lie only so deep in each other, on both sides, whatever lies there.

mod read;
mod write;

use std::fmt;

pub(super) use read::read;
pub(super) use write::write;

/// The type of the extension for nothing in `Some`; its one byte says in how many.
const NOTHING: i8 = 1;

#[derive(Debug)]
pub(super) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Error(text.to_string())
    }
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Error(text.to_string())
    }
}

#[cold]
fn too_deep() -> Error {
    Error("values lie too deep in each other".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};

    use super::*;

    fn written<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(value, &mut bytes, 128).unwrap();
        bytes
    }

    fn taken<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        let mut rest = bytes;
        let value = read(&mut rest, 128).map_err(|error| error.to_string())?;
        assert!(rest.is_empty(), "{} bytes are left", rest.len());
        Ok(value)
    }

    /// As types of a fixed length have it, which look at the hint first.
    #[derive(Debug, PartialEq, Serialize)]
    struct Exactly(Vec<u8>);

    impl<'de> Deserialize<'de> for Exactly {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Items;
            impl<'de> serde::de::Visitor<'de> for Items {
                type Value = Exactly;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("20 numbers")
                }

                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Exactly, A::Error> {
                    if let Some(other) = items.size_hint().filter(|hint| *hint != 20) {
                        return Err(serde::de::Error::invalid_length(other, &self));
                    }
                    let mut read = Vec::new();
                    while let Some(item) = items.next_element()? {
                        read.push(item);
                    }
                    Ok(Exactly(read))
                }
            }
            deserializer.deserialize_tuple(20, Items)
        }
    }

    #[test]
    fn no_length_is_a_wrong_one() {
        let exactly = || Exactly((0..20).collect());
        let deep = vec![BTreeMap::from([(1, vec![vec![exactly(), exactly()], vec![]])])];
        assert_eq!(taken::<Vec<BTreeMap<u8, Vec<Vec<Exactly>>>>>(&written(&deep)), Ok(deep));
    }

    /// What a type reads of another's value.
    fn read_as<T: DeserializeOwned>(value: &impl Serialize) -> Result<T, String> {
        taken(&written(value))
    }

    fn same<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
        assert_eq!(read_as::<T>(&value).unwrap(), value);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Named {
        y: u8,
        x: u8,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u8, u8);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Unit;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Unit,
        Newtype(Option<()>),
        Tuple(u8, String),
        Struct { y: u8, x: u8 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        own: u8,
        #[serde(flatten)]
        rest: HashMap<String, Option<i32>>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(i64),
        Text(String),
        Named(Named),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "t", content = "c")]
    enum Adjacent {
        A,
        B(u8),
        C { x: Option<u8> },
    }

    #[test]
    fn everything_comes_back() {
        same((true, 'ß', "text".to_owned(), 1.5_f32, -1.5_f64));
        same((u8::MAX, u16::MAX, u32::MAX, u64::MAX, i8::MIN, i16::MIN, i32::MIN, i64::MIN));
        for number in [0, 1, -1, i128::from(u64::MAX), i128::from(u64::MAX) + 1, i128::from(i64::MIN) - 1, i128::MIN] {
            same(number);
            same(number.unsigned_abs());
        }
        same((u128::MAX, i128::MAX));
        same(["a".repeat(31), "b".repeat(255), "c".repeat(70_000)]);
        same((0..70_000_u32).collect::<Vec<_>>());
        same(BTreeMap::from([(-1, vec![Some(Unit), None]), (300, vec![])]));
        same((Named { y: 1, x: 2 }, Pair(3, 4), Unit, ()));
        same(vec![
            Kind::Unit,
            Kind::Newtype(None),
            Kind::Newtype(Some(())),
            Kind::Tuple(1, "t".into()),
            Kind::Struct { y: 1, x: 2 },
        ]);
        same(Flat { own: 1, rest: HashMap::from([("a".into(), None), ("b".into(), Some(-7))]) });
        same(vec![Untagged::Number(-1), Untagged::Text("t".into()), Untagged::Named(Named { y: 1, x: 2 })]);
        same(vec![Adjacent::A, Adjacent::B(1), Adjacent::C { x: None }]);
        same(serde_json::json!({ "a": [1, -1, 1.5, "t", null, true, { "b": {} }] }));
    }

    #[test]
    fn nothing_in_some_is_something() {
        same(vec![None, Some(None), Some(Some(1_u8))]);
        same(vec![None, Some(None), Some(Some(None)), Some(Some(Some(())))]);
        same(vec![None, Some(())]);
        same(vec![(None, Some(Unit)), (Some(None), None), (Some(Some(1_u8)), None)]);
        // With one `Some` less there is none to be the outer.
        assert_eq!(read_as::<Option<u8>>(&None::<Option<u8>>), Ok(None));
        assert_eq!(read_as::<Option<u8>>(&Some(Some(1_u8))), Ok(Some(1)));
        assert!(read_as::<Option<u8>>(&Some(None::<u8>)).is_err());
    }

    #[test]
    fn nothing_is_taken_for_something_else() {
        #[derive(Debug, PartialEq, Deserialize)]
        enum Status {
            Active,
            Deleted,
        }
        let refused = |result: Result<String, String>, why: &str| {
            let error = result.unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        let text = |named: Named| format!("{named:?}");
        refused(read_as(&Pair(1, 2)).map(text), "invalid type: sequence, expected struct Named");
        refused(read_as(&BTreeMap::from([(0_u8, 1_u8), (1, 2)])).map(text), "expected the name of a field");
        assert_eq!(read_as::<Named>(&BTreeMap::from([("x", 1_u8), ("y", 2)])), Ok(Named { y: 2, x: 1 }));
        refused(
            read_as::<Kind>(&BTreeMap::from([("Struct", (1_u8, 2_u8))])).map(|kind| format!("{kind:?}")),
            "invalid type: sequence, expected struct variant Kind::Struct",
        );
        refused(
            read_as::<Status>(&1_u8).map(|status| format!("{status:?}")),
            "integer `1`, expected the name of a variant",
        );
        assert_eq!(read_as::<Status>(&"Deleted"), Ok(Status::Deleted));
        for wrong in [i128::from(i64::MIN) - 1, -1] {
            refused(read_as::<u128>(&wrong).map(|n| n.to_string()), "expected u128");
        }
        refused(read_as::<i128>(&u128::MAX).map(|n| n.to_string()), "expected i128");
        assert_eq!(read_as::<u8>(&200_i128), Ok(200));
        refused(read_as::<u8>(&300_u64).map(|n| n.to_string()), "integer `300`, expected u8");
        refused(read_as::<f32>(&0.1_f64).map(|n| n.to_string()), "floating point `0.1`, expected f32");
        assert_eq!(read_as::<f32>(&0.5_f64), Ok(0.5));
        refused(read_as::<f32>(&(u64::MAX >> 8)).map(|n| n.to_string()), "expected f32");
        refused(read_as::<f64>(&u64::MAX).map(|n| n.to_string()), "expected f64");
        assert_eq!(read_as::<f64>(&7_u64), Ok(7.0));
        refused(read_as::<(u8, u8)>(&(1_u8, 2_u8, 3_u8)).map(|pair| format!("{pair:?}")), "invalid length 3");
    }

    #[derive(Debug, Serialize, Deserialize)]
    enum Deep {
        Down(Box<Deep>),
        End,
    }

    #[derive(Serialize, Deserialize)]
    struct Wrapped(Option<Box<Wrapped>>);

    #[test]
    fn depth_is_bounded_on_both_sides_whatever_lies_there() {
        let (mut deep, mut wrapped) = (Deep::End, Wrapped(None));
        for _ in 0..100 {
            (deep, wrapped) = (Deep::Down(Box::new(deep)), Wrapped(Some(Box::new(wrapped))));
        }
        taken::<Deep>(&written(&deep)).unwrap();
        taken::<Wrapped>(&written(&wrapped)).unwrap();
        for _ in 0..100 {
            (deep, wrapped) = (Deep::Down(Box::new(deep)), Wrapped(Some(Box::new(wrapped))));
        }
        let too_deep = too_deep().to_string();
        assert_eq!(write(&deep, &mut Vec::new(), 128).unwrap_err().to_string(), too_deep);
        assert_eq!(write(&wrapped, &mut Vec::new(), 128).unwrap_err().to_string(), too_deep);
        let down = b"\x81\xa4Down".repeat(1_000_000);
        assert_eq!(taken::<Deep>(&down).unwrap_err(), too_deep);
        assert_eq!(
            taken::<Option<Option<Wrapped>>>(&[0xd4, 1, 0]).err().unwrap(),
            "an extension that flip does not write"
        );
        // What nobody wants is gone over without recursion.
        let lists = [vec![0x91; 1_000_000], vec![0xc0]].concat();
        taken::<serde::de::IgnoredAny>(&lists).unwrap();
        assert_eq!(taken::<serde_json::Value>(&lists).unwrap_err(), too_deep);
    }

    #[test]
    fn a_length_is_a_claim() {
        for bytes in [
            &b"\xdb\xff\xff\xff\xffabc"[..],
            b"\xdd\xff\xff\xff\xff\x01",
            b"\xdf\xff\xff\xff\xff\xa1a",
            b"\xc6\xff\xff\xff\xff",
        ] {
            assert_eq!(taken::<serde_json::Value>(bytes).unwrap_err(), "the bytes end inside it");
            assert_eq!(taken::<serde::de::IgnoredAny>(bytes).unwrap_err(), "the bytes end inside it");
        }
    }

    #[test]
    fn a_serializer_that_miscounts_is_an_error() {
        struct Miscounts(usize);
        impl Serialize for Miscounts {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeSeq;
                let mut seq = to.serialize_seq(Some(self.0))?;
                seq.serialize_element(&1)?;
                seq.end()
            }
        }
        same_length(1).unwrap();
        assert_eq!(same_length(2).unwrap_err().to_string(), "its Serialize says that 2 parts follow, and writes 1");
        fn same_length(length: usize) -> Result<(), Error> {
            write(&Miscounts(length), &mut Vec::new(), 128)
        }
    }
}
