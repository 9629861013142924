//! A value of which a shared reference is of use only where its type allows several at once.

/// Makes a lock of it `Sync` for every `T: Send`, as a mutex is, and yet lets those read together whose type allows it.
pub(crate) struct Alone<T>(T);

// SAFETY: through a shared `Alone` another thread reaches the value by `get` alone, which asks for `T: Sync`.
unsafe impl<T: Send> Sync for Alone<T> {}

impl<T> Alone<T> {
    pub(crate) fn new(value: T) -> Alone<T> {
        Alone(value)
    }

    pub(crate) fn get(&self) -> &T
    where
        T: Sync,
    {
        &self.0
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        &mut self.0
    }

    pub(crate) fn into_inner(self) -> T {
        self.0
    }
}
