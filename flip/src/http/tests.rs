//! Real sockets against [`serve_with`], with the phases set by hand where the control thread would.

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::routing::{any, get, post};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::web::Routes;
use super::*;
use crate::drain::Leaving;

#[cfg(feature = "http2")]
mod http2;
#[cfg(feature = "rustls")]
mod tls;

struct Tcp(TcpListener, Arc<Shared>, bool);

impl sealed::Accept for Tcp {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<Option<sealed::Accepted<TcpStream>>> {
        let Some((io, peer)) = next(&self.1, self.2, || self.0.accept()).await? else { return Ok(None) };
        let guard = self.1.connections.track("http".into(), Some(peer.to_string()), self.2);
        Ok(Some(sealed::Accepted { io, guard, peer: Some(peer) }))
    }

    fn adopt(&self, _: OwnedFd) -> io::Result<sealed::Accepted<Self::Io>> {
        unreachable!("nothing is passed to a process without a predecessor")
    }

    fn label(&self) -> String {
        "test".to_owned()
    }

    fn lasts(&self) -> bool {
        self.2
    }

    fn process(&self) -> sealed::Process {
        sealed::Process(Arc::clone(&self.1))
    }
}

struct Unix(UnixListener, Arc<Shared>);

impl sealed::Accept for Unix {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<Option<sealed::Accepted<UnixStream>>> {
        let Some((io, _)) = next(&self.1, false, || self.0.accept()).await? else { return Ok(None) };
        let guard = self.1.track("http".into(), None);
        Ok(Some(sealed::Accepted { io, guard, peer: None }))
    }

    fn adopt(&self, _: OwnedFd) -> io::Result<sealed::Accepted<Self::Io>> {
        unreachable!("nothing is passed to a process without a predecessor")
    }

    fn label(&self) -> String {
        "test".to_owned()
    }

    fn process(&self) -> sealed::Process {
        sealed::Process(Arc::clone(&self.1))
    }
}

async fn next<T, F>(shared: &Shared, lasting: bool, accept: impl Fn() -> F) -> io::Result<Option<T>>
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        if shared.may_accept(lasting).await.is_none() {
            return Ok(None);
        }
        let changed = shared.phase.listen();
        if shared.is_open(lasting) {
            tokio::select! {
                accepted = accept() => return accepted.map(Some),
                () = changed => {}
            }
        }
    }
}

/// What the handlers and a test share.
#[derive(Clone)]
struct Stage {
    dispatched: Arc<AtomicUsize>,
    /// A permit for each entered `/slow`.
    entered: Arc<Semaphore>,
    /// A permit lets one `/slow` go on.
    release: Arc<Semaphore>,
    /// The pieces that `/stream` answers with; the sender is replaced by each request.
    pieces: Arc<std::sync::Mutex<Option<mpsc::UnboundedSender<&'static str>>>>,
}

struct Pieces(mpsc::UnboundedReceiver<&'static str>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

fn router(stage: Stage) -> Router {
    async fn slow(State(stage): State<Stage>) -> &'static str {
        stage.entered.add_permits(1);
        stage.release.acquire().await.unwrap().forget();
        "slow"
    }
    async fn stream(State(stage): State<Stage>) -> Body {
        let (sender, receiver) = mpsc::unbounded_channel();
        *stage.pieces.lock().unwrap() = Some(sender);
        Body::new(Pieces(receiver))
    }
    async fn switch(request: Request<Body>) -> Response<Body> {
        let upgrade = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let mut io = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let mut piece = [0; 4];
            while io.read_exact(&mut piece).await.is_ok() {
                io.write_all(&piece).await.unwrap();
            }
        });
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert("connection", "upgrade".parse().unwrap());
        answer.headers_mut().insert("upgrade", "echo".parse().unwrap());
        answer
    }
    async fn boom() {
        panic!("on purpose");
    }
    /// Answers while somebody else still reads.
    async fn read_later(body: Body) -> &'static str {
        tokio::spawn(axum::body::to_bytes(body, usize::MAX));
        "later"
    }
    let dispatched = Arc::clone(&stage.dispatched);
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/echo", post(async |body: Bytes| body))
        .route("/ignore", post(async || "ignored"))
        .route("/ignore-slowly", post(ignore_slowly))
        .route("/read-later", post(read_later))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
        .route("/slow", any(slow))
        .route("/stream", get(stream))
        .route("/switch", get(switch))
        .route("/boom", get(boom))
        .with_state(stage)
        .layer(axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
            dispatched.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }))
}

fn routes(stage: &Stage) -> impl Fn(Option<SocketAddr>) -> Routes<Router> + use<> {
    let router = router(stage.clone());
    move |peer| Routes::new(router.clone(), peer)
}

struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    stage: Stage,
    rebuilt: Option<&'static AtomicUsize>,
    served: JoinHandle<io::Result<()>>,
}

const SHORT: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3600);

