//! HTTP/2 by prior knowledge: what the service accepted is answered, and what it did not, it says so, whatever the restart
//! is at.
//!
//! The clients send a request again where the protocol tells them that nobody has looked at it (RFC 9113, 6.8 and 8.7),
//! as clients do, and never else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use axum::http::Request;
use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;

const RESTARTS: u64 = 25;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Of the clients, which are threads otherwise.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// Waits for this, and not for ever.
fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("no client waits so long") })
}

fn start(settings: &[(&str, &str)]) -> (Chain, SocketAddr) {
    let mut start = Start::new(env!("CARGO_BIN_EXE_web"));
    for (name, value) in settings {
        start = start.env(name, value);
    }
    let service = start.start();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    (service, address)
}

/// One connection.
#[derive(Clone)]
struct Mux {
    send: SendRequest<Bytes>,
    local: SocketAddr,
}

/// A request is on its way: what its answer will be, and its body.
type Asked = (ResponseFuture, SendStream<Bytes>);

impl Mux {
    async fn open(address: SocketAddr) -> Result<Mux, Lost> {
        let io = tokio::net::TcpStream::connect(address).await?;
        let local = io.local_addr()?;
        let (send, connection) = h2::client::handshake(io).await.map_err(|error| lost(&error))?;
        // What becomes of it, its requests hear.
        tokio::spawn(connection);
        Ok(Mux { send, local })
    }

    async fn ask(&self, method: &str, path: &str) -> Result<Asked, h2::Error> {
        let request = Request::builder().method(method).uri(format!("http://test{path}")).body(()).unwrap();
        let whole = path != "/upload";
        self.send.clone().ready().await?.send_request(request, whole)
    }

    async fn exchange(&self, method: &str, path: &str) -> Result<(u16, String), h2::Error> {
        answer(self.ask(method, path).await?.0).await
    }

    /// Waits until the service says that it takes no more requests here.
    async fn is_told(&self) {
        let error = loop {
            match self.send.clone().ready().await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert!(not_accepted(&error), "{error:?}");
    }
}

async fn answer(response: ResponseFuture) -> Result<(u16, String), h2::Error> {
    let response = response.await?;
    let (status, mut stream, mut body) = (response.status().as_u16(), response.into_body(), String::new());
    while let Some(piece) = piece(&mut stream).await? {
        body += &piece;
    }
    Ok((status, body))
}

async fn piece(stream: &mut RecvStream) -> Result<Option<String>, h2::Error> {
    while let Some(piece) = stream.data().await.transpose()? {
        stream.flow_control().release_capacity(piece.len())?;
        if !piece.is_empty() {
            return Ok(Some(String::from_utf8(piece.to_vec()).unwrap()));
        }
    }
    Ok(None)
}

/// The service has not looked at the request, and said so.
fn not_accepted(error: &h2::Error) -> bool {
    let reason = if error.is_go_away() { Reason::NO_ERROR } else { Reason::REFUSED_STREAM };
    (error.is_go_away() || error.is_reset()) && error.is_remote() && error.reason() == Some(reason)
}

fn lost(error: &h2::Error) -> Lost {
    let kind = if error.is_reset() { Loss::Reset } else { Loss::Unanswered };
    Lost(kind, format!("{error:?}"))
}

/// What keeps one connection, and takes another one when it is told to.
struct Client {
    address: SocketAddr,
    kept: Mutex<Option<Mux>>,
    again: AtomicU64,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        Client { address, kept: Mutex::default(), again: AtomicU64::new(0) }
    }

