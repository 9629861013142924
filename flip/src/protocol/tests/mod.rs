//! The handoff against its promises: every event in every state, and every interleaving of a chain.

mod explore;
mod table;
mod world;

use std::cell::Cell;

use super::*;

/// Shared memory, as far as one thread can tell.
struct SharedWord(Cell<Owner>);

impl SharedWord {
    fn new(owner: Owner) -> SharedWord {
        SharedWord(Cell::new(owner))
    }
}

impl Word for SharedWord {
    fn swap(&self, from: Owner, to: Owner) -> Result<(), Owner> {
        if self.0.get() != from {
            return Err(self.0.get());
        }
        self.0.set(to);
        Ok(())
    }

    fn owner(&self) -> Owner {
        self.0.get()
    }
}