impl Server {
    async fn start(grace: Duration) -> Server {
        Server::with(Options { grace, linger: NEVER, lasting: false, rebuilt: None }).await
    }

    async fn lasting() -> Server {
        Server::with(Options { grace: NEVER, linger: SHORT, lasting: true, rebuilt: None }).await
    }

    async fn with(options: Options) -> Server {
        Server::on(|listener| listener, options).await
    }

    /// On a listener that is made of one.
    async fn on<L: Accept>(new: impl FnOnce(Tcp) -> L, options: Options) -> Server {
        let shared = Shared::new(true).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let stage = Stage {
            dispatched: Arc::default(),
            entered: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
            pieces: Arc::default(),
        };
        let listener = new(Tcp(socket, Arc::clone(&shared), options.lasting));
        let served = tokio::spawn(serve_with(listener, routes(&stage), options));
        Server { shared, address, stage, rebuilt: options.rebuilt, served }
    }

    /// A client whose connection was accepted.
    async fn client(&self) -> Client {
        let client = Client::connect(self.address).await;
        self.accepted(&client.io).await;
        client
    }

    async fn accepted(&self, io: &TcpStream) {
        let address = Some(io.local_addr().unwrap().to_string());
        until(|| self.shared.connections.open().iter().any(|open| open.peer == address)).await;
    }

    fn freeze(&self) {
        self.shared.accepting.close();
        self.shared.dispatching.close();
        self.shared.phase.set(Phase::Frozen);
        // As the freeze does: a task that began before may still be about to dispatch what it has read.
        assert!(self.shared.dispatching.wait_empty(std::time::Instant::now() + NEVER));
    }

    fn thaw(&self) {
        self.shared.accepting.open();
        self.shared.dispatching.open();
        self.shared.phase.set(Phase::Serving);
    }

    fn hand_off(&self) {
        self.shared.accepting.close();
        self.shared.dispatching.close();
        self.shared.phase.set(Phase::HandedOff);
    }

    /// With so many connections open, as far as anybody knows.
    fn stop(&self, open: usize) {
        self.shared.leaving.set(Leaving { until: None, open }).ok().unwrap();
        self.shared.lasting.open();
        self.shared.accepting.close();
        self.shared.phase.set(Phase::Stopping);
    }

    /// Nothing is left but what lasts.
    fn rest_is_done(&self) {
        self.shared.lasting.close();
        self.shared.phase.set(Phase::Stopping);
    }

    /// From here on what rests is passed; what would be sent can be received.
    fn pass_on(&self) -> OwnedFd {
        let (ours, theirs) = crate::sys::fd::seqpacket_pair().unwrap();
        self.shared.passer.set(crate::pass::Passer::start(ours).unwrap()).ok().unwrap();
        theirs
    }

    fn dispatched(&self) -> usize {
        self.stage.dispatched.load(Ordering::SeqCst)
    }

    async fn entered(&self) {
        self.stage.entered.acquire().await.unwrap().forget();
    }

    fn release(&self) {
        self.stage.release.add_permits(1);
    }

    fn piece(&self, piece: &'static str) {
        self.stage.pieces.lock().unwrap().as_ref().unwrap().send(piece).unwrap();
    }

    fn end_stream(&self) {
        *self.stage.pieces.lock().unwrap() = None;
    }

    /// In a frozen server: what is sent now is not dispatched. Where connections are taken apart it waits for that.
    async fn stays_frozen(&self, rebuilt: usize, dispatched: usize) {
        if let Some(count) = self.rebuilt {
            until(|| count.load(Ordering::SeqCst) >= rebuilt).await;
        }
        some_turns().await;
        assert_eq!(self.dispatched(), dispatched);
    }

