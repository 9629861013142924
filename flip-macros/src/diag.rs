//! Mistakes: collected, so that one run shows all of them, and worded in one place, so that they sound alike.
//!
//! A message says what is wrong, then, after a colon, what to write instead.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use std::fmt::Display;

/// The mistakes found so far. They cannot get lost: dropping them without [`Errors::finish`] is a bug, and panics.
pub(crate) struct Errors {
    found: Option<syn::Error>,
    read: bool,
}

impl Errors {
    pub(crate) fn new() -> Self {
        Self { found: None, read: false }
    }

    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.found {
            Some(found) => found.combine(error),
            None => self.found = Some(error),
        }
    }

    /// A mistake at one token.
    pub(crate) fn at(&mut self, span: Span, message: impl Display) {
        self.add(syn::Error::new(span, message));
    }

    /// A mistake that several tokens make together.
    pub(crate) fn push(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.add(syn::Error::new_spanned(tokens, message));
    }

    /// Takes the mistake, if the result is one.
    pub(crate) fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(error);
                None
            }
        }
    }

    /// All mistakes as one error, or nothing.
    pub(crate) fn finish(mut self) -> Option<syn::Error> {
        self.read = true;
        self.found.take()
    }
}

impl Drop for Errors {
    fn drop(&mut self) {
        if !self.read && !std::thread::panicking() {
            panic!("the collected mistakes were never read");
        }
    }
}

/// `compile_error!` for each mistake.
pub(crate) fn compile_errors(error: Option<syn::Error>) -> TokenStream {
    error.map(|error| error.into_compile_error()).unwrap_or_default()
}

/// The wording.
pub(crate) mod say {
    // The function.

    pub(crate) fn not_a_function(attribute: &str) -> String {
        format!("`#[{attribute}]` belongs on a function: `async fn` or `fn`")
    }
    pub(crate) const NO_BODY: &str = "the function has no body: write `{ … }`";
    pub(crate) const GENERIC: &str =
        "flip calls this function and has no types to choose: remove the generic parameters";
    pub(crate) const WHERE: &str = "flip calls this function and has no types to choose: remove the `where` clause";
    pub(crate) const RECEIVER: &str = "flip calls this function and has no `self` to give: make it a free function";
    pub(crate) const VARIADIC: &str = "flip fills in one parameter after the other: remove the `...`";
    pub(crate) const CONST: &str = "what flip runs cannot be evaluated by the compiler: remove `const`";
    pub(crate) const UNSAFE: &str = "flip calls this function without conditions: remove `unsafe`";
    pub(crate) const ABI: &str = "flip calls this function from Rust: remove the `extern`";
    pub(crate) fn other_runtime(path: &str) -> String {
        format!("flip starts the runtime itself: remove `#[{path}]` and give its arguments to flip's attribute")
    }
    pub(crate) const NOTHING_TO_BE_READY_BY: &str = "no listener to tell readiness by: add `ready = manual` and call \
        `Handle::ready`, or take a `#[listen]` parameter of one of flip's types";

    // Its parameters.

    pub(crate) const PATTERN: &str =
        "a parameter's name is its name for flip: write `name: Type` and take it apart in the body";
    pub(crate) fn nameless(what: &str) -> String {
        format!("{what} is found again by its name after a restart: give the parameter one, `_name` if it is not used")
    }
    pub(crate) const BORROWED: &str = "flip hands over the value itself: remove the `&`";
    pub(crate) const IMPL_TRAIT: &str = "flip has to know which type to provide: name it instead of `impl Trait`";
    pub(crate) fn listener_without_address(ty: &str) -> String {
        format!("a `{ty}` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours")
    }
    pub(crate) const EXCLUSIVE_WITHOUT_OPEN: &str =
        "an `Exclusive` has to be opened by somebody: put `#[exclusive(open = || …)]` in front of it, with yours";
    pub(crate) fn second_source(first: &str, second: &str) -> String {
        format!("`#[{first}]` already says where this value comes from: remove `#[{second}]`")
    }
    pub(crate) const ARGS_TWICE: &str =
        "the command line is parsed once: put all its options into one `#[args]` type, with `#[command(flatten)]`";
    pub(crate) fn unknown_parameter_attribute(path: &str, known: &[&str]) -> String {
        format!("flip has no `#[{path}]` for a parameter: it knows {}", attributes(known))
    }
    pub(crate) const CFG_ATTR: &str = "flip reads a parameter's attributes before `cfg_attr` is looked at: write the \
        parameter twice, one under `#[cfg(…)]`, one under `#[cfg(not(…))]`";
    pub(crate) const GIVEN_IN_MAIN: &str =
        "nobody calls `main` with a value: `#[given]` is for `#[flip::service]`; here, make it with `#[with(…)]`";

    // A parameter's attribute.

    pub(crate) const ARGS_TAKES_NOTHING: &str = "`#[args]` takes nothing: what to parse is the parameter's type";
    pub(crate) const GIVEN_TAKES_NOTHING: &str = "`#[given]` takes nothing: the value is given by the caller";
    pub(crate) const WITH_NEEDS_VALUE: &str = "`#[with]` needs the value: `#[with(Config::load()?)]`";
    pub(crate) const WITH_TAKES_ONE: &str = "`#[with]` takes one expression: put a block around several statements";
    pub(crate) const LISTEN_OPTION: &str = "after the address, `#[listen]` takes `backlog = 1024`, `shards = 4`, `keep_accepting = true` and `options = |socket| …`";
    pub(crate) fn option_twice(key: &str) -> String {
        format!("`{key}` is given twice: remove one")
    }
    pub(crate) const LIVE_NEEDS_INIT: &str =
        "`#[live]` needs the first content: `#[live(init = expression)]`; without the attribute it is `Default`";
    pub(crate) const EXCLUSIVE_NEEDS_OPEN: &str =
        "`#[exclusive]` needs what opens it: `#[exclusive(open = || Database::create(\"app.db\"))]`";
    pub(crate) const EXCLUSIVE_OPTION: &str =
        "`#[exclusive]` takes `open = || …`, which gives a `Result`, and `close = |value| …`, which gives one, too";

