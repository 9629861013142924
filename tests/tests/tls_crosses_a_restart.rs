//! Connections under TLS, which no other process can go on with: whatever they are at when the process is replaced, their
//! requests are answered, and they end in order.
//!
//! A client that is told `Connection: close` makes another connection, as clients do. An end without a close_notify
//! is an error of the client's, and counts as lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::Request;
use flip_tests::client::{Http, Load, Lost, Shared};
use flip_tests::websocket::{CLOSE, FINAL, TEXT, frame};
use flip_tests::{Chain, Exit, PATIENCE, Start};
use nix::sys::signal::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const RESTARTS: u64 = 20;

type Secure = Http<StreamOwned<ClientConnection, TcpStream>>;

/// Where the service is, and how it is trusted.
struct Server {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

fn start(settings: &[(&str, &str)]) -> (Chain, Server) {
    let mut start = Start::new(env!("CARGO_BIN_EXE_secure"));
    let made = rcgen::generate_simple_self_signed(["test".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert);
    std::fs::write(start.dir().join("certificate"), &certificate).unwrap();
    std::fs::write(start.dir().join("key"), made.signing_key.serialize_der()).unwrap();
    for (name, value) in settings {
        start = start.env(name, value);
    }
    let service = start.start();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (service, Server { address, config: Arc::new(config) })
}

impl Server {
    fn connect(&self) -> Result<TcpStream, Lost> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn session(&self) -> ClientConnection {
        ClientConnection::new(Arc::clone(&self.config), ServerName::try_from("test").unwrap()).unwrap()
    }

    /// A connection after its handshake.
    fn open(&self) -> Result<Secure, Lost> {
        secure(self.session(), self.connect()?)
    }

    /// One whose client has said the first half, and heard the service's.
    fn half(&self) -> (ClientConnection, TcpStream) {
        let (mut session, mut stream) = (self.session(), self.connect().unwrap());
        while session.wants_write() {
            session.write_tls(&mut stream).unwrap();
        }
        stream.peek(&mut [0]).unwrap();
        (session, stream)
    }
}

/// Has the handshake, or the rest of it.
fn secure(mut session: ClientConnection, mut stream: TcpStream) -> Result<Secure, Lost> {
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(Http::over(StreamOwned::new(session, stream)))
}

/// Whether the service has closed it, in order, since the last answer.
fn is_closed(http: &mut Secure) -> Result<bool, Lost> {
    http.stream.sock.set_nonblocking(true)?;
    let read = http.stream.read(&mut [0]);
    http.stream.sock.set_nonblocking(false)?;
    match read {
        Ok(n) => Ok(n == 0),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn restarts_lose_no_request() {
    let (mut service, server) = start(&[("FLIP_DRAIN_TIMEOUT", "5m")]);
    let (shared, hits) = (Shared::default(), AtomicU64::new(0));
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        let (server, hits) = (&server, &hits);
        for keeps in [true, true, false, false] {
            let mut kept: Option<Secure> = None;
            load.client(scope, move |tally, number| {
                if let Some(http) = &mut kept
                    && is_closed(http)?
                {
                    kept = None;
                }
                let mut http = kept.take().map_or_else(|| server.open(), Ok)?;
                let hits_now = number % 2 == 0;
                let (method, path) = if hits_now { ("POST", "/hit") } else { ("GET", "/pid") };
                let answer = http.exchange(method, path)?;
                hits.fetch_add(u64::from(hits_now), Ordering::SeqCst);
                if answer.last {
                    tally.closed += 1;
                    http.ended()?;
                } else if keeps {
                    kept = Some(http);
                }
                Ok(())
            });
        }
        for _ in 0..RESTARTS {
            let before = shared.answered();
            service.until("clients are answered", || shared.answered() > before + 20);
            let old = service.upgrade().unwrap();
            // No connection of these clients keeps it.
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    assert!(tally.closed >= RESTARTS, "{tally}");
    let hit = server.open().and_then(|mut http| http.exchange("POST", "/hit")).unwrap().body;
    assert_eq!(hit, (hits.load(Ordering::SeqCst) + 1).to_string());
    service.stop();
}

#[test]
fn request_in_flight_is_answered_whole_and_is_the_last() {
    let (mut service, server) = start(&[]);
    let mut gate = service.gate("slow");
    let mut http = server.open().unwrap();
    http.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\nGET /pid HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is in slow");
    let old = service.upgrade().unwrap();
    gate.open();
    // What was pipelined behind it as well.
    for last in [false, true] {
        let answer = http.good_answer().unwrap();
        assert_eq!((answer.body, answer.last), (old.pid.to_string(), last));
    }
    http.ended().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn idle_connection_is_closed_in_order() {
    let (mut service, server) = start(&[("FLIP_DRAIN_TIMEOUT", "5m")]);
    let mut clients: Vec<_> = (0..20).map(|_| server.open().unwrap()).collect();
    for http in &mut clients {
        assert!(!http.exchange("GET", "/pid").unwrap().last);
    }
    let old = service.upgrade().unwrap();
    for http in &mut clients {
        http.ended().unwrap();
    }
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn connection_without_a_byte_has_its_handshake_in_the_new_process() {
    let (mut service, server) = start(&[("FLIP_DRAIN_TIMEOUT", "5m")]);
    let silent: Vec<_> = (0..20).map(|_| server.connect().unwrap()).collect();
    // They are accepted: another one behind them has been answered.
    server.open().unwrap().exchange("GET", "/pid").unwrap();
    for _ in 0..2 {
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    for stream in silent {
        let answer = secure(server.session(), stream).unwrap().exchange("GET", "/pid").unwrap();
        assert_eq!((answer.body, answer.last), (service.owner().pid.to_string(), false));
    }
    service.stop();
}

#[test]
fn half_a_handshake_is_finished_and_answered() {
    let (mut service, server) = start(&[]);
    let clients: Vec<_> = (0..20).map(|_| server.half()).collect();
    let old = service.upgrade().unwrap();
    for (session, stream) in clients {
        let mut http = secure(session, stream).unwrap();
        let answer = http.exchange("GET", "/pid").unwrap();
        assert_eq!((answer.body, answer.last), (old.pid.to_string(), true));
        http.ended().unwrap();
    }
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn client_that_never_finishes_its_handshake_is_not_waited_for() {
    let (mut service, server) = start(&[("FLIP_DRAIN_TIMEOUT", "5m"), ("HANDSHAKE", "300")]);
    let (_session, mut stream) = server.half();
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    // Closed, and not reset: what the service has said can be read to its end.
    stream.read_to_end(&mut vec![]).unwrap();
    // Nor is one that says nothing at all, where nobody else is there to take it.
    let (mut silent, mut half) = (server.connect().unwrap(), server.half());
    service.owner().signal(Signal::SIGTERM);
    service.stopped();
    silent.read_to_end(&mut vec![]).unwrap();
    half.1.read_to_end(&mut vec![]).unwrap();
}

#[test]
fn roll_back_closes_nothing() {
    let (mut service, server) = start(&[]);
    let mut gate = service.gate("slow");
    let shared = Shared::default();
    let mut slow = server.open().unwrap();
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is in slow");
    let (session, stream) = server.half();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..2 {
            let mut http = server.open().unwrap();
            load.client(scope, move |tally, _| {
                let answer = http.exchange("POST", "/hit")?;
                tally.closed += u64::from(answer.last);
                Ok(())
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
    assert!(!tally.has_lost() && tally.closed == 0, "{tally}");
    gate.open();
    for answer in [slow.good_answer(), secure(session, stream).and_then(|mut http| http.exchange("GET", "/pid"))] {
        let answer = answer.unwrap();
        assert_eq!((answer.body, answer.last), (service.owner().pid.to_string(), false));
    }
    service.at_start("");
    drop(slow);
    service.stop();
}

#[test]
fn stop_answers_what_was_asked() {
    let (mut service, server) = start(&[]);
    let mut gate = service.gate("slow");
    let (mut slow, mut fresh, mut idle) = (server.open().unwrap(), server.open().unwrap(), server.open().unwrap());
    let (session, stream) = server.half();
    idle.exchange("GET", "/pid").unwrap();
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is in slow");
    service.owner().signal(Signal::SIGTERM);
    service.line(" stops and drains ");
    fresh.send("GET /pid HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut half = secure(session, stream).unwrap();
    half.send("GET /pid HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    gate.open();
    for http in [&mut slow, &mut fresh, &mut half] {
        let answer = http.good_answer().unwrap();
        assert!(answer.last, "{answer:?}");
        http.ended().unwrap();
    }
    idle.ended().unwrap();
    service.stopped();
}

#[test]
fn http2_is_chosen_in_the_handshake_and_ends_with_goaway() {
    let (mut service, server) = start(&[("FLIP_DRAIN_TIMEOUT", "5m")]);
    let mut gate = service.gate("slow");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut config = ClientConfig::clone(&server.config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let wait = |future: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("no client waits so long") });
    };
    let (mut send, connection) = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let stream = connector.connect(ServerName::try_from("test").unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        (send, tokio::spawn(connection))
    });
    let request = Request::builder().uri("https://test/slow").body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    service.line("is in slow");
    let old = service.upgrade().unwrap();
    let told = send.clone();
    wait(Box::pin(async move {
        let error = loop {
            match told.clone().ready().await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert!(error.is_go_away() && error.is_remote(), "{error:?}");
    }));
    gate.open();
    let pid = old.pid.to_string();
    wait(Box::pin(async move {
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), pid);
        drop((body, send));
        // The other side has ended it, in order.
        connection.await.unwrap().unwrap();
    }));
    assert_eq!(service.exit(&old), Exit::Status(0));
    // A client that does not know of HTTP/2 is served beside it.
    assert_eq!(server.open().unwrap().exchange("GET", "/pid").unwrap().body, service.owner().pid.to_string());
    service.stop();
}

/// What is not TLS is not answered, and is no reason to stop.
#[test]
fn plain_client_is_turned_away() {
    let (service, server) = start(&[]);
    let mut plain = server.connect().unwrap();
    plain.write_all(b"GET /pid HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut read = vec![];
    plain.read_to_end(&mut read).unwrap();
    // An alert, of seven bytes.
    assert!(read.len() == 7 && read[0] == 21, "{read:?}");
    assert_eq!(server.open().unwrap().exchange("GET", "/pid").unwrap().body, service.owner().pid.to_string());
    service.stop();
}

/// Its keys stay in its process, so it is told to come back.
#[test]
fn websocket_is_told() {
    let (mut service, server) = start(&[("FLIP_DRAIN_TIMEOUT", "5s")]);
    let mut http = server.open().unwrap();
    http.send(
        "GET /echo HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .unwrap();
    assert_eq!(http.head().unwrap().0, 101);
    let hears = |http: &mut Secure, expected: &[u8]| {
        let mut frame = vec![0; expected.len()];
        http.stream.read_exact(&mut frame).unwrap();
        assert_eq!(frame, expected);
    };
    http.stream.write_all(&frame(FINAL | TEXT, b"before")).unwrap();
    hears(&mut http, b"\x81\x06before");
    let old = service.upgrade().unwrap();
    // Until it is its turn it goes on.
    http.stream.write_all(&frame(FINAL | TEXT, b"after")).unwrap();
    let mut head = [0; 2];
    http.stream.read_exact(&mut head).unwrap();
    if head == *b"\x81\x05" {
        hears(&mut http, b"after");
        http.stream.read_exact(&mut head).unwrap();
    }
    assert_eq!(head[0], FINAL | CLOSE);
    hears(&mut http, &[&1012u16.to_be_bytes()[..], b"service restart"].concat());
    http.stream.write_all(&frame(FINAL | CLOSE, &1012u16.to_be_bytes())).unwrap();
    assert_eq!(http.stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}