    async fn ends(self) {
        self.served.await.unwrap().unwrap();
        assert!(self.shared.connections.is_empty());
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn ignore_slowly(body: Body) -> &'static str {
    drop(body);
    some_turns().await;
    "ignored"
}

/// Lets everybody else do what they can. Nothing relies on it but what asserts that nothing happened.
async fn some_turns() {
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Client<I = TcpStream> {
    io: I,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    closes: bool,
    body: String,
}

impl Answer {
    #[track_caller]
    fn is(&self, body: &str, closes: bool) {
        assert_eq!((self.status, self.body.as_str(), self.closes), (200, body, closes));
    }
}

impl Client {
    async fn connect(address: SocketAddr) -> Client {
        let io = TcpStream::connect(address).await.unwrap();
        io.set_nodelay(true).unwrap();
        Client { io, read: Vec::new() }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    async fn send(&mut self, bytes: &str) {
        self.io.write_all(bytes.as_bytes()).await.unwrap();
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(&request(path)).await;
        self.answer().await
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.io.read_buf(&mut self.read).await
    }

    /// Everything up to and with `end`.
    async fn through(&mut self, end: &str) -> io::Result<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return Ok(String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap());
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn head(&mut self) -> io::Result<String> {
        Ok(self.through("\r\n\r\n").await?.to_ascii_lowercase())
    }

    async fn answer(&mut self) -> Answer {
        self.try_answer().await.unwrap()
    }

    async fn try_answer(&mut self) -> io::Result<Answer> {
        let head = self.head().await?;
        let status = head[9..12].parse().unwrap();
        let closes = head.contains("connection: close");
        let mut body = String::new();
        if let Some((_, rest)) = head.split_once("content-length: ") {
            let length: usize = rest.split_once("\r\n").unwrap().0.parse().unwrap();
            while self.read.len() < length {
                if self.more().await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let rest = self.read.split_off(length);
            body = String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
        } else if head.contains("transfer-encoding: chunked") {
            while let Some(piece) = self.chunk().await? {
                body += &piece;
            }
        }
        Ok(Answer { status, closes, body })
    }

    async fn chunk(&mut self) -> io::Result<Option<String>> {
        let size = self.through("\r\n").await?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut piece = self.through("\r\n").await?;
        piece.truncate(size);
        Ok((size > 0).then_some(piece))
    }

    /// The other side has closed, in order, with nothing more to say.
    async fn ends(&mut self) {
        assert_eq!(self.more().await.unwrap(), 0);
        assert_eq!(self.read, b"");
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Runs a test that hangs to its end all the same.
fn within<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("it hangs") })
}

#[tokio::test]
async fn service_that_is_not_ready_is_called_when_it_is() {
    /// Ready from the second time on that it is asked.
    #[derive(Clone)]
    struct Hesitant(bool);

    impl tower_service::Service<Request<Body>> for Hesitant {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(self.0);
            std::future::ready(Ok(Response::default()))
        }
    }

    let (head, ()) = Request::new(()).into_parts();
    let answer = Routes::new(Hesitant(false), None).call(head, RequestBody::default()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

/// Once with connections that stay as they are, once with each taken apart and put together again in the freeze.
fn frozen<F: Future<Output = ()>>(test: impl Fn(Server) -> F) {
    within(async {
        for rebuilt in [None, Some(&*Box::leak(Box::new(AtomicUsize::new(0))))] {
            test(Server::with(Options { grace: NEVER, linger: NEVER, lasting: false, rebuilt }).await).await;
        }
    });
}

#[test]
fn freeze_while_idle() {
    frozen(async |server| {
        let mut client = server.client().await;
        client.get("/hello").await.is("hello", false);
        for round in 1..4 {
            server.freeze();
            client.send(&request("/hello")).await;
            server.stays_frozen(round, round).await;
            server.thaw();
            client.answer().await.is("hello", false);
        }
    });
}

#[test]
fn freeze_before_anything_was_read() {
    frozen(async |server| {
        let mut client = server.client().await;
        server.freeze();
        client.send(&request("/hello")).await;
        server.stays_frozen(1, 0).await;
        server.thaw();
        client.answer().await.is("hello", false);
    });
}

#[test]
fn freeze_in_the_middle_of_a_head() {
    frozen(async |server| {
        for later in [false, true] {
            let mut client = server.client().await;
            if later {
                client.get("/hello").await.is("hello", false);
            }
            let before = server.dispatched();
            client.send("GET /hello HTTP/1.1\r\nHo").await;
            some_turns().await;
            server.freeze();
            client.send("st: x\r\n\r\n").await;
            // With the second client, the first one is taken apart too.
            server.stays_frozen(if later { 3 } else { 1 }, before).await;
            server.thaw();
            client.answer().await.is("hello", false);
            if !later {
                client.get("/hello").await.is("hello", false);
            }
            std::mem::forget(client);
        }
    });
}

#[test]
fn freeze_with_pipelined_requests_behind_a_slow_one() {
    frozen(async |server| {
        let mut client = server.client().await;
        client.send(&[request("/slow"), request("/hello"), request("/hello"), "GET /hel".into()].concat()).await;
        server.entered().await;
        server.freeze();
        server.release();
        client.answer().await.is("slow", false);
        client.send("lo HTTP/1.1\r\n\r\n").await;
        server.stays_frozen(1, 1).await;
        server.thaw();
        for _ in 0..3 {
            client.answer().await.is("hello", false);
        }
    });
}

#[test]
fn freeze_in_the_middle_of_an_upload() {
    frozen(async |server| {
        let mut rebuilt = 0;
        for (head, first, second, body) in [
            ("Content-Length: 8\r\n", "half", "half", "halfhalf"),
            ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n3\r\nha", "l\r\n0\r\n\r\n", "halfhal"),
            ("Expect: 100-continue\r\nContent-Length: 4\r\n", "ha", "lf", "half"),
        ] {
            let mut client = server.client().await;
            client.send(&format!("POST /echo HTTP/1.1\r\n{head}\r\n")).await;
            if head.starts_with("Expect") {
                assert!(client.head().await.unwrap().starts_with("http/1.1 100"));
            }
            client.send(first).await;
            until(|| server.dispatched() % 2 == 1).await;
            some_turns().await;
            server.freeze();
            client.send(second).await;
            client.send(&request("/hello")).await;
            client.answer().await.is(body, false);
            rebuilt += 1;
            let dispatched = server.dispatched();
            server.stays_frozen(rebuilt, dispatched).await;
            server.thaw();
            client.answer().await.is("hello", false);
            drop(client);
            until(|| server.shared.connections.is_empty()).await;
        }
    });
}

#[test]
fn freeze_after_an_upload_that_nobody_read() {
    frozen(async |server| {
        let mut client = server.client().await;
        client.send("POST /ignore HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody").await;
        client.answer().await.is("ignored", false);
        client.get("/hello").await.is("hello", false);
        client.send("POST /ignore HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody").await;
        client.answer().await.is("ignored", false);
        some_turns().await;
        server.freeze();
        client.send(&request("/hello")).await;
        server.stays_frozen(1, 3).await;
        server.thaw();
        client.answer().await.is("hello", false);
    });
}

/// `/slow` takes no body.
const UNREAD: [&str; 2] = [
    "POST /slow HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
    "POST /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
];

#[test]
fn freeze_with_a_request_behind_an_upload_that_nobody_reads() {
    frozen(async |server| {
        for upload in UNREAD {
            let mut client = server.client().await;
            client.send(&[upload, &request("/hello")].concat()).await;
            server.entered().await;
            server.freeze();
            let dispatched = server.dispatched();
            server.release();
            client.answer().await.is("slow", false);
            // With chunks, hyper has parsed what is behind it.
            server.stays_frozen(1, dispatched).await;
            assert!(server.shared.handlers.wait_idle(std::time::Instant::now()));
            server.thaw();
            client.answer().await.is("hello", false);
            assert_eq!(server.dispatched(), dispatched + 1);
            client.get("/hello").await.is("hello", false);
        }
    });
}

#[test]
fn freeze_with_a_request_behind_an_upload_that_is_read_after_its_answer() {
    frozen(async |server| {
        let mut client = server.client().await;
        for rest in ["body", "bo"] {
            client.send("POST /read-later HTTP/1.1\r\nContent-Length: 8\r\n\r\nhalf").await;
            client.answer().await.is("later", false);
            some_turns().await;
            server.freeze();
            let dispatched = server.dispatched();
            client.send(rest).await;
            if rest.len() < 4 {
                some_turns().await;
                client.send("dy").await;
            }
            client.send(&request("/hello")).await;
            server.stays_frozen(0, dispatched).await;
            server.thaw();
            client.answer().await.is("hello", false);
        }
    });
}

/// Where it is known in time where the upload ends, what is behind it goes to the new process.
#[test]
fn request_behind_an_upload_that_nobody_reads_is_passed_or_refused() {
    for has_state in [true, false] {
        for (upload, passes) in UNREAD.into_iter().zip([true, false]) {
            for in_freeze in [true, false] {
                within(async {
                    let server = Server::start(NEVER).await;
                    let _total = has_state.then(|| crate::Live::declare("total", 0u64, &server.shared));
                    let passes_to = server.pass_on();
                    let mut client = server.client().await;
                    client.send(&[upload, &request("/hello")].concat()).await;
                    server.entered().await;
                    server.freeze();
                    if in_freeze {
                        server.release();
                        client.answer().await.is("slow", false);
                        some_turns().await;
                    }
                    server.hand_off();
                    if !in_freeze {
                        server.release();
                        client.answer().await.is("slow", false);
                    }
                    if passes {
                        let passed = passed(&passes_to).await;
                        assert_eq!(passed.unread, request("/hello").as_bytes());
                        assert_eq!(server.dispatched(), 1);
                    } else if has_state {
                        let answer = client.answer().await;
                        assert!(answer.status == 503 && answer.closes, "{answer:?}");
                        client.ends().await;
                        assert_eq!(server.dispatched(), 1);
                    } else {
                        client.answer().await.is("hello", false);
                        assert_eq!(passed(&passes_to).await.unread, b"");
                    }
                    drop(client);
                    server.ends().await;
                });
            }
        }
    }
}

#[test]
fn connections_that_the_new_process_does_not_take_are_served_to_their_end() {
    within(async {
        let server = Server::start(SHORT).await;
        drop(server.pass_on());
        let mut idle = server.client().await;
        idle.get("/hello").await.is("hello", false);
        let fresh = server.client().await;
        let mut asks = server.client().await;
        asks.get("/hello").await.is("hello", false);
        server.freeze();
        asks.send(&[request("/hello"), "GET /hel".into()].concat()).await;
        some_turns().await;
        server.hand_off();
        asks.answer().await.is("hello", false);
        asks.send("lo HTTP/1.1\r\n\r\n").await;
        asks.answer().await.is("hello", true);
        asks.ends().await;
        idle.ends().await;
        let mut fresh = fresh;
        fresh.get("/hello").await.is("hello", true);
        fresh.ends().await;
        drop((idle, fresh, asks));
        server.ends().await;
    });
}

/// What is left of an upload may look like a request.
#[test]
fn rest_of_an_upload_that_nobody_reads_is_neither_passed_nor_parsed() {
    let hidden = request("/hello");
    let chunk = format!("{:x}\r\n{hidden}\r\n", hidden.len());
    for (head, first, second) in [
        ("Content-Length: 1000", hidden.clone(), hidden.clone()),
        ("Content-Length: 1000", String::new(), hidden.clone()),
        ("Content-Length: 1000", "x".to_owned(), hidden.clone()),
        ("Transfer-Encoding: chunked", chunk.repeat(3), chunk.clone()),
        ("Transfer-Encoding: chunked", String::new(), chunk.clone()),
        ("Transfer-Encoding: chunked", format!("{:x}\r\n", hidden.len()), hidden.clone()),
        ("Expect: 100-continue\r\nContent-Length: 1000", String::new(), hidden.clone()),
    ] {
        for path in ["/slow", "/ignore-slowly"] {
            for thaws in [true, false] {
                within(async {
                    let server = Server::start(NEVER).await;
                    let passes_to = server.pass_on();
                    let mut client = server.client().await;
                    client.send(&format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\n{first}")).await;
                    until(|| server.dispatched() == 1).await;
                    server.freeze();
                    server.release();
                    client.send(&second).await;
                    some_turns().await;
                    if thaws {
                        server.thaw();
                        some_turns().await;
                    }
                    server.hand_off();
                    assert_eq!(client.answer().await.status, 200);
                    client.ends().await;
                    assert_eq!(server.dispatched(), 1);
                    assert!(!crate::sys::fd::has_unread(passes_to.as_fd()));
                    drop(client);
                    server.ends().await;
                });
            }
        }
    }
}

/// The next connection that is passed.
async fn passed(passes_to: &OwnedFd) -> crate::protocol::PassedOn {
    until(|| crate::sys::fd::has_unread(passes_to.as_fd())).await;
    let mut buffer = vec![0; crate::protocol::PACKET];
    let packet = crate::sys::fd::recv(passes_to.as_fd(), &mut buffer).unwrap();
    let mut assembler = crate::protocol::Assembler::default();
    let taken = assembler.take(&buffer[..packet.len], packet.fds, packet.truncated).unwrap();
    match taken {
        Some((crate::protocol::Message::Passed(passed), _)) => passed,
        _ => panic!("something else was passed"),
    }
}

#[test]
fn freeze_in_an_upload_after_one_that_nobody_read() {
    frozen(async |server| {
        let mut client = server.client().await;
        // Its body is dropped long before its answer.
        client.send("POST /ignore-slowly HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody").await;
        client.answer().await.is("ignored", false);
        client.send("POST /echo HTTP/1.1\r\nContent-Length: 8\r\n\r\nhalf").await;
        some_turns().await;
        server.freeze();
        // An upload that was begun goes on.
        client.send("half").await;
        client.answer().await.is("halfhalf", false);
        server.thaw();
        client.get("/hello").await.is("hello", false);
    });
}

#[test]
fn freeze_while_an_answer_streams() {
    frozen(async |server| {
        let mut client = server.client().await;
        client.send(&request("/stream")).await;
        client.head().await.unwrap();
        server.piece("one");
        assert_eq!(client.chunk().await.unwrap().unwrap(), "one");
        server.freeze();
        assert!(server.shared.handlers.wait_idle(std::time::Instant::now()));
        server.piece("two");
        assert_eq!(client.chunk().await.unwrap().unwrap(), "two");
        client.send(&request("/hello")).await;
        server.end_stream();
        assert_eq!(client.chunk().await.unwrap(), None);
        server.stays_frozen(1, 1).await;
        server.thaw();
        client.answer().await.is("hello", false);
    });
}

#[test]
fn freeze_does_not_hold_what_ends_by_itself() {
    frozen(async |server| {
        for head in ["HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.0\r\n\r\n"] {
            let mut client = server.client().await;
            client.send(&format!("GET /slow {head}")).await;
            server.entered().await;
            server.freeze();
            server.release();
            assert_eq!(client.answer().await.body, "slow");
            client.ends().await;
            server.thaw();
        }
        // What is no request is answered by hyper, and that ends the connection too.
        let mut client = server.client().await;
        client.send("what\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 400);
        client.ends().await;
    });
}

#[test]
fn freeze_with_a_kept_connection_of_the_old_version() {
    frozen(async |server| {
        const KEPT: &str = "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let mut client = server.client().await;
        client.send(KEPT).await;
        client.answer().await.is("hello", false);
        server.freeze();
        client.send(KEPT).await;
        server.stays_frozen(1, 1).await;
        server.hand_off();
        client.answer().await.is("hello", true);
        client.ends().await;
    });
}

/// hyper may have parsed it in the moment before.
#[test]
fn a_request_that_was_parsed_when_the_freeze_began_is_dispatched_and_counted() {
    within(async {
        let shared = Shared::new(true).unwrap();
        let router = Router::new().route("/", get(async || "done"));
        let state = Arc::new(gate::State::new(Arc::clone(&shared), true, false, false, Arc::new(gate::Bell::new())));
        let tracked = service::Tracked::new(Routes::new(router, None), state);
        shared.dispatching.close();
        shared.phase.set(Phase::Frozen);
        let (head, body) = Request::new(RequestBody::default()).into_parts();
        let handling = tracked.handle(head, body);
        assert!(!shared.handlers.wait_idle(std::time::Instant::now()));
        assert!(handling.await.unwrap().status().is_success());
        assert!(shared.handlers.wait_idle(std::time::Instant::now()));
    });
}

#[test]
fn a_running_handler_counts_until_its_head() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        client.send(&request("/slow")).await;
        server.entered().await;
        assert!(!server.shared.handlers.wait_idle(std::time::Instant::now()));
        server.release();
        client.answer().await.is("slow", false);
        assert!(server.shared.handlers.wait_idle(std::time::Instant::now()));
    });
}

#[test]
fn a_fresh_connection_gets_its_answer_after_the_handoff() {
    within(async {
        for phase in [Phase::HandedOff, Phase::Stopping] {
            let server = Server::start(Duration::ZERO).await;
            // Its bytes come before, its bytes come after, and half of them each.
            let mut before = server.client().await;
            let mut after = server.client().await;
            let mut half = server.client().await;
            half.send("GET /hello HTT").await;
            some_turns().await;
            server.freeze();
            before.send(&request("/hello")).await;
            server.shared.phase.set(phase);
            before.answer().await.is("hello", true);
            before.ends().await;
            some_turns().await;
            after.get("/hello").await.is("hello", true);
            after.ends().await;
            half.send("P/1.1\r\n\r\n").await;
            half.answer().await.is("hello", true);
            half.ends().await;
            drop((before, after, half));
            server.ends().await;
        }
    });
}

#[test]
fn a_kept_connection_is_told_with_its_next_answer() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        client.get("/hello").await.is("hello", false);
        server.hand_off();
        client.get("/hello").await.is("hello", true);
        client.ends().await;
        drop(client);
        server.ends().await;
    });
}

