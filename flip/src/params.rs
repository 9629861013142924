//! What `main` can ask for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::checkpoint::Stored;
use crate::error::{BoxError, Error};
use crate::exclusive::{Exclusive, Opener};
use crate::handle::{Handle, Shutdown};
use crate::handoff::calls::Calls;
use crate::handoff::{Handoff, Schema};
use crate::listen::{Listen, ListenOptions};
use crate::live::Live;
use crate::relay::Relay;
use crate::shared::{Note, Shared, Start};

/// Provides what `main` asks for, in order: what an attribute's expansion, or a [`Builder`](crate::Builder)'s closure,
/// calls.
pub struct Setup {
    shared: Arc<Shared>,
    start: Start,
}

/// What `main` can ask for by its type alone: [`Live`], [`Relay`], [`Shutdown`], [`Handle`], and groups of parameters that derive
/// [`Params`](crate::Params).
#[diagnostic::on_unimplemented(
    message = "flip does not know how to provide a `{Self}`",
    label = "this parameter's type is not one of flip's",
    note = "a value of your own: `#[with(expression)]`; the command line: `#[args]`; a group of parameters: `#[derive(flip::Params)]` on `{Self}`",
    note = "`Live<T>` needs `T: Default`, or `#[live(init = expression)]`"
)]
pub trait Param: Sized {
    /// Makes the parameter of this name.
    #[doc(hidden)]
    fn provide(setup: &Setup, name: &str) -> impl Future<Output = Result<Self, Error>>;
}

impl Param for Shutdown {
    async fn provide(setup: &Setup, _: &str) -> Result<Self, Error> {
        Ok(setup.handle().shutdown())
    }
}

impl Param for Handle {
    async fn provide(setup: &Setup, _: &str) -> Result<Self, Error> {
        Ok(setup.handle())
    }
}

impl<T: Handoff + Default + Send + Sync + 'static> Param for Live<T> {
    async fn provide(setup: &Setup, name: &str) -> Result<Self, Error> {
        setup.live(name, async { Ok(T::default()) }).await
    }
}

/// `Live<T>`, so that an expansion can name `T` by the parameter's type.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`#[live(init = …)]` is for parameters of the type `Live<T>`",
    label = "not a `Live<T>`"
)]
pub trait LiveParam: Sized {
    type Content: Handoff + Send + Sync + 'static;
    fn from_live(live: Live<Self::Content>) -> Self;
}

impl<T: Handoff + Send + Sync + 'static> LiveParam for Live<T> {
    type Content = T;
    fn from_live(live: Live<T>) -> Self {
        live
    }
}

/// `Exclusive<T>`, so that an expansion can name `T` by the parameter's type.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`#[exclusive(open = …)]` is for parameters of the type `Exclusive<T>`",
    label = "not an `Exclusive<T>`"
)]
pub trait ExclusiveParam: Sized {
    type Content: Send + 'static;
    fn from_exclusive(exclusive: Exclusive<Self::Content>) -> Self;
}

impl<T: Send + 'static> ExclusiveParam for Exclusive<T> {
    type Content = T;
    fn from_exclusive(exclusive: Exclusive<T>) -> Self {
        exclusive
    }
}

/// An address, or several, that fits what a parameter listens with.
#[doc(hidden)]
pub trait AddressFor<L> {
    fn listen(self, setup: &Setup, name: &str, options: ListenOptions) -> Result<L, BoxError>;
}

impl<L: Listen<A>, A> AddressFor<L> for A {
    fn listen(self, setup: &Setup, name: &str, options: ListenOptions) -> Result<L, BoxError> {
        let listeners = setup.shared.listeners.get().expect("they are there before `main` asks for anything");
        Ok(L::listen(listeners, name, self, &options)?)
    }
}

/// Implemented by nothing.
#[cfg(not(feature = "clap"))]
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`#[args]` needs flip's feature `clap`",
    label = "the command line is parsed by clap",
    note = "add it in Cargo.toml: `features = [\"clap\"]`"
)]
pub trait NeedsTheFeatureClap {}

