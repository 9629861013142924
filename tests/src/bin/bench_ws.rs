//! What the WebSocket benchmark restarts: says when the last of `SOCKETS` WebSockets is here, and when the freeze began.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use flip::ws::{Sockets, Upgrade, WebSocket};
use flip::{Handoff, Live, TcpListener};
use flip_tests::inside::{is_called, say};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Default, Handoff)]
struct Session {
    name: String,
    messages: u64,
}

/// When it was written by a freeze, in nanoseconds of the clock that all processes have.
#[derive(Default)]
struct Frozen(u64);

fn now() -> u64 {
    let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has it").into();
    now.as_nanos() as u64
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (if is_called("flip-freeze") { now() } else { self.0 }).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Frozen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u64::deserialize(from).map(Frozen)
    }
}

#[derive(Default, Handoff)]
struct Moment {
    frozen: Frozen,
}

async fn begin(State(sockets): State<Sockets<Session>>, upgrade: Upgrade) -> Response {
    let session = Session { name: "somebody with a name".to_owned(), messages: 0 };
    upgrade.on_upgrade(|socket| talk(sockets, socket, session))
}

async fn talk(sockets: Sockets<Session>, mut socket: WebSocket, mut session: Session) {
    while let Some(Ok(_)) = socket.recv().await {
        session.messages += 1;
        if socket.send(session.messages.to_string()).await.is_err() {
            return;
        }
    }
    sockets.pass(socket, session).await;
}

async fn take(sockets: Sockets<Session>, moment: Live<Moment>) {
    let wanted: u64 = std::env::var("SOCKETS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let mut taken = 0;
    while let Some((socket, session)) = sockets.next().await {
        tokio::spawn(talk(sockets.clone(), socket, session));
        taken += 1;
        if taken == wanted {
            let frozen = moment.read(|moment| moment.frozen.0).unwrap_or_default();
            say(&format!("has taken all {} us after the freeze", (now() - frozen) / 1000));
        }
    }
}

#[flip::main]
async fn main(
    #[listen("127.0.0.1:0", backlog = 4096)] http: TcpListener,
    sockets: Sockets<Session>,
    moment: Live<Moment>,
) -> std::io::Result<()> {
    say(&format!("listens at {}", http.local_addr()?));
    say("is ready");
    tokio::spawn(take(sockets.clone(), moment));
    flip::serve(http, Router::new().route("/", get(begin)).with_state(sockets)).await
}