#[test]
fn chance_is_spread_evenly() {
    let mut tenths = [0; 10];
    for _ in 0..10_000 {
        let chance = chance();
        assert!((0.0..=1.0).contains(&chance));
        tenths[((chance * 10.0) as usize).min(9)] += 1;
    }
    // Thirteen times the standard deviation of each.
    assert!(tenths.iter().all(|count| (600..1400).contains(count)), "{tenths:?}");
}

#[test]
fn few_connections_are_told_at_once_in_a_service_that_stops() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        client.get("/hello").await.is("hello", false);
        server.stop(100);
        client.get("/hello").await.is("hello", true);
        client.ends().await;
        drop(client);
        server.ends().await;
    });
}

#[test]
fn many_connections_are_served_until_it_is_their_turn() {
    within(async {
        let server = Server::start(Duration::ZERO).await;
        let mut clients = vec![];
        for _ in 0..3 {
            clients.push(server.client().await);
            clients.last_mut().unwrap().get("/hello").await.is("hello", false);
        }
        // Each some time in seven weeks.
        server.stop(usize::MAX);
        for _ in 0..3 {
            some_turns().await;
            for client in &mut clients {
                client.get("/hello").await.is("hello", false);
            }
        }
        server.shared.phase.set(Phase::Cut);
        server.served.await.unwrap().unwrap();
    });
}

