//! The states of a process, by name: frozen, sent, received and given up together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use event_listener::{Event, Listener, listener};

use super::State;
use crate::handoff::Schema;
use crate::shared::Shared;

#[derive(Default)]
pub(crate) struct States {
    inner: Mutex<Inner>,
    changed: Event,
}

#[derive(Default)]
struct Inner {
    declared: Vec<Arc<dyn State>>,
    /// What the old process offers, until it is asked for.
    offered: HashMap<String, Vec<u8>>,
    /// What was taken out of the offer and is not declared yet.
    taken: Vec<String>,
    /// `main` has all of its parameters: nothing more will be declared.
    complete: bool,
}

/// Whether there is a state of a name.
pub(crate) enum Looked {
    Declared(Arc<dyn State>),
    /// `main` has all of its parameters, and this is none of them.
    Unwanted,
    /// `main` may still ask for it.
    Unknown,
}

impl States {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn offered(&self, states: impl IntoIterator<Item = (String, Vec<u8>)>) {
        self.inner().offered = states.into_iter().collect();
    }

    /// The schema that the old process offers under this name; each is taken once.
    pub(crate) fn take_offered(&self, name: &str) -> Option<Vec<u8>> {
        let mut inner = self.inner();
        let schema = inner.offered.remove(name)?;
        inner.taken.push(name.to_owned());
        Some(schema)
    }

    /// Nothing will come of the offer: what is declared from now on is as in a cold start. False where something waits
    /// for its content already.
    pub(crate) fn withdraw_offer(&self) -> bool {
        let mut inner = self.inner();
        if !inner.taken.is_empty() || inner.declared.iter().any(|state| !state.has_content()) {
            return false;
        }
        inner.offered.clear();
        true
    }

    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.inner().declared.iter().any(|state| state.name() == name)
    }

    pub(super) fn declare(&self, state: Arc<dyn State>) {
        let mut inner = self.inner();
        inner.taken.retain(|name| name != state.name());
        inner.declared.push(state);
        drop(inner);
        self.changed.notify(usize::MAX);
    }

    /// Nothing more will be declared. Gives the names that were offered and that nobody asked for.
    pub(crate) fn complete(&self) -> Vec<String> {
        let mut inner = self.inner();
        inner.complete = true;
        let mut left: Vec<_> = inner.offered.drain().map(|(name, _)| name).collect();
        drop(inner);
        self.changed.notify(usize::MAX);
        left.sort();
        left
    }

    #[cfg(feature = "hyper")]
    pub(crate) fn is_empty(&self) -> bool {
        self.inner().declared.is_empty()
    }

    pub(crate) fn all(&self) -> Vec<Arc<dyn State>> {
        self.inner().declared.clone()
    }

    /// Waits until nobody who came before the hold is inside of any of them; false where the freeze is not wanted any more.
    pub(crate) fn settle(&self, shared: &Shared, attempt: u64) -> bool {
        for state in self.all() {
            let used = format!("the state `{}` not to be used any more, by a closure of this process", state.name());
            shared.awaited.set(attempt, used);
            if !state.settle(shared, attempt) {
                return false;
            }
        }
        shared.awaited.set_nothing(attempt);
        true
    }

    /// Whoever waits for those who are inside looks again.
    pub(crate) fn wake(&self) {
        self.all().iter().for_each(|state| state.wake());
    }

    pub(crate) fn schemas(&self) -> Vec<(String, Arc<Schema>)> {
        self.all().iter().map(|state| (state.name().to_owned(), state.schema())).collect()
    }

    /// The first of these that is asked for, by its place; without a state where `main` has all of its parameters, and it is
    /// none of them.
    pub(crate) fn wait_for_any(&self, names: &[&str]) -> (usize, Option<Arc<dyn State>>) {
        loop {
            listener!(self.changed => changed);
            for (at, name) in names.iter().enumerate() {
                match self.look_for(name) {
                    Looked::Declared(state) => return (at, Some(state)),
                    Looked::Unwanted => return (at, None),
                    Looked::Unknown => {}
                }
            }
            changed.wait();
        }
    }

    pub(crate) fn look_for(&self, name: &str) -> Looked {
        let inner = self.inner();
        match inner.declared.iter().find(|state| state.name() == name) {
            Some(state) => Looked::Declared(Arc::clone(state)),
            None if inner.complete => Looked::Unwanted,
            None => Looked::Unknown,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn State>> {
        self.inner().declared.iter().find(|state| state.name() == name).cloned()
    }
}
