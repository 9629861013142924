//! Two schemas, side by side: what stands in the way, or how the bytes of one become the bytes of the other.
//!
//! Fields and variants are matched by their names. What both have goes as it is, or is converted where no value is lost
//! or only the data can tell; what only the old process has is skipped; what only the new one has needs a default. The
//! result is a [`Plan`], which [`Transcoder`](super::transcode::Transcoder) carries out without knowing any type.

use std::{cell::RefCell, collections::HashMap, fmt, rc::Rc, sync::Arc};

use super::{
    error::shortened,
    schema::{Field, Leaf, Node, Schema, Shape, Variant},
    shape::ShapeMismatch,
};

/// How far nodes are followed through each other before two schemas are called different. Only made-up ones get there.
const DEPTH: usize = 128;

/// How many types that can be read in two ways may be tried within each other.
const TRIES: usize = 32;

/// How many ways are tried in all. Types that lie in each other in every combination are decided again and again, since
/// each depends on those around it; made-up ones would never come to an end.
const ATTEMPTS: usize = 16 * 1024;

/// How many variants of an enum are named where none is known here.
const VARIANTS: usize = 8;

/// How many fields that nobody takes are looked at for one that was renamed.
const RENAMED: usize = 32;

/// An operation, by its place in the plan.
pub(super) type OpId = usize;

/// How bytes that the old process wrote become those that this one reads.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) ops: Arc<[Op]>,
    pub(super) root: OpId,
    /// The bytes differ; otherwise they are read as they are.
    changed: bool,
    /// Who wrote them, as an error says it.
    pub(super) holder: &'static str,
}

/// Who has what is read here: a process that runs, or a checkpoint of one that does not.
const RUNNING: &str = "the running process";
const CHECKPOINT: &str = "the checkpoint";

/// One operation: from the form that the old process wrote to the one that this process reads.
#[derive(Debug)]
pub(super) enum Op {
    /// As it is; `item` where a number stands with its full width, as an element of a list does.
    Leaf {
        leaf: Leaf,
        item: bool,
    },
    /// A number as another, if its value fits.
    Number {
        from: (Leaf, bool),
        to: (Leaf, bool),
    },
    /// What serde wrote, as it is.
    Pieces,
    Option(OpId),
    /// A value where there may be none.
    Some(OpId),
    /// Where there may be none and this process needs one, of this type.
    Unwrap(OpId, Box<str>),
    /// A list, or a set.
    List(OpId),
    Array(OpId, u64),
    Map(OpId, OpId),
    Result(OpId, OpId),
    Tuple(Vec<OpId>),
    Fields(Vec<Step>),
    Variants(Box<Variants>),
    /// Behind a byte that says which of several types this is.
    Tagged(u8, OpId),
    /// What another one does.
    Same(OpId),
    /// Is filled in when its types are looked at.
    Pending,
}

impl Op {
    /// Whether what it reads has memory of its own.
    pub(super) fn is_allocated(&self) -> bool {
        use Leaf::{CText, OsText, Text};
        matches!(self, Op::List(_) | Op::Map(..) | Op::Pieces | Op::Leaf { leaf: Text | OsText | CText, .. })
    }
}

#[derive(Debug)]
pub(super) struct Variants {
    /// By the number of the old process's variant.
    pub(super) arms: Vec<Arm>,
    /// What the enum is here.
    pub(super) of: String,
}

#[derive(Debug)]
pub(super) struct Arm {
    pub(super) name: String,
    /// The number here, and what it holds; a variant that is gone has none.
    pub(super) to: Option<(u32, Vec<Step>)>,
}

/// What is done for the fields of one struct or variant, one after the other.
#[derive(Debug)]
pub(super) enum Step {
    /// A byte that tells the reader what follows.
    Put(u8),
    Take(String, OpId),
    /// A field that this process does not have.
    Skip(String, OpId),
    /// A field whose turn has not come.
    Hold(String, OpId),
    /// What was held as the n-th.
    Emit(usize),
}

/// The byte before a field that has a default, where schemas differ: whether it is there.
pub(super) const ABSENT: u8 = 0;
pub(super) const PRESENT: u8 = 1;

/// The byte before what can be made of an older type, where schemas differ: which of both it is.
pub(super) const DIRECT: u8 = 0;
pub(super) const MIGRATED: u8 = 1;

impl Plan {
    /// Whether the bytes need any change at all.
    pub(crate) fn is_needed(&self) -> bool {
        self.changed
    }

    /// The same, for what lies in a checkpoint.
    pub(crate) fn of_checkpoint(self) -> Plan {
        Plan { holder: CHECKPOINT, ..self }
    }
}

/// Why the state of the running process, or of a checkpoint, cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// `Visits.total`
    pub(crate) path: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// What would let it match.
    pub(crate) remedy: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(RUNNING))
    }
}

impl Mismatch {
    /// In the words for what lies in a checkpoint.
    pub(crate) fn with_checkpoint(&self) -> String {
        self.with(CHECKPOINT)
    }

