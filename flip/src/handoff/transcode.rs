//! Carries out a [`Plan`]: bytes of the old process's schema in, bytes of this one's out, chunk by chunk.
//!
//! It works through the plan with a stack of its own, so that it can stop wherever the input ends for now and go on from
//! there, and so that no input makes it recurse.

use std::{
    collections::VecDeque,
    fmt::{self, Display},
    io, mem,
    os::fd::OwnedFd,
    sync::Arc,
};

use super::{
    RestoreError, Restorer, Source,
    matching::{Arm, Op, OpId, Plan, Step},
    room::Room,
    schema::Leaf,
    spread::{MANY, Stretch},
    stream::CHUNK,
};
use crate::live::Hold;
use crate::relay::Post;

/// How many operations are carried out before the first byte, and for each byte. In a made-up schema nothing may lie in nothing,
/// twice at each step, until nobody sees the end of it.
const OPERATIONS: u64 = 1024 * 1024;
const OPERATIONS_A_BYTE: u64 = 1024;

/// The bytes of the old process as those that this one's types read.
pub(crate) struct Transcoder<'i, 'p> {
    input: Restorer<'i>,
    plan: &'p Plan,
    stack: Vec<Frame<'p>>,
    out: Output,
    /// What is put together of fields whose turn has not come, the innermost last.
    held: Vec<Output>,
    /// How many fields that nobody wants this is inside of.
    skipping: usize,
    operations: u64,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Output {
    /// Nobody takes it any more.
    fn give_nothing(&self) -> Result<(), RestoreError> {
        match (self.bytes.len(), self.fds.len()) {
            (0, 0) => Ok(()),
            (bytes, fds) => Err(RestoreError::new(format!("{bytes} bytes and {fds} descriptors are left over"))),
        }
    }
}

/// What a collection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Item(OpId),
    Pair(OpId, OpId),
}

enum Frame<'p> {
    Op(OpId),
    Fields {
        steps: &'p [Step],
        at: usize,
        held: Vec<Output>,
    },
    /// `began` is where the last element did: those without bytes are counted.
    Items {
        op: OpId,
        left: u64,
        index: u64,
        began: u64,
    },
    Pairs {
        key: OpId,
        value: OpId,
        left: u64,
        index: u64,
        began: u64,
    },
    Tuple {
        ops: &'p [OpId],
        at: usize,
    },
    Bytes(u64),
    /// Pieces of a value that serde wrote; the next has its header in front.
    Pieces,
    EndOfSkipped,
    EndOfHeld,
}

impl<'i, 'p> Transcoder<'i, 'p> {
    /// `input` gives what the old process wrote.
    pub(crate) fn new(input: Restorer<'i>, plan: &'p Plan) -> Self {
        let stack = vec![Frame::Op(plan.root)];
        Transcoder { input, plan, stack, out: Output::default(), held: Vec::new(), skipping: 0, operations: 0 }
    }

    /// `input` gives so many elements of one collection.
    pub(super) fn of_stretch(input: Restorer<'i>, plan: &'p Plan, element: Element, count: usize) -> Self {
        let (left, index, began) = (count as u64, 0, 0);
        let frame = match element {
            Element::Item(op) => Frame::Items { op, left, index, began },
            Element::Pair(key, value) => Frame::Pairs { key, value, left, index, began },
        };
        Transcoder { stack: vec![frame], ..Self::new(input, plan) }
    }

    /// Goes over elements that `input` has, and makes nothing of them.
    pub(super) fn over(input: Restorer<'i>, plan: &'p Plan) -> Self {
        Transcoder { stack: Vec::new(), skipping: 1, ..Self::new(input, plan) }
    }

    /// Goes over the next one, and says where it ends in what `input` had. None where only a reader can tell: not all of it is there,
    /// it has descriptors or elements without bytes, or it makes no sense; then nothing more can be gone over.
    pub(super) fn element(&mut self, element: Element) -> Option<usize> {
        match element {
            Element::Item(op) => self.stack.push(Frame::Op(op)),
            Element::Pair(key, value) => self.stack.extend([Frame::Op(value), Frame::Op(key)]),
        }
        self.run().ok()?;
        // Those without bytes are counted together, over the whole of what is read.
        let at = usize::try_from(self.input.consumed()).ok()?;
        (!self.input.has_empty_elements()).then_some(at)
    }

