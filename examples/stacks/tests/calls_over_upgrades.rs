//! gRPC goes on over upgrades: fresh connections are answered, and the calls of one that was there before end where they
//! began.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use axum::http::uri::PathAndQuery;
use flip_stacks::talk::{Line, Wish};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use futures_util::stream::unfold;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::client::Grpc;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

const UPGRADES: usize = 20;

/// Far more lines of a kilobyte than `WINDOW` lets through before the client has read any of them.
const LINES: u32 = 300;

/// How many bytes of an answer may be on their way.
const WINDOW: u32 = (1 << 16) - 1;

fn start() -> (Chain, SocketAddr) {
    let service = Start::new(env!("CARGO_BIN_EXE_grpc")).arg("--listen").arg("127.0.0.1:0").spawn();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    (service, address)
}

/// Whether a call failed because its client was just told to go to another connection, so that no process has heard of it.
/// Other clients of gRPC make such a call once more by themselves.
fn came_to_nobody(status: &Status) -> bool {
    let mut error = status.source();
    while let Some(found) = error {
        if found.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(error) = found.downcast_ref::<h2::Error>() {
            return error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        }
        error = found.source();
    }
    false
}

/// A client with a connection, or the next one once that is told to go.
struct Client {
    grpc: Grpc<Channel>,
    answered: Arc<AtomicU64>,
}

impl Client {
    /// With where it counts the calls that somebody answers.
    async fn connect(address: SocketAddr, answered: &Arc<AtomicU64>) -> Result<Client, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let endpoint = endpoint.initial_stream_window_size(WINDOW).timeout(PATIENCE);
        let channel = endpoint.connect().await.map_err(|error| Status::from_error(error.into()))?;
        Ok(Client { grpc: Grpc::new(channel), answered: Arc::clone(answered) })
    }

    fn is_answered<T>(&self, answer: Response<T>) -> T {
        self.answered.fetch_add(1, Ordering::SeqCst);
        answer.into_inner()
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }

    /// Who answers.
    async fn say(&mut self, text: &str) -> Result<i32, Status> {
        loop {
            self.ready().await?;
            let line = Request::new(Line { text: text.to_owned(), pid: 0 });
            let path = PathAndQuery::from_static("/talk.Talk/Say");
            match self.grpc.unary(line, path, ProstCodec::<Line, Line>::default()).await {
                Err(status) if came_to_nobody(&status) => {}
                answer => {
                    let answer = self.is_answered(answer?);
                    assert_eq!(answer.text, text);
                    return Ok(answer.pid.cast_signed());
                }
            }
        }
    }

    async fn tell(&mut self, text: &str, times: u32) -> Result<Streaming<Line>, Status> {
        loop {
            self.ready().await?;
            let wish = Request::new(Wish { text: text.to_owned(), times });
            let path = PathAndQuery::from_static("/talk.Talk/Tell");
            match self.grpc.server_streaming(wish, path, ProstCodec::<Wish, Line>::default()).await {
                Err(status) if came_to_nobody(&status) => {}
                told => return Ok(self.is_answered(told?)),
            }
        }
    }

    async fn chat(&mut self) -> Result<Chat, Status> {
        loop {
            self.ready().await?;
            let (says, said) = mpsc::channel(1);
            let said = unfold(said, async |mut said: mpsc::Receiver<Line>| Some((said.recv().await?, said)));
            let path = PathAndQuery::from_static("/talk.Talk/Chat");
            match self.grpc.streaming(Request::new(said), path, ProstCodec::<Line, Line>::default()).await {
                Err(status) if came_to_nobody(&status) => {}
                heard => return Ok(Chat { says, hears: self.is_answered(heard?) }),
            }
        }
    }
}

/// A conversation, which both sides may end.
struct Chat {
    says: mpsc::Sender<Line>,
    hears: Streaming<Line>,
}

impl Chat {
    /// Who answers.
    async fn say(&mut self, text: &str) -> Result<i32, Status> {
        // Where nobody takes it, there is no answer either, and that says why.
        let _ = self.says.send(Line { text: text.to_owned(), pid: 0 }).await;
        let answer = self.hears.message().await?.ok_or_else(|| Status::aborted("no answer"))?;
        assert_eq!(answer.text, text);
        Ok(answer.pid.cast_signed())
    }