    fn with(&self, holder: &str) -> String {
        let path = shortened(&self.path);
        format!("`{path}` is {} here and {} in {holder}: {}", self.ours, self.theirs, self.remedy)
    }
}

impl Schema {
    /// How the values of the running process, which have the schema `theirs`, become values of this one.
    ///
    /// # Errors
    /// Where the two first differ in a way that nothing bridges.
    pub(crate) fn plan(&self, theirs: &Schema) -> Result<Plan, Mismatch> {
        let routes = RefCell::default();
        let plan = Matcher::new(self, theirs, &routes, 0).run(&self.root, &theirs.root, Way::Any);
        match routes.into_inner().given_up {
            Some(mismatch) => Err(mismatch),
            None => plan.map(|(plan, _)| plan),
        }
    }
}

impl PartialEq for Schema {
    /// Whether the same bytes mean the same. The names of types do not matter for that, those of fields and variants do.
    fn eq(&self, other: &Self) -> bool {
        self.plan(other).is_ok_and(|plan| !plan.changed)
    }
}

/// How well two types match, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    grade: Grade,
    /// How many fields and variants of theirs are left behind, and fields of ours filled in.
    apart: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Same,
    /// Nothing of the old value is left behind.
    Whole,
    Partly,
}

/// How the outermost node of ours is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Any,
    /// Not by its older type.
    Direct,
    /// A struct of one field without a name as any other struct.
    Fields,
    /// The same as what is inside of it.
    Inside,
}

/// Where there are two ways to read a part of theirs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    /// Ours as it is, or by the older type that it knows.
    Older { ours: Identity, theirs: Identity, from: Identity },
    /// Two structs, only one of which has a single field without a name: by fields, or as what is inside.
    Newtype { ours: usize, theirs: usize },
}

/// What the questions came to, so that each is asked once, whatever lies in whatever.
#[derive(Default)]
struct Routes {
    decided: HashMap<Question, Decided>,
    /// Those that are being decided, the outermost first.
    open: Vec<Open>,
    /// Those that hold only as long as an open one is, which is counted as a match meanwhile; in the order in which
    /// they were decided.
    provisional: Vec<(Question, usize)>,
    /// For two structs, whether the question arises at all.
    shared: HashMap<(usize, usize), bool>,
    attempts: usize,
    /// Only to propose something: what of serde's is not the same is not asked what else it reads.
    proposing: bool,
    /// Too many lay within each other.
    given_up: Option<Mismatch>,
}

struct Open {
    question: Question,
    /// How far it lies inside of the one that is open outside of it.
    moved: Moved,
    /// The outermost open one that it met.
    depends: Option<usize>,
    /// How many were provisional.
    provisional: usize,
}

#[derive(Clone)]
struct Decided {
    choice: Choice,
    /// The outermost open one that it holds under.
    depends: Option<usize>,
}

#[derive(Clone)]
enum Choice {
    First,
    Second,
    Neither(Rc<(Mismatch, Mismatch)>),
    /// It is met again while it is being decided.
    Open(Moved),
}

/// Whether this is about another part than the whole is. What comes back to itself without having moved in both has no
/// values that end.
#[derive(Clone, Copy, Default)]
struct Moved {
    ours: bool,
    theirs: bool,
}

impl Moved {
    const BOTH: Moved = Moved { ours: true, theirs: true };

    fn and(self, other: Moved) -> Moved {
        Moved { ours: self.ours || other.ours, theirs: self.theirs || other.theirs }
    }

    fn is_both(self) -> bool {
        self.ours && self.theirs
    }
}

/// The outermost of two.
fn outermost(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    one.into_iter().chain(other).min()
}

impl Routes {
    fn ask(&mut self, question: Question, moved: Moved) -> Option<Choice> {
        let (choice, depends) = match self.decided.get(&question) {
            Some(Decided { choice, depends }) => (choice.clone(), *depends),
            None => {
                let place = self.open.iter().position(|open| open.question == question)?;
                let moved = self.open[place + 1..].iter().fold(moved, |moved, open| moved.and(open.moved));
                (Choice::Open(moved), Some(place))
            }
        };
        if let Some(asking) = self.open.last_mut() {
            asking.depends = outermost(asking.depends, depends);
        }
        Some(choice)
    }

    fn begin(&mut self, question: Question, moved: Moved) {
        let provisional = self.provisional.len();
        self.open.push(Open { question, moved, depends: None, provisional });
    }

    /// The innermost open one is decided.
    fn end(&mut self, choice: Choice) {
        let Some(open) = self.open.pop() else { return };
        let place = self.open.len();
        // What held only under it is asked again, now that it is known.
        for (question, depends) in self.provisional.split_off(open.provisional) {
            if depends == place {
                self.decided.remove(&question);
            } else {
                self.provisional.push((question, depends));
            }
        }
        let depends = open.depends.filter(|outer| *outer < place);
        if let Some(outer) = depends {
            self.provisional.push((open.question, outer));
        }
        if let Some(asking) = self.open.last_mut() {
            asking.depends = outermost(asking.depends, depends);
        }
        self.decided.insert(open.question, Decided { choice, depends });
    }
}

