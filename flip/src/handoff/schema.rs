//! What a value is made of: said by the old process before it stops anything, compared by the new one.

use std::{
    any::type_name,
    collections::{HashMap, HashSet},
    fmt,
};

use super::{Handoff, Limits, RestoreError, Restorer, SaveError, Saver, error::shortened, probe::Codec};

/// How deep a schema may lie in itself, not counting types with a name.
const DEPTH: usize = 64;

/// What a value is made of. Only generated code and flip make any.
#[derive(Clone, Debug)]
pub struct Type(Node);

#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    /// Written by serde with the names of its parts, so it is matched by serde; the name is for messages.
    SelfDescribed(String),
    Option(Box<Node>),
    List(Box<Node>),
    Set(Box<Node>),
    Array(Box<Node>, u64),
    Map(Box<Node>, Box<Node>),
    Result(Box<Node>, Box<Node>),
    Tuple(Vec<Node>),
    /// A struct or enum, by its place in the list of named types.
    Named(usize),
}

macro_rules! leaves {
    ($($code:literal $leaf:ident $text:literal)*) => {
        /// What has no parts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Leaf { $($leaf),* }

        impl Leaf {
            /// What stands for it on the wire; never given to another.
            fn code(self) -> u8 {
                match self { $(Self::$leaf => $code),* }
            }

            fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$leaf),)* _ => None }
            }

            fn text(self) -> &'static str {
                match self { $(Self::$leaf => $text),* }
            }
        }
    };
}

leaves! {
    16 Bool "bool"
    17 Char "char"
    18 U8 "u8"
    19 U16 "u16"
    20 U32 "u32"
    21 U64 "u64"
    22 U128 "u128"
    23 I8 "i8"
    24 I16 "i16"
    25 I32 "i32"
    26 I64 "i64"
    27 I128 "i128"
    28 F32 "f32"
    29 F64 "f64"
    30 Text "String"
    31 OsText "OsString"
    32 CText "CString"
    33 Duration "Duration"
    34 Instant "Instant"
    35 SystemTime "SystemTime"
    36 Ipv4Addr "Ipv4Addr"
    37 Ipv6Addr "Ipv6Addr"
    38 IpAddr "IpAddr"
    39 SocketAddrV4 "SocketAddrV4"
    40 SocketAddrV6 "SocketAddrV6"
    41 SocketAddr "SocketAddr"
    42 Ordering "Ordering"
    43 Descriptor "OwnedFd"
    44 File "File"
    45 TcpStream "TcpStream"
    46 TcpListener "TcpListener"
    47 UdpSocket "UdpSocket"
    48 UnixStream "UnixStream"
    49 UnixListener "UnixListener"
    50 UnixDatagram "UnixDatagram"
}

impl Type {
    pub(super) fn leaf(leaf: Leaf) -> Self {
        Self(Node::Leaf(leaf))
    }

    pub(super) fn self_described<T>() -> Self {
        Self(Node::SelfDescribed(short_name(type_name::<T>())))
    }

    pub(super) fn option(inner: Type) -> Self {
        Self(Node::Option(Box::new(inner.0)))
    }

    pub(super) fn list(inner: Type) -> Self {
        Self(Node::List(Box::new(inner.0)))
    }

    pub(super) fn set(inner: Type) -> Self {
        Self(Node::Set(Box::new(inner.0)))
    }

    pub(super) fn array(inner: Type, length: usize) -> Self {
        Self(Node::Array(Box::new(inner.0), length as u64))
    }

    pub(super) fn map(key: Type, value: Type) -> Self {
        Self(Node::Map(Box::new(key.0), Box::new(value.0)))
    }

    pub(super) fn result(ok: Type, err: Type) -> Self {
        Self(Node::Result(Box::new(ok.0), Box::new(err.0)))
    }

    pub(super) fn tuple(items: impl IntoIterator<Item = Type>) -> Self {
        Self(Node::Tuple(items.into_iter().map(|item| item.0).collect()))
    }
}

/// `std::vec::Vec<my::Visits>` without the modules.
fn short_name(full: &str) -> String {
    let mut name = String::new();
    for part in full.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        name.push_str(part.rfind("::").map_or(part, |at| &part[at + 2..]));
    }
    name
}

