//! WebSockets that answer each message by a number of their own, and move at a restart; and some that do not.

use std::path::Path;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use flip::ws::{Sockets, Upgrade, WebSocket};
use flip::{Handoff, Live, TcpListener};
use flip_tests::inside::{Gates, pass_gate, say, start};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::task::spawn_blocking;

/// How many messages there were. Thirteen are too many to be read where there is the file `picky`.
#[derive(Default, Serialize)]
struct Messages(u64);

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let messages = u64::deserialize(from)?;
        assert!(messages != 13 || !Path::new("picky").exists(), "{messages} messages");
        Ok(Messages(messages))
    }
}

/// Of one client.
#[derive(Default, Handoff)]
struct Session {
    messages: Messages,
    /// Which processes it was passed to, besides the first.
    moves: u64,
}

/// Of all.
#[derive(Default, Handoff)]
struct Total {
    messages: u64,
    gates: Gates,
}

#[derive(Clone)]
struct App {
    sockets: Sockets<Session>,
    total: Live<Total>,
}

async fn begin(State(app): State<App>, upgrade: Upgrade) -> Response {
    upgrade.on_upgrade(|socket| talk(app, socket, Session::default()))
}

async fn talk(app: App, mut socket: WebSocket, mut session: Session) {
    converse(&app, &mut socket, &mut session).await;
    app.sockets.pass(socket, session).await;
}

/// Until nothing comes any more.
async fn converse(app: &App, socket: &mut WebSocket, session: &mut Session) {
    while let Some(message) = socket.recv().await {
        let flip::ws::Message::Text(text) = (match message {
            Ok(message) => message,
            Err(error) => return say(&format!("has lost a client after {} messages: {error}", session.messages.0)),
        }) else {
            return say("does not know what to do with bytes");
        };
        session.messages.0 += 1;
        if let Err(error) = app.total.update(|total| total.messages += 1) {
            return say(&format!("cannot count a message: {error}"));
        }
        let answer = match text.strip_prefix("long ").and_then(|length| length.parse().ok()) {
            None => format!("{} {} {} {text}", std::process::id(), session.messages.0, session.moves),
            Some(length) => {
                say("sends a long answer");
                "x".repeat(length)
            }
        };
        if let Err(error) = socket.send(answer).await {
            return say(&format!("cannot answer: {error}"));
        }
    }
}

/// Is not passed.
async fn stay(State(app): State<App>, upgrade: Upgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move { converse(&app, &mut socket, &mut Session::default()).await })
}

/// Closes it by itself, after one message.
async fn once(upgrade: Upgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move {
        if socket.recv().await.is_some() {
            socket.close(4000, "once").await;
        }
    })
}

async fn total(State(app): State<App>) -> Result<String, flip::HandedOff> {
    app.total.read(|total| total.messages.to_string())
}

async fn take(app: App) {
    spawn_blocking(|| pass_gate("take")).await.expect("a gate does not panic");
    while let Some((socket, mut session)) = app.sockets.next().await {
        session.moves += 1;
        tokio::spawn(talk(app.clone(), socket, session));
    }
}

#[flip::main]
async fn main(
    #[listen("127.0.0.1:0", backlog = 4096)] http: TcpListener,
    sockets: Sockets<Session>,
    total: Live<Total>,
) -> Result<(), flip::BoxError> {
    say(&format!("listens at {}", http.local_addr()?));
    start()?;
    say("is ready");
    let app = App { sockets, total };
    tokio::spawn(take(app.clone()));
    let router = Router::new()
        .route("/", get(begin))
        .route("/stay", get(stay))
        .route("/once", get(once))
        .route("/total", get(self::total))
        .with_state(app);
    flip::serve(http, router).await?;
    Ok(())
}