/// A named type by its place, another node by where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Identity {
    Named(usize),
    At(*const Node),
}

fn identity(node: &Node) -> Identity {
    match node {
        Node::Named(place) => Identity::Named(*place),
        node => Identity::At(node),
    }
}

/// What is to be compared waits in a list instead of on the stack, because the other schema, which may be made up, decides
/// how deep it goes.
struct Matcher<'s> {
    ours: &'s Schema,
    theirs: &'s Schema,
    ops: Vec<Op>,
    /// Everything that was met, and how it was reached.
    works: Vec<Work<'s>>,
    /// Pairs of named types.
    known: HashMap<(usize, usize), OpId>,
    /// Types of theirs that are gone over.
    skipped: HashMap<usize, OpId>,
    to_skip: Vec<(usize, OpId)>,
    fit: Fit,
    routes: &'s RefCell<Routes>,
    tries: usize,
}

/// A node, and whether it is an element of a list.
type Side<'s> = (&'s Node, bool);

struct Work<'s> {
    at: Place,
    ours: Side<'s>,
    theirs: Side<'s>,
    op: OpId,
    /// The type that ours may come from.
    from: Option<&'s Node>,
    way: Way,
}

/// Where in a value.
#[derive(Clone, Default)]
struct Place {
    /// What holds it.
    within: Option<usize>,
    segment: String,
    /// How many nodes without a name lie around it.
    depth: usize,
    moved: Moved,
}

impl<'s> Matcher<'s> {
    fn new(ours: &'s Schema, theirs: &'s Schema, routes: &'s RefCell<Routes>, tries: usize) -> Self {
        let (ops, works, known) = (Vec::new(), Vec::new(), HashMap::new());
        let (skipped, to_skip) = (HashMap::new(), Vec::new());
        let fit = Fit { grade: Grade::Same, apart: 0 };
        Matcher { ours, theirs, ops, works, known, skipped, to_skip, fit, routes, tries }
    }

    /// The whole.
    fn run(mut self, ours: &'s Node, theirs: &'s Node, way: Way) -> Result<(Plan, Fit), Mismatch> {
        let (at, ours, theirs) = (Place::default(), (ours, false), (theirs, false));
        let root = match way {
            Way::Any => self.node(at, ours, theirs),
            Way::Direct => self.direct(at, ours, theirs),
            Way::Fields | Way::Inside => {
                let root = self.later(at, ours, theirs, None);
                self.works[0].way = way;
                root
            }
        };
        let mut next = 0;
        while next < self.works.len() {
            let op = self.works[next].op;
            self.ops[op] = self.compare(next)?;
            next += 1;
        }
        while let Some((theirs, op)) = self.to_skip.pop() {
            self.ops[op] = self.skip_named(theirs);
        }
        let changed = self.fit.grade != Grade::Same;
        Ok((Plan { ops: self.ops.into(), root, changed, holder: RUNNING }, self.fit))
    }

    fn put(&mut self, op: Op) -> OpId {
        self.ops.push(op);
        self.ops.len() - 1
    }

    fn later(&mut self, at: Place, ours: Side<'s>, theirs: Side<'s>, from: Option<&'s Node>) -> OpId {
        let op = self.put(Op::Pending);
        self.works.push(Work { at, ours, theirs, op, from, way: Way::Any });
        op
    }

    /// The bytes change; `grade` says what becomes of the value.
    fn changes(&mut self, grade: Grade) {
        self.fit.grade = self.fit.grade.max(grade);
    }

    /// The same, where a part of it has no counterpart.
    fn stands_apart(&mut self, grade: Grade) {
        self.changes(grade);
        self.fit.apart += 1;
    }

    /// The operation that makes ours of theirs, which is worked out later.
    fn node(&mut self, at: Place, ours: Side<'s>, theirs: Side<'s>) -> OpId {
        if let Node::Named(place) = ours.0
            && let Some(from) = &self.ours.named[*place].from
        {
            return self.later(at, ours, theirs, Some(from));
        }
        self.direct(at, ours, theirs)
    }

    /// The same, where ours does not come from an older type.
    fn direct(&mut self, at: Place, ours: Side<'s>, theirs: Side<'s>) -> OpId {
        if let (Node::Named(our_place), Node::Named(their_place)) = (ours.0, theirs.0)
            && newtype(self.ours, *our_place).is_some() == newtype(self.theirs, *their_place).is_some()
        {
            let pair = (*our_place, *their_place);
            if let Some(&op) = self.known.get(&pair) {
                return op;
            }
            let op = self.later(at, ours, theirs, None);
            self.known.insert(pair, op);
            return op;
        }
        self.later(at, ours, theirs, None)
    }

