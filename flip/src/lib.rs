//! Zero-downtime restarts for Rust services, by annotating `main`.
//!
//! ```no_run
//! # #[cfg(feature = "axum")] mod program {
//! use flip::{HandedOff, Handoff, Live, TcpListener};
//!
//! #[derive(Default, Handoff)]
//! struct Visits {
//!     total: u64,
//! }
//!
//! async fn hello(visits: Live<Visits>) -> Result<String, HandedOff> {
//!     let n = visits.update(|v| { v.total += 1; v.total })?;
//!     Ok(format!("visit {n}, served by {}\n", std::process::id()))
//! }
//!
//! #[flip::main]
//! async fn main(#[listen("127.0.0.1:8080")] http: TcpListener, visits: Live<Visits>) -> std::io::Result<()> {
//!     flip::serve(http, axum::Router::new().route("/", axum::routing::get(hello)).with_state(visits)).await
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! `kill -HUP` starts the binary that is now installed and hands it the listener, the count and the connections at rest; the
//! old process leaves when its last request is answered. If the new binary is broken, the old one goes on. `kill -TERM` drains
//! and stops.
//!
//! # Features
//!
//! | feature | |
//! | --- | --- |
//! | `tokio` (on) | `async fn main` on tokio, and the asynchronous listeners |
//! | `hyper` | `serve_hyper`: HTTP for services of hyper, without axum |
//! | `axum` | `serve` for axum's routers and other tower services; [`Live`] and [`Exclusive`] as extractors; [`HandedOff`] as a response |
//! | `http2` | HTTP/2 in both, beside HTTP/1 |
//! | `rustls` | TLS in both, by `TcpListener::tls` |
//! | `ws` | the module `ws`: WebSockets that move to the new process; includes `axum` |
//! | `clap` | `#[args]`: the command line |
//! | `bytemuck` | the bytes of a [`Region`] as numbers and structs of plain data |
//! | `test-util` | `start_paused` of the attribute, as in tokio |
//!
//! Without `tokio`, `fn main` runs with the listeners of [`blocking`], and no async runtime is compiled.
//!
//! # Generations
//!
//! A service is a chain of processes, its *generations*. At any instant one of them, the *owner*, accepts and has the state. An
//! upgrade starts the next one beside it; while that one's `main` makes its pools and fills its caches, the owner serves. When it
//! has polled its listeners (or called [`Handle::ready`], with `ready = manual`), the owner *freezes*: it stops accepting, lets
//! running handlers end, and sends the state. Then the new process owns the service, and the old one *drains*. Whatever fails
//! before that is *rolled back*: the old process goes on, and reports why.
//!
//! The freeze takes some hundred microseconds where little state is handed over; clients wait in the listener's queue.
//!
//! # Draining
//!
//! A process that has handed over, or stops, ends what it serves in two stages. First it *asks*: `accept` gives `None`, [`Shutdown`]
//! resolves wherever somebody has a clone of it, such as in the task of a connection, and `serve` tells its clients. What is
//! left `drain_timeout` later, or at the second signal to stop, it *cuts*, and names each with its peer's address and its age.
//! What it waits for meanwhile is in the log: at the beginning, after 1 s, 2 s, 5 s, 10 s and 30 s, and every 30 s from then on;
//! and in [`Handle::draining`]. In a service that stops, a listener with [`keep_accepting`](ListenOptions::keep_accepting) answers
//! health checks until all else is done.
//!
//! # Listeners
//!
//! `#[listen(address)] http: TcpListener` is inherited where the old process has one at this address, and bound otherwise, beside the
//! old one but deaf until the new process serves. The address may come from the command line or a file; see [`Address`] and
//! [`ListenOptions`]. `accept` gives `Ok(None)` when this process will accept no more; return from `main` then, because what is
//! still open keeps the process alive by itself, for at most `drain_timeout`. [`guide::your_framework`] has tonic, hyper and others on them.
//!
//! # State
//!
//! [`Live<T>`](Live) is state that outlives the process, for `T:` [`Handoff`]. [`Live::read`] and [`Live::update`] take closures and work in the
//! owner; in a process that has handed over they say [`HandedOff`]. [`Live::call`] works anywhere: it is forwarded to the owner.
//! Without a running flip, in tests and tools, [`Live::new`] is a value like any other. A state is copied during the freeze; the
//! bytes of a [`Region`] in it are not.
//!
//! [`Exclusive<T>`](Exclusive) is what only one process may hold: an embedded database, a lease. It is closed in the old process and opened
//! in the new one in the course of the freeze, and opened again in the old one where that is rolled back.
//!
//! What a state is made of may change between releases, by the table of [`Handoff`](trait@Handoff#between-releases); what nothing bridges is refused before
//! anything stops. [`guide::changing_state`] says what to do, and [`testing`] finds it in a unit test.
//!
//! # Connections
//!
//! `flip::serve` passes HTTP connections at rest by itself. [`Relay<T>`](Relay) is for all else: what a process that has handed over
//! [passes](Relay::pass) arrives at the [`next`](Relay::next) of the owner. A [`Connection<C>`](Connection) of a protocol of one's own goes that way between two messages; the
//! module `ws` does the same for WebSockets.
//!
//! # Leaving
//!
//! [`Shutdown`] resolves when this process hands over or stops. What must run in one process only (jobs, consumers,
//! registrations) starts after [`Handle::serving`] and ends with [`Shutdown`]. Work that is no connection of a flip listener keeps
//! the process by [`Handle::guard`].
//!
//! # Under systemd
//!
//! `Type=notify-reload` is all that a unit needs for `systemctl reload` to be an upgrade; [`guide::systemd`] has the rest. As pid 1 of a container the first process
//! stays, as a launcher: [`guide::containers`]. Under both a state may outlive a crash: [`guide::checkpoints`].
//!
//! # Caveats
//!
//! - Only Linux.
//! - The attribute's function is the process: nothing may start a thread before it, and there is one a process.
#![deny(missing_docs, unsafe_code)]
#![warn(clippy::unwrap_used)]