#[test]
fn turn_comes_for_each_of_many_connections() {
    within(async {
        let server = Server::start(Duration::ZERO).await;
        let mut clients = vec![];
        for _ in 0..20 {
            clients.push(server.client().await);
            clients.last_mut().unwrap().get("/hello").await.is("hello", false);
        }
        server.stop(100 + 50);
        for client in &mut clients {
            client.ends().await;
        }
        drop(clients);
        server.ends().await;
    });
}

#[test]
fn listener_that_lasts_serves_until_the_others_are_done() {
    within(async {
        let server = Server::lasting().await;
        let mut kept = server.client().await;
        kept.get("/hello").await.is("hello", false);
        server.stop(1);
        some_turns().await;
        for _ in 0..3 {
            kept.get("/hello").await.is("hello", false);
            let mut fresh = server.client().await;
            fresh.get("/hello").await.is("hello", false);
        }
        server.rest_is_done();
        // Though this one never is.
        kept.ends().await;
        drop(kept);
        server.ends().await;
    });
}

#[test]
fn listener_that_lasts_does_not_wait_for_its_own() {
    within(async {
        let server = Server::lasting().await;
        let mut slow = server.client().await;
        slow.send(&request("/slow")).await;
        server.entered().await;
        server.stop(1);
        server.rest_is_done();
        server.served.await.unwrap().unwrap();
        assert!(!server.shared.connections.is_empty());
        drop(slow);
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_grace() {
    within(async {
        let server = Server::start(SHORT).await;
        let mut idle = server.client().await;
        idle.get("/hello").await.is("hello", false);
        let mut uploaded = server.client().await;
        uploaded.send("POST /ignore HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody").await;
        uploaded.answer().await.is("ignored", false);
        let mut half = server.client().await;
        half.get("/hello").await.is("hello", false);
        half.send("GET /hello HT").await;
        some_turns().await;
        server.hand_off();
        idle.ends().await;
        uploaded.ends().await;
        // The request that was under way is not lost, and no reset comes for one that was too late.
        half.send("TP/1.1\r\n\r\n").await;
        half.answer().await.is("hello", true);
        half.ends().await;
        idle.send(&request("/hello")).await;
        idle.send(&request("/hello")).await;
        assert_eq!(idle.more().await.unwrap(), 0);
        drop((idle, uploaded, half));
        server.ends().await;
    });
}

#[test]
fn pipelined_requests_are_all_answered_after_the_handoff() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        client.send(&[request("/slow"), request("/hello"), request("/hello")].concat()).await;
        server.entered().await;
        server.hand_off();
        server.release();
        client.answer().await.is("slow", false);
        client.answer().await.is("hello", false);
        client.answer().await.is("hello", true);
        client.ends().await;
    });
}

