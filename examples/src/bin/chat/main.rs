//! A chat in a page: rooms, names, history, and a button that upgrades the service under it.
//!
//! A browser has one WebSocket, which moves to each new process with its session: who it is, in which room, and up to which message it
//! has heard. What is said is state, so a session finds in the new process just what it has not heard yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use flip::ws::{Error, Message, Sockets, Upgrade, WebSocket};
use flip::{Apply, Handle, Handoff, Live, TcpListener};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
}

/// How many messages of a room are kept, and how many rooms there may be.
const HISTORY: usize = 200;
const ROOMS: usize = 1000;

/// Everything that was said lately.
#[derive(Default, Handoff)]
#[handoff(calls(Say))]
struct Rooms {
    rooms: BTreeMap<String, Room>,
    /// How many WebSockets there have been.
    sockets: u64,
}

#[derive(Default, Handoff)]
struct Room {
    said: u64,
    history: VecDeque<Said>,
}

#[derive(Clone, Handoff, Serialize)]
struct Said {
    /// Its number in its room.
    id: u64,
    room: String,
    name: String,
    text: String,
    /// Milliseconds since 1970, as in JavaScript.
    at: u64,
}

/// Somebody says something. The answer is its number; nothing where that would be one room too many.
#[derive(Handoff)]
struct Say {
    room: String,
    name: String,
    text: String,
}

impl Apply<Say> for Rooms {
    type Answer = Option<u64>;

    fn apply(&mut self, Say { room, name, text }: Say) -> Option<u64> {
        if self.rooms.len() >= ROOMS && !self.rooms.contains_key(&room) {
            return None;
        }
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        let Room { said, history } = self.rooms.entry(room.clone()).or_default();
        *said += 1;
        history.push_back(Said { id: *said, room, name, text, at });
        if history.len() > HISTORY {
            history.pop_front();
        }
        // In this process, which owns the rooms, wherever it was said.
        CHANGED.send_replace(());
        Some(*said)
    }
}

/// Something was said.
static CHANGED: LazyLock<watch::Sender<()>> = LazyLock::new(Default::default);
/// An upgrade did not happen, and why.
static FAILED: LazyLock<watch::Sender<String>> = LazyLock::new(Default::default);

/// What the service knows about a WebSocket, in whichever process it is.
#[derive(Default, Handoff)]
struct Session {
    number: u64,
    /// The generation in which it was opened.
    opened: u64,
    moves: u64,
    name: String,
    room: String,
    /// The last message that it was sent.
    heard: u64,
}

/// What a browser says.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Asks {
    Join { name: String, room: String },
    Say(String),
    Upgrade,
}

#[derive(Clone)]
struct Chat {
    rooms: Live<Rooms>,
    sockets: Sockets<Session>,
    flip: Handle,
}

impl Chat {
    async fn begin(State(chat): State<Chat>, headers: HeaderMap, upgrade: Upgrade) -> Response {
        // A browser lets any page open a WebSocket anywhere, and says which page it is (RFC 6455, 10.2).
        if headers.get(ORIGIN).is_some_and(|origin| !is_of_this_page(origin, headers.get(HOST))) {
            return StatusCode::FORBIDDEN.into_response();
        }
        upgrade.on_upgrade(async move |socket| {
            let number = chat.rooms.update(|rooms| {
                rooms.sockets += 1;
                rooms.sockets
            });
            // The process has handed over: the browser comes back, to the new one.
            let Ok(number) = number else { return socket.close(1012, "service restart").await };
            let session = Session { number, opened: chat.flip.generation(), ..Session::default() };
            chat.talk(socket, session).await;
        })
    }

    /// Until it is closed, or moves on.
    async fn talk(self, mut socket: WebSocket, mut session: Session) {
        // What a browser that does not read has not heard by then it hears in the new process.
        if let Ok(()) | Err(Error::Leaving) = self.tell(&mut socket, &mut session).await {
            self.sockets.pass(socket, session).await;
        }
    }