    fn compare(&mut self, work: usize) -> Result<Op, Mismatch> {
        let Work { at, ours: (ours, to_item), theirs: (theirs, from_item), from, .. } = &self.works[work];
        let (at, ours, to_item, theirs, from_item) = (at.clone(), *ours, *to_item, *theirs, *from_item);
        if at.depth > DEPTH {
            return Err(self.differ(&at, ours, theirs));
        }
        if let Some(from) = *from {
            return self.migrating(work, from);
        }
        let inside = |segment: &str| Place {
            within: Some(work),
            segment: segment.to_owned(),
            depth: at.depth + 1,
            moved: Moved::BOTH,
        };
        let only =
            |segment: &str, ours, theirs| Place { moved: at.moved.and(Moved { ours, theirs }), ..inside(segment) };
        let (inside_ours, inside_theirs) =
            (|segment: &str| only(segment, true, false), |segment: &str| only(segment, false, true));
        let named = |schema: &'s Schema, node: &Node| match node {
            Node::Named(place) => (Some(*place), newtype(schema, *place)),
            _ => (None, None),
        };
        match (named(self.ours, ours), named(self.theirs, theirs)) {
            ((Some(ours), None), (Some(theirs), None)) | ((Some(ours), Some(_)), (Some(theirs), Some(_))) => {
                return self.pair(work, ours, theirs);
            }
            ((Some(our_place), _), (Some(their_place), _)) if self.share_a_field(our_place, their_place) => {
                match self.by_fields(work, our_place, their_place) {
                    Some(true) => return self.pair_of_structs(work, our_place, their_place),
                    Some(false) => {}
                    None => return Ok(Op::Pending),
                }
            }
            _ => {}
        }
        match (named(self.ours, ours), named(self.theirs, theirs)) {
            // Not by what ours was before: that was looked at with the whole.
            (_, (_, Some(inner))) => {
                return Ok(Op::Same(self.direct(inside_theirs(""), (ours, to_item), (&inner.node, false))));
            }
            ((_, Some(inner)), _) => {
                let op = self.field(inside_ours(".0"), inner, (theirs, from_item));
                return Ok(if inner.default { Op::Tagged(PRESENT, op) } else { Op::Same(op) });
            }
            _ => {}
        }
        Ok(match (ours, theirs) {
            (Node::Leaf(to), Node::Leaf(from)) => self.leaf(&at, (*to, to_item), (*from, from_item))?,
            (Node::SelfDescribed(our), Node::SelfDescribed(their)) if self.routes.borrow().proposing => {
                if !our.is_same(their) {
                    return Err(self.differ(&at, ours, theirs));
                }
                Op::Pieces
            }
            (Node::SelfDescribed(ours), Node::SelfDescribed(theirs)) => {
                if let Err(ShapeMismatch { path, what }) = ours.check(theirs) {
                    let remedy = format!("{what}; serde's own attributes say what may change (`default`, `alias`, …)");
                    let (ours, theirs) = (format!("part of {ours}"), format!("not what that reads in {theirs}"));
                    return Err(self.mismatch(&inside(&path), ours, theirs, remedy));
                }
                Op::Pieces
            }
            (Node::Option(ours), Node::Option(theirs)) => {
                Op::Option(self.node(inside(""), (ours, false), (theirs, false)))
            }
            (Node::Option(ours), theirs) => {
                self.changes(Grade::Whole);
                Op::Some(self.node(inside_ours(""), (ours, false), (theirs, from_item)))
            }
            (ours, Node::Option(theirs)) => {
                self.changes(Grade::Whole);
                // Nor here by what ours was before: the reader looks for that once.
                Op::Unwrap(
                    self.direct(inside_theirs(""), (ours, to_item), (theirs, false)),
                    self.ours.describe(ours).into(),
                )
            }
            (Node::List(ours) | Node::Set(ours), Node::List(theirs) | Node::Set(theirs)) => {
                Op::List(self.node(inside("[]"), (ours, true), (theirs, true)))
            }
            (Node::Array(ours, our_length), Node::Array(theirs, their_length)) if our_length == their_length => {
                Op::Array(self.node(inside("[]"), (ours, true), (theirs, true)), *our_length)
            }
            (Node::Map(our_key, ours), Node::Map(their_key, theirs)) => Op::Map(
                self.node(inside("[key]"), (our_key, false), (their_key, false)),
                self.node(inside("[]"), (ours, false), (theirs, false)),
            ),
            (Node::Result(our_ok, ours), Node::Result(their_ok, theirs)) => Op::Result(
                self.node(inside(".Ok"), (our_ok, false), (their_ok, false)),
                self.node(inside(".Err"), (ours, false), (theirs, false)),
            ),
            (Node::Tuple(ours), Node::Tuple(theirs)) if ours.len() == theirs.len() => {
                let pairs = ours.iter().zip(theirs).enumerate();
                let item =
                    |(index, (ours, theirs))| self.node(inside(&format!(".{index}")), (ours, false), (theirs, false));
                Op::Tuple(pairs.map(item).collect())
            }
            _ => return Err(self.differ(&at, ours, theirs)),
        })
    }

    fn pair(&mut self, work: usize, ours: usize, theirs: usize) -> Result<Op, Mismatch> {
        let (our_schema, their_schema) = (self.ours, self.theirs);
        Ok(match (&our_schema.named[ours].shape, &their_schema.named[theirs].shape) {
            (Shape::Struct(ours), Shape::Struct(theirs)) => Op::Fields(self.fields(work, "", ours, theirs)?),
            (Shape::Enum(our_variants), Shape::Enum(their_variants)) => {
                let of = self.ours.describe(&Node::Named(ours));
                Op::Variants(Box::new(Variants { arms: self.variants(work, our_variants, their_variants)?, of }))
            }
            _ => return Err(self.differ(&self.works[work].at, &Node::Named(ours), &Node::Named(theirs))),
        })
    }

    /// Whether two structs, only one of which is a name for something else, have that in common as a field.
    fn share_a_field(&self, ours: usize, theirs: usize) -> bool {
        let shapes = (&self.ours.named[ours].shape, &self.theirs.named[theirs].shape);
        let (Shape::Struct(our_fields), Shape::Struct(their_fields)) = shapes else { return false };
        let share =
            || by_name(our_fields, their_fields, |field| (&field.name, &field.aliases)).iter().any(Option::is_some);
        *self.routes.borrow_mut().shared.entry((ours, theirs)).or_insert_with(share)
    }

    /// Whether these are two structs with a field in common rather than one inside of the other: whichever fits better,
    /// and the former where neither does. Nothing while that is being decided.
    fn by_fields(&mut self, work: usize, ours: usize, theirs: usize) -> Option<bool> {
        let Work { at, ours: our_side, theirs: their_side, way, .. } = &self.works[work];
        let (our_node, their_node, moved) = (our_side.0, their_side.0, at.moved);
        match way {
            Way::Fields => return Some(true),
            Way::Inside => return Some(false),
            Way::Any | Way::Direct => {}
        }
        let attempt = |way| self.attempt(our_node, their_node, way);
        match self.choose(Question::Newtype { ours, theirs }, moved, || attempt(Way::Fields), || attempt(Way::Inside)) {
            Choice::First | Choice::Neither(_) => Some(true),
            Choice::Open(moved) if moved.is_both() => None,
            Choice::Second | Choice::Open(_) => Some(false),
        }
    }

    fn pair_of_structs(&mut self, work: usize, ours: usize, theirs: usize) -> Result<Op, Mismatch> {
        if let Some(&op) = self.known.get(&(ours, theirs)) {
            return Ok(Op::Same(op));
        }
        self.known.insert((ours, theirs), self.works[work].op);
        self.pair(work, ours, theirs)
    }

    /// What can be made of the type `from`, too: whichever of both fits better, and itself where they fit equally.
    fn migrating(&mut self, work: usize, from: &'s Node) -> Result<Op, Mismatch> {
        let Work { at, ours, theirs, .. } = &self.works[work];
        let (at, ours, theirs) = (at.clone(), *ours, *theirs);
        // Where it is a field that knows an older type, its own type may know another.
        let of_type = match ours.0 {
            Node::Named(place) => self.ours.named[*place].from.as_ref().is_some_and(|own| std::ptr::eq(own, from)),
            _ => true,
        };
        let way = if of_type { Way::Direct } else { Way::Any };
        let question = Question::Older { ours: identity(ours.0), theirs: identity(theirs.0), from: identity(from) };
        let (direct, migrated) = (|| self.attempt(ours.0, theirs.0, way), || self.attempt(from, theirs.0, Way::Any));
        let migrate = match self.choose(question, at.moved, direct, migrated) {
            Choice::First => false,
            Choice::Second => true,
            // A type inside of itself goes the way of the whole, for which this is a match.
            Choice::Open(moved) if moved.is_both() => return Ok(Op::Pending),
            Choice::Open(_) => return Err(self.differ(&at, ours.0, theirs.0)),
            Choice::Neither(mismatches) => return Err(self.neither(&at, from, &mismatches.0, &mismatches.1)),
        };
        let inside = Place { within: Some(work), segment: String::new(), depth: at.depth + 1, moved: at.moved };
        if migrate {
            self.changes(Grade::Whole);
            return Ok(Op::Tagged(MIGRATED, self.node(inside, (from, false), theirs)));
        }
        let op = if of_type { self.direct(inside, ours, theirs) } else { self.node(inside, ours, theirs) };
        Ok(Op::Tagged(DIRECT, op))
    }

    /// Which of two ways fits better, the first where they fit equally. An attempt that meets its own question is decided
    /// by the rest of it; plans are made when everything is decided.
    fn choose(
        &self,
        question: Question,
        moved: Moved,
        first: impl FnOnce() -> Result<Fit, Mismatch>,
        second: impl FnOnce() -> Result<Fit, Mismatch>,
    ) -> Choice {
        if let Some(choice) = self.routes.borrow_mut().ask(question, moved) {
            return choice;
        }
        self.routes.borrow_mut().begin(question, moved);
        let choice = match (first(), second()) {
            (Ok(first), Ok(second)) if second < first => Choice::Second,
            (Err(_), Ok(_)) => Choice::Second,
            (Ok(_), _) => Choice::First,
            (Err(first), Err(second)) => Choice::Neither(Rc::new((first, second))),
        };
        self.routes.borrow_mut().end(choice.clone());
        choice
    }

    /// How well two types match as wholes.
    fn attempt(&self, ours: &'s Node, theirs: &'s Node, way: Way) -> Result<Fit, Mismatch> {
        if let Some(given_up) = &self.routes.borrow().given_up {
            return Err(given_up.clone());
        }
        let attempts = self.routes.borrow().attempts + 1;
        self.routes.borrow_mut().attempts = attempts;
        if self.tries >= TRIES || attempts > ATTEMPTS {
            let remedy =
                "more types that can be read in two ways lie within each other than flip follows: take `from` off \
                          those that nobody has as they were any more"
                    .to_owned();
            let (our, their) = (self.ours.describe(ours), self.theirs.describe(theirs));
            let mismatch = self.mismatch(&Place::default(), our, their, remedy);
            // Otherwise the same would be found out in each of the ways that led here.
            self.routes.borrow_mut().given_up = Some(mismatch.clone());
            return Err(mismatch);
        }
        let matcher = Matcher::new(self.ours, self.theirs, self.routes, self.tries + 1);
        matcher.run(ours, theirs, way).map(|(_, fit)| fit)
    }

    fn neither(&self, at: &Place, from: &Node, direct: &Mismatch, migrated: &Mismatch) -> Mismatch {
        let within = |mismatch: &Mismatch| mismatch.path[self.ours.name().len()..].to_owned();
        let mut at = at.clone();
        at.segment += &within(direct);
        let older = self.ours.describe(from);
        let differs = match &*within(migrated) {
            "" => String::new(),
            path => format!(", where `{}` is {} here and {} there", shortened(path), migrated.ours, migrated.theirs),
        };
        let remedy = format!("nor does it come from {older}{differs}: name in that `from` what is there");
        self.mismatch(&at, direct.ours.clone(), direct.theirs.clone(), remedy)
    }

    fn leaf(&mut self, at: &Place, to: (Leaf, bool), from: (Leaf, bool)) -> Result<Op, Mismatch> {
        if from == to || (from.0 == to.0 && !to.0.is_varied()) {
            return Ok(Op::Leaf { leaf: to.0, item: to.1 });
        }
        let both = |is: fn(Leaf) -> bool| is(from.0) && is(to.0);
        if !both(Leaf::is_integer) && !both(Leaf::is_float) {
            return Err(self.differ(at, &Node::Leaf(to.0), &Node::Leaf(from.0)));
        }
        self.changes(Grade::Whole);
        Ok(Op::Number { from, to })
    }

    fn variants(&mut self, work: usize, ours: &'s [Variant], theirs: &'s [Variant]) -> Result<Vec<Arm>, Mismatch> {
        if ours.len() != theirs.len() {
            self.changes(Grade::Whole);
        }
        let matched = by_name(ours, theirs, |variant| (&variant.name, &variant.aliases));
        if let [gone, ..] = theirs
            && matched.iter().all(Option::is_none)
        {
            // Each value would be refused, so that none need be waited for.
            return Err(self.nothing_common(work, ours, theirs, &gone.name));
        }
        let mut arms = Vec::new();
        for (number, their) in theirs.iter().enumerate() {
            let Some(to) = matched.iter().position(|matched| *matched == Some(number)) else {
                self.stands_apart(Grade::Partly);
                arms.push(Arm { name: their.name.clone(), to: None });
                continue;
            };
            if to != number {
                self.changes(Grade::Whole);
            }
            let inside = format!(".{}", ours[to].name);
            let steps = self.fields(work, &inside, &ours[to].fields, &their.fields)?;
            arms.push(Arm { name: their.name.clone(), to: Some((to as u32, steps)) });
        }
        Ok(arms)
    }

    fn fields(
        &mut self,
        work: usize,
        inside: &str,
        ours: &'s [Field],
        theirs: &'s [Field],
    ) -> Result<Vec<Step>, Mismatch> {
        let matched = by_name(ours, theirs, |field| (&field.name, &field.aliases));
        let (mut taken, mut tags) = (vec![None; theirs.len()], Vec::new());
        for (ours, found) in ours.iter().zip(&matched) {
            let at =
                Place { within: Some(work), segment: format!("{inside}.{}", ours.name), depth: 0, moved: Moved::BOTH };
            let mut tag = Vec::new();
            match found {
                Some(number) => {
                    if ours.default {
                        tag.push(PRESENT);
                    }
                    taken[*number] = Some(self.field(at, ours, (&theirs[*number].node, false)));
                }
                None if ours.default => {
                    self.stands_apart(Grade::Whole);
                    tag.push(ABSENT);
                }
                None => {
                    let unmatched = (0..theirs.len()).filter(|number| !matched.contains(&Some(*number)));
                    return Err(self.missing(&at, ours, unmatched.map(|number| &theirs[number])));
                }
            }
            tags.push(tag);
        }

        let order: Vec<usize> = matched.iter().flatten().copied().collect();
        let in_order = order.is_sorted();
        if !in_order {
            self.changes(Grade::Whole);
        }
        // Each of ours, in the order of the reader; those of theirs that come before it in the bytes and that nobody
        // wants are skipped there.
        let (mut steps, mut next) = (Vec::new(), 0);
        let mut read = |matcher: &mut Self, steps: &mut Vec<Step>, until: usize| {
            for number in next..until {
                let name = theirs[number].name.clone();
                match taken[number] {
                    Some(op) if in_order => steps.push(Step::Take(name, op)),
                    Some(op) => steps.push(Step::Hold(name, op)),
                    None => {
                        matcher.stands_apart(Grade::Partly);
                        let op = matcher.skip(&theirs[number].node, false);
                        steps.push(Step::Skip(name, op));
                    }
                }
            }
            next = next.max(until);
        };
        if !in_order {
            read(self, &mut steps, theirs.len());
        }
        let mut held = order.clone();
        held.sort_unstable();
        for (tag, matched) in tags.iter().zip(&matched) {
            if let (true, Some(number)) = (in_order, matched) {
                read(self, &mut steps, *number);
            }
            steps.extend(tag.iter().map(|byte| Step::Put(*byte)));
            match matched {
                Some(number) if in_order => read(self, &mut steps, number + 1),
                Some(number) => steps.push(Step::Emit(held.partition_point(|held| held < number))),
                None => {}
            }
        }
        read(self, &mut steps, theirs.len());
        Ok(steps)
    }

    /// What is in a field of ours, less the byte that says whether it is there.
    fn field(&mut self, at: Place, ours: &'s Field, theirs: Side<'s>) -> OpId {
        match &ours.from {
            Some(from) => self.later(at, (&ours.node, false), theirs, Some(from)),
            None => self.node(at, (&ours.node, false), theirs),
        }
    }

    /// Goes over a value of theirs and keeps nothing of it: as it is, into nowhere.
    fn skip(&mut self, theirs: &Node, item: bool) -> OpId {
        let op = match theirs {
            Node::Leaf(leaf) => Op::Leaf { leaf: *leaf, item },
            Node::SelfDescribed(_) => Op::Pieces,
            Node::Option(inner) => Op::Option(self.skip(inner, false)),
            Node::List(inner) | Node::Set(inner) => Op::List(self.skip(inner, true)),
            Node::Array(inner, length) => Op::Array(self.skip(inner, true), *length),
            Node::Map(key, value) => Op::Map(self.skip(key, false), self.skip(value, false)),
            Node::Result(ok, err) => Op::Result(self.skip(ok, false), self.skip(err, false)),
            Node::Tuple(items) => Op::Tuple(items.iter().map(|item| self.skip(item, false)).collect()),
            Node::Named(place) => {
                if let Some(&op) = self.skipped.get(place) {
                    return op;
                }
                let op = self.put(Op::Pending);
                self.skipped.insert(*place, op);
                self.to_skip.push((*place, op));
                return op;
            }
        };
        self.put(op)
    }

    fn skip_named(&mut self, theirs: usize) -> Op {
        let schema = self.theirs;
        let mut fields = |fields: &[Field]| -> Vec<Step> {
            fields.iter().map(|field| Step::Take(field.name.clone(), self.skip(&field.node, false))).collect()
        };
        match &schema.named[theirs].shape {
            Shape::Struct(list) => Op::Fields(fields(list)),
            Shape::Enum(variants) => {
                let arm = |(number, variant): (usize, &Variant)| Arm {
                    name: variant.name.clone(),
                    to: Some((number as u32, fields(&variant.fields))),
                };
                let arms = variants.iter().enumerate().map(arm).collect();
                Op::Variants(Box::new(Variants { arms, of: String::new() }))
            }
        }
    }

    fn missing(&self, at: &Place, ours: &Field, unmatched: impl Iterator<Item = &'s Field>) -> Mismatch {
        // Not within what is being decided, and of all of them no more is tried than of one.
        let routes = RefCell::new(Routes { proposing: true, ..Routes::default() });
        let could_be = |ours: &Node, theirs: &Node| {
            let plan = Matcher::new(self.ours, self.theirs, &routes, 1).run(ours, theirs, Way::Any);
            plan.ok().map(|(_, fit)| fit).filter(|_| routes.borrow().given_up.is_none())
        };
        let fit = |theirs: &Field| {
            let ways = [Some(&ours.node), ours.from.as_ref()];
            ways.into_iter().flatten().filter_map(|ours| could_be(ours, &theirs.node)).min()
        };
        // What only an attempt would say is said by nobody.
        let looked_at = if self.tries == 0 { RENAMED } else { 0 };
        let fitting = unmatched.take(looked_at).filter_map(|theirs| Some((fit(theirs)?, theirs)));
        let renamed = fitting.min_by_key(|(fit, _)| *fit).map(|(_, theirs)| &theirs.name);
        let renamed = renamed
            .map(|name| format!(", or say what it was called, `#[handoff(alias = \"{name}\")]`"))
            .unwrap_or_default();
        let remedy = format!("give it a default, `#[handoff(default)]`{renamed}");
        let ours = format!("{} without a default", self.ours.describe(&ours.node));
        self.mismatch(at, ours, "absent".to_owned(), remedy)
    }

    fn nothing_common(&self, work: usize, ours: &[Variant], theirs: &[Variant], gone: &str) -> Mismatch {
        let list = |variants: &[Variant]| {
            let mut names: Vec<_> =
                variants.iter().take(VARIANTS).map(|variant| format!("`{}`", variant.name)).collect();
            if variants.len() > VARIANTS {
                names.push("…".to_owned());
            }
            match &*names {
                [] => "without a variant".to_owned(),
                [name] => format!("always {name}"),
                names => format!("one of {}", names.join(", ")),
            }
        };
        let remedy = format!("keep one of these, or say what it is called now, `#[handoff(alias = \"{gone}\")]`");
        self.mismatch(&self.works[work].at, list(ours), list(theirs), remedy)
    }

    fn differ(&self, at: &Place, ours: &Node, theirs: &Node) -> Mismatch {
        let remedy = match (ours, theirs) {
            (Node::SelfDescribed(_), _) => {
                "let it derive `Handoff` as it does there, or convert it: \
                `#[handoff(from = \"…\", migrate = …)]`"
            }
            (_, Node::SelfDescribed(_)) => "let it travel through serde as it does there: `#[handoff(serde)]`",
            _ if self.is_in_a_field(at) => {
                "convert it: `#[handoff(from = \"…\", migrate = …)]`, or give the field a new name and a default"
            }
            _ => {
                "convert it: `#[handoff(from = \"…\", migrate = …)]`, or give the whole another name, under which it begins anew"
            }
        };
        self.mismatch(at, self.ours.describe(ours), self.theirs.describe(theirs), remedy.to_owned())
    }

    /// Whether it lies in a field that has a name, and could have another.
    fn is_in_a_field(&self, at: &Place) -> bool {
        let mut at = at;
        while let Some(work) = at.within {
            let work = &self.works[work];
            let name = at.segment.rsplit('.').next().unwrap_or_default();
            let is_name = !name.is_empty() && !name.bytes().all(|byte| byte.is_ascii_digit());
            if is_name && matches!(work.ours.0, Node::Named(_)) {
                return true;
            }
            at = &work.at;
        }
        false
    }

    fn mismatch(&self, at: &Place, ours: String, theirs: String, remedy: String) -> Mismatch {
        // The path is put together only here: along a made-up chain it may be long, but there is one of it.
        let mut segments = vec![&*at.segment];
        let mut within = at.within;
        while let Some(work) = within {
            segments.push(&self.works[work].at.segment);
            within = self.works[work].at.within;
        }
        segments.reverse();
        Mismatch { path: format!("{}{}", self.ours.name(), segments.concat()), ours, theirs, remedy }
    }
}