    pub(super) fn into_input(self) -> Restorer<'i> {
        self.input
    }

    /// Goes over what comes last and nobody reads.
    pub(super) fn run_out(&mut self) -> Result<(), RestoreError> {
        while !self.stack.is_empty() {
            self.run().map_err(|error| self.locate(error).whole())?;
            self.out.give_nothing()?;
        }
        Ok(())
    }

    /// Nothing may be left but what is gone over: it can come last, when the reader has all it asked for.
    pub(crate) fn finish(mut self) -> Result<(), RestoreError> {
        self.run_out()?;
        self.input.finish()
    }

    fn run(&mut self) -> Result<(), RestoreError> {
        // Where several threads may read, it goes on for as much again to where elements can be cut off for them.
        let stretch = self.input.stretch().map(|stretch| stretch as usize);
        let enough = self.out.bytes.len() + stretch.unwrap_or(CHUNK);
        let most = enough + stretch.unwrap_or(0);
        // What is held must come out whole, however much it is.
        while self.out.bytes.len() < most || !self.held.is_empty() {
            if self.out.bytes.len() >= enough && self.is_before_many() {
                return Ok(());
            }
            let Some(frame) = self.stack.pop() else { return Ok(()) };
            self.operations += 1;
            if self.operations > OPERATIONS.saturating_add(self.input.consumed().saturating_mul(OPERATIONS_A_BYTE)) {
                return Err(RestoreError::new("more parts without bytes are claimed than flip takes"));
            }
            self.advance(frame)?;
        }
        Ok(())
    }

    /// Many elements come now, and are wanted, of a collection that is not in a small element of another with many: where elements
    /// are cut off for others, it can only be here.
    fn is_before_many(&self) -> bool {
        let many = |frame: &Frame<'_>| match frame {
            Frame::Items { left, began, .. } | Frame::Pairs { left, began, .. } if *left >= MANY as u64 => Some(*began),
            _ => None,
        };
        let small = self.input.stretch().unwrap_or(0) / 4;
        let is_in_small = |frame| many(frame).is_some_and(|began| self.input.consumed() - began <= small);
        let Some((innermost, others)) = self.stack.split_last() else { return false };
        let is_wanted = self.held.is_empty() && self.skipping == 0;
        is_wanted && many(innermost).is_some() && !others.iter().any(is_in_small)
    }

    fn advance(&mut self, frame: Frame<'p>) -> Result<(), RestoreError> {
        match frame {
            Frame::Op(op) => self.begin(op),
            Frame::Fields { steps, mut at, held } => {
                // Leaves are done here and now, without a turn of the loop above.
                while let Some(step) = steps.get(at) {
                    at += 1;
                    match step {
                        Step::Put(byte) => self.put(&[*byte]),
                        Step::Take(_, op) => {
                            if let Op::Leaf { leaf, item } = &self.plan.ops[*op] {
                                if let Some(bytes) =
                                    self.leaf(*leaf, *item).map_err(|error| error.in_field(name_of(step)))?
                                {
                                    self.stack.push(Frame::Fields { steps, at, held });
                                    self.stack.push(Frame::Bytes(bytes));
                                    return Ok(());
                                }
                            } else {
                                self.stack.push(Frame::Fields { steps, at, held });
                                return self.begin(*op);
                            }
                        }
                        Step::Skip(_, op) => {
                            self.skipping += 1;
                            self.stack.extend([Frame::Fields { steps, at, held }, Frame::EndOfSkipped, Frame::Op(*op)]);
                            return Ok(());
                        }
                        Step::Hold(_, op) => {
                            self.held.push(Output::default());
                            self.stack.extend([Frame::Fields { steps, at, held }, Frame::EndOfHeld, Frame::Op(*op)]);
                            return Ok(());
                        }
                        Step::Emit(number) => {
                            let mut held = held;
                            let mut field = mem::take(&mut held[*number]);
                            let out = self.held.last_mut().unwrap_or(&mut self.out);
                            out.bytes.append(&mut field.bytes);
                            out.fds.append(&mut field.fds);
                            self.stack.push(Frame::Fields { steps, at, held });
                            return Ok(());
                        }
                    }
                }
                self.input.leave();
                Ok(())
            }
            Frame::Items { op, left, index, began } => {
                if index > 0 {
                    self.input.element_since(began)?;
                }
                if left > 0 {
                    let began = self.input.consumed();
                    self.stack.push(Frame::Items { op, left: left - 1, index: index + 1, began });
                    self.begin(op)?;
                }
                Ok(())
            }
            Frame::Pairs { key, value, left, index, began } => {
                if index > 0 {
                    self.input.element_since(began)?;
                }
                if left > 0 {
                    let began = self.input.consumed();
                    self.stack.push(Frame::Pairs { key, value, left: left - 1, index: index + 1, began });
                    self.stack.push(Frame::Op(value));
                    self.begin(key)?;
                }
                Ok(())
            }
            Frame::Tuple { ops, at } => {
                if let Some(op) = ops.get(at) {
                    self.stack.push(Frame::Tuple { ops, at: at + 1 });
                    self.begin(*op)?;
                }
                Ok(())
            }
            Frame::Bytes(left) => {
                let part = self.some_bytes(left)?;
                if part < left {
                    self.stack.push(Frame::Bytes(left - part));
                }
                Ok(())
            }
            Frame::Pieces => {
                let header: u64 = self.copy_scalar()?;
                if header & 1 == 1 {
                    self.stack.push(Frame::Pieces);
                }
                self.stack.push(Frame::Bytes(header >> 1));
                Ok(())
            }
            Frame::EndOfSkipped => {
                self.skipping -= 1;
                Ok(())
            }
            Frame::EndOfHeld => {
                let output = self.held.pop().expect("it was pushed when the field began");
                if let Some(Frame::Fields { held, .. }) = self.stack.last_mut() {
                    held.push(output);
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, op: OpId) -> Result<(), RestoreError> {
        let plan = self.plan;
        match &plan.ops[op] {
            Op::Leaf { leaf, item } => {
                if let Some(bytes) = self.leaf(*leaf, *item)? {
                    self.stack.push(Frame::Bytes(bytes));
                }
            }
            Op::Number { from, to } => self.number(*from, *to)?,
            Op::Pieces => self.stack.push(Frame::Pieces),
            Op::Option(inner) => {
                if self.copy_scalar::<bool>()? {
                    self.stack.push(Frame::Op(*inner));
                }
            }
            Op::Some(inner) => {
                self.put_scalar(true)?;
                self.stack.push(Frame::Op(*inner));
            }
            Op::Unwrap(inner, needed) => {
                if !self.input.scalar::<bool>()? {
                    let holder = self.plan.holder;
                    return Err(RestoreError::new(format!(
                        "it is none in {holder}, where it is optional, and {needed} here: keep it an `Option`, or convert the field, from the type that it had: `#[handoff(from = \"…\", migrate = …)]`"
                    )));
                }
                self.stack.push(Frame::Op(*inner));
            }
            Op::List(item) => {
                let length: u64 = self.copy_scalar()?;
                self.items(*item, length)?;
            }
            Op::Array(item, length) => self.items(*item, *length)?,
            Op::Map(key, value) => {
                let left = self.copy_scalar()?;
                self.stack.push(Frame::Pairs { key: *key, value: *value, left, index: 0, began: 0 });
            }
            Op::Result(ok, err) => {
                let inner = if self.copy_scalar::<bool>()? { ok } else { err };
                self.stack.push(Frame::Op(*inner));
            }
            Op::Tuple(ops) => self.stack.push(Frame::Tuple { ops, at: 0 }),
            Op::Fields(steps) => {
                self.input.enter()?;
                self.stack.push(Frame::Fields { steps, at: 0, held: Vec::new() });
            }
            Op::Variants(variants) => {
                self.input.enter()?;
                let number = self.input.variant()?;
                let steps = match variants.arms.get(number as usize) {
                    Some(Arm { to: Some((to, steps)), .. }) => {
                        self.put_scalar(*to)?;
                        steps
                    }
                    Some(Arm { name, to: None }) => {
                        let holder = self.plan.holder;
                        return Err(RestoreError::new(format!(
                            "it is `{name}` in {holder}, a variant that {} does not have here: keep it, or say what it is called now, `#[handoff(alias = \"{name}\")]`",
                            variants.of
                        )));
                    }
                    None => return Err(RestoreError::new(format!("there is no variant {number}"))),
                };
                self.stack.push(Frame::Fields { steps, at: 0, held: Vec::new() });
            }
            Op::Tagged(tag, inner) => {
                self.put(&[*tag]);
                self.stack.push(Frame::Op(*inner));
            }
            Op::Same(inner) => self.stack.push(Frame::Op(*inner)),
            Op::Pending => unreachable!("the matcher fills in every operation"),
        }
        Ok(())
    }

    /// Elements of one width go as one piece.
    fn items(&mut self, op: OpId, length: u64) -> Result<(), RestoreError> {
        match &self.plan.ops[op] {
            Op::Leaf { leaf, item: true } if leaf.width().is_some() => {
                let bytes = leaf.width().and_then(|width| width.checked_mul(length));
                let bytes = bytes.ok_or_else(|| RestoreError::new(format!("a length of {length} is impossible")))?;
                self.stack.push(Frame::Bytes(bytes));
            }
            _ => self.stack.push(Frame::Items { op, left: length, index: 0, began: 0 }),
        }
        Ok(())
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.skipping == 0 {
            self.held.last_mut().unwrap_or(&mut self.out).bytes.extend_from_slice(bytes);
        }
    }

    #[inline]
    fn put_scalar<T: super::codec::Scalar>(&mut self, value: T) -> Result<(), RestoreError> {
        if self.skipping > 0 {
            return Ok(());
        }
        let out = self.held.last_mut().unwrap_or(&mut self.out);
        super::codec::put(value, &mut out.bytes).map_err(RestoreError::new)
    }

    #[inline]
    fn copy_scalar<T: super::codec::Scalar>(&mut self) -> Result<T, RestoreError> {
        let value = self.input.scalar::<T>()?;
        self.put_scalar(value)?;
        Ok(value)
    }

    fn copy<const SIZE: usize>(&mut self) -> Result<(), RestoreError> {
        let bytes = self.input.exact::<SIZE>()?;
        self.put(&bytes);
        Ok(())
    }

    /// As many of the next `left` bytes as are there; at least one.
    fn some_bytes(&mut self, left: u64) -> Result<u64, RestoreError> {
        if left == 0 {
            return Ok(0);
        }
        let (skipping, out) = (self.skipping > 0, self.held.last_mut().unwrap_or(&mut self.out));
        self.input.part(usize::try_from(left).unwrap_or(usize::MAX), |bytes| {
            if !skipping {
                out.bytes.extend_from_slice(bytes);
            }
        })
    }

    fn descriptor(&mut self) -> Result<(), RestoreError> {
        let descriptor = self.input.descriptor()?;
        if self.skipping == 0 {
            self.held.last_mut().unwrap_or(&mut self.out).fds.push_back(descriptor);
        }
        Ok(())
    }

    /// A leaf as it is; or how many bytes of it are still to be copied.
    #[inline]
    fn leaf(&mut self, leaf: Leaf, item: bool) -> Result<Option<u64>, RestoreError> {
        match (leaf, item) {
            (Leaf::U8 | Leaf::I8, _) => self.copy::<1>()?,
            (Leaf::U16 | Leaf::I16, true) => self.copy::<2>()?,
            (Leaf::U32 | Leaf::I32, true) | (Leaf::F32 | Leaf::Ipv4Addr, _) => self.copy::<4>()?,
            (Leaf::U64 | Leaf::I64, true) | (Leaf::F64, _) => self.copy::<8>()?,
            (Leaf::U128 | Leaf::I128, true) | (Leaf::Ipv6Addr, _) => self.copy::<16>()?,
            (Leaf::U16, _) => drop(self.copy_scalar::<u16>()?),
            (Leaf::U32, _) => drop(self.copy_scalar::<u32>()?),
            (Leaf::U64, _) => drop(self.copy_scalar::<u64>()?),
            (Leaf::U128, _) => drop(self.copy_scalar::<u128>()?),
            (Leaf::I16, _) => drop(self.copy_scalar::<i16>()?),
            (Leaf::I32, _) => drop(self.copy_scalar::<i32>()?),
            (Leaf::I64, _) => drop(self.copy_scalar::<i64>()?),
            (Leaf::I128 | Leaf::Instant | Leaf::SystemTime, _) => drop(self.copy_scalar::<i128>()?),
            (Leaf::Bool, _) => drop(self.copy_scalar::<bool>()?),
            (Leaf::Char, _) => drop(self.copy_scalar::<char>()?),
            (Leaf::Ordering, _) => drop(self.copy_scalar::<i8>()?),
            (Leaf::Text | Leaf::OsText | Leaf::CText, _) => {
                let length: u64 = self.copy_scalar()?;
                // As a rule it is there.
                let part = self.some_bytes(length)?;
                return Ok((part < length).then(|| length - part));
            }
            (Leaf::Duration, _) => {
                self.copy_scalar::<u64>()?;
                self.copy_scalar::<u32>()?;
            }
            (Leaf::IpAddr, _) => match self.copy_scalar::<u8>()? {
                4 => self.copy::<4>()?,
                6 => self.copy::<16>()?,
                other => return Err(RestoreError::new(format!("there is no IP version {other}"))),
            },
            (Leaf::SocketAddrV4, _) => self.socket_v4()?,
            (Leaf::SocketAddrV6, _) => self.socket_v6()?,
            (Leaf::SocketAddr, _) => match self.copy_scalar::<u8>()? {
                4 => self.socket_v4()?,
                6 => self.socket_v6()?,
                other => return Err(RestoreError::new(format!("there is no IP version {other}"))),
            },
            (Leaf::Region, _) => {
                self.copy_scalar::<u64>()?;
                if self.copy_scalar::<bool>()? {
                    self.descriptor()?;
                }
            }
            (
                Leaf::Descriptor
                | Leaf::File
                | Leaf::TcpStream
                | Leaf::TcpListener
                | Leaf::UdpSocket
                | Leaf::UnixStream
                | Leaf::UnixListener
                | Leaf::UnixDatagram,
                _,
            ) => self.descriptor()?,
        }
        Ok(None)
    }

    fn socket_v4(&mut self) -> Result<(), RestoreError> {
        self.copy::<4>()?;
        self.copy_scalar::<u16>()?;
        Ok(())
    }

    fn socket_v6(&mut self) -> Result<(), RestoreError> {
        self.copy::<16>()?;
        self.copy_scalar::<u16>()?;
        self.copy_scalar::<u32>()?;
        self.copy_scalar::<u32>()?;
        Ok(())
    }

    fn number(&mut self, from: (Leaf, bool), to: (Leaf, bool)) -> Result<(), RestoreError> {
        if from.0.is_float() {
            return self.float(from.0);
        }
        let value = self.integer(from)?;
        self.put_integer(value, to).ok_or_else(|| self.does_not_fit(&value, from.0, to.0))?
    }

    fn does_not_fit(&self, value: &dyn Display, from: Leaf, to: Leaf) -> RestoreError {
        let (holder, from, to) = (self.plan.holder, from.text(), to.text());
        RestoreError::new(format!(
            "{value}, {from} in {holder}, does not fit into {to} here: keep {from}, or convert the field, from the type that it had: `#[handoff(from = \"…\", migrate = …)]`"
        ))
    }

    fn float(&mut self, from: Leaf) -> Result<(), RestoreError> {
        if from == Leaf::F32 {
            let value = f32::from_le_bytes(self.input.exact()?);
            self.put(&f64::from(value).to_le_bytes());
            return Ok(());
        }
        let value = f64::from_le_bytes(self.input.exact()?);
        let short = value as f32;
        if f64::from(short) != value && !value.is_nan() {
            return Err(self.does_not_fit(&value, from, Leaf::F32));
        }
        self.put(&short.to_le_bytes());
        Ok(())
    }

    fn integer(&mut self, (leaf, item): (Leaf, bool)) -> Result<Integer, RestoreError> {
        macro_rules! integers {
            ($($leaf:ident $ty:ident)*) => {
                match (leaf, item) {
                    $(
                        (Leaf::$leaf, true) => Integer::from($ty::from_le_bytes(self.input.exact()?)),
                        (Leaf::$leaf, false) => Integer::from(self.input.scalar::<$ty>()?),
                    )*
                    _ => unreachable!("only numbers are matched with numbers"),
                }
            };
        }
        Ok(integers!(U8 u8 U16 u16 U32 u32 U64 u64 U128 u128 I8 i8 I16 i16 I32 i32 I64 i64 I128 i128))
    }

    /// Nothing where the value does not fit.
    fn put_integer(&mut self, value: Integer, (leaf, item): (Leaf, bool)) -> Option<Result<(), RestoreError>> {
        macro_rules! integers {
            ($($leaf:ident $ty:ident)*) => {
                match (leaf, item) {
                    $(
                        (Leaf::$leaf, true) => {
                            self.put(&value.fit::<$ty>()?.to_le_bytes());
                            Ok(())
                        }
                        (Leaf::$leaf, false) => self.put_scalar(value.fit::<$ty>()?),
                    )*
                    _ => unreachable!("only numbers are matched with numbers"),
                }
            };
        }
        Some(integers!(U8 u8 U16 u16 U32 u32 U64 u64 U128 u128 I8 i8 I16 i16 I32 i32 I64 i64 I128 i128))
    }

    /// So many elements of the innermost collection have gone another way, or come back.
    fn moved(&mut self, count: i64) {
        if let Some(Frame::Items { left, index, began, .. } | Frame::Pairs { left, index, began, .. }) =
            self.stack.last_mut()
        {
            *left = left.wrapping_add_signed(-count);
            *index = index.wrapping_add_signed(count);
            // Each of them took some bytes.
            *began = self.input.consumed().wrapping_sub(1);
        }
    }

    /// Where in the old process's value this is.
    fn locate(&self, mut error: RestoreError) -> RestoreError {
        for frame in self.stack.iter().rev() {
            error = match frame {
                Frame::Fields { steps, at, .. } => error.in_field(name_of(&steps[at.saturating_sub(1)])),
                Frame::Items { index, .. } | Frame::Pairs { index, .. } => {
                    error.at(usize::try_from(index.saturating_sub(1)).unwrap_or(usize::MAX))
                }
                Frame::Tuple { at, .. } => error.in_field(&at.saturating_sub(1).to_string()),
                _ => error,
            };
        }
        error
    }
}

fn name_of(step: &Step) -> &str {
    match step {
        Step::Take(name, _) | Step::Skip(name, _) | Step::Hold(name, _) => name,
        Step::Put(_) | Step::Emit(_) => "",
    }
}

/// A whole number of any of the types.
#[derive(Clone, Copy)]
enum Integer {
    Plain(i128),
    /// Beyond what fits there.
    Large(u128),
}

impl Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integer::Plain(value) => value.fmt(f),
            Integer::Large(value) => value.fmt(f),
        }
    }
}