    async fn tell(&self, socket: &mut WebSocket, session: &mut Session) -> Result<(), Error> {
        let (mut changed, mut failed) = (CHANGED.subscribe(), FAILED.subscribe());
        let Session { number, opened, moves, .. } = session;
        let (pid, generation) = (std::process::id(), self.flip.generation());
        let served = json!({ "served": {
            "pid": pid, "generation": generation, "socket": number, "opened": opened, "moves": moves,
        }});
        socket.send(served.to_string()).await?;
        loop {
            for said in self.news(session) {
                socket.send(json!({ "said": said }).to_string()).await?;
                session.heard = said.id;
            }
            tokio::select! {
                received = socket.recv() => match received {
                    Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                        Ok(asks) => self.hear(asks, socket, session).await?,
                        Err(error) => socket.send(json!({ "error": error.to_string() }).to_string()).await?,
                    },
                    Some(message) => drop(message?),
                    None => return Ok(()),
                },
                _ = changed.changed() => {}
                _ = failed.changed() => {
                    let why = failed.borrow_and_update().clone();
                    socket.send(json!({ "error": why }).to_string()).await?;
                }
            }
        }
    }

    /// What was said in its room and it has not heard; nothing in a process that has handed over.
    fn news(&self, session: &Session) -> Vec<Said> {
        let news = self.rooms.read(|rooms| {
            let room = rooms.rooms.get(&session.room);
            room.into_iter().flat_map(|room| &room.history).filter(|said| said.id > session.heard).cloned().collect()
        });
        news.unwrap_or_default()
    }

    async fn hear(&self, asks: Asks, socket: &mut WebSocket, session: &mut Session) -> Result<(), Error> {
        match asks {
            Asks::Join { name, room } => {
                (session.name, session.room, session.heard) = (shortened(name, 24), shortened(room, 24), 0);
                let rooms = self.rooms.read(|rooms| rooms.rooms.keys().cloned().collect::<Vec<_>>());
                let joined = json!({ "joined": { "room": session.room, "rooms": rooms.unwrap_or_default() } });
                socket.send(joined.to_string()).await?;
            }
            Asks::Say(text) if session.room.is_empty() => drop(text),
            Asks::Say(text) => {
                let (room, name) = (session.room.clone(), session.name.clone());
                // Wherever the rooms are by now.
                let error = match self.rooms.call(Say { room, name, text: shortened(text, 2000) }).await {
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => "there are too many rooms".to_owned(),
                    Err(error) => error.to_string(),
                };
                socket.send(json!({ "error": error }).to_string()).await?;
            }
            Asks::Upgrade => {
                let flip = self.flip.clone();
                tokio::spawn(async move {
                    if let Err(error) = flip.upgrade().await {
                        FAILED.send_replace(error.to_string());
                    }
                });
            }
        }
        Ok(())
    }
}

/// Whether an origin (`http://127.0.0.1:8080`) is the host that was asked.
fn is_of_this_page(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, origin)| host.is_some_and(|host| *host == *origin))
}

fn shortened(text: String, most: usize) -> String {
    text.trim().chars().take(most).collect()
}

#[flip::main]
async fn main(
    #[args] args: Cli,
    #[listen(args.listen)] http: TcpListener,
    rooms: Live<Rooms>,
    sockets: Sockets<Session>,
    flip: Handle,
) -> std::io::Result<()> {
    flip_examples::log();
    tracing::info!("chat at http://{}", http.local_addr()?);
    let chat = Chat { rooms, sockets, flip };
    let passed = chat.clone();
    tokio::spawn(async move {
        while let Some((socket, mut session)) = passed.sockets.next().await {
            session.moves += 1;
            tokio::spawn(passed.clone().talk(socket, session));
        }
    });
    let router = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/chat", get(Chat::begin))
        .with_state(chat);
    flip::serve(http, router).await
}