#[test]
fn pipelined_requests_that_come_behind_a_running_one_are_answered_too() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        client.send(&request("/slow")).await;
        server.entered().await;
        server.hand_off();
        client.send(&request("/hello")).await;
        some_turns().await;
        server.release();
        client.answer().await.is("slow", false);
        client.answer().await.is("hello", true);
        client.ends().await;
    });
}

#[test]
fn a_request_that_is_too_late_destroys_no_answer() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        client.send(&request("/slow")).await;
        server.entered().await;
        server.hand_off();
        server.release();
        // It was announced, and is not yet read.
        client.io.readable().await.unwrap();
        some_turns().await;
        client.send(&request("/hello")).await;
        some_turns().await;
        client.answer().await.is("slow", true);
        client.ends().await;
        drop(client);
        server.ends().await;
    });
}

#[test]
fn an_upload_is_read_to_its_end_after_the_handoff() {
    within(async {
        for (head, first, second) in [
            ("Content-Length: 8", "half", "half"),
            ("Transfer-Encoding: chunked", "4\r\nhalf\r\n4\r\nh", "alf\r\n0\r\n\r\n"),
        ] {
            let server = Server::start(Duration::ZERO).await;
            let mut client = server.client().await;
            client.send(&format!("POST /echo HTTP/1.1\r\n{head}\r\n\r\n{first}")).await;
            until(|| server.dispatched() == 1).await;
            server.hand_off();
            some_turns().await;
            client.send(second).await;
            client.answer().await.is("halfhalf", true);
            client.ends().await;
            drop(client);
            server.ends().await;
        }
    });
}