/// What is inside, where a type is nothing but a name for it: `struct Id(u64)`.
fn newtype(schema: &Schema, place: usize) -> Option<&Field> {
    match &schema.named[place].shape {
        Shape::Struct(fields) => match &**fields {
            [field] if field.name == "0" => Some(field),
            _ => None,
        },
        Shape::Enum(_) => None,
    }
}

/// For each of ours, the one of theirs that has its name; or one of its earlier names; or that had its name earlier,
/// where the running process is the newer program.
fn by_name<T>(ours: &[T], theirs: &[T], names: impl Fn(&T) -> (&String, &Vec<String>)) -> Vec<Option<usize>> {
    let (mut by_name, mut by_alias) = (HashMap::new(), HashMap::new());
    for (number, theirs) in theirs.iter().enumerate() {
        let (name, aliases) = names(theirs);
        by_name.entry(name).or_insert(number);
        aliases.iter().for_each(|alias| {
            by_alias.entry(alias).or_insert(number);
        });
    }
    let mut taken = vec![false; theirs.len()];
    let mut matched: Vec<Option<usize>> = vec![None; ours.len()];
    for way in 0..3 {
        for (matched, ours) in matched.iter_mut().zip(ours).filter(|(matched, _)| matched.is_none()) {
            let (name, aliases) = names(ours);
            let found = match way {
                0 => by_name.get(name),
                1 => aliases.iter().find_map(|alias| by_name.get(alias)),
                _ => by_alias.get(name),
            };
            *matched = found.copied().filter(|number| !taken[*number]);
            if let Some(number) = matched {
                taken[*number] = true;
            }
        }
    }
    matched
}