#[derive(Clone, Debug)]
struct Named {
    name: String,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<(String, Vec<Field>)>),
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    node: Node,
}

/// Gathers the types that a value is made of, each once. Only generated code calls it.
#[derive(Default)]
pub struct Schemas {
    /// A type's name is not enough: two blocks of one function may each have a type of the same full name. The
    /// function that describes it tells them apart, unless both do the same, which is as well.
    places: HashMap<(&'static str, usize), usize>,
    named: Vec<Option<Named>>,
}

impl Schemas {
    fn named<T: Handoff>(&mut self, name: &'static str, shape: impl FnOnce(&mut Self) -> Shape) -> Type {
        let identity = (type_name::<T>(), T::schema as fn(&mut Schemas) -> Type as usize);
        if let Some(&place) = self.places.get(&identity) {
            return Type(Node::Named(place));
        }
        // It has its place before its fields are looked at: one of them may be of this type again.
        let place = self.named.len();
        self.named.push(None);
        self.places.insert(identity, place);
        let shape = shape(self);
        self.named[place] = Some(Named { name: name.to_owned(), shape });
        Type(Node::Named(place))
    }

    #[doc(hidden)]
    pub fn structure<T: Handoff>(&mut self, name: &'static str, describe: impl FnOnce(&mut Fields<'_>)) -> Type {
        self.named::<T>(name, |schemas| {
            let mut fields = Fields { schemas, list: Vec::new() };
            describe(&mut fields);
            Shape::Struct(fields.list)
        })
    }

    #[doc(hidden)]
    pub fn enumeration<T: Handoff>(&mut self, name: &'static str, describe: impl FnOnce(&mut Variants<'_>)) -> Type {
        self.named::<T>(name, |schemas| {
            let mut variants = Variants { schemas, list: Vec::new() };
            describe(&mut variants);
            Shape::Enum(variants.list)
        })
    }
}

/// Takes the fields of a struct or variant, in their order. Only generated code calls it.
pub struct Fields<'s> {
    schemas: &'s mut Schemas,
    list: Vec<Field>,
}

impl Fields<'_> {
    #[doc(hidden)]
    pub fn field<T, C: Codec<T>>(&mut self, name: &'static str, codec: C) {
        let node = codec.schema(self.schemas).0;
        self.list.push(Field { name: name.to_owned(), node });
    }
}

/// Takes the variants of an enum, in their order. Only generated code calls it.
pub struct Variants<'s> {
    schemas: &'s mut Schemas,
    list: Vec<(String, Vec<Field>)>,
}

impl Variants<'_> {
    #[doc(hidden)]
    pub fn variant(&mut self, name: &'static str, describe: impl FnOnce(&mut Fields<'_>)) {
        let mut fields = Fields { schemas: self.schemas, list: Vec::new() };
        describe(&mut fields);
        let list = fields.list;
        self.list.push((name.to_owned(), list));
    }
}

/// A type and all that it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    root: Node,
    named: Vec<Named>,
}

/// Where two schemas differ first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// `Visits.total`
    pub(crate) path: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = shortened(&self.path);
        write!(f, "`{path}` is {} here and {} in the running process", self.ours, self.theirs)
    }
}

/// Bytes that are no schema.
#[derive(Debug)]
pub(crate) struct SchemaError(RestoreError);

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a schema: {}", self.0)
    }
}

impl std::error::Error for SchemaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl PartialEq for Schema {
    /// Whether the same bytes mean the same. The names of types do not matter for that, those of fields and variants do.
    fn eq(&self, other: &Self) -> bool {
        self.mismatch(other).is_none()
    }
}

impl Schema {
    pub(crate) fn of<T: Handoff>() -> Self {
        let mut schemas = Schemas::default();
        let root = T::schema(&mut schemas).0;
        // Every place was filled when the description that took it came back.
        let named = schemas.named.into_iter().flatten().collect();
        Self { root, named }
    }

    /// What the value as a whole is called in messages: `Visits`.
    pub(crate) fn name(&self) -> String {
        match &self.root {
            Node::Named(place) => self.named[*place].name.clone(),
            other => self.describe(other),
        }
    }

    /// Where `theirs`, of the running process, first differs from what this process has.
    pub(crate) fn mismatch(&self, theirs: &Schema) -> Option<Mismatch> {
        Comparison { ours: self, theirs, steps: Vec::new(), seen: HashSet::new() }.run()
    }