    // The arguments of the attribute itself.

    pub(crate) fn unknown_argument(key: &str, known: &[(&str, &str)]) -> String {
        let known: Vec<_> = known.iter().map(|(key, _)| format!("`{key}`")).collect();
        format!("there is no argument `{key}`: there are {}", known.join(", "))
    }
    pub(crate) fn argument_twice(key: &str) -> String {
        format!("`{key}` is given twice: remove one")
    }
    pub(crate) fn argument_needs_value(key: &str, example: &str) -> String {
        format!("`{key}` needs a value: `{key} = {example}`")
    }
    pub(crate) fn bad_value(key: &str, example: &str) -> String {
        format!("this is no value for `{key}`: write it like `{key} = {example}`")
    }
    pub(crate) const ARGUMENT: &str = "an argument is written like `drain_timeout = 30s`";
    pub(crate) const SEPARATOR: &str = "arguments are separated by commas: write `,` here";
    pub(crate) const TIME: &str = "a time is a whole number with its unit: `200ms`, `60s`, `5m` or `1h`";
    pub(crate) const SIZE: &str = "a size is a whole number with its unit: `512KiB`, `64MiB` or `4GiB`";
    pub(crate) const TIME_TOO_LONG: &str = "this time is longer than flip can count: take less than 500 years";
    pub(crate) fn no_unit(number: &str) -> String {
        format!("a time needs its unit: `{number}s` for seconds, `{number}ms` for milliseconds, or `m`, `h`")
    }
    pub(crate) fn unknown_unit(unit: &str) -> String {
        format!("there is no unit `{unit}`: use `ms`, `s`, `m` or `h`")
    }
    pub(crate) fn unknown_signal(name: &str, known: &[&str]) -> String {
        format!("there is no signal `{name}` to wait for: use one of {}", known.join(", "))
    }
    pub(crate) fn uncatchable(name: &str) -> String {
        format!("no process ever sees {name}: choose a signal that can be caught, like SIGTERM")
    }
    pub(crate) fn reserved(name: &str) -> String {
        format!("the system sends {name} for reasons of its own: choose a signal that somebody sends on purpose")
    }
    pub(crate) fn signal_twice(name: &str) -> String {
        format!("{name} is in the list twice: remove one")
    }
    pub(crate) fn upgrade_is_stop(name: &str) -> String {
        format!("{name} stops the service: choose another signal for `upgrade`, or take it out of `stop`")
    }
    pub(crate) const READY: &str = "`ready` is `auto` or `manual`";
    pub(crate) const LAUNCHER: &str = "the launcher is `auto`, `on` or `off`";
    pub(crate) const STORE: &str = "`store` is `listeners` or `state`";
    pub(crate) const GENERATIONS: &str = "`generations` is a whole number from 2, the old and the new process, to 255";
    pub(crate) fn tokio_only(key: &str) -> String {
        format!("`{key}` is for tokio, which only an `async fn` runs on: add `async` or remove it")
    }
    pub(crate) fn flavor(name: &str) -> String {
        match name {
            "single_thread" => "the single threaded runtime flavor is called `current_thread`".into(),
            "basic_scheduler" => "the `basic_scheduler` runtime flavor has been renamed to `current_thread`".into(),
            "threaded_scheduler" => "the `threaded_scheduler` runtime flavor has been renamed to `multi_thread`".into(),
            _ => format!("there is no runtime flavor `{name}`: there are `current_thread`, `local` and `multi_thread`"),
        }
    }
    pub(crate) fn needs_flavor(key: &str, flavor: &str) -> String {
        format!("the `{key}` option requires the `{flavor}` runtime flavor: add `flavor = \"{flavor}\"`")
    }
    pub(crate) const NO_WORKERS: &str = "`worker_threads` may not be 0: leave it out for one per core";
    pub(crate) const UNHANDLED_PANIC: &str = "`unhandled_panic` is `\"ignore\"` or `\"shutdown_runtime\"`";

    // A group of parameters.

    pub(crate) const NOT_A_STRUCT: &str =
        "`Params` is for a struct with named fields: each field is a parameter, and its name is the parameter's";
    pub(crate) fn unknown_params_key(key: &str) -> String {
        format!("`#[params]` has no `{key}`: it takes `prefix = \"admin\"` and `crate = path`")
    }

    fn attributes(names: &[&str]) -> String {
        let (last, rest) = names.split_last().expect("a list of known attributes is never empty");
        let rest: Vec<_> = rest.iter().map(|name| format!("`#[{name}]`")).collect();
        format!("{} and `#[{last}]`", rest.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_arrive_in_order() {
        let mut errors = Errors::new();
        errors.at(Span::call_site(), "one");
        errors.push(quote::quote!(a b), "two");
        let found = errors.finish().expect("two mistakes");
        assert_eq!(found.into_iter().map(|e| e.to_string()).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    #[should_panic(expected = "never read")]
    fn mistakes_dropped_unread_are_a_bug() {
        drop(Errors::new());
    }
}