    /// Says no more, and hears that the other side does so, too.
    async fn end(self) -> Result<(), Status> {
        let Chat { says, mut hears } = self;
        drop(says);
        match hears.message().await? {
            None => Ok(()),
            Some(line) => Err(Status::internal(format!("there is more: {line:?}"))),
        }
    }
}

/// Who told all of this: so many lines.
async fn hear(mut told: Streaming<Line>, lines: u32) -> Result<i32, Status> {
    let mut teller = None;
    for _ in 0..lines {
        let line = told.message().await?.ok_or_else(|| Status::data_loss("lines are missing"))?;
        assert_eq!(*teller.get_or_insert(line.pid), line.pid);
    }
    assert_eq!(told.message().await?, None);
    Ok(teller.unwrap().cast_signed())
}

/// One call of each kind, each over a connection of its own.
async fn visit(address: SocketAddr, answered: &Arc<AtomicU64>) -> Result<(), Status> {
    Client::connect(address, answered).await?.say("hello").await?;
    hear(Client::connect(address, answered).await?.tell("news", 5).await?, 5).await?;
    let mut chat = Client::connect(address, answered).await?.chat().await?;
    let first = chat.say("one").await?;
    assert_eq!(chat.say("two").await?, first);
    chat.end().await
}

/// Visits until it is told to end; gives what went wrong.
async fn go_on(address: SocketAddr, done: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Vec<Status> {
    let mut wrong = vec![];
    while !done.load(Ordering::SeqCst) {
        wrong.extend(visit(address, &answered).await.err());
    }
    wrong
}

/// Waits for some more answers.
fn wait(answered: &AtomicU64, more: u64) {
    let (wanted, deadline) = (answered.load(Ordering::SeqCst) + more, Instant::now() + PATIENCE);
    while answered.load(Ordering::SeqCst) < wanted {
        assert!(Instant::now() < deadline, "visitors get no answers");
        std::thread::yield_now();
    }
}

#[test]
fn calls_of_each_kind_go_on_over_upgrades() {
    let (mut service, address) = start();
    let runtime = Runtime::new().unwrap();
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let visit = |_| runtime.spawn(go_on(address, Arc::clone(&done), Arc::clone(&answered)));
    let visitors: Vec<_> = (0..4).map(visit).collect();
    let mut kept = runtime.block_on(Client::connect(address, &answered)).unwrap();
    for _ in 0..UPGRADES {
        wait(&answered, 24);
        let (told, mut chat) = runtime.block_on(async {
            assert_eq!(kept.say("before").await.unwrap(), service.owner().pid);
            let told = kept.tell(&"long ".repeat(200), LINES).await.unwrap();
            let mut chat = kept.chat().await.unwrap();
            assert_eq!(chat.say("before").await.unwrap(), service.owner().pid);
            (told, chat)
        });
        let old = service.upgrade().unwrap();
        runtime.block_on(async {
            // What had begun goes on where it was.
            assert_eq!(chat.say("after").await.unwrap(), old.pid);
            // What begins goes to the new process, as soon as the client has heard of it.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let pid = kept.say("after").await.unwrap();
                if pid == service.owner().pid {
                    break;
                }
                assert_eq!(pid, old.pid);
                assert!(Instant::now() < deadline, "the old process keeps its client");
            }
            assert_eq!(chat.say("still").await.unwrap(), old.pid);
            chat.end().await.unwrap();
            assert!(!old.has_ended());
            assert_eq!(hear(told, LINES).await.unwrap(), old.pid);
        });
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    wait(&answered, 24);
    done.store(true, Ordering::SeqCst);
    let wrong: Vec<_> = visitors.into_iter().flat_map(|visitor| runtime.block_on(visitor).unwrap()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    drop(kept);
    let log = service.stop().text();
    // Whatever came to a process was answered.
    let came: Vec<_> =
        log.lines().filter_map(|line| line.split_once(" calls came to pid ")?.0.parse::<u64>().ok()).collect();
    assert_eq!(came.len(), UPGRADES + 1);
    assert_eq!(came.iter().sum::<u64>(), answered.load(Ordering::SeqCst));
}