/// Boxed, because rustc repeats an error in a type parameter of an `async fn` for each of its three hidden types.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + 'a>>;

impl Setup {
    pub(crate) fn new(shared: &Arc<Shared>, start: Start) -> Setup {
        Setup { shared: Arc::clone(shared), start }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// The command line, through clap. `--help` and `--version` print and end the process with status 0.
    ///
    /// # Errors
    /// What clap says about it.
    #[cfg(feature = "clap")]
    pub fn args<'a, P: clap::Parser + 'a>(&'a self) -> Boxed<'a, P> {
        let parsed = P::try_parse().map_err(|error| {
            if error.use_stderr() {
                return Error::program(error.to_string().trim_end().to_owned());
            }
            // Where stdout is closed nobody reads it.
            let _ = error.print();
            crate::entry::end(0)
        });
        Box::pin(std::future::ready(parsed))
    }

    /// Says what is missing.
    #[cfg(not(feature = "clap"))]
    #[doc(hidden)]
    pub fn args<'a, P: NeedsTheFeatureClap + 'a>(&'a self) -> Boxed<'a, P> {
        Box::pin(std::future::ready(Err(Error::program("`#[args]` needs flip's feature `clap`"))))
    }

    /// A value, made once, for the parameters after it.
    ///
    /// # Errors
    /// The future's, with the parameter's name.
    pub fn with<'a, T: 'a>(
        &'a self,
        name: &'a str,
        value: impl Future<Output = Result<T, BoxError>> + 'a,
    ) -> Boxed<'a, T> {
        Box::pin(async move { value.await.map_err(|error| parameter(name, "cannot be made", error)) })
    }

    /// A listener, or several: inherited where the old process has it at that address, otherwise bound.
    ///
    /// # Errors
    /// The future's, or why the address cannot be had, with the parameter's name.
    pub fn listen<'a, L: 'a>(
        &'a self,
        name: &'a str,
        address: impl Future<Output = Result<impl AddressFor<L>, BoxError>> + 'a,
        options: ListenOptions,
    ) -> Boxed<'a, L> {
        Box::pin(async move {
            let address = address.await.map_err(|error| parameter(name, "has no usable address", error))?;
            address.listen(self, name, options).map_err(|error| parameter(name, "cannot listen", error))
        })
    }

    /// State that outlives the process. `init` is awaited only where nothing is inherited under this name.
    ///
    /// # Errors
    /// The future's, or how the old process's state differs in type, with the parameter's name.
    pub fn live_with<'a, L: LiveParam + 'a>(
        &'a self,
        name: &'a str,
        init: impl Future<Output = Result<L::Content, BoxError>> + 'a,
    ) -> Boxed<'a, L> {
        Box::pin(async move { self.live(name, init).await.map(L::from_live) })
    }

    pub(crate) async fn live<T: Handoff + Send + Sync + 'static>(
        &self,
        name: &str,
        init: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<Live<T>, Error> {
        if self.shared.states.is_declared(name) {
            return Err(Error::program(format!("two states have the name `{name}`: each needs its own")));
        }
        if let Some(conflict) = Calls::<T>::of().conflict() {
            return Err(Error::program(format!("two calls of the state `{name}` cannot be told apart: {conflict}")));
        }
        let theirs = match self.start {
            Start::Successor => self.shared.states.take_offered(name),
            Start::Cold => match self.shared.checkpoints.take(name) {
                Some((theirs, mut stored)) => return self.restored(name, &theirs, &mut stored),
                None => None,
            },
        };
        let value = match theirs {
            None => init.await.map_err(|error| parameter(name, "cannot be made", error))?,
            Some(theirs) => {
                let differs = |what: String| {
                    Error::peer(format!(
                        "the state `{name}` of the running process cannot become what it is here: {what}"
                    ))
                };
                let theirs = Schema::decode(&theirs).map_err(|error| differs(error.to_string()))?;
                let plan = Schema::of::<T>().plan(&theirs).map_err(|mismatch| differs(mismatch.to_string()))?;
                return Ok(Live::expect(name, plan, &self.shared));
            }
        };
        Ok(Live::declare(name, value, &self.shared))
    }