    fn describe(&self, node: &Node) -> String {
        match node {
            Node::Leaf(leaf) => leaf.text().to_owned(),
            Node::SelfDescribed(name) => format!("`{name}` through serde"),
            Node::Option(inner) => format!("an optional {}", self.describe(inner)),
            Node::List(inner) => format!("a list of {}", self.describe(inner)),
            Node::Set(inner) => format!("a set of {}", self.describe(inner)),
            Node::Array(inner, length) => format!("[{}; {length}]", self.describe(inner)),
            Node::Map(key, value) => format!("a map of {} to {}", self.describe(key), self.describe(value)),
            Node::Result(ok, err) => format!("a result of {} or {}", self.describe(ok), self.describe(err)),
            Node::Tuple(items) if items.is_empty() => "()".to_owned(),
            Node::Tuple(items) => {
                format!("({})", items.iter().map(|item| self.describe(item)).collect::<Vec<_>>().join(", "))
            }
            Node::Named(place) => match &self.named[*place] {
                Named { name, shape: Shape::Struct(_) } => format!("the struct `{name}`"),
                Named { name, shape: Shape::Enum(_) } => format!("the enum `{name}`"),
            },
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Saver::in_memory();
        // In memory nothing can fail; were it to, the other side would see a schema that is cut off and say so.
        let _ = self.write(&mut out);
        out.into_bytes()
    }

    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        out.length(self.named.len())?;
        for Named { name, shape } in &self.named {
            out.text(name)?;
            match shape {
                Shape::Struct(fields) => {
                    out.scalar(0u8)?;
                    write_fields(fields, out)?;
                }
                Shape::Enum(variants) => {
                    out.scalar(1u8)?;
                    out.length(variants.len())?;
                    for (name, fields) in variants {
                        out.text(name)?;
                        write_fields(fields, out)?;
                    }
                }
            }
        }
        self.root.write(out)
    }

    /// Reads what [`encode`](Self::encode) wrote, or what somebody else made up.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        let mut input = Restorer::from_bytes(bytes.to_vec(), Limits::default());
        Self::read(&mut input).and_then(|schema| input.finish().map(|()| schema)).map_err(SchemaError)
    }

    fn read(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        // Nothing is allocated by a claim: each element takes bytes and is only then kept.
        let count = input.length()?;
        let mut named = Vec::new();
        for _ in 0..count {
            let name = input.text()?;
            let shape = match input.scalar::<u8>()? {
                0 => Shape::Struct(read_fields(input, count)?),
                1 => {
                    let mut variants = Vec::new();
                    for _ in 0..input.length()? {
                        variants.push((input.text()?, read_fields(input, count)?));
                    }
                    Shape::Enum(variants)
                }
                other => return Err(RestoreError::new(format!("{other} is no kind of type"))),
            };
            named.push(Named { name, shape });
        }
        let root = Node::read(input, count, DEPTH)?;
        Ok(Self { root, named })
    }
}

fn write_fields(fields: &[Field], out: &mut Saver<'_>) -> Result<(), SaveError> {
    out.length(fields.len())?;
    for Field { name, node } in fields {
        out.text(name)?;
        node.write(out)?;
    }
    Ok(())
}

fn read_fields(input: &mut Restorer<'_>, named: usize) -> Result<Vec<Field>, RestoreError> {
    let mut fields = Vec::new();
    for _ in 0..input.length()? {
        fields.push(Field { name: input.text()?, node: Node::read(input, named, DEPTH)? });
    }
    Ok(fields)
}

