//! An item as it lies in a mailbox and travels: bytes, descriptors, and what they are made of.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::Post;
use crate::handoff::{self, Handoff, Limits, Plan, Restorer, SaveError, Saver, Schema, Sink, Source, codec};
use crate::protocol::{Item, MESSAGE};

/// The most descriptors in one item, and in one message of several.
pub(crate) const DESCRIPTORS: usize = 64;

/// The most bytes in one item. What is around it, in a message of its own or in a section of the content, is less than the rest of
/// a message's most.
pub(super) const BYTES: usize = MESSAGE - 1024 * 1024;

/// How many bytes of items go in one section of the content, where there are several.
const PART: usize = 1024 * 1024;

pub(crate) struct Parcel {
    pub(super) origin: Arc<Origin>,
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// What the items of one process are made of, and how they become this one's.
pub(crate) struct Origin {
    schema: Vec<u8>,
    plan: OnceLock<Result<Plan, String>>,
}

impl Origin {
    pub(crate) fn new(schema: Vec<u8>) -> Arc<Origin> {
        Arc::new(Origin { schema, plan: OnceLock::new() })
    }

    fn plan(&self, ours: &Schema) -> Result<&Plan, String> {
        let plan = self.plan.get_or_init(|| {
            let theirs = Schema::decode(&self.schema).map_err(|error| error.to_string())?;
            ours.plan(&theirs).map_err(|mismatch| mismatch.to_string())
        });
        plan.as_ref().map_err(Clone::clone)
    }
}

/// Takes what a value is written as.
#[derive(Default)]
struct Wrapping {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Sink for Wrapping {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if self.fds.len() + fds.len() > DESCRIPTORS {
            return Err(io::Error::other(format!("an item has at most {DESCRIPTORS} descriptors")));
        }
        // The reader would take no more of this relay, and so nothing of what others pass.
        if bytes.len() > BYTES - self.bytes.len() {
            return Err(io::Error::other(format!("an item has at most {BYTES} bytes")));
        }
        self.bytes.extend_from_slice(bytes);
        for fd in fds {
            self.fds.push(fd.try_clone_to_owned()?);
        }
        Ok(())
    }
}

/// Gives it back, once.
struct Unwrapping<'p> {
    post: &'p Arc<Post>,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Source for Unwrapping<'_> {
    fn post(&self) -> Option<&Arc<Post>> {
        Some(self.post)
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        let length = self.bytes.len();
        bytes.append(&mut self.bytes);
        fds.extend(self.fds.drain(..));
        Ok(length)
    }
}

impl Parcel {
    pub(crate) fn new(origin: &Arc<Origin>, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Parcel {
        Parcel { origin: Arc::clone(origin), bytes, fds }
    }

    /// The item as this process writes it, with duplicates of its descriptors.
    pub(super) fn wrap<T: Handoff>(item: &T, origin: &Arc<Origin>) -> Result<Parcel, SaveError> {
        let mut wrapping = Wrapping::default();
        let mut out = Saver::small(&mut wrapping);
        handoff::save_into(item, &mut out)?;
        out.finish()?;
        let Wrapping { bytes, fds } = wrapping;
        Ok(Parcel::new(origin, bytes, fds))
    }

    /// The item, as it is in this process.
    pub(crate) fn unwrap<T: Handoff>(self, post: &Arc<Post>) -> Result<T, String> {
        let plan = self.origin.plan(post.schema())?;
        let mut source = Unwrapping { post, bytes: self.bytes, fds: self.fds };
        let mut input = Restorer::new(&mut source, Limits::default());
        let item = if plan.is_needed() {
            handoff::restore_matched(input, plan, Limits::default())
        } else {
            handoff::restore(&mut input).and_then(|item| input.finish().map(|()| item))
        };
        item.map_err(|error| error.to_string())
    }

    pub(super) fn item(&self) -> Item {
        // At most `DESCRIPTORS`, of which there are few.
        Item { bytes: self.bytes.clone(), descriptors: self.fds.len() as u32 }
    }
}

/// What waits in one mailbox when its process is replaced, or some of it: a part of the content.
#[derive(Serialize, Deserialize)]
pub(crate) struct Untaken {
    relay: String,
    /// The schemas of those who passed something.
    schemas: Vec<Bytes>,
    /// Which of them, and the item.
    items: Vec<(u32, Item)>,
}

#[derive(Serialize, Deserialize)]
struct Bytes(#[serde(with = "codec::bytes")] Vec<u8>);

impl Untaken {
    /// What it takes to send these, in parts of which each is a section of the content, with duplicates of their descriptors.
    pub(super) fn of(relay: &str, parcels: &VecDeque<Parcel>) -> io::Result<Vec<(Untaken, Vec<OwnedFd>)>> {
        let mut parts: Vec<(Untaken, Vec<OwnedFd>)> = vec![];
        let (mut origins, mut left): (Vec<&Arc<Origin>>, _) = (vec![], 0);
        for parcel in parcels {
            // What is large has a part of its own.
            let size = parcel.bytes.len();
            if parts.is_empty() || size > left {
                parts.push((Untaken { relay: relay.to_owned(), schemas: vec![], items: vec![] }, vec![]));
                (origins, left) = (vec![], PART);
            }
            left = left.saturating_sub(size);
            let Some((untaken, fds)) = parts.last_mut() else { continue };
            let place = origins.iter().position(|origin| Arc::ptr_eq(origin, &parcel.origin)).unwrap_or_else(|| {
                origins.push(&parcel.origin);
                untaken.schemas.push(Bytes(parcel.origin.schema.clone()));
                origins.len() - 1
            });
            untaken.items.push((u32::try_from(place).map_err(io::Error::other)?, parcel.item()));
            for fd in &parcel.fds {
                fds.push(fd.try_clone()?);
            }
        }
        Ok(parts)
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn seed(relay: &str, schemas: Vec<Vec<u8>>, items: Vec<(u32, Item)>) -> Vec<u8> {
        let schemas = schemas.into_iter().map(Bytes).collect();
        Untaken { relay: relay.to_owned(), schemas, items }.encode().expect("it can be written")
    }

    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        codec::to_named(self).map_err(io::Error::other)
    }

    /// The relay, and what waited in it.
    ///
    /// # Errors
    /// What is wrong with it, as far as that shows without the items' type.
    pub(crate) fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(String, Vec<Parcel>), String> {
        let Untaken { relay, schemas, items } =
            codec::from_named(bytes).map_err(|error| format!("the items of a relay do not decode: {error}"))?;
        let origins: Vec<_> = schemas.into_iter().map(|Bytes(schema)| Origin::new(schema)).collect();
        let (places, items): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let parcels = parcels(items, fds, |at| origins.get(*places.get(at)? as usize))
            .ok_or_else(|| format!("the items of the relay `{relay}` make no sense"))?;
        Ok((relay, parcels))
    }
}

/// Each item with its descriptors; nothing where they do not go up.
pub(crate) fn parcels<'o>(
    items: Vec<Item>,
    fds: Vec<OwnedFd>,
    origin: impl Fn(usize) -> Option<&'o Arc<Origin>>,
) -> Option<Vec<Parcel>> {
    let mut fds = fds.into_iter();
    let mut parcels = Vec::new();
    for (at, Item { bytes, descriptors }) in items.into_iter().enumerate() {
        let count = descriptors as usize;
        let fds: Vec<_> = fds.by_ref().take(count).collect();
        if fds.len() != count {
            return None;
        }
        parcels.push(Parcel::new(origin(at)?, bytes, fds));
    }
    fds.next().is_none().then_some(parcels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;

    #[test]
    fn what_waits_is_read_for_ever() {
        let ends = std::os::unix::net::UnixStream::pair().unwrap();
        let [one, other] = [vec![1, 2], vec![255]].map(Origin::new);
        let parcels = [
            Parcel::new(&one, vec![7, 8], vec![ends.0.into()]),
            Parcel::new(&other, vec![], vec![]),
            Parcel::new(&one, vec![200], vec![]),
        ];
        let [(untaken, fds)] = <[_; 1]>::try_from(Untaken::of("talks", &parcels.into()).unwrap()).ok().unwrap();
        let bytes = golden("items that wait in a relay", &untaken.encode().unwrap());
        let (relay, parcels) = Untaken::decode(&bytes, fds).unwrap();
        assert_eq!(relay, "talks");
        let what = parcels.iter().map(|parcel| (&*parcel.origin.schema, &*parcel.bytes, parcel.fds.len()));
        let what: Vec<(&[u8], &[u8], usize)> = what.collect();
        assert_eq!(what, [(&[1, 2][..], &[7, 8][..], 1), (&[255], &[], 0), (&[1, 2], &[200], 0)]);
    }
}
