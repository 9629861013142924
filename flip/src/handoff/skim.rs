//! Where an element ends, without a value being made of it: what lets whole elements be cut off for another reader.
//!
//! What it says is never relied on: who reads what was cut off must come to its end exactly, or it is read again in place.

use super::{
    codec::{self, NotRead},
    matching::{Arm, Op, OpId, Plan, Step},
    schema::Leaf,
};

/// How deep it follows values that lie in each other. Beyond that they are read in place.
const DEPTH: usize = 512;
/// How many operations there may be before the first byte, and for each.
const OPERATIONS: usize = 1024;

/// What a collection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Item(OpId),
    Pair(OpId, OpId),
}

/// Why no end was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes end first.
    Short,
    /// Only reading it will show: it has descriptors, or nothing at all in it, or makes no sense.
    Unclear,
}

/// Goes over bytes that the old process wrote.
pub(super) struct Skim<'a> {
    plan: &'a Plan,
    bytes: &'a [u8],
    at: usize,
    operations: usize,
}

impl<'a> Skim<'a> {
    pub(super) fn new(plan: &'a Plan, bytes: &'a [u8]) -> Self {
        Skim { plan, bytes, at: 0, operations: bytes.len().saturating_add(OPERATIONS).saturating_mul(4) }
    }

    /// Goes over one element.
    ///
    /// # Errors
    /// Where it does not end here, so that this has not moved.
    pub(super) fn element(&mut self, element: Element) -> Result<(), Stop> {
        let before = self.at;
        let ended = self.one(element, DEPTH);
        if ended.is_err() {
            self.at = before;
        }
        ended
    }

    /// Where it is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// One that takes no bytes is counted by who reads it.
    fn one(&mut self, element: Element, depth: usize) -> Result<(), Stop> {
        let before = self.at;
        match element {
            Element::Item(op) => self.part(op, depth)?,
            Element::Pair(key, value) => {
                self.part(key, depth)?;
                self.part(value, depth)?;
            }
        }
        if self.at == before { Err(Stop::Unclear) } else { Ok(()) }
    }

    /// Leaves are gone over without a turn of what follows.
    #[inline(always)]
    fn part(&mut self, op: OpId, depth: usize) -> Result<(), Stop> {
        match &self.plan.ops[op] {
            Op::Leaf { leaf, item } => self.leaf(*leaf, *item),
            _ => self.op(op, depth),
        }
    }

    fn op(&mut self, op: OpId, depth: usize) -> Result<(), Stop> {
        self.operations = self.operations.checked_sub(1).ok_or(Stop::Unclear)?;
        let depth = depth.checked_sub(1).ok_or(Stop::Unclear)?;
        match &self.plan.ops[op] {
            Op::Leaf { leaf, item } | Op::Number { from: (leaf, item), .. } => self.leaf(*leaf, *item),
            Op::Pieces => self.pieces(),
            Op::Option(inner) | Op::Unwrap(inner, _) => {
                if self.flag()? {
                    self.part(*inner, depth)
                } else {
                    Ok(())
                }
            }
            Op::Some(inner) | Op::Tagged(_, inner) | Op::Same(inner) => self.part(*inner, depth),
            Op::List(item) => {
                let length = self.number()?;
                self.elements(Element::Item(*item), length, depth)
            }
            Op::Array(item, length) => self.elements(Element::Item(*item), *length, depth),
            Op::Map(key, value) => {
                let length = self.number()?;
                self.elements(Element::Pair(*key, *value), length, depth)
            }
            Op::Result(ok, err) => {
                let inner = if self.flag()? { ok } else { err };
                self.part(*inner, depth)
            }
            Op::Tuple(ops) => ops.iter().try_for_each(|op| self.part(*op, depth)),
            Op::Fields(steps) => self.fields(steps, depth),
            Op::Variants(variants) => {
                let number = usize::try_from(self.number()?).unwrap_or(usize::MAX);
                match variants.arms.get(number) {
                    Some(Arm { to: Some((_, steps)), .. }) => self.fields(steps, depth),
                    // It is an error, which has more to say than this.
                    _ => Err(Stop::Unclear),
                }
            }
            Op::Pending => Err(Stop::Unclear),
        }
    }