impl Node {
    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        match self {
            Node::Leaf(leaf) => out.scalar(leaf.code()),
            Node::SelfDescribed(name) => {
                out.scalar(0u8)?;
                out.text(name)
            }
            Node::Option(inner) => {
                out.scalar(1u8)?;
                inner.write(out)
            }
            Node::List(inner) => {
                out.scalar(2u8)?;
                inner.write(out)
            }
            Node::Set(inner) => {
                out.scalar(3u8)?;
                inner.write(out)
            }
            Node::Array(inner, length) => {
                out.scalar(4u8)?;
                out.scalar(*length)?;
                inner.write(out)
            }
            Node::Map(key, value) => {
                out.scalar(5u8)?;
                key.write(out)?;
                value.write(out)
            }
            Node::Result(ok, err) => {
                out.scalar(6u8)?;
                ok.write(out)?;
                err.write(out)
            }
            Node::Tuple(items) => {
                out.scalar(7u8)?;
                out.length(items.len())?;
                items.iter().try_for_each(|item| item.write(out))
            }
            Node::Named(place) => {
                out.scalar(8u8)?;
                out.length(*place)
            }
        }
    }

    fn read(input: &mut Restorer<'_>, named: usize, depth: usize) -> Result<Self, RestoreError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(RestoreError::new(format!("it lies more than {DEPTH} deep in itself")));
        };
        let inner = |input: &mut Restorer<'_>| Node::read(input, named, depth).map(Box::new);
        Ok(match input.scalar::<u8>()? {
            0 => Node::SelfDescribed(input.text()?),
            1 => Node::Option(inner(input)?),
            2 => Node::List(inner(input)?),
            3 => Node::Set(inner(input)?),
            4 => {
                let length = input.scalar()?;
                Node::Array(inner(input)?, length)
            }
            5 => Node::Map(inner(input)?, inner(input)?),
            6 => Node::Result(inner(input)?, inner(input)?),
            7 => {
                let mut items = Vec::new();
                for _ in 0..input.length()? {
                    items.push(Node::read(input, named, depth)?);
                }
                Node::Tuple(items)
            }
            8 => match input.length()? {
                place if place < named => Node::Named(place),
                place => return Err(RestoreError::new(format!("there is no type number {place}"))),
            },
            code => match Leaf::from_code(code) {
                Some(leaf) => Node::Leaf(leaf),
                None => return Err(RestoreError::new(format!("{code} is no kind of type"))),
            },
        })
    }
}

/// Goes through two schemas side by side. Pairs of named types wait in a list instead of on the stack, because the
/// other schema, which may be made up, decides how long their chain is.
struct Comparison<'s> {
    ours: &'s Schema,
    theirs: &'s Schema,
    /// Every pair of named types that was met, and how it was reached.
    steps: Vec<Step>,
    seen: HashSet<(usize, usize)>,
}

struct Step {
    pair: (usize, usize),
    /// The step whose types hold this pair, and where they do.
    from: Option<usize>,
    segment: String,
}