impl From<u128> for Integer {
    fn from(value: u128) -> Self {
        i128::try_from(value).map_or(Integer::Large(value), Integer::Plain)
    }
}

macro_rules! plain {
    ($($ty:ident)*) => { $(
        impl From<$ty> for Integer {
            fn from(value: $ty) -> Self {
                Integer::Plain(value.into())
            }
        }
    )* };
}

plain!(u8 u16 u32 u64 i8 i16 i32 i64 i128);

impl Integer {
    fn fit<T: TryFrom<i128> + TryFrom<u128>>(self) -> Option<T> {
        match self {
            Integer::Plain(value) => T::try_from(value).ok(),
            Integer::Large(value) => T::try_from(value).ok(),
        }
    }
}

impl Source for Transcoder<'_, '_> {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let before = bytes.len();
        mem::swap(bytes, &mut self.out.bytes);
        mem::swap(fds, &mut self.out.fds);
        let ran = self.run();
        mem::swap(bytes, &mut self.out.bytes);
        mem::swap(fds, &mut self.out.fds);
        // The path is that of the old process's value; the reader's own has not come as far.
        ran.map_err(|error| io::Error::other(self.locate(error).whole()))?;
        Ok(bytes.len() - before)
    }

    fn cut(&mut self, left: usize, spare: Vec<u8>) -> Option<Stretch> {
        let element = match self.stack.last()? {
            Frame::Items { op, left: there, .. } if *there == left as u64 => Element::Item(*op),
            Frame::Pairs { key, value, left: there, .. } if *there == left as u64 => Element::Pair(*key, *value),
            _ => return None,
        };
        if !self.is_before_many() {
            return None;
        }
        let stretch = self.input.cut(self.plan, element, left, spare)?;
        self.moved(stretch.count as i64);
        Some(Stretch { plan: Some((self.plan.clone(), element)), ..stretch })
    }

    fn put_back(&mut self, bytes: &[u8], count: usize) {
        self.input.put_back(bytes, count);
        self.moved(-(count as i64));
    }

    fn room(&mut self, size: usize, align: usize) -> Option<Room> {
        self.input.source_room(size, align)
    }

    fn hold(&self) -> Option<&Arc<Hold>> {
        self.input.hold()
    }

    fn post(&self) -> Option<&Arc<Post>> {
        self.input.post()
    }
}
