//! The relays of a process, by name: offered, filled, woken and given up together.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Parcel, Post};
use crate::log::say;
use crate::sys::fd::EventFd;

pub(crate) struct Relays {
    inner: Mutex<Inner>,
    /// Rings when one takes items that took none before, or takes none any more.
    bell: EventFd,
}

#[derive(Default)]
struct Inner {
    declared: Vec<Arc<Post>>,
    /// What the old process passes, until it is asked for.
    offered: HashMap<String, Vec<u8>>,
    /// What waited in the old process, until its relay is asked for.
    waiting: HashMap<String, Vec<Parcel>>,
    /// `main` has all of its parameters: nothing more will be declared.
    complete: bool,
}

/// Whether there is a relay of a name.
pub(crate) enum Looked {
    Declared(Arc<Post>),
    /// `main` has all of its parameters, and this is none of them.
    Unwanted,
    /// `main` may still ask for it.
    Unknown,
}

impl Relays {
    pub(crate) fn new() -> io::Result<Relays> {
        Ok(Relays { inner: Mutex::default(), bell: EventFd::new()? })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bell(&self) -> &EventFd {
        &self.bell
    }

    pub(crate) fn offered(&self, relays: impl IntoIterator<Item = (String, Vec<u8>)>) {
        self.inner().offered = relays.into_iter().collect();
    }

    /// The schema that the old process offers under this name.
    pub(crate) fn take_offered(&self, name: &str) -> Option<Vec<u8>> {
        self.inner().offered.remove(name)
    }

    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.inner().declared.iter().any(|post| &**post.name() == name)
    }

    pub(super) fn declare(&self, post: Arc<Post>) {
        let mut inner = self.inner();
        let waiting = inner.waiting.remove(&**post.name());
        post.fill(waiting.unwrap_or_default());
        inner.declared.push(post);
        drop(inner);
        self.bell.ring();
    }

    /// What waited in this relay of the old process, or the next part of it.
    pub(crate) fn restored(&self, relay: String, parcels: Vec<Parcel>) {
        let mut inner = self.inner();
        match inner.declared.iter().find(|post| **post.name() == relay) {
            Some(post) => post.fill(parcels),
            None if inner.complete => refuse(&relay, parcels.len()),
            None => inner.waiting.entry(relay).or_default().extend(parcels),
        }
    }

    /// Nothing more will be declared: gives the names of what the old process has and this one has not.
    pub(crate) fn complete(&self) -> Vec<String> {
        let mut inner = self.inner();
        inner.complete = true;
        for (relay, parcels) in inner.waiting.drain() {
            refuse(&relay, parcels.len());
        }
        let unwanted = std::mem::take(&mut inner.offered).into_keys().collect();
        drop(inner);
        self.bell.ring();
        unwanted
    }

    pub(crate) fn all(&self) -> Vec<Arc<Post>> {
        self.inner().declared.clone()
    }

    pub(crate) fn look_for(&self, name: &str) -> Looked {
        let inner = self.inner();
        match inner.declared.iter().find(|post| &**post.name() == name) {
            Some(post) => Looked::Declared(Arc::clone(post)),
            None if inner.complete => Looked::Unwanted,
            None => Looked::Unknown,
        }
    }

    /// Whoever waits looks again: what this process is to the service has changed.
    pub(crate) fn wake(&self) {
        self.all().iter().for_each(|post| post.wake());
    }

    /// The content belongs to another process, and with it what waited here.
    pub(crate) fn give_up(&self) {
        self.all().iter().for_each(|post| post.give_up());
    }

    /// The owner stops, and takes nothing any more.
    pub(crate) fn stop(&self) {
        self.all().iter().for_each(|post| post.stop());
    }
}

fn refuse(relay: &str, count: usize) {
    if count > 0 {
        say!(warn, "{count} items were waiting in the relay `{relay}`, which this program does not have: closed");
    }
}
