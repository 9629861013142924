//! The arguments of the attributes, `#[flip::main(upgrade = SIGUSR2, drain_timeout = 5m)]`, and the constant they become.

use crate::diag::{Errors, say};
use crate::provide::{crate_path, default_crate};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, Lit, LitBool, LitInt, LitStr, Path, Token, bracketed};

/// Each argument with a value to show.
const KNOWN: [(&str, &str); 20] = [
    ("upgrade", "SIGHUP"),
    ("stop", "[SIGTERM, SIGINT]"),
    ("ready", "manual"),
    ("ready_timeout", "60s"),
    ("freeze_timeout", "3s"),
    ("quiesce_timeout", "200ms"),
    ("drain_timeout", "30s"),
    ("generations", "4"),
    ("state_limit", "4GiB"),
    ("executable", "\"/usr/bin/app\""),
    ("pid_file", "\"/run/app.pid\""),
    ("launcher", "on"),
    ("store", "state"),
    ("checkpoint", "5s"),
    ("crate", "::flip"),
    ("flavor", "\"current_thread\""),
    ("worker_threads", "4"),
    ("start_paused", "true"),
    ("unhandled_panic", "\"shutdown_runtime\""),
    ("name", "\"app\""),
];

/// Those that are tokio's.
const TOKIO: [&str; 5] = ["flavor", "worker_threads", "start_paused", "unhandled_panic", "name"];

/// What somebody sends on purpose.
const SIGNALS: [&str; 12] = [
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGIO", "SIGPWR", "SIGURG",
    "SIGWINCH",
];

/// What the system sends, because something is wrong or has happened.
const RESERVED: [&str; 17] = [
    "SIGABRT",
    "SIGBUS",
    "SIGCHLD",
    "SIGFPE",
    "SIGILL",
    "SIGPIPE",
    "SIGPROF",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSYS",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGVTALRM",
    "SIGXCPU",
    "SIGXFSZ",
];

/// What the crate `flip` takes where nothing is given, known here only to find a clash with what is given.
const UPGRADE: &str = "SIGHUP";
const STOP: [&str; 2] = ["SIGTERM", "SIGINT"];

#[derive(Clone, Copy)]
pub(crate) enum Ready {
    Auto,
    Manual,
}

/// What was given. What was not is left to the crate `flip`, which has the defaults.
pub(crate) struct Args {
    pub krate: Path,
    pub ready: Option<(Ready, Span)>,
    /// The keys that need tokio.
    pub tokio_keys: Vec<Ident>,
    upgrade: Option<Signal>,
    stop: Option<Vec<Signal>>,
    /// The fields of the configuration that are nanoseconds.
    timeouts: Vec<(Ident, u64)>,
    generations: Option<LitInt>,
    state_limit: Option<u64>,
    /// A variant's name.
    launcher: Option<&'static str>,
    /// A variant's name.
    store: Option<&'static str>,
    /// The fields of the configuration that are paths.
    paths: Vec<(Ident, Expr)>,
    runtime: Runtime,
}

struct Signal {
    name: String,
    span: Span,
}

/// `#[tokio::main]`'s arguments. The names are those of the variants that the configuration has for them.
#[derive(Default)]
struct Runtime {
    flavor: Option<&'static str>,
    worker_threads: Option<LitInt>,
    start_paused: Option<LitBool>,
    unhandled_panic: Option<&'static str>,
    name: Option<Expr>,
}