// What the macros write starts with `::flip`; this makes it resolve in here as well.
#[allow(unused_extern_crates)]
extern crate self as flip;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[path = "fuzzing.rs"]
pub mod __fuzzing;
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod checkpoint;
mod config;
mod control;
mod drain;
mod entry;
mod error;
mod exclusive;
#[cfg(test)]
mod golden;
#[cfg(doc)]
pub mod guide;
mod handle;
pub mod handoff;
#[cfg(feature = "hyper")]
mod http;
mod launcher;
mod listen;
mod live;
mod log;
mod memory;
mod params;
#[cfg_attr(not(feature = "hyper"), expect(dead_code, reason = "only an HTTP server knows when a connection rests"))]
mod pass;
mod phase;
mod pid_file;
mod privileges;
mod protocol;
mod region;
mod relay;
mod shared;
mod sys;
mod systemd;
pub mod testing;
#[cfg(feature = "ws")]
pub mod ws;

pub use config::{Launcher, Ready, Store};
pub use drain::{Drain, Draining, Guard};
pub use entry::{Builder, Service, run};
pub use error::{BoxError, Error, ErrorKind};
pub use exclusive::{Exclusive, ExclusiveError, Opener};
pub use handle::{Handle, Reason, Shutdown, UpgradeError, Upgraded};
pub use handoff::{Apply, Handoff, Serde};
#[cfg(feature = "rustls")]
pub use http::Tls;
#[cfg(feature = "axum")]
pub use http::serve;
#[cfg(feature = "hyper")]
pub use http::{Accept, RequestBody, serve_hyper};
#[doc(inline)]
pub use listen::blocking;
pub use listen::{Address, AddressError, Listen, ListenError, ListenErrorKind, ListenOptions, ToAddress};
#[cfg(feature = "tokio")]
pub use listen::{
    SeqpacketListener, SeqpacketStream, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
pub use live::{CallError, HandedOff, Live};
pub use params::{Param, Setup};
pub use region::Region;
#[cfg(feature = "tokio")]
pub use relay::{Accepted, Connection};
pub use relay::{PassError, Relay, WhyNotPassed};

/// Makes of `main` a service that can be replaced while it runs.
///
/// `async fn main` runs on tokio; `fn main` runs without an async runtime. The parameters are what flip provides, in order;
/// the return type is anything that `main` may return.
///
/// ```no_run
/// use flip::{Handle, Live, Shutdown, TcpListener};
///
/// #[flip::main(upgrade = SIGUSR2, drain_timeout = 5m, worker_threads = 4)]
/// async fn main(
///     #[with(std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into()))] address: String,
///     #[listen(address, backlog = 1024)] http: TcpListener,
///     #[live(init = 100)] tickets: Live<u64>,
///     flip: Handle,
///     shutdown: Shutdown,
/// ) -> std::io::Result<()> {
///     while let Some((stream, _peer)) = http.accept().await? {
///         let left = tickets.update(|tickets| { *tickets = tickets.saturating_sub(1); *tickets });
///         println!("generation {}: {left:?} left", flip.generation());
///         drop(stream);
///     }
///     println!("{:?}", shutdown.await);
///     Ok(())
/// }
/// ```
///
/// # Parameters
///
/// | parameter | what it is |
/// | --- | --- |
/// | `#[args] args: Cli` | the command line, for any `clap::Parser`; needs the feature `clap`. Parsed before anything is bound, wherever it stands |
/// | `#[with(expression)] value: T` | any value, made once. The expression may use earlier parameters, `?`, and in an `async fn` `.await` |
/// | `#[listen(address)] name: L` | a listener: see [`Listen`] for the types and [`ToAddress`] for the addresses. `backlog = N`, `shards = N`, `keep_accepting = true` and `options = closure` may follow the address, as [`ListenOptions`] has them; the closure is for [`ListenOptions::socket`] |
/// | `name: Live<T>` | state that outlives the process, `T::default()` in the first one |
/// | `#[live(init = expression)] name: Live<T>` | the same; the expression is evaluated only where nothing is inherited |
/// | `#[exclusive(open = expression)] name: Exclusive<T>` | what only one process may hold at a time: see [`Exclusive`]. `close = expression` may follow |
/// | `name: Relay<T>` | the mailbox through which processes that have handed over pass items to the owner: see [`Relay`] |
/// | `name: Shutdown`, `name: Handle` | see [`Shutdown`], [`Handle`] |
/// | `name: T` | a group, for `T` that derives [`Params`](derive@Params) |
///
/// Listeners and state are found again by the parameter's name, so a renamed state starts anew, and a listener with another name is still
/// found by its address. A parameter may stand under `#[cfg(…)]`.
///
/// # Arguments
///
/// | argument | default | |
/// | --- | --- | --- |
/// | `upgrade = SIGUSR2` | `SIGHUP` | the signal for an upgrade |
/// | `stop = [SIGTERM, SIGINT]` | these two | the signals for a stop; the second one that comes cuts what still drains |
/// | `ready = auto`, `ready = manual` | `auto` | when a new process is ready: see [`Ready`]. Without a listener of flip's it must be `manual` |
/// | `ready_timeout = 60s` | `60s` | at most so long from the start of a new process to its being ready |
/// | `freeze_timeout = 3s` | `3s` | at most so long from the freeze to the commit, unless content keeps arriving |
/// | `quiesce_timeout = 200ms` | `200ms` | how long the freeze waits for handlers that run |
/// | `drain_timeout = 30s` | `30s` | how long what is open may go on after the handoff or the stop, where it is asked to end; then it is cut |
/// | `generations = 4` | `4` | how many processes may live after an upgrade, those that drain included; at least 2 |
/// | `state_limit = 4GiB` | none | how many bytes of each state a new process takes, as they are on the wire; more rolls back |
/// | `executable = "/usr/bin/app"` | what was started | what an upgrade starts |
/// | `pid_file = "/run/app.pid"` | none | a file with the number of the process that serves, locked by it; it changes with the handoff and goes with the service |
/// | `launcher = auto`, `on`, `off` | `auto` | whether the first process stays as a launcher: see [`Launcher`] |
/// | `store = listeners`, `state` | `listeners` | what is kept outside of the process, for one that starts after a crash: see [`Store`] |
/// | `checkpoint = 5s` | `5s` | how often a checkpoint of the state is made with `store = state`, where something has changed |
/// | `crate = path` | `::flip` | where flip is |
/// | `flavor`, `worker_threads`, `start_paused`, `name`, `unhandled_panic` | tokio's | as in `#[tokio::main]` |
///
/// Times have a unit: `500ms`, `30s`, `5m`, `1h`. Signals may also be written in quotes.
///
/// Variables of the environment override them: `FLIP_UPGRADE` (`off` makes the upgrade's signal a stop), `FLIP_STOP`
/// (`SIGTERM,SIGINT`), `FLIP_READY`, `FLIP_READY_TIMEOUT`, `FLIP_FREEZE_TIMEOUT`, `FLIP_QUIESCE_TIMEOUT`, `FLIP_DRAIN_TIMEOUT`,
/// `FLIP_GENERATIONS`, `FLIP_STATE_LIMIT`, `FLIP_EXECUTABLE`, `FLIP_PID_FILE`, `FLIP_LAUNCHER`, `FLIP_STORE`, `FLIP_CHECKPOINT`. `FLIP_ASIDE` (`restore` or `drop`) says what becomes of a checkpoint that was set aside. `FLIP_MEMORY` (`check` or `ignore`) says whether an upgrade is refused
/// where there is no memory for a second process of this one's size; without it, it is. `FLIP_SUPERVISED` (`yes` or `no`) says whether somebody starts another process when this
/// one dies; without it, `NOTIFY_SOCKET` and `INVOCATION_ID`, which systemd sets, do.
///
/// # Errors
///
/// A parameter that cannot be provided ends the process with one readable message and status 1. In a new process the old one
/// reports that message, and goes on.
///
/// A process that was cut (`drain_timeout`, the second stop) ends with status 0; `main`'s future is dropped, and what was open is
/// logged, each with its listener, its peer's address and its age.
#[doc(inline)]
pub use flip_macros::main;

/// What [`main`](macro@main) does, for any function: a `main` with subcommands gives it to [`run`](run()).
///
/// It takes the same arguments, and the same parameters besides `#[given]`, which the caller gives, in order:
///
/// ```no_run
/// #[flip::service(drain_timeout = 1m)]
/// fn serve(#[given] greeting: String, #[listen("127.0.0.1:8080")] http: flip::blocking::TcpListener) -> std::io::Result<()> {
///     use std::io::Write;
///     while let Some((mut stream, _peer)) = http.accept()? {
///         writeln!(stream, "{greeting}")?;
///     }
///     Ok(())
/// }
///
/// fn main() -> std::io::Result<()> {
///     match std::env::args().nth(1) {
///         Some(greeting) => flip::run(serve(greeting)),
///         None => Ok(println!("usage: example GREETING")),
///     }
/// }
/// ```
///
/// An upgrade starts the program with the arguments of this process, so the new one takes the same way to [`run`](run()).
#[doc(inline)]
pub use flip_macros::service;

/// A group of parameters for [`main`](macro@main) and [`service`](macro@service), on a struct with named fields.
///
/// The fields take the attributes that parameters take, and later ones may name earlier ones. Listeners and state are found
/// again by the fields' names, wherever the group stands. `#[params(prefix = "admin")]` puts `admin.` before them, and
/// `#[params(crate = path)]` says where flip is, if not at `::flip`.
///
/// ```no_run
/// use flip::{Live, Params, TcpListener};
///
/// #[derive(Params)]
/// struct App {
///     #[with("127.0.0.1:8080".parse::<flip::Address>()?)]
///     address: flip::Address,
///     #[listen(address.clone())]
///     http: TcpListener,
///     visits: Live<u64>,
/// }
///
/// #[flip::main]
/// async fn main(app: App) -> std::io::Result<()> {
///     println!("{} at {}", app.visits.read(|n| *n).unwrap_or_default(), app.address);
///     while let Some((_stream, _peer)) = app.http.accept().await? {}
///     Ok(())
/// }
/// ```
#[doc(inline)]
pub use flip_macros::Params;

/// Makes a struct or an enum something that can outlive the process; see [`trait@Handoff`] for fields and attributes.
///
/// ```
/// use std::collections::HashMap;
/// use std::time::Instant;
///
/// use flip::{Apply, Handoff};
///
/// #[derive(Handoff)]
/// #[handoff(calls(Forget))]
/// struct Sessions {
///     by_token: HashMap<String, Session>,
///     #[handoff(default = 1)]
///     next: u64,
///     #[handoff(skip)]
///     cache: Vec<String>,
/// }
///
/// #[derive(Handoff)]
/// enum Session {
///     Guest { since: Instant },
///     User(String),
/// }
///
/// #[derive(Handoff)]
/// struct Forget(String);
///
/// impl Apply<Forget> for Sessions {
///     type Answer = bool;
///     fn apply(&mut self, Forget(token): Forget) -> bool {
///         self.by_token.remove(&token).is_some()
///     }
/// }
/// ```
///
/// # Errors
///
/// A field that cannot be handed over is a compile error at its type, which says what to do.
#[doc(inline)]
pub use flip_macros::Handoff;

// The first program of the README, as it compiles.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../../README.md")]
struct Readme;