#[test]
fn a_streaming_answer_goes_on_after_the_handoff() {
    within(async {
        let server = Server::start(Duration::ZERO).await;
        let mut client = server.client().await;
        client.send(&request("/stream")).await;
        client.head().await.unwrap();
        server.hand_off();
        some_turns().await;
        server.piece("late");
        assert_eq!(client.chunk().await.unwrap().unwrap(), "late");
        server.end_stream();
        assert_eq!(client.chunk().await.unwrap(), None);
        // Its head was written when nobody knew; so it is an idle one now.
        client.ends().await;
        drop(client);
        server.ends().await;
    });
}

#[test]
fn a_streaming_answer_is_cut_at_last() {
    within(async {
        let server = Server::start(Duration::ZERO).await;
        let mut client = server.client().await;
        client.send(&request("/stream")).await;
        client.head().await.unwrap();
        server.hand_off();
        server.piece("one");
        assert_eq!(client.chunk().await.unwrap().unwrap(), "one");
        server.shared.phase.set(Phase::Cut);
        assert!(client.chunk().await.is_err());
        server.served.await.unwrap().unwrap();
        until(|| server.shared.connections.is_empty()).await;
    });
}

#[test]
fn an_upgraded_connection_outlives_the_handoff() {
    within(async {
        let server = Server::start(Duration::ZERO).await;
        let mut client = server.client().await;
        client.send("GET /switch HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
        assert!(client.head().await.unwrap().starts_with("http/1.1 101"));
        server.freeze();
        client.send("one.").await;
        assert_eq!(client.through(".").await.unwrap(), "one.");
        server.hand_off();
        some_turns().await;
        assert!(!server.served.is_finished());
        client.send("two.").await;
        assert_eq!(client.through(".").await.unwrap(), "two.");
        drop(client);
        server.ends().await;
    });
}

#[test]
fn a_panic_takes_one_connection() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut other = server.client().await;
        other.get("/hello").await.is("hello", false);
        let mut client = server.client().await;
        client.send(&request("/boom")).await;
        client.ends().await;
        other.get("/hello").await.is("hello", false);
        // The socket is dropped before the handler that panicked.
        until(|| server.shared.handlers.wait_idle(std::time::Instant::now())).await;
        drop(other);
        server.hand_off();
        server.ends().await;
    });
}