    fn fields(&mut self, steps: &[Step], depth: usize) -> Result<(), Stop> {
        steps.iter().try_for_each(|step| match step {
            Step::Take(_, op) | Step::Skip(_, op) | Step::Hold(_, op) => self.part(*op, depth),
            Step::Put(_) | Step::Emit(_) => Ok(()),
        })
    }

    fn elements(&mut self, element: Element, length: u64, depth: usize) -> Result<(), Stop> {
        if let Element::Item(op) = element
            && let Op::Leaf { leaf, item: true } | Op::Number { from: (leaf, true), .. } = &self.plan.ops[op]
            && let Some(width) = leaf.width()
        {
            return self.pass(width.checked_mul(length).ok_or(Stop::Unclear)?);
        }
        (0..length).try_for_each(|_| self.one(element, depth))
    }

    /// What serde wrote.
    fn pieces(&mut self) -> Result<(), Stop> {
        loop {
            let header = self.number()?;
            self.pass(header >> 1)?;
            if header & 1 == 0 {
                return Ok(());
            }
        }
    }

    #[inline]
    fn leaf(&mut self, leaf: Leaf, item: bool) -> Result<(), Stop> {
        if item && let Some(width) = leaf.width() {
            return self.pass(width);
        }
        match leaf {
            Leaf::Bool | Leaf::U8 | Leaf::I8 | Leaf::Ordering => self.pass(1),
            Leaf::F32 | Leaf::Ipv4Addr => self.pass(4),
            Leaf::F64 => self.pass(8),
            Leaf::Ipv6Addr => self.pass(16),
            Leaf::U16 | Leaf::U32 | Leaf::U64 | Leaf::U128 | Leaf::Instant | Leaf::SystemTime => self.numbers(1),
            Leaf::I16 | Leaf::I32 | Leaf::I64 | Leaf::I128 => self.numbers(1),
            Leaf::Char => self.char(),
            Leaf::Text | Leaf::OsText | Leaf::CText => {
                let length = self.number()?;
                self.pass(length)
            }
            Leaf::Duration => self.numbers(2),
            Leaf::IpAddr => match self.byte()? {
                4 => self.pass(4),
                6 => self.pass(16),
                _ => Err(Stop::Unclear),
            },
            Leaf::SocketAddrV4 => self.socket(4),
            Leaf::SocketAddrV6 => self.socket(6),
            Leaf::SocketAddr => {
                let version = self.byte()?;
                self.socket(version)
            }
            Leaf::Region
            | Leaf::Descriptor
            | Leaf::File
            | Leaf::TcpStream
            | Leaf::TcpListener
            | Leaf::UdpSocket
            | Leaf::UnixStream
            | Leaf::UnixListener
            | Leaf::UnixDatagram => Err(Stop::Unclear),
        }
    }

    fn socket(&mut self, version: u8) -> Result<(), Stop> {
        match version {
            4 => {
                self.pass(4)?;
                self.numbers(1)
            }
            6 => {
                self.pass(16)?;
                self.numbers(3)
            }
            _ => Err(Stop::Unclear),
        }
    }

    #[inline]
    fn pass(&mut self, count: u64) -> Result<(), Stop> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= left => {
                self.at += count;
                Ok(())
            }
            _ => Err(Stop::Short),
        }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn flag(&mut self) -> Result<bool, Stop> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Stop::Unclear),
        }
    }

    /// Goes over so many of bincode's integers.
    #[inline]
    fn numbers(&mut self, count: usize) -> Result<(), Stop> {
        (0..count).try_for_each(|_| match self.byte()? {
            0..=250 => Ok(()),
            251 => self.pass(2),
            252 => self.pass(4),
            253 => self.pass(8),
            254 => self.pass(16),
            255 => Err(Stop::Unclear),
        })
    }

    /// One that says how many there are, or which.
    #[inline]
    fn number(&mut self) -> Result<u64, Stop> {
        match codec::take::<u64>(&self.bytes[self.at..]) {
            Ok((number, used)) => {
                self.at += used;
                Ok(number)
            }
            Err(NotRead::Short) => Err(Stop::Short),
            Err(NotRead::Malformed(_)) => Err(Stop::Unclear),
        }
    }

    /// Which its first byte tells, RFC 3629.
    fn char(&mut self) -> Result<(), Stop> {
        let more = match self.byte()? {
            0..=0x7f => 0,
            0xc0..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf7 => 3,
            _ => return Err(Stop::Unclear),
        };
        self.pass(more)
    }
}