    async fn exchange(&self, method: &str, path: &str) -> Result<String, Lost> {
        loop {
            let mux = {
                // Who comes meanwhile waits for this connection.
                let mut kept = self.kept.lock().await;
                match &*kept {
                    Some(mux) => mux.clone(),
                    None => kept.insert(Mux::open(self.address).await?).clone(),
                }
            };
            match mux.exchange(method, path).await {
                Ok((200, body)) => return Ok(body),
                Ok((status, body)) => return Err(Lost(Loss::Wrong, format!("{status} {body}"))),
                Err(error) if not_accepted(&error) => {
                    self.again.fetch_add(1, Ordering::SeqCst);
                    self.kept.lock().await.take_if(|kept| kept.local == mux.local);
                }
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

#[test]
fn restarts_lose_no_request_that_was_accepted() {
    let (mut service, address) = start(&[("FLIP_DRAIN_TIMEOUT", "5m")]);
    let (shared, again, rounds) = (Shared::default(), AtomicU64::new(0), AtomicU64::new(0));
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        let (again, rounds) = (&again, &rounds);
        // Three at once on each connection, which are kept for as long as they can, or made for them.
        for keeps in [true, true, false] {
            let mut client = Client::new(address);
            load.client(scope, move |_, _| {
                if !keeps {
                    client = Client::new(address);
                }
                let answers = wait(async {
                    tokio::join!(
                        client.exchange("POST", "/visit"),
                        client.exchange("POST", "/visit"),
                        client.exchange("POST", "/hit")
                    )
                });
                again.fetch_add(client.again.swap(0, Ordering::SeqCst), Ordering::SeqCst);
                answers.0.and(answers.1).and(answers.2)?;
                rounds.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
        }
        // HTTP/1 goes on beside it.
        load.client(scope, |_, _| Http::open(address)?.exchange("GET", "/pid").map(drop));
        for _ in 0..RESTARTS {
            let before = rounds.load(Ordering::SeqCst);
            service.until("clients are answered", || rounds.load(Ordering::SeqCst) > before + 10);
            let old = service.upgrade().unwrap();
            // No connection of these clients keeps it.
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    println!("{tally}, {} sent again", again.load(Ordering::SeqCst));
    assert!(!tally.has_lost(), "{tally}");
    // Each was counted once, also of those that were sent again.
    let total = Http::open(address).and_then(|mut http| http.exchange("GET", "/total")).unwrap().body;
    assert_eq!(total, format!("{} {}", 2 * rounds.load(Ordering::SeqCst), rounds.load(Ordering::SeqCst)));
    service.stop();
}

#[test]
fn half_a_preface_is_answered_by_the_new_process() {
    let (mut service, address) = start(&[]);
    // Settings, and a request: GET, http, /pid.
    let mut rest = vec![0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x04, 4];
    rest.extend_from_slice(b"/pid");
    // Cut at each byte.
    let mut clients: Vec<_> = (0..PREFACE.len()).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&PREFACE[..at]).unwrap();
    }
    // They are accepted: another one behind them has been answered.
    Http::open(address).unwrap().exchange("GET", "/pid").unwrap();
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    let pid = service.owner().pid.to_string();
    for (at, client) in clients.iter_mut().enumerate() {
        client.write_all(&[&PREFACE[at..], &rest].concat()).unwrap();
        let mut read = vec![];
        while !read.windows(pid.len()).any(|window| window == pid.as_bytes()) {
            let mut buffer = [0; 1024];
            let n = client.read(&mut buffer).unwrap();
            assert!(n > 0, "cut at {at}: {read:?}");
            read.extend_from_slice(&buffer[..n]);
        }
    }
    drop(clients);
    service.stop();
}

#[test]
fn streams_in_flight_are_finished_by_the_old_process() {
    let (mut service, address) = start(&[]);
    let (mut slow, mut stream) = (service.gate("slow"), service.gate("stream"));
    let mux = wait(Mux::open(address)).unwrap();
    let (answered, _) = wait(mux.ask("GET", "/slow")).unwrap();
    let (uploaded, mut upload) = wait(mux.ask("POST", "/upload")).unwrap();
    let mut parts = wait(async { mux.ask("GET", "/stream").await?.0.await }).unwrap().into_body();
    let first = wait(piece(&mut parts)).unwrap().unwrap();
    upload.send_data(Bytes::from_static(b"half"), false).unwrap();
    service.line("is in slow");
    service.line("begins an upload");
    let old = service.upgrade().unwrap();
    wait(mux.is_told());
    assert_eq!(first, format!("part 0 by {};", old.pid));
    assert!(!old.has_ended());
    upload.send_data(Bytes::from_static(b"half"), true).unwrap();
    slow.open();
    stream.open();
    assert_eq!(wait(piece(&mut parts)).unwrap().unwrap(), format!("part 1 by {};", old.pid));
    assert_eq!(wait(piece(&mut parts)).unwrap(), None);
    assert_eq!(wait(answer(answered)).unwrap(), (200, old.pid.to_string()));
    assert_eq!(wait(answer(uploaded)).unwrap(), (200, format!("8 bytes to {}", old.pid)));
    // With the last of them the connection has ended, though its client would keep it.
    assert_eq!(service.exit(&old), Exit::Status(0));
    let other = wait(Mux::open(address)).unwrap();
    assert_eq!(wait(other.exchange("GET", "/pid")).unwrap(), (200, service.owner().pid.to_string()));
    drop((mux, other));
    service.stop();
}

#[test]
fn roll_back_leaves_a_connection_as_it_was() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("slow");
    let shared = Shared::default();
    let mux = wait(Mux::open(address)).unwrap();
    let (slow, _) = wait(mux.ask("GET", "/slow")).unwrap();
    service.line("is in slow");
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        let mux = &mux;
        // All on this connection, and nothing is sent again.
        for _ in 0..2 {
            load.client(scope, move |_, _| match wait(mux.exchange("POST", "/visit")) {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(Lost(Loss::Wrong, format!("{status} {body}"))),
                Err(error) => Err(lost(&error)),
            });
        }
        for round in 0..8 {
            // Some fail before the old process is frozen, some after it.
            service.at_start(["panic", "late"][round % 2]);
            let before = shared.answered();
            service.upgrade().unwrap_err();
            service.until("it serves again", || shared.answered() > before + 5);
        }
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    gate.open();
    assert_eq!(wait(answer(slow)).unwrap(), (200, service.owner().pid.to_string()));
    assert_eq!(wait(mux.exchange("GET", "/total")).unwrap(), (200, format!("{} 0", tally.answered)));
    service.at_start("");
    let old = service.upgrade().unwrap();
    wait(mux.is_told());
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn stream_is_cut_at_the_drain_deadline_and_reported() {
    let (mut service, address) = start(&[("FLIP_DRAIN_TIMEOUT", "300ms")]);
    let mux = wait(Mux::open(address)).unwrap();
    let mut events = wait(async { mux.ask("GET", "/events").await?.0.await }).unwrap().into_body();
    wait(piece(&mut events)).unwrap().unwrap();
    let old = service.upgrade().unwrap();
    service.line(&format!("cut: http from {}, ", mux.local));
    let error = wait(async {
        loop {
            match piece(&mut events).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a stream that was cut has no proper end"),
                Err(error) => break error,
            }
        }
    });
    assert!(!not_accepted(&error), "{error:?}");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn stop_answers_what_was_asked() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("slow");
    let mux = wait(Mux::open(address)).unwrap();
    let (slow, _) = wait(mux.ask("GET", "/slow")).unwrap();
    service.line("is in slow");
    service.owner().signal(nix::sys::signal::Signal::SIGTERM);
    wait(mux.is_told());
    gate.open();
    assert_eq!(wait(answer(slow)).unwrap(), (200, service.owner().pid.to_string()));
    service.stopped();
}

/// A client that nobody here wrote, where it is installed. One connection a request: with `--http2-prior-knowledge` its
/// release 7.88 fails at the second request of a connection, with no restart near. Nor does it send again what was refused where the
/// same packet says that the connection ends; nobody has seen that, so it is not counted either.
#[test]
fn curl_notices_nothing() {
    let speaks = Command::new("curl").arg("--version").output();
    if !speaks.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains(" HTTP2 ")) {
        println!("there is no curl that speaks HTTP/2: nothing to see");
        return;
    }
    let (mut service, address) = start(&[]);
    let curl = |path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--http2-prior-knowledge", "-sS", "-X", "POST", "-w", " %{http_code} %{http_version}"]);
        curl.arg(format!("http://{address}{path}")).stdout(Stdio::piped()).stderr(Stdio::piped());
        curl
    };
    let (shared, refused) = (Shared::default(), AtomicU64::new(0));
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        load.client(scope, |_, _| {
            let output = curl("/visit").output()?;
            let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if errors.contains("curl: (18)") && said == " 000 0" {
                refused.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if said.ends_with(" 200 2") { Ok(()) } else { Err(Lost(Loss::Wrong, format!("{said} {errors}"))) }
        });
        for _ in 0..5 {
            let before = shared.answered();
            service.until("it asks", || shared.answered() > before);
            let old = service.upgrade().unwrap();
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    assert!(!tally.has_lost(), "{tally}");
    let total = Http::open(address).and_then(|mut http| http.exchange("GET", "/total")).unwrap().body;
    assert_eq!(total, format!("{} 0", tally.answered - refused.into_inner()));
    // One that is in flight is answered by the process that took it.
    let mut gate = service.gate("stream");
    let asked = curl("/stream").args(["-X", "GET"]).spawn().unwrap();
    service.line("is in stream");
    let old = service.upgrade().unwrap();
    gate.open();
    let said = asked.wait_with_output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    assert_eq!(said, format!("part 0 by {0};part 1 by {0}; 200 2", old.pid));
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}
