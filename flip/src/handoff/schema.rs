//! What a value is made of: said by the old process before it stops anything, compared by the new one.

use std::{
    any::type_name,
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Handoff, Limits, Plan, RestoreError, Restorer, SaveError, Saver,
    probe::Codec,
    shape::{ShapeMismatch, Shapes},
};

/// How deep a schema may lie in itself, not counting types with a name.
const DEPTH: usize = 64;

/// What a value is made of. Only generated code and flip make any.
#[derive(Clone, Debug)]
pub struct Type(Node);

#[derive(Clone, Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    /// Written by serde with the names of its parts, so it is matched by serde.
    SelfDescribed(Described),
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

type Reads = fn(&Shapes) -> Result<(), ShapeMismatch>;

/// A type that only serde knows.
#[derive(Clone)]
pub(super) struct Described {
    /// For messages.
    name: String,
    shape: Arc<Shapes>,
    /// Whether the type of this process reads what has another shape; none in what another process said.
    reads: Option<Reads>,
}

impl Described {
    fn of<T: Serialize + DeserializeOwned>() -> Self {
        static MADE: Made<Shapes> = Made::new();
        let shape = MADE.get((type_name::<T>(), Shapes::of::<T> as fn() -> Shapes as usize), Shapes::of::<T>);
        Self { name: short_name(type_name::<T>()), shape, reads: Some(Shapes::check::<T>) }
    }

    /// Whether this process's type reads what `theirs` describes, as far as that can be told.
    ///
    /// # Errors
    /// Where it does not, within the value, and why.
    pub(super) fn check(&self, theirs: &Described) -> Result<(), ShapeMismatch> {
        self.reads.map_or(Ok(()), |reads| reads(&theirs.shape))
    }

    /// Whether both describe the same.
    pub(super) fn is_same(&self, other: &Described) -> bool {
        self.shape == other.shape
    }

