//! WebSockets that move to the new process, in the middle of whatever they are at.
//!
//! [`Upgrade`] is the argument of a handler, [`WebSocket`] what comes of it, and [`Sockets`] a parameter of `main`: the way by which a
//! WebSocket goes to the next process, with what the program knows about it.
//!
//! ```no_run
//! use axum::{Router, extract::State, response::Response, routing::get};
//! use flip::ws::{Sockets, Upgrade, WebSocket};
//! use flip::{Handoff, TcpListener};
//!
//! #[derive(Default, Handoff)]
//! struct Session {
//!     messages: u64,
//! }
//!
//! async fn begin(State(sockets): State<Sockets<Session>>, upgrade: Upgrade) -> Response {
//!     upgrade.on_upgrade(|socket| talk(sockets, socket, Session::default()))
//! }
//!
//! async fn talk(sockets: Sockets<Session>, mut socket: WebSocket, mut session: Session) {
//!     while let Some(Ok(_message)) = socket.recv().await {
//!         session.messages += 1;
//!         if socket.send(format!("{} so far", session.messages)).await.is_err() {
//!             return;
//!         }
//!     }
//!     // It was closed, and this does nothing; or a newer process serves, and takes it from here.
//!     sockets.pass(socket, session).await;
//! }
//!
//! #[flip::main]
//! async fn main(#[listen("127.0.0.1:8080")] http: TcpListener, sockets: Sockets<Session>) -> std::io::Result<()> {
//!     let passed = sockets.clone();
//!     tokio::spawn(async move {
//!         while let Some((socket, session)) = passed.next().await {
//!             tokio::spawn(talk(passed.clone(), socket, session));
//!         }
//!     });
//!     flip::serve(http, Router::new().route("/", get(begin)).with_state(sockets)).await
//! }
//! ```
//!
//! # At a restart
//!
//! [`recv`](WebSocket::recv) gives `None` when a newer process serves, and [`Sockets::pass`] moves the WebSocket there. It waits for
//! nothing that the client does: half a message, messages that nobody has read yet and those that the client does not read move as the
//! bytes that they are. The client notices nothing, and each message is received once, in order, in both directions.
//!
//! While the state is on its way `recv` gives no message; if the upgrade is rolled back it goes on. A message that it has given counts as a
//! handler that runs until it is asked for the next one, so what a message changes in a [`Live`](crate::Live) is in the state that the
//! new process gets, as long as it takes no longer than `quiesce_timeout`. Where [`send`](WebSocket::send) waits for the client it does not
//! count: one that does not read holds no upgrade up.
//!
//! # What does not move
//!
//! A WebSocket that nobody passes, that the new process has no [`Sockets`] for or does not take until shortly before `drain_timeout`, whose
//! session it cannot read, that has more than 63 MiB unread and unsent, or whose service stops, is told 1012 ("service
//! restart", in IANA's registry of close codes), which asks the client to come back, and closed by the handshake. Not all at once: each waits
//! some time, at most a fifth of `drain_timeout` and at most five seconds, so that their clients do not all come back in one moment.
//! Where nothing could take it, it goes on meanwhile. A stop says the same and not 1001 ("going away"), because most stops are restarts, too,
//! by a supervisor or on another host, and 1001 does not ask anybody to come back.
//!
//! One under TLS does not move either, because its keys are in its process; it is told in the same way. After a Close, from either side, a
//! WebSocket does not move but ends. One that came through another server than [`serve`](crate::serve) is a
//! WebSocket as any other, but the process does not know of it.
//!
//! # Caveats
//!
//! Compression (`permessage-deflate`) is not offered.

mod codec;
mod message;
mod socket;
mod sockets;
#[cfg(test)]
mod tests;
mod upgrade;

pub use message::{Error, Message, Utf8Bytes};
pub use socket::WebSocket;
pub use sockets::Sockets;
pub(crate) use sockets::Ways;
pub use upgrade::{Upgrade, UpgradeRejection};