    /// State that goes on from a checkpoint.
    fn restored<T: Handoff + Send + Sync + 'static>(
        &self,
        name: &str,
        theirs: &[u8],
        stored: &mut Stored,
    ) -> Result<Live<T>, Error> {
        let shared = &self.shared;
        let restored = shared.checkpoints.trying(|| {
            let _entered = shared.enter();
            let theirs = Schema::decode(theirs).map_err(|error| error.to_string())?;
            let plan = Schema::of::<T>().plan(&theirs).map_err(|mismatch| mismatch.with_checkpoint())?;
            Live::restored(name, plan.of_checkpoint(), stored, shared)
        });
        restored.map_err(|what| {
            Error::program(format!("the state `{name}` of the checkpoint cannot become what it is here: {what}"))
        })
    }

    pub(crate) fn relay<T: Handoff>(&self, name: &str) -> Result<Relay<T>, Error> {
        if self.shared.relays.is_declared(name) {
            return Err(Error::program(format!("two relays have the name `{name}`: each needs its own")));
        }
        if let Some(theirs) = self.shared.relays.take_offered(name) {
            Schema::plan_for::<T>(theirs).map_err(|what| {
                Error::peer(format!(
                    "the items of the relay `{name}` of the running process cannot be read here: {what}"
                ))
            })?;
        }
        Ok(Relay::declare(name, &self.shared))
    }

    /// What only one process may hold at a time. Where there is no old process it is opened here.
    ///
    /// # Errors
    /// The future's, or why it cannot be opened, with the parameter's name.
    pub fn exclusive<'a, X: ExclusiveParam + 'a>(
        &'a self,
        name: &'a str,
        opener: impl Future<Output = Result<Opener<X::Content>, BoxError>> + 'a,
    ) -> Boxed<'a, X> {
        Box::pin(async move {
            if self.shared.exclusives.is_declared(name) {
                return Err(Error::program(format!("two exclusives have the name `{name}`: each needs its own")));
            }
            let opener = opener.await.map_err(|error| parameter(name, "cannot be made", error))?;
            let exclusive = Exclusive::declare(name, opener, &self.shared).await;
            exclusive.map(X::from_exclusive).map_err(|error| parameter(name, "cannot be opened", error))
        })
    }

    /// What a type alone says how to provide.
    ///
    /// # Errors
    /// Those of the type, with the parameter's name.
    pub fn param<'a, P: Param + 'a>(&'a self, name: &'a str) -> Boxed<'a, P> {
        Box::pin(P::provide(self, name))
    }

    /// `main` has all of its parameters.
    pub(crate) fn done(&self, ready: crate::config::Ready) -> Result<(), Error> {
        let listeners = self.shared.listeners.get().expect("they are there before `main` asks for anything");
        if ready == crate::config::Ready::Auto && listeners.managed() == 0 {
            return Err(Error::program(
                "no listener to tell readiness by: set `ready = manual` and call `Handle::ready`, \
                 or take a listener of flip's",
            ));
        }
        self.complete();
        Ok(())
    }

    /// Nothing more is asked for.
    pub(crate) fn complete(&self) {
        for name in self.shared.states.complete() {
            crate::log::say!(warn, "the state `{name}` of the old process has no successor here and is dropped");
        }
        for name in self.shared.checkpoints.complete() {
            crate::log::say!(warn, "the state `{name}` of the checkpoint has no successor here and is dropped");
        }
        for name in self.shared.relays.complete() {
            crate::log::say!(
                warn,
                "the old process has a relay `{name}`, which is none here: it keeps what it would pass"
            );
        }
        if let (Start::Cold, Some(listeners)) = (self.start, self.shared.listeners.get()) {
            listeners.close_unclaimed();
        }
        self.shared.notes.send(Note::SetupDone);
    }
}

fn parameter(name: &str, what: &str, error: BoxError) -> Error {
    Error::program(format!("the parameter `{name}` {what}")).because(error)
}
