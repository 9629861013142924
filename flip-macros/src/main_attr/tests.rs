//! What `#[flip::main]`, `#[flip::service]` and `#[derive(flip::Params)]` expand to, and what they say about mistakes.

use proc_macro2::{TokenStream, TokenTree};
use std::fs;
use std::path::Path;
use syn::parse::{ParseStream, Parser};
use syn::{Meta, Token};

/// Expands what stands under one of flip's attributes, which is the first in the text.
fn expand(text: &str) -> TokenStream {
    let split = |input: ParseStream<'_>| {
        input.parse::<Token![#]>()?;
        let attribute;
        syn::bracketed!(attribute in input);
        Ok((attribute.parse::<Meta>()?, input.parse::<TokenStream>()?))
    };
    let (attribute, item) = split.parse_str(text).expect("an attribute and an item");
    let name = attribute.path().segments.last().expect("a path has a name").ident.to_string();
    let args = match attribute {
        Meta::List(list) => list.tokens,
        _ => TokenStream::new(),
    };
    match name.as_str() {
        "main" => super::main(args, item),
        "service" => super::service(args, item),
        "derive" => crate::params::derive(item),
        _ => panic!("`{name}` is none of flip's"),
    }
}

/// The expansions are in `tests/expand`, one situation a file: what is written, a line, what becomes of it. With
/// `UPDATE_EXPAND=1` in the environment the second half is written anew.
#[track_caller]
fn expansion(case: &str) {
    const LINE: &str = "\n// ---- becomes ----\n\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expand").join(case).with_extension("rs");
    let text = fs::read_to_string(&path).expect("the case is there");
    let (written, expected) = text.split_once(LINE).unwrap_or((&text, ""));
    let became = prettyplease::unparse(&syn::parse2(expand(written)).expect("an expansion is Rust"));
    if std::env::var_os("UPDATE_EXPAND").is_some() {
        fs::write(&path, format!("{}\n{LINE}{became}", written.trim_end())).expect("the case is writable");
    } else {
        assert!(became == expected, "{case} became\n{became}\ninstead of\n{expected}");
    }
}

