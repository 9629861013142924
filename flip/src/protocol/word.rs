//! The owner word: one word of memory that the old and the new process both map. It decides every crash.
//!
//! | swap              | by  | when                                                              |
//! | ----------------- | --- | ----------------------------------------------------------------- |
//! | `Old → New`       | old | new said that it is ready: commit                                 |
//! | `Old → RolledBack`| old | anything failed before the commit                                 |
//! | `New → RolledBack`| old | new died or stayed silent between the commit and serving          |
//! | `New → Serving`   | new | it saw the commit, or that old is dead, or its own deadline came  |
//! | `Old → Serving`   | new | old is dead and nobody else will start another                    |
//!
//! Nothing leaves `Serving` and `RolledBack`. Old serves again only after *its* swap to `RolledBack`; new serves only
//! after *its* swap to `Serving`: as one of the two swaps fails, there is one owner, whoever heard what.

/// Who owns the listeners and the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Owner {
    /// The old process; also the word's first value, as fresh shared memory is zero.
    Old = 0,
    /// The new process, which has not noticed yet.
    New = 1,
    /// The new process, for good.
    Serving = 2,
    /// The old process, for good; the new one is to go.
    RolledBack = 3,
}

impl Owner {
    /// Any other value than ours is the work of a stranger: nobody may serve on its word, so it reads as rolled back.
    pub(crate) fn from_raw(raw: u32) -> Owner {
        match raw {
            0 => Owner::Old,
            1 => Owner::New,
            2 => Owner::Serving,
            _ => Owner::RolledBack,
        }
    }
}

/// The word as the protocol sees it.
pub(crate) trait Word {
    /// One compare-and-swap.
    ///
    /// # Errors
    /// What the word said instead of `from`.
    fn swap(&self, from: Owner, to: Owner) -> Result<(), Owner>;

    /// What the word says now.
    fn owner(&self) -> Owner;
}

/// Where no handoff is under way there is no word; every swap fails as if somebody else had decided.
pub(crate) struct NoWord;

impl Word for NoWord {
    fn swap(&self, _: Owner, _: Owner) -> Result<(), Owner> {
        Err(Owner::RolledBack)
    }

    fn owner(&self) -> Owner {
        Owner::RolledBack
    }
}