impl Comparison<'_> {
    fn run(mut self) -> Option<Mismatch> {
        let root = self.ours.root.clone();
        if let Some(mismatch) = self.nodes(None, "", &root, &self.theirs.root) {
            return Some(mismatch);
        }
        let mut next = 0;
        while let Some(step) = self.steps.get(next) {
            let (ours, theirs) = (&self.ours.named[step.pair.0].shape, &self.theirs.named[step.pair.1].shape);
            let found = match (ours, theirs) {
                (Shape::Struct(ours), Shape::Struct(theirs)) => self.fields(next, "", ours, theirs),
                (Shape::Enum(ours), Shape::Enum(theirs)) => self.variants(next, ours, theirs),
                _ => {
                    let (ours, theirs) = (Node::Named(step.pair.0), Node::Named(step.pair.1));
                    self.differ(Some(next), "", self.ours.describe(&ours), self.theirs.describe(&theirs))
                }
            };
            if found.is_some() {
                return found;
            }
            next += 1;
        }
        None
    }

    fn variants(
        &mut self,
        step: usize,
        ours: &[(String, Vec<Field>)],
        theirs: &[(String, Vec<Field>)],
    ) -> Option<Mismatch> {
        let names = |list: &[(String, Vec<Field>)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if let Some(mismatch) = self.names(step, "", "variant", &names(ours), &names(theirs)) {
            return Some(mismatch);
        }
        ours.iter()
            .zip(theirs)
            .find_map(|((name, ours), (_, theirs))| self.fields(step, &format!(".{name}"), ours, theirs))
    }

    fn fields(&mut self, step: usize, inside: &str, ours: &[Field], theirs: &[Field]) -> Option<Mismatch> {
        let names = |list: &[Field]| list.iter().map(|field| field.name.clone()).collect::<Vec<_>>();
        // A type that differs says more than an order that does.
        for ours in ours {
            if let Some(theirs) = theirs.iter().find(|theirs| theirs.name == ours.name) {
                let segment = format!("{inside}.{}", ours.name);
                if let Some(mismatch) = self.nodes(Some(step), &segment, &ours.node, &theirs.node) {
                    return Some(mismatch);
                }
            }
        }
        self.names(step, inside, "field", &names(ours), &names(theirs))
    }

    /// Both sides must have the same names in the same order: nothing else tells them apart in the bytes.
    fn names(&self, step: usize, inside: &str, what: &str, ours: &[String], theirs: &[String]) -> Option<Mismatch> {
        let step = Some(step);
        if let Some(new) = ours.iter().find(|name| !theirs.contains(name)) {
            return self.differ(step, &format!("{inside}.{new}"), format!("a {what}"), "absent".to_owned());
        }
        if let Some(gone) = theirs.iter().find(|name| !ours.contains(name)) {
            return self.differ(step, &format!("{inside}.{gone}"), "absent".to_owned(), format!("a {what}"));
        }
        match ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs) {
            Some(at) => self.differ(
                step,
                &format!("{inside}.{}", ours[at]),
                format!("{what} {}", at + 1),
                format!("{what} {}", theirs.iter().position(|name| *name == ours[at]).unwrap_or(at) + 1),
            ),
            // Only made-up schemas have a name twice.
            None if ours.len() != theirs.len() => {
                self.differ(step, inside, format!("{} {what}s", ours.len()), format!("{} {what}s", theirs.len()))
            }
            None => None,
        }
    }

    fn nodes(&mut self, from: Option<usize>, segment: &str, ours: &Node, theirs: &Node) -> Option<Mismatch> {
        match (ours, theirs) {
            (Node::Named(ours), Node::Named(theirs)) => {
                let pair = (*ours, *theirs);
                if self.seen.insert(pair) {
                    self.steps.push(Step { pair, from, segment: segment.to_owned() });
                }
                None
            }
            (Node::Leaf(ours), Node::Leaf(theirs)) if ours == theirs => None,
            (Node::SelfDescribed(_), Node::SelfDescribed(_)) => None,
            (Node::Option(ours), Node::Option(theirs)) => self.nodes(from, segment, ours, theirs),
            (Node::List(ours), Node::List(theirs)) | (Node::Set(ours), Node::Set(theirs)) => {
                self.nodes(from, &format!("{segment}[]"), ours, theirs)
            }
            (Node::Array(ours, our_length), Node::Array(theirs, their_length)) if our_length == their_length => {
                self.nodes(from, &format!("{segment}[]"), ours, theirs)
            }
            (Node::Map(our_key, ours), Node::Map(their_key, theirs)) => self
                .nodes(from, &format!("{segment}[key]"), our_key, their_key)
                .or_else(|| self.nodes(from, &format!("{segment}[]"), ours, theirs)),
            (Node::Result(our_ok, ours), Node::Result(their_ok, theirs)) => self
                .nodes(from, &format!("{segment}.Ok"), our_ok, their_ok)
                .or_else(|| self.nodes(from, &format!("{segment}.Err"), ours, theirs)),
            (Node::Tuple(ours), Node::Tuple(theirs)) if ours.len() == theirs.len() => ours
                .iter()
                .zip(theirs)
                .enumerate()
                .find_map(|(at, (ours, theirs))| self.nodes(from, &format!("{segment}.{at}"), ours, theirs)),
            _ => self.differ(from, segment, self.ours.describe(ours), self.theirs.describe(theirs)),
        }
    }

    fn differ(&self, from: Option<usize>, segment: &str, ours: String, theirs: String) -> Option<Mismatch> {
        // The path is put together only here: along a made-up chain it may be long, but there is one of it.
        let mut segments = vec![segment];
        let mut at = from;
        while let Some(step) = at {
            segments.push(&self.steps[step].segment);
            at = self.steps[step].from;
        }
        segments.reverse();
        Some(Mismatch { path: format!("{}{}", self.ours.name(), segments.concat()), ours, theirs })
    }
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn names_lose_their_modules() {
        assert_eq!(short_name("u8"), "u8");
        assert_eq!(short_name("a::b::Visits"), "Visits");
        assert_eq!(short_name("std::collections::HashMap<alloc::string::String, a::b::C>"), "HashMap<String, C>");
        assert_eq!(short_name("(a::B, [c::D; 3])"), "(B, [D; 3])");
    }
}