macro_rules! expansions {
    ($($case:ident)*) => { $(#[test] fn $case() { expansion(stringify!($case)); })* };
}

expansions! {
    main_first
    main_every_source
    main_arguments
    main_blocking
    main_cfg
    main_names
    main_refused
    service
    service_blocking
    service_of_one_name
    service_refused
    params
    params_refused
}

/// The mistakes as `token: message`.
fn mistakes(text: &str) -> Vec<String> {
    let tokens: Vec<_> = expand(text).into_iter().collect();
    let mut mistakes = Vec::new();
    // :: core :: compile_error ! { "message" }
    for call in tokens.windows(8) {
        let [first, .., TokenTree::Ident(name), TokenTree::Punct(_), TokenTree::Group(message)] = call else {
            continue;
        };
        if name != "compile_error" {
            continue;
        }
        let span = first.span().join(message.span()).expect("a mistake is in one place");
        let at = span.source_text().filter(|text| !text.is_empty()).unwrap_or("attribute".into());
        let message: syn::LitStr = syn::parse2(message.stream()).expect("a message is a string");
        mistakes.push(format!("{at}: {}", message.value()));
    }
    mistakes
}

macro_rules! mistakes {
    ($($case:ident: $text:expr, [$($expected:expr),+ $(,)?];)*) => {
        $(#[test] fn $case() { assert_eq!(mistakes($text), [$($expected),+]); })*
    };
}

// The function.
mistakes! {
    not_a_function: "#[flip::main] struct Main;",
        ["struct: `#[flip::main]` belongs on a function: `async fn` or `fn`"];
    constant_is_not_a_function: "#[flip::service] const X: u8 = 1;",
        ["const: `#[flip::service]` belongs on a function: `async fn` or `fn`"];
    no_body: "#[flip::main(ready = manual)] fn main();",
        [";: the function has no body: write `{ … }`"];
    generic: "#[flip::main(ready = manual)] fn main<T, const N: usize>() {}",
        ["<T, const N: usize>: flip calls this function and has no types to choose: remove the generic parameters"];
    bounded: "#[flip::main(ready = manual)] fn main() where u8: Copy {}",
        ["where u8: Copy: flip calls this function and has no types to choose: remove the `where` clause"];
    method: "#[flip::main(ready = manual)] fn main(&self) {}",
        ["&self: flip calls this function and has no `self` to give: make it a free function"];
    constant: "#[flip::main(ready = manual)] const fn main() {}",
        ["const: what flip runs cannot be evaluated by the compiler: remove `const`"];
    unsafety: "#[flip::main(ready = manual)] async unsafe fn main() {}",
        ["unsafe: flip calls this function without conditions: remove `unsafe`"];
    foreign: "#[flip::main(ready = manual)] extern \"C\" fn main() {}",
        ["extern \"C\": flip calls this function from Rust: remove the `extern`"];
    another_runtime: "#[flip::main(ready = manual)] #[tokio::main(flavor = \"local\")] async fn main() {}",
        ["tokio::main: flip starts the runtime itself: remove `#[tokio::main]` and give its arguments to flip's attribute"];
}

const NO_LISTENER: &str = "no listener to tell readiness by: add `ready = manual` and call `Handle::ready`, \
    or take a `#[listen]` parameter of one of flip's types";

// Readiness.
mistakes! {
    no_parameters: "#[flip::main] async fn main() {}", [format!("attribute: {NO_LISTENER}")];
    no_listener: "#[flip::main] async fn main(#[args] a: A, #[with(1)] w: W, v: flip::Live<V>, s: Shutdown, h: Handle) {}",
        [format!("attribute: {NO_LISTENER}")];
    only_bare_listeners:
        "#[flip::main(ready = auto)] fn main(#[listen(\"a\")] a: Option<std::net::TcpListener>, #[listen(\"a\")] b: ::tokio::net::UdpSocket) {}",
        [format!("auto: {NO_LISTENER}")];
}

#[test]
fn readiness_may_come_from_elsewhere() {
    for parameters in [
        "#[listen(\"a\")] a: TcpListener",
        "#[listen(\"a\")] a: Option<flip::UnixListener>",
        "#[listen(\"a\")] a: Alias",
        "group: Group",
    ] {
        assert_eq!(mistakes(&format!("#[flip::main] fn main({parameters}) {{}}")), [""; 0], "{parameters}");
    }
}

// Parameters.
mistakes! {
    pattern: "#[flip::main] async fn main(App { http }: App) {}",
        ["App { http }: a parameter's name is its name for flip: write `name: Type` and take it apart in the body"];
    by_reference: "#[flip::main] async fn main(ref app: App) {}",
        ["ref app: a parameter's name is its name for flip: write `name: Type` and take it apart in the body"];
    nameless_listener: "#[flip::main] async fn main(#[listen(\"a\")] _: TcpListener) {}",
        ["_: a listener is found again by its name after a restart: give the parameter one, `_name` if it is not used"];
    nameless_state: "#[flip::main] async fn main(app: App, _: Live<u8>, #[live(init = 1)] _: Live<u8>) {}",
        ["_: what is kept is found again by its name after a restart: give the parameter one, `_name` if it is not used",
         "_: live state is found again by its name after a restart: give the parameter one, `_name` if it is not used"];
    borrowed: "#[flip::main] async fn main(app: &App, #[with(\"a\")] fine: &'static str) {}",
        ["&App: flip hands over the value itself: remove the `&`"];
    impl_trait: "#[flip::main] async fn main(app: Option<impl Trait>) {}",
        ["impl: flip has to know which type to provide: name it instead of `impl Trait`"];
    listener_without_address: "#[flip::main] async fn main(http: flip::TcpListener, more: Vec<UnixListener>) {}",
        ["flip::TcpListener: a `TcpListener` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours",
         "Vec<UnixListener>: a `UnixListener` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours"];
    two_sources: "#[flip::main] async fn main(#[listen(\"a\")] #[with(1)] http: TcpListener) {}",
        ["with: `#[listen]` already says where this value comes from: remove `#[with]`"];
    one_source_twice: "#[flip::main] async fn main(#[with(2)] #[with(1)] app: u8, http: Http) {}",
        ["with: `#[with]` already says where this value comes from: remove `#[with]`"];
    misspelt_source_and_another: "#[flip::main] async fn main(#[lisen(\"a\")] #[with(1)] http: TcpListener) {}",
        ["lisen: flip has no `#[lisen]` for a parameter: it knows `#[args]`, `#[with]`, `#[listen]`, `#[live]` and `#[exclusive]`"];
    args_twice: "#[flip::main] async fn main(#[args] a: A, #[args] b: B, http: Http) {}",
        ["args: the command line is parsed once: put all its options into one `#[args]` type, with `#[command(flatten)]`"];
    unknown_attribute: "#[flip::main] async fn main(#[clap::arg(long)] a: A) {}",
        ["clap::arg: flip has no `#[clap::arg]` for a parameter: it knows `#[args]`, `#[with]`, `#[listen]`, `#[live]` and `#[exclusive]`"];
    unknown_attribute_of_a_service: "#[flip::service] async fn serve(#[arg] a: A) {}",
        ["arg: flip has no `#[arg]` for a parameter: it knows `#[args]`, `#[with]`, `#[listen]`, `#[live]`, `#[exclusive]` and `#[given]`"];
    conditional_attribute: "#[flip::main] async fn main(#[cfg_attr(unix, listen(\"a\"))] a: TcpListener) {}",
        ["cfg_attr: flip reads a parameter's attributes before `cfg_attr` is looked at: write the parameter twice, \
          one under `#[cfg(…)]`, one under `#[cfg(not(…))]`"];
    given_in_main: "#[flip::main] async fn main(#[given] a: A) {}",
        ["given: nobody calls `main` with a value: `#[given]` is for `#[flip::service]`; here, make it with `#[with(…)]`"];
}

#[test]
fn args_under_opposite_conditions_are_one() {
    let text = "#[flip::main] fn main(#[cfg(a)] #[args] a: A, #[cfg(not(a))] #[args] b: B, http: Http) {}";
    assert_eq!(mistakes(text), [""; 0]);
}

const OPTIONS: &str = "after the address, `#[listen]` takes `backlog = 1024`, `shards = 4`, `keep_accepting = true` and `options = |socket| …`";
const OPEN: &str = "`#[exclusive]` needs what opens it: `#[exclusive(open = || Database::create(\"app.db\"))]`";
const OPTION: &str =
    "`#[exclusive]` takes `open = || …`, which gives a `Result`, and `close = |value| …`, which gives one, too";
const INIT: &str =
    "`#[live]` needs the first content: `#[live(init = expression)]`; without the attribute it is `Default`";

// Their attributes.
mistakes! {
    args_with_something: "#[flip::main] fn main(#[args(Cli)] a: A) {}",
        ["#[args(Cli)]: `#[args]` takes nothing: what to parse is the parameter's type"];
    given_with_something: "#[flip::service] fn serve(#[given(1)] a: A, http: Http) {}",
        ["#[given(1)]: `#[given]` takes nothing: the value is given by the caller"];
    with_nothing: "#[flip::main] fn main(#[with] a: A, #[with()] b: B) {}",
        ["#[with]: `#[with]` needs the value: `#[with(Config::load()?)]`",
         "#[with()]: `#[with]` needs the value: `#[with(Config::load()?)]`"];
    with_several: "#[flip::main] fn main(#[with(1, 2)] a: A) {}",
        ["2: `#[with]` takes one expression: put a block around several statements"];
    with_half: "#[flip::main] fn main(#[with(a.)] a: A) {}",
        ["): unexpected end of input, expected identifier or integer"];
    listen_option_without_address: "#[flip::main] fn main(#[listen(nodelay = true)] a: A, #[listen(backlog = 3, \"a\")] b: B) {}",
        [format!("nodelay: {OPTIONS}"), format!("\"a\": {OPTIONS}")];
    listen_option: "#[flip::main] fn main(#[listen(\"a\", nodelay = true)] a: A, #[listen(\"a\", 3)] b: B) {}",
        [format!("nodelay: {OPTIONS}"), format!("3: {OPTIONS}")];
    listen_option_twice: "#[flip::main] fn main(#[listen(\"a\", shards = 1, shards = 1)] a: A) {}",
        ["shards: `shards` is given twice: remove one"];
    live_without_init: "#[flip::main] fn main(#[live] a: A, #[live(3)] b: B, #[live(from = 3)] c: C, #[live(init = 3, 4)] d: D) {}",
        [format!("#[live]: {INIT}"), format!("3: {INIT}"), format!("from: {INIT}"), format!("4: {INIT}")];
    exclusive_without_open: "#[flip::main] fn main(#[exclusive] a: A, #[exclusive(open)] b: B, #[exclusive(close = drop)] c: C) {}",
        [format!("#[exclusive]: {OPEN}"), format!("open: {OPEN}"), format!("close: {OPEN}")];
    exclusive_option: "#[flip::main] fn main(#[exclusive(open = f, 3)] a: A, #[exclusive(open = f, opened = g)] b: B) {}",
        [format!("3: {OPTION}"), format!("opened: {OPTION}")];
    exclusive_option_twice: "#[flip::main] fn main(#[exclusive(open = f, close = g, open = h)] a: A) {}",
        ["open: `open` is given twice: remove one"];
    exclusive_by_its_type_alone: "#[flip::main(ready = manual)] fn main(a: Exclusive<A>) {}",
        ["Exclusive<A>: an `Exclusive` has to be opened by somebody: put `#[exclusive(open = || …)]` in front of it, with yours"];
    nameless_exclusive: "#[flip::main(ready = manual)] fn main(#[exclusive(open = f)] _: Exclusive<A>) {}",
        ["_: an exclusive is found again by its name after a restart: give the parameter one, `_name` if it is not used"];
}

fn arguments(arguments: &str) -> Vec<String> {
    mistakes(&format!("#[flip::main({arguments})] async fn main(http: Http) {{}}"))
}

macro_rules! arguments {
    ($($case:ident: $text:expr, [$($expected:expr),+ $(,)?];)*) => {
        $(#[test] fn $case() { assert_eq!(arguments($text), [$($expected),+]); })*
    };
}

const CURRENT_THREAD: &str = "requires the `current_thread` runtime flavor: add `flavor = \"current_thread\"`";

// The attribute's arguments.
arguments! {
    unknown_argument: "upgarde = SIGHUP",
        ["upgarde: there is no argument `upgarde`: there are `upgrade`, `stop`, `ready`, `ready_timeout`, \
          `freeze_timeout`, `quiesce_timeout`, `drain_timeout`, `generations`, `state_limit`, `executable`, `pid_file`, `launcher`, `store`, `checkpoint`, `crate`, `flavor`, `worker_threads`, `start_paused`, `unhandled_panic`, `name`"];
    not_an_argument: "3, ready = manual, ready = auto",
        ["3: an argument is written like `drain_timeout = 30s`", "ready: `ready` is given twice: remove one"];
    argument_without_value: "upgrade, stop =, ready(manual)",
        ["upgrade: `upgrade` needs a value: `upgrade = SIGHUP`",
         "stop: `stop` needs a value: `stop = [SIGTERM, SIGINT]`",
         "ready: `ready` needs a value: `ready = manual`"];
    separator: "ready = auto manual, generations = 1",
        ["manual: arguments are separated by commas: write `,` here",
         "1: `generations` is a whole number from 2, the old and the new process, to 255"];
    bad_value: "upgrade = 3, stop = SIGTERM, crate = 7, start_paused = 1",
        ["3: this is no value for `upgrade`: write it like `upgrade = SIGHUP`",
         "SIGTERM: this is no value for `stop`: write it like `stop = [SIGTERM, SIGINT]`",
         "7: this is no value for `crate`: write it like `crate = ::flip`",
         "1: this is no value for `start_paused`: write it like `start_paused = true`"];
    launcher: "launcher = maybe", ["maybe: the launcher is `auto`, `on` or `off`"];
    times: "ready_timeout = 60, freeze_timeout = 3min, quiesce_timeout = 1.5s, drain_timeout = soon",
        ["60: a time needs its unit: `60s` for seconds, `60ms` for milliseconds, or `m`, `h`",
         "3min: there is no unit `min`: use `ms`, `s`, `m` or `h`",
         "1.5s: a time is a whole number with its unit: `200ms`, `60s`, `5m` or `1h`",
         "soon: a time is a whole number with its unit: `200ms`, `60s`, `5m` or `1h`"];
    quoted_times: "ready_timeout = \"60\", freeze_timeout = \"s\", drain_timeout = \"99999999h\"",
        ["\"60\": a time needs its unit: `60s` for seconds, `60ms` for milliseconds, or `m`, `h`",
         "\"s\": a time is a whole number with its unit: `200ms`, `60s`, `5m` or `1h`",
         "\"99999999h\": this time is longer than flip can count: take less than 500 years"];
    generations: "generations = 256",
        ["256: `generations` is a whole number from 2, the old and the new process, to 255"];
    ready: "ready = soon", ["soon: `ready` is `auto` or `manual`"];
    unknown_signal: "upgrade = sighup",
        ["sighup: there is no signal `sighup` to wait for: use one of SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, \
          SIGUSR2, SIGALRM, SIGCONT, SIGIO, SIGPWR, SIGURG, SIGWINCH"];
    uncatchable_signals: "upgrade = SIGKILL, stop = [SIGSTOP, SIGINT]",
        ["SIGKILL: no process ever sees SIGKILL: choose a signal that can be caught, like SIGTERM",
         "SIGSTOP: no process ever sees SIGSTOP: choose a signal that can be caught, like SIGTERM"];
    reserved_signal: "upgrade = SIGCHLD",
        ["SIGCHLD: the system sends SIGCHLD for reasons of its own: choose a signal that somebody sends on purpose"];
    signal_twice: "stop = [SIGINT, SIGTERM, SIGINT]", ["SIGINT: SIGINT is in the list twice: remove one"];
    upgrade_is_stop: "stop = [SIGUSR1], upgrade = SIGUSR1",
        ["SIGUSR1: SIGUSR1 stops the service: choose another signal for `upgrade`, or take it out of `stop`"];
    upgrade_is_stop_by_default: "upgrade = SIGTERM",
        ["SIGTERM: SIGTERM stops the service: choose another signal for `upgrade`, or take it out of `stop`"];
    stop_is_upgrade_by_default: "stop = [SIGTERM, SIGHUP]",
        ["SIGHUP: SIGHUP stops the service: choose another signal for `upgrade`, or take it out of `stop`"];
    flavors: "flavor = \"single\"",
        ["\"single\": there is no runtime flavor `single`: there are `current_thread`, `local` and `multi_thread`"];
    old_flavor: "flavor = \"threaded_scheduler\"",
        ["\"threaded_scheduler\": the `threaded_scheduler` runtime flavor has been renamed to `multi_thread`"];
    workers_of_one_thread: "flavor = \"current_thread\", worker_threads = 3",
        ["worker_threads: the `worker_threads` option requires the `multi_thread` runtime flavor: \
          add `flavor = \"multi_thread\"`"];
    no_workers: "worker_threads = 0", ["0: `worker_threads` may not be 0: leave it out for one per core"];
    current_thread_only: "start_paused = true, unhandled_panic = \"ignore\"",
        [format!("start_paused: the `start_paused` option {CURRENT_THREAD}"),
         format!("unhandled_panic: the `unhandled_panic` option {CURRENT_THREAD}")];
    unhandled_panic: "flavor = \"local\", unhandled_panic = \"abort\"",
        ["\"abort\": `unhandled_panic` is `\"ignore\"` or `\"shutdown_runtime\"`"];
}

mistakes! {
    tokio_in_a_blocking_main: "#[flip::main(name = \"x\", flavor = \"local\", ready = manual)] fn main() {}",
        ["name: `name` is for tokio, which only an `async fn` runs on: add `async` or remove it",
         "flavor: `flavor` is for tokio, which only an `async fn` runs on: add `async` or remove it"];
}

const NOT_A_STRUCT: &str =
    "`Params` is for a struct with named fields: each field is a parameter, and its name is the parameter's";

// A group of parameters.
mistakes! {
    group_is_an_enum: "#[derive(flip::Params)] enum App {}", [format!("App: {NOT_A_STRUCT}")];
    group_is_a_tuple: "#[derive(flip::Params)] struct App(u8);", [format!("App: {NOT_A_STRUCT}")];
    group_with_unknown_key: "#[derive(flip::Params)] #[params(suffix = \"x\")] struct App { a: A }",
        ["suffix: `#[params]` has no `suffix`: it takes `prefix = \"admin\"` and `crate = path`"];
    group_with_key_twice: "#[derive(flip::Params)] #[params(prefix = \"x\", prefix = \"y\")] struct App { a: A }",
        ["prefix: `prefix` is given twice: remove one"];
    group_with_args_twice: "#[derive(flip::Params)] struct App { #[args] a: A, #[args] b: B, http: TcpListener }",
        ["TcpListener: a `TcpListener` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours",
         "args: the command line is parsed once: put all its options into one `#[args]` type, with `#[command(flatten)]`"];
}

#[test]
fn all_mistakes_are_found_in_one_run() {
    let text = "#[flip::main(flavour = 1, drain_timeout = 30)] unsafe fn main<T>(http: TcpListener, #[with] n: &u8) {}";
    let at: Vec<_> = mistakes(text).iter().filter_map(|mistake| Some(mistake.split_once(':')?.0.to_owned())).collect();
    assert_eq!(at, ["flavour", "30", "#[with]", "unsafe", "<T>", "TcpListener"]);
}