impl Args {
    /// Reads what can be read; the rest is reported and as if it had not been given.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut args = Self {
            krate: default_crate(),
            ready: None,
            tokio_keys: Vec::new(),
            upgrade: None,
            stop: None,
            timeouts: Vec::new(),
            generations: None,
            state_limit: None,
            launcher: None,
            store: None,
            paths: Vec::new(),
            runtime: Runtime::default(),
        };
        let parsed = (|input: ParseStream<'_>| args.list(input, errors)).parse2(tokens);
        errors.take(parsed);
        args.check(errors);
        args
    }

    fn list(&mut self, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<()> {
        let mut seen = Vec::new();
        while !input.is_empty() {
            // After a mistake the next argument begins behind the next comma.
            if let Err(error) = self.argument(input, &mut seen, errors) {
                errors.add(error);
                while !input.is_empty() && !input.peek(Token![,]) {
                    input.parse::<TokenTree>()?;
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }

    fn argument(&mut self, input: ParseStream<'_>, seen: &mut Vec<Ident>, errors: &mut Errors) -> syn::Result<()> {
        let key = Ident::parse_any(input).map_err(|error| syn::Error::new(error.span(), say::ARGUMENT))?;
        let text = key.to_string();
        let Some((_, example)) = KNOWN.iter().find(|(known, _)| *known == text) else {
            return Err(syn::Error::new(key.span(), say::unknown_argument(&text, &KNOWN)));
        };
        if !input.peek(Token![=]) {
            return Err(syn::Error::new(key.span(), say::argument_needs_value(&text, example)));
        }
        input.parse::<Token![=]>()?;
        if input.is_empty() || input.peek(Token![,]) {
            return Err(syn::Error::new(key.span(), say::argument_needs_value(&text, example)));
        }
        if seen.contains(&key) {
            return Err(syn::Error::new(key.span(), say::argument_twice(&text)));
        }
        seen.push(key.clone());
        if TOKIO.contains(&text.as_str()) {
            self.tokio_keys.push(key.clone());
        }
        self.value(&key, example, input, errors)?;
        if !input.is_empty() && !input.peek(Token![,]) {
            return Err(input.error(say::SEPARATOR));
        }
        Ok(())
    }

    fn value(&mut self, key: &Ident, example: &str, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<()> {
        let text = key.to_string();
        let unfit = |error: syn::Error| syn::Error::new(error.span(), say::bad_value(&text, example));
        match text.as_str() {
            "upgrade" => {
                let (name, span) = word(input).map_err(unfit)?;
                self.upgrade = Some(Signal::new(name, span)?);
            }
            "stop" => self.stop = Some(signals(list(input).map_err(unfit)?, errors)),
            "ready" => {
                let (word, span) = word(input).map_err(unfit)?;
                let ready = match word.as_str() {
                    "auto" => Ready::Auto,
                    "manual" => Ready::Manual,
                    _ => {
                        // Nothing more is said about readiness.
                        self.ready = Some((Ready::Manual, span));
                        return Err(syn::Error::new(span, say::READY));
                    }
                };
                self.ready = Some((ready, span));
            }
            "ready_timeout" | "freeze_timeout" | "quiesce_timeout" | "drain_timeout" | "checkpoint" => {
                self.timeouts.push((key.clone(), nanoseconds(input)?));
            }
            "generations" => {
                let number: LitInt = input.parse().map_err(unfit)?;
                if !number.suffix().is_empty() || !number.base10_parse::<u8>().is_ok_and(|number| number >= 2) {
                    return Err(syn::Error::new(number.span(), say::GENERATIONS));
                }
                self.generations = Some(number);
            }
            "state_limit" => self.state_limit = Some(bytes(input)?),
            "launcher" => {
                let span = input.span();
                let word: Ident = input.parse().map_err(unfit)?;
                self.launcher = Some(match word.to_string().as_str() {
                    "auto" => "Auto",
                    "on" => "On",
                    "off" => "Off",
                    _ => return Err(syn::Error::new(span, say::LAUNCHER)),
                });
            }
            "store" => {
                let span = input.span();
                let word: Ident = input.parse().map_err(unfit)?;
                self.store = Some(match word.to_string().as_str() {
                    "listeners" => "Listeners",
                    "state" => "State",
                    _ => return Err(syn::Error::new(span, say::STORE)),
                });
            }
            "executable" | "pid_file" => self.paths.push((key.clone(), input.parse().map_err(unfit)?)),
            "crate" => self.krate = crate_path(input).map_err(unfit)?,
            _ => self.runtime.value(&text, unfit, input)?,
        }
        Ok(())
    }

    fn check(&self, errors: &mut Errors) {
        let upgrade = self.upgrade.as_ref().map_or(UPGRADE, |signal| &signal.name);
        match &self.stop {
            // Where both are given, either may be the one to change; the one for upgrades has more to choose from.
            Some(stop) => {
                if let Some(stop) = stop.iter().find(|stop| stop.name == upgrade) {
                    let at = self.upgrade.as_ref().unwrap_or(stop);
                    errors.at(at.span, say::upgrade_is_stop(upgrade));
                }
            }
            None => {
                if let Some(signal) = self.upgrade.as_ref().filter(|_| STOP.contains(&upgrade)) {
                    errors.at(signal.span, say::upgrade_is_stop(upgrade));
                }
            }
        }
        self.runtime.check(&self.tokio_keys, errors);
    }

    /// ```text
    /// ::flip::__private::Config {
    ///     upgrade: "SIGUSR2",
    ///     drain_timeout: ::core::time::Duration::from_nanos(300000000000u64),
    ///     ..::flip::__private::Config::NEW
    /// }
    /// ```
    pub(crate) fn config(&self) -> TokenStream {
        let flip = &self.krate;
        let mut fields = Vec::new();
        if let Some(Signal { name, .. }) = &self.upgrade {
            fields.push(quote!(upgrade: #name));
        }
        if let Some(stop) = &self.stop {
            let stop = stop.iter().map(|signal| &signal.name);
            fields.push(quote!(stop: &[#(#stop),*]));
        }
        if let Some((ready, _)) = self.ready {
            let ready = format_ident!("{}", if let Ready::Auto = ready { "Auto" } else { "Manual" });
            fields.push(quote!(ready: #flip::__private::Ready::#ready));
        }
        for (key, nanoseconds) in &self.timeouts {
            fields.push(quote!(#key: ::core::time::Duration::from_nanos(#nanoseconds)));
        }
        if let Some(generations) = &self.generations {
            fields.push(quote!(generations: #generations));
        }
        if let Some(bytes) = &self.state_limit {
            fields.push(quote!(state_limit: #bytes));
        }
        if let Some(launcher) = self.launcher {
            let launcher = format_ident!("{launcher}");
            fields.push(quote!(launcher: #flip::Launcher::#launcher));
        }
        if let Some(store) = self.store {
            let store = format_ident!("{store}");
            fields.push(quote!(store: #flip::Store::#store));
        }
        for (key, path) in &self.paths {
            fields.push(quote!(#key: ::core::option::Option::Some(#path)));
        }
        if let Some(runtime) = self.runtime.config(flip) {
            fields.push(quote!(runtime: #runtime));
        }
        literal(flip, "Config", fields).unwrap_or_else(|| quote!(#flip::__private::Config::NEW))
    }
}

impl Runtime {
    fn value(
        &mut self,
        key: &str,
        unfit: impl Fn(syn::Error) -> syn::Error,
        input: ParseStream<'_>,
    ) -> syn::Result<()> {
        match key {
            "flavor" => {
                let (word, span) = word(input).map_err(unfit)?;
                self.flavor = Some(match word.as_str() {
                    "current_thread" => "CurrentThread",
                    "local" => "Local",
                    "multi_thread" => "MultiThread",
                    _ => return Err(syn::Error::new(span, say::flavor(&word))),
                });
            }
            "worker_threads" => {
                let number: LitInt = input.parse().map_err(&unfit)?;
                if number.base10_parse::<usize>().map_err(unfit)? == 0 {
                    return Err(syn::Error::new(number.span(), say::NO_WORKERS));
                }
                self.worker_threads = Some(number);
            }
            "start_paused" => self.start_paused = Some(input.parse().map_err(unfit)?),
            "unhandled_panic" => {
                let (word, span) = word(input).map_err(unfit)?;
                self.unhandled_panic = Some(match word.as_str() {
                    "ignore" => "Ignore",
                    "shutdown_runtime" => "ShutdownRuntime",
                    _ => return Err(syn::Error::new(span, say::UNHANDLED_PANIC)),
                });
            }
            _ => self.name = Some(input.parse().map_err(unfit)?),
        }
        Ok(())
    }

    /// What tokio's own attribute refuses.
    fn check(&self, keys: &[Ident], errors: &mut Errors) {
        let multi = self.flavor.is_none_or(|flavor| flavor == "MultiThread");
        let checks = [
            ("worker_threads", self.worker_threads.is_some() && !multi, "multi_thread"),
            ("start_paused", self.start_paused.is_some() && multi, "current_thread"),
            ("unhandled_panic", self.unhandled_panic.is_some() && multi, "current_thread"),
        ];
        for (option, refused, flavor) in checks {
            if let Some(key) = keys.iter().find(|key| refused && *key == option) {
                errors.at(key.span(), say::needs_flavor(option, flavor));
            }
        }
    }

    /// ```text
    /// ::flip::__private::Runtime {
    ///     flavor: ::flip::__private::Flavor::CurrentThread,
    ///     ..::flip::__private::Runtime::NEW
    /// }
    /// ```
    fn config(&self, flip: &Path) -> Option<TokenStream> {
        let mut fields = Vec::new();
        if let Some(flavor) = self.flavor {
            let flavor = format_ident!("{flavor}");
            fields.push(quote!(flavor: #flip::__private::Flavor::#flavor));
        }
        if let Some(number) = &self.worker_threads {
            fields.push(quote!(worker_threads: ::core::option::Option::Some(#number)));
        }
        if let Some(paused) = &self.start_paused {
            fields.push(quote!(start_paused: #paused));
        }
        if let Some(what) = self.unhandled_panic {
            let what = format_ident!("{what}");
            fields.push(quote!(unhandled_panic: #flip::__private::UnhandledPanic::#what));
        }
        if let Some(name) = &self.name {
            fields.push(quote!(name: ::core::option::Option::Some(#name)));
        }
        literal(flip, "Runtime", fields)
    }
}

fn literal(flip: &Path, name: &str, fields: Vec<TokenStream>) -> Option<TokenStream> {
    let name = format_ident!("{name}");
    (!fields.is_empty()).then(|| quote!(#flip::__private::#name { #(#fields,)* ..#flip::__private::#name::NEW }))
}

impl Signal {
    fn new(name: String, span: Span) -> syn::Result<Self> {
        let known = name.as_str();
        let message = match known {
            "SIGKILL" | "SIGSTOP" => say::uncatchable(known),
            _ if RESERVED.contains(&known) => say::reserved(known),
            _ if !SIGNALS.contains(&known) => say::unknown_signal(known, &SIGNALS),
            _ => return Ok(Self { name, span }),
        };
        Err(syn::Error::new(span, message))
    }
}

/// `[SIGTERM, "SIGINT"]`
fn list(input: ParseStream<'_>) -> syn::Result<Punctuated<(String, Span), Token![,]>> {
    let inside;
    bracketed!(inside in input);
    inside.parse_terminated(word, Token![,])
}

/// Those that are signals, each once.
fn signals(words: Punctuated<(String, Span), Token![,]>, errors: &mut Errors) -> Vec<Signal> {
    let mut signals = Vec::<Signal>::new();
    for (name, span) in words {
        if signals.iter().any(|signal| signal.name == name) {
            errors.at(span, say::signal_twice(&name));
        } else if let Some(signal) = errors.take(Signal::new(name, span)) {
            signals.push(signal);
        }
    }
    signals
}

/// A word, bare as rustc writes it or quoted as tokio does.
fn word(input: ParseStream<'_>) -> syn::Result<(String, Span)> {
    if input.peek(LitStr) {
        let word: LitStr = input.parse()?;
        return Ok((word.value(), word.span()));
    }
    let word: Ident = input.parse()?;
    Ok((word.to_string(), word.span()))
}

/// A number and its unit, which Rust has room for as a literal's suffix: `60s`. Also quoted.
fn with_unit(input: ParseStream<'_>, message: &str) -> syn::Result<(String, String, Span)> {
    let literal: Lit = input.parse().map_err(|error: syn::Error| syn::Error::new(error.span(), message))?;
    let (number, unit) = match &literal {
        Lit::Int(literal) => (literal.base10_digits().to_owned(), literal.suffix().to_owned()),
        Lit::Str(literal) => {
            let text = literal.value();
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            (text[..digits].to_owned(), text[digits..].to_owned())
        }
        _ => (String::new(), String::new()),
    };
    if number.is_empty() { Err(syn::Error::new(literal.span(), message)) } else { Ok((number, unit, literal.span())) }
}

fn nanoseconds(input: ParseStream<'_>) -> syn::Result<u64> {
    let (number, unit, span) = with_unit(input, say::TIME)?;
    let refuse = |message: &str| Err(syn::Error::new(span, message));
    let unit: u64 = match unit.as_str() {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return refuse(&say::no_unit(&number)),
        unit => return refuse(&say::unknown_unit(unit)),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(nanoseconds) => Ok(nanoseconds),
        None => refuse(say::TIME_TOO_LONG),
    }
}

fn bytes(input: ParseStream<'_>) -> syn::Result<u64> {
    let (number, unit, span) = with_unit(input, say::SIZE)?;
    let unit = match unit.as_str() {
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1_u64 << 40),
        _ => None,
    };
    let bytes = unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| syn::Error::new(span, say::SIZE))
}