#[test]
fn handlers_can_ask_for_the_peer() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut client = server.client().await;
        let address = client.io.local_addr().unwrap().to_string();
        client.get("/peer").await.is(&address, false);
    });
}

#[test]
fn serves_a_service_of_hyper() {
    async fn answer(request: Request<RequestBody>) -> hyper::Result<Response<String>> {
        let peer = request.extensions().get::<SocketAddr>().copied();
        let mut body = request.into_body();
        let (expected, mut length) = (body.size_hint().exact(), 0);
        while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
            length += frame?.into_data().map_or(0, |data| data.len());
        }
        assert!(body.is_end_stream());
        Ok(Response::new(format!("{length} of {expected:?} bytes from {peer:?}")))
    }
    within(async {
        let shared = Shared::new(true).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client::connect(listener.local_addr().unwrap()).await;
        let peer = client.io.local_addr().unwrap();
        let listener = Tcp(listener, Arc::clone(&shared), false);
        let served = tokio::spawn(serve_hyper(listener, hyper::service::service_fn(answer)));
        client.get("/").await.is(&format!("0 of Some(0) bytes from Some({peer})"), false);
        client.send("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nha").await;
        until(|| !shared.handlers.wait_idle(std::time::Instant::now())).await;
        shared.accepting.close();
        shared.phase.set(Phase::HandedOff);
        client.send("lf").await;
        client.answer().await.is(&format!("4 of Some(4) bytes from Some({peer})"), true);
        client.ends().await;
        drop(client);
        served.await.unwrap().unwrap();
    });
}

#[test]
fn serves_on_a_unix_socket() {
    within(async {
        let shared = Shared::new(true).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http");
        let listener = Unix(UnixListener::bind(&path).unwrap(), Arc::clone(&shared));
        let served = tokio::spawn(serve(listener, Router::new().route("/hello", get(async || "hello"))));
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"));
        shared.accepting.close();
        shared.phase.set(Phase::Stopping);
        served.await.unwrap().unwrap();
    });
}

/// Kept and fresh clients with cut heads, cut bodies and pipelined requests, over many freezes.
#[test]
fn nothing_is_lost_over_many_freezes() {
    const FREEZES: usize = 50;
    frozen(async |server| {
        let server = Arc::new(server);
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let (stop, answers, address) = (Arc::clone(&stop), Arc::clone(&answers), server.address);
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    for turn in number.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        if number % 2 == 0 {
                            client = Client::connect(address).await;
                        }
                        let expected: &[&str] = match turn % 5 {
                            0 => {
                                client.send(&request("/hello")).await;
                                &["hello"]
                            }
                            1 => {
                                client.send("GET /hello HTTP/1.1\r\nHo").await;
                                tokio::task::yield_now().await;
                                client.send("st: x\r\n\r\n").await;
                                &["hello"]
                            }
                            2 => {
                                client.send(&[request("/hello"), request("/hello"), request("/hello")].concat()).await;
                                &["hello"; 3]
                            }
                            3 => {
                                // Behind what nobody reads.
                                let ignored = UNREAD.map(|upload| upload.replace("/slow", "/ignore-slowly"));
                                client.send(&[&ignored[0], &ignored[1], &*request("/hello")].concat()).await;
                                &["ignored", "ignored", "hello"]
                            }
                            _ => {
                                client.send("POST /echo HTTP/1.1\r\nContent-Length: 8\r\n\r\nhalf").await;
                                tokio::task::yield_now().await;
                                client.send("half").await;
                                client.send("POST /ignore HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody").await;
                                &["halfhalf", "ignored"]
                            }
                        };
                        for body in expected {
                            client.answer().await.is(body, false);
                            answers.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        let mut probe = server.client().await;
        for _ in 0..FREEZES {
            let before = answers.load(Ordering::SeqCst);
            until(|| answers.load(Ordering::SeqCst) > before + 20).await;
            server.freeze();
            // Whoever asks for quiet gets it, and then nothing is dispatched: not what clients send meanwhile, nor what they had sent.
            until(|| server.shared.handlers.wait_idle(std::time::Instant::now())).await;
            let dispatched = server.dispatched();
            probe.send(&request("/hello")).await;
            some_turns().await;
            assert_eq!(server.dispatched(), dispatched);
            server.thaw();
            probe.answer().await.is("hello", false);
        }
        drop(probe);
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
        assert!(server.rebuilt.is_none_or(|count| count.load(Ordering::SeqCst) > FREEZES));
    });
}
