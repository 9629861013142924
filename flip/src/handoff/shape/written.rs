//! What a type's `Serialize` really writes, held against the shape that its `Deserialize` showed.
//!
//! The two need not agree: a field may be skipped by one of them, or a hand-written one may write another kind of value.
//! The data are what `Serialize` writes, so where the shape says otherwise it is no longer believed.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, EnumAccess, MapAccess, SeqAccess, Visitor},
};

use super::{Container, Content, DEPTH, Fields, LeafKind, Shape, Shapes, sample};
use crate::handoff::codec;

/// A struct, or a variant of an enum, by its place.
type Owner = (usize, Option<usize>);

#[derive(Default)]
struct Found {
    /// Fields that were written at least once.
    written: HashSet<(Owner, usize)>,
    /// Structs that were written at all.
    met: HashSet<Owner>,
    /// Fields that `Deserialize` does not ask for, in an order that is the same in every run.
    extra: HashMap<Owner, BTreeSet<String>>,
    /// Another kind of value stands somewhere.
    other: bool,
}

/// Takes out of `shapes` what values of `T` do not bear out.
pub(super) fn correct<T: Serialize + DeserializeOwned>(shapes: &mut Shapes) {
    let mut found = Found::default();
    // Whether all samples are read is not the question here.
    let _ = sample::run(shapes, |value: T| {
        let mut bytes = Vec::new();
        let written = codec::put_named(&value, &mut bytes, DEPTH);
        // What cannot be written is not among the data.
        if let Ok(written) = written.and_then(|()| codec::take_named::<Written>(&*bytes, DEPTH)) {
            found.compare(shapes, &shapes.root, &written);
        }
    });
    if found.other {
        *shapes = Shapes::unknown();
        return;
    }
    for (place, container) in shapes.containers.iter_mut().enumerate() {
        match container {
            Container::Struct { fields, .. } => found.settle((place, None), fields),
            Container::Enum { variants, .. } => {
                for (number, variant) in variants.iter_mut().enumerate() {
                    if let Content::Struct(fields) = &mut variant.content {
                        found.settle((place, Some(number)), fields);
                    }
                }
            }
        }
    }
}

impl Found {
    fn settle(&mut self, owner: Owner, fields: &mut Fields) {
        if !self.met.contains(&owner) {
            return;
        }
        for (number, (_, shape)) in fields.list.iter_mut().enumerate() {
            if !self.written.contains(&(owner, number)) {
                *shape = Shape::Unknown;
            }
        }
        let extra = self.extra.remove(&owner).unwrap_or_default();
        fields.list.extend(extra.into_iter().map(|name| (name, Shape::Unknown)));
    }

    fn compare(&mut self, shapes: &Shapes, shape: &Shape, written: &Written) {
        match (shape, written) {
            (Shape::Unknown, _) | (Shape::Option(_), Written::Nil) | (Shape::Unit, Written::Nil) => {}
            (Shape::UnitStruct, Written::Seq(items)) if items.is_empty() => {}
            (Shape::Option(inner) | Shape::Newtype(inner), written) => self.compare(shapes, inner, written),
            (Shape::Seq(inner), Written::Seq(items)) => items.iter().for_each(|item| self.compare(shapes, inner, item)),
            (Shape::Tuple(inner), Written::Seq(items)) if inner.len() == items.len() => {
                inner.iter().zip(items).for_each(|(inner, item)| self.compare(shapes, inner, item));
            }
            (Shape::Map(key, value), Written::Map(entries)) => {
                for (written_key, written_value) in entries {
                    self.compare(shapes, key, written_key);
                    self.compare(shapes, value, written_value);
                }
            }
            (Shape::Leaf { kind, .. }, written) if written.suits(*kind) => {}
            (Shape::Container(place), written) => self.container(shapes, *place, written),
            _ => self.other = true,
        }
    }

    fn container(&mut self, shapes: &Shapes, place: usize, written: &Written) {
        match (&shapes.containers[place], written) {
            (Container::Struct { fields, .. }, Written::Map(entries)) => {
                self.fields(shapes, (place, None), fields, entries);
            }
            (Container::Enum { variants, .. }, written) => {
                let (name, content) = match written {
                    Written::Text(name) => (name, None),
                    Written::Map(entries) => match &**entries {
                        [(Written::Text(name), content)] => (name, Some(content)),
                        _ => return self.other = true,
                    },
                    _ => return self.other = true,
                };
                let Some(number) = variants.iter().position(|variant| variant.name == *name) else {
                    return self.other = true;
                };
                match (&variants[number].content, content) {
                    (Content::Unknown, _) | (Content::Unit, None) => {}
                    (Content::Newtype(inner), Some(content)) => self.compare(shapes, inner, content),
                    (Content::Tuple(inner), Some(Written::Seq(items))) if inner.len() == items.len() => {
                        inner.iter().zip(items).for_each(|(inner, item)| self.compare(shapes, inner, item));
                    }
                    (Content::Struct(fields), Some(Written::Map(entries))) => {
                        self.fields(shapes, (place, Some(number)), fields, entries);
                    }
                    _ => self.other = true,
                }
            }
            _ => self.other = true,
        }
    }

    fn fields(&mut self, shapes: &Shapes, owner: Owner, fields: &Fields, entries: &[(Written, Written)]) {
        self.met.insert(owner);
        for (key, value) in entries {
            let Written::Text(key) = key else { return self.other = true };
            match fields.list.iter().position(|(name, _)| name == key) {
                Some(number) => {
                    self.written.insert((owner, number));
                    self.compare(shapes, &fields.list[number].1, value);
                }
                None => {
                    self.extra.entry(owner).or_default().insert(key.clone());
                }
            }
        }
    }
}

/// What is read without being asked for.
enum Written {
    Nil,
    Bool,
    Number,
    Text(String),
    Bytes,
    Seq(Vec<Written>),
    Map(Vec<(Written, Written)>),
}

impl Written {
    fn suits(&self, kind: LeafKind) -> bool {
        match self {
            Written::Bool => kind == LeafKind::Bool,
            Written::Text(_) => matches!(kind, LeafKind::Str | LeafKind::Char | LeafKind::Bytes),
            // A number of 128 bits goes as bytes where it needs more than 64. Bytes may also go as a list.
            Written::Bytes => matches!(kind, LeafKind::Bytes | LeafKind::I128 | LeafKind::U128),
            Written::Seq(_) => kind == LeafKind::Bytes,
            Written::Number => !matches!(kind, LeafKind::Bool | LeafKind::Char | LeafKind::Str | LeafKind::Bytes),
            Written::Nil | Written::Map(_) => false,
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten)
    }
}

struct AsWritten;

macro_rules! plain {
    ($($method:ident $ty:ty => $written:expr;)*) => { $(
        fn $method<E>(self, _: $ty) -> Result<Written, E> {
            Ok($written)
        }
    )* };
}

impl<'de> Visitor<'de> for AsWritten {
    type Value = Written;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    plain! {
        visit_bool bool => Written::Bool;
        visit_i64 i64 => Written::Number;
        visit_u64 u64 => Written::Number;
        visit_i128 i128 => Written::Number;
        visit_u128 u128 => Written::Number;
        visit_f64 f64 => Written::Number;
        visit_bytes &[u8] => Written::Bytes;
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Nil)
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Nil)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Written, D::Error> {
        Written::deserialize(inner)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Written, D::Error> {
        Written::deserialize(inner)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Written::Seq(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Written, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            list.push(entry);
        }
        Ok(Written::Map(list))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Written, A::Error> {
        Err(de::Error::custom("not written by flip"))
    }
}