    /// Its name, and what it is made of.
    pub(super) fn text(&self) -> (&str, String) {
        (&self.name, self.shape.text("    "))
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` through serde", self.name)
    }
}

impl fmt::Debug for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

leaves! { pub(super) Leaf {
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
    51 Region "Region"
} }

impl Leaf {
    pub(super) fn is_integer(self) -> bool {
        use Leaf::*;
        matches!(self, U8 | U16 | U32 | U64 | U128 | I8 | I16 | I32 | I64 | I128)
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Leaf::F32 | Leaf::F64)
    }

    /// It is a descriptor, or has one.
    fn is_open(self) -> bool {
        use Leaf::*;
        matches!(
            self,
            Descriptor | File | TcpStream | TcpListener | UdpSocket | UnixStream | UnixListener | UnixDatagram | Region
        )
    }

    /// Its form depends on whether it is an element of a list.
    pub(super) fn is_varied(self) -> bool {
        self.is_integer() && !matches!(self, Leaf::U8 | Leaf::I8)
    }

    /// How many bytes an element of a list takes, where all take the same.
    pub(super) fn width(self) -> Option<u64> {
        use Leaf::*;
        Some(match self {
            Bool | U8 | I8 | Ordering => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 | Ipv4Addr => 4,
            U64 | I64 | F64 => 8,
            U128 | I128 | Ipv6Addr => 16,
            _ => return None,
        })
    }
}

impl Type {
    pub(super) fn leaf(leaf: Leaf) -> Self {
        Self(Node::Leaf(leaf))
    }

    pub(super) fn self_described<T: Serialize + DeserializeOwned>() -> Self {
        Self(Node::SelfDescribed(Described::of::<T>()))
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
pub(super) struct Named {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// The type that it was before, which this process can convert.
    pub(super) from: Option<Node>,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

#[derive(Clone, Debug)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    /// It need not be there.
    pub(super) default: bool,
    /// The type that it was before, which this process can convert.
    pub(super) from: Option<Node>,
    pub(super) node: Node,
}

/// Gathers the types that a value is made of, each once. Only generated code calls it.
#[derive(Default)]
pub struct Schemas {
    /// A type's name is not enough: two blocks of one function may each have a type of the same full name. The
    /// function that describes it tells them apart, unless both do the same, which is as well.
    places: HashMap<TypeIdentity, usize>,
    named: Vec<Option<Named>>,
}

impl Schemas {
    fn named<T: Handoff>(
        &mut self,
        name: &'static str,
        shape: impl FnOnce(&mut Self) -> (Shape, Option<Node>),
    ) -> Type {
        let identity = identity::<T>();
        if let Some(&place) = self.places.get(&identity) {
            return Type(Node::Named(place));
        }
        // It has its place before its fields are looked at: one of them may be of this type again.
        let place = self.named.len();
        self.named.push(None);
        self.places.insert(identity, place);
        let (shape, from) = shape(self);
        self.named[place] = Some(Named { name: name.to_owned(), shape, from });
        Type(Node::Named(place))
    }

    #[doc(hidden)]
    pub fn structure<T: Handoff>(&mut self, name: &'static str, describe: impl FnOnce(&mut Fields<'_>)) -> Type {
        self.named::<T>(name, |schemas| {
            let mut fields = Fields::new(schemas);
            describe(&mut fields);
            (Shape::Struct(fields.list), fields.from)
        })
    }

    #[doc(hidden)]
    pub fn enumeration<T: Handoff>(&mut self, name: &'static str, describe: impl FnOnce(&mut Variants<'_>)) -> Type {
        self.named::<T>(name, |schemas| {
            let mut variants = Variants { schemas, list: Vec::new(), from: None };
            describe(&mut variants);
            (Shape::Enum(variants.list), variants.from)
        })
    }
}

/// Takes the fields of a struct or variant, in the order of the wire. Only generated code calls it.
pub struct Fields<'s> {
    schemas: &'s mut Schemas,
    list: Vec<Field>,
    from: Option<Node>,
}

impl<'s> Fields<'s> {
    fn new(schemas: &'s mut Schemas) -> Self {
        Fields { schemas, list: Vec::new(), from: None }
    }

    #[doc(hidden)]
    pub fn field<T: Send, C: Codec<T>>(&mut self, name: &'static str, codec: C) -> Facts<'_> {
        let node = codec.schema(self.schemas).0;
        self.list.push(Field { name: name.to_owned(), aliases: Vec::new(), default: false, from: None, node });
        let field = self.list.len() - 1;
        Facts { schemas: self.schemas, field: &mut self.list[field] }
    }

    /// The struct can be made of this one.
    #[doc(hidden)]
    pub fn from<Old: Handoff>(&mut self) {
        self.from = Some(Old::schema(self.schemas).0);
    }
}

/// Takes what else is known of a field. Only generated code calls it.
pub struct Facts<'f> {
    schemas: &'f mut Schemas,
    field: &'f mut Field,
}

impl Facts<'_> {
    /// The field had this name before, or has it in a later program.
    #[doc(hidden)]
    pub fn alias(self, name: &'static str) -> Self {
        self.field.aliases.push(name.to_owned());
        self
    }

    /// The field need not be there.
    #[doc(hidden)]
    pub fn or_default(self) -> Self {
        self.field.default = true;
        self
    }

    /// The field can be made of a value of this type.
    #[doc(hidden)]
    pub fn from<Old: Handoff>(self) -> Self {
        self.field.from = Some(Old::schema(self.schemas).0);
        self
    }
}

/// Takes the variants of an enum, in the order of the wire. Only generated code calls it.
pub struct Variants<'s> {
    schemas: &'s mut Schemas,
    list: Vec<Variant>,
    from: Option<Node>,
}

impl Variants<'_> {
    #[doc(hidden)]
    pub fn variant(&mut self, name: &'static str, aliases: &[&'static str], describe: impl FnOnce(&mut Fields<'_>)) {
        let mut fields = Fields::new(self.schemas);
        describe(&mut fields);
        let fields = fields.list;
        let aliases = aliases.iter().map(|&alias| alias.to_owned()).collect();
        self.list.push(Variant { name: name.to_owned(), aliases, fields });
    }

    /// The enum can be made of this type.
    #[doc(hidden)]
    pub fn from<Old: Handoff>(&mut self) {
        self.from = Some(Old::schema(self.schemas).0);
    }
}

/// What is made once for each type.
struct Made<V>(Mutex<Option<HashMap<TypeIdentity, Arc<V>>>>);

/// As in [`Schemas`]: a type's name and a function that is its own.
type TypeIdentity = (&'static str, usize);

fn identity<T: Handoff>() -> TypeIdentity {
    (type_name::<T>(), T::schema as fn(&mut Schemas) -> Type as usize)
}

impl<V> Made<V> {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn get(&self, identity: TypeIdentity, make: impl FnOnce() -> V) -> Arc<V> {
        let made = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = made().get_or_insert_default().get(&identity) {
            return Arc::clone(value);
        }
        // Not under the lock: code of the user's may run here.
        let value = Arc::new(make());
        Arc::clone(made().get_or_insert_default().entry(identity).or_insert(value))
    }
}

/// A type and all that it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub(super) root: Node,
    pub(super) named: Vec<Named>,
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

impl Schema {
    /// Made once for each type.
    pub(crate) fn of<T: Handoff>() -> Arc<Self> {
        static MADE: Made<Schema> = Made::new();
        MADE.get(identity::<T>(), || Self::made(T::schema))
    }

    /// How values of a schema, as it was [encoded](Self::encode), become a `T`. Calls come one after the other from the
    /// same few processes, so that the last ones are remembered.
    ///
    /// # Errors
    /// Where the two first differ, or why these bytes are no schema.
    pub(crate) fn plan_for<T: Handoff>(theirs: Vec<u8>) -> Result<Arc<Plan>, String> {
        /// As many generations as may drain at once, by default.
        const KEPT: usize = 4;
        type Met = Mutex<VecDeque<(Vec<u8>, Result<Arc<Plan>, String>)>>;
        static MET: Made<Met> = Made::new();
        let met = MET.get(identity::<T>(), Met::default);
        let met = || met.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = met().iter().find(|(met, _)| *met == theirs) {
            return plan.clone();
        }
        let plan = Schema::decode(&theirs)
            .map_err(|error| error.to_string())
            .and_then(|theirs| Schema::of::<T>().plan(&theirs).map(Arc::new).map_err(|mismatch| mismatch.to_string()));
        let mut met = met();
        met.truncate(KEPT - 1);
        met.push_front((theirs, plan.clone()));
        plan
    }

    pub(super) fn made(describe: impl FnOnce(&mut Schemas) -> Type) -> Self {
        let mut schemas = Schemas::default();
        let root = describe(&mut schemas).0;
        // Every place was filled when the description that took it came back.
        let named = schemas.named.into_iter().flatten().collect();
        Self { root, named }
    }

    /// Whether there is memory in it that both processes map.
    pub(crate) fn has_memory(&self) -> bool {
        self.has(&|leaf| leaf == Leaf::Region)
    }

    /// Whether its values are bytes alone, and nothing that a process has open.
    pub(crate) fn is_bytes(&self) -> bool {
        !self.has(&Leaf::is_open)
    }

    fn has(&self, wanted: &dyn Fn(Leaf) -> bool) -> bool {
        fn inside(node: &Node, wanted: &dyn Fn(Leaf) -> bool) -> bool {
            let inside = |node: &Node| inside(node, wanted);
            match node {
                Node::Leaf(leaf) => wanted(*leaf),
                Node::SelfDescribed(_) | Node::Named(_) => false,
                Node::Option(inner) | Node::List(inner) | Node::Set(inner) | Node::Array(inner, _) => inside(inner),
                Node::Map(first, second) | Node::Result(first, second) => inside(first) || inside(second),
                Node::Tuple(items) => items.iter().any(inside),
            }
        }
        let fields = self.named.iter().flat_map(|named| match &named.shape {
            Shape::Struct(fields) => vec![fields],
            Shape::Enum(variants) => variants.iter().map(|variant| &variant.fields).collect(),
        });
        inside(&self.root, wanted) || fields.flatten().any(|field| inside(&field.node, wanted))
    }

    /// What the value as a whole is called in messages: `Visits`.
    pub(crate) fn name(&self) -> String {
        match &self.root {
            Node::Named(place) => self.named[*place].name.clone(),
            other => self.describe(other),
        }
    }

    pub(super) fn describe(&self, node: &Node) -> String {
        match node {
            Node::Leaf(leaf) => leaf.text().to_owned(),
            Node::SelfDescribed(described) => described.to_string(),
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
                Named { name, shape: Shape::Struct(_), .. } => format!("the struct `{name}`"),
                Named { name, shape: Shape::Enum(_), .. } => format!("the enum `{name}`"),
            },
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Saver::in_memory();
        // In memory nothing can fail; were it to, the other side would see a schema that is cut off and say so.
        let _ = self.write(&mut out);
        out.into_bytes()
    }

    /// Without what only messages say: the names that rustc gives to types of serde's, which the next release of either may
    /// change.
    pub(crate) fn without_names(&self) -> Self {
        fn strip(node: &mut Node) {
            match node {
                Node::Leaf(_) | Node::Named(_) => {}
                Node::SelfDescribed(described) => described.name.clear(),
                Node::Option(inner) | Node::List(inner) | Node::Set(inner) | Node::Array(inner, _) => strip(inner),
                Node::Map(first, second) | Node::Result(first, second) => {
                    strip(first);
                    strip(second);
                }
                Node::Tuple(items) => items.iter_mut().for_each(strip),
            }
        }
        let mut schema = self.clone();
        strip(&mut schema.root);
        for named in &mut schema.named {
            let fields = match &mut named.shape {
                Shape::Struct(fields) => vec![fields],
                Shape::Enum(variants) => variants.iter_mut().map(|variant| &mut variant.fields).collect(),
            };
            for field in fields.into_iter().flatten() {
                strip(&mut field.node);
                field.from.iter_mut().for_each(strip);
            }
            named.from.iter_mut().for_each(strip);
        }
        schema
    }

    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        out.length(self.named.len())?;
        for Named { name, shape, from } in &self.named {
            out.text(name)?;
            write_from(from.as_ref(), 0, out)?;
            match shape {
                Shape::Struct(fields) => {
                    out.scalar(0u8)?;
                    write_fields(fields, out)?;
                }
                Shape::Enum(variants) => {
                    out.scalar(1u8)?;
                    out.length(variants.len())?;
                    for Variant { name, aliases, fields } in variants {
                        out.text(name)?;
                        write_names(aliases, out)?;
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
            let (from, _) = read_from(input, count)?;
            let shape = match input.scalar::<u8>()? {
                0 => Shape::Struct(read_fields(input, count)?),
                1 => {
                    let mut variants = Vec::new();
                    for _ in 0..input.length()? {
                        let (name, aliases) = (input.text()?, read_names(input)?);
                        variants.push(Variant { name, aliases, fields: read_fields(input, count)? });
                    }
                    Shape::Enum(variants)
                }
                other => return Err(RestoreError::new(format!("{other} is no kind of type"))),
            };
            named.push(Named { name, shape, from });
        }
        let root = Node::read(input, count, DEPTH)?;
        Ok(Self { root, named })
    }
}

/// What a field or type was before, and what else one bit says.
const FROM: u8 = 1;
const DEFAULT: u8 = 2;

fn write_from(from: Option<&Node>, flags: u8, out: &mut Saver<'_>) -> Result<(), SaveError> {
    match from {
        None => out.scalar(flags),
        Some(node) => {
            out.scalar(flags | FROM)?;
            node.write(out)
        }
    }
}

fn read_from(input: &mut Restorer<'_>, named: usize) -> Result<(Option<Node>, u8), RestoreError> {
    let flags: u8 = input.scalar()?;
    if flags & !(FROM | DEFAULT) != 0 {
        return Err(RestoreError::new(format!("{flags} says nothing of a field")));
    }
    let from = if flags & FROM == 0 { None } else { Some(Node::read(input, named, DEPTH)?) };
    Ok((from, flags & !FROM))
}

fn write_names(names: &[String], out: &mut Saver<'_>) -> Result<(), SaveError> {
    out.length(names.len())?;
    names.iter().try_for_each(|name| out.text(name))
}

fn read_names(input: &mut Restorer<'_>) -> Result<Vec<String>, RestoreError> {
    let mut names = Vec::new();
    for _ in 0..input.length()? {
        names.push(input.text()?);
    }
    Ok(names)
}

fn write_fields(fields: &[Field], out: &mut Saver<'_>) -> Result<(), SaveError> {
    out.length(fields.len())?;
    for Field { name, aliases, default, from, node } in fields {
        out.text(name)?;
        write_names(aliases, out)?;
        write_from(from.as_ref(), if *default { DEFAULT } else { 0 }, out)?;
        node.write(out)?;
    }
    Ok(())
}

fn read_fields(input: &mut Restorer<'_>, named: usize) -> Result<Vec<Field>, RestoreError> {
    let mut fields = Vec::new();
    for _ in 0..input.length()? {
        let (name, aliases) = (input.text()?, read_names(input)?);
        let (from, flags) = read_from(input, named)?;
        let node = Node::read(input, named, DEPTH)?;
        fields.push(Field { name, aliases, default: flags & DEFAULT != 0, from, node });
    }
    Ok(fields)
}

impl Node {
    fn write(&self, out: &mut Saver<'_>) -> Result<(), SaveError> {
        match self {
            Node::Leaf(leaf) => out.scalar(leaf.code()),
            Node::SelfDescribed(Described { name, shape, .. }) => {
                out.scalar(0u8)?;
                out.text(name)?;
                let shape = shape.encode();
                out.length(shape.len())?;
                out.bytes(&shape)
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
            0 => {
                let name = input.text()?;
                let length = input.length()?;
                let shape = Shapes::decode(&input.bytes(length)?).map_err(RestoreError::new)?.into();
                Node::SelfDescribed(Described { name, shape, reads: None })
            }
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
