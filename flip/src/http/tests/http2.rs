//! HTTP/2 by prior knowledge.

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection of a client.
pub(super) struct Mux {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Mux {
    /// One whose preface has arrived.
    async fn connect(server: &Server) -> Mux {
        let mut mux = Mux::over(TcpStream::connect(server.address).await.unwrap()).await;
        mux.get("/hello").await.is("hello");
        mux
    }

    pub(super) async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Mux {
        let (send, connection) = h2::client::handshake(io).await.unwrap();
        Mux { send, connection: tokio::spawn(connection) }
    }

    /// The other side takes no more requests on this connection.
    pub(super) async fn is_told(&mut self) {
        let mut error = None;
        while error.is_none() {
            error = self.send.clone().ready().await.err();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = error.unwrap();
        assert!(error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR), "{error:?}");
    }

    async fn send(&mut self, method: &str, path: &str, whole: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::builder().method(method).uri(format!("http://test{path}")).body(()).unwrap();
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(request, whole).unwrap()
    }

    pub(super) async fn ask(&mut self, path: &str) -> ResponseFuture {
        self.send("GET", path, true).await.0
    }

    pub(super) async fn get(&mut self, path: &str) -> Got {
        Got::of(self.ask(path).await).await
    }

    /// It ended in order, from the other side.
    pub(super) async fn ends(self) {
        drop(self.send);
        self.connection.await.unwrap().unwrap();
    }
}

#[derive(Debug)]
pub(super) struct Got {
    status: u16,
    body: String,
}

impl Got {
    pub(super) async fn of(response: ResponseFuture) -> Got {
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        let (mut body, mut stream) = (String::new(), response.into_body());
        while let Some(piece) = piece(&mut stream).await {
            body += &piece;
        }
        Got { status, body }
    }

    #[track_caller]
    pub(super) fn is(&self, body: &str) {
        assert_eq!((self.status, &*self.body), (200, body));
    }
}

async fn piece(stream: &mut RecvStream) -> Option<String> {
    loop {
        let piece = stream.data().await?.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        // An end may come in a piece of its own.
        if !piece.is_empty() {
            return Some(String::from_utf8(piece.to_vec()).unwrap());
        }
    }
}

/// It was not looked at, and can be sent again.
fn refused(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM)
}

#[test]
fn both_versions_are_spoken() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        let slow = mux.ask("/slow").await;
        server.entered().await;
        let (echoed, mut upload) = mux.send("POST", "/echo", false).await;
        upload.send_data(Bytes::from_static(b"half"), false).unwrap();
        mux.get("/hello").await.is("hello");
        upload.send_data(Bytes::from_static(b"half"), true).unwrap();
        Got::of(echoed).await.is("halfhalf");
        server.release();
        Got::of(slow).await.is("slow");
        let address = mux.get("/peer").await.body;
        assert!(server.shared.connections.open().iter().any(|open| open.peer.as_ref() == Some(&address)));
        // The first bytes of which may be those of a preface.
        let mut client = server.client().await;
        for part in ["P", "ROPFIND /hello HTTP/1.1\r\n\r\n"] {
            client.send(part).await;
            some_turns().await;
        }
        assert_eq!(client.answer().await.status, 405);
        client.get("/hello").await.is("hello", false);
    });
}

#[test]
fn a_preface_may_come_in_parts_with_freezes_between() {
    frozen(async |server| {
        for at in 0..=PREFACE.len() {
            let mut io = TcpStream::connect(server.address).await.unwrap();
            let address = Some(io.local_addr().unwrap().to_string());
            until(|| server.shared.connections.open().iter().any(|open| open.peer == address)).await;
            io.write_all(&PREFACE[..at]).await.unwrap();
            some_turns().await;
            server.freeze();
            // The rest of it, the settings, and a request: GET, http, /hello.
            io.write_all(&PREFACE[at..]).await.unwrap();
            io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut head = vec![0x82, 0x86, 0x04, 6];
            head.extend_from_slice(b"/hello");
            io.write_all(&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1]).await.unwrap();
            io.write_all(&head).await.unwrap();
            let dispatched = server.dispatched();
            server.stays_frozen(0, dispatched).await;
            server.thaw();
            until(|| server.dispatched() > dispatched).await;
            let mut read = Vec::new();
            while !read.windows(5).any(|window| window == b"hello") {
                assert!(io.read_buf(&mut read).await.unwrap() > 0, "cut at {at}");
            }
        }
    });
}

#[test]
fn freeze_holds_what_begins_and_a_roll_back_serves_it() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        for round in 1..4 {
            server.freeze();
            let asked = [mux.ask("/hello").await, mux.ask("/hello").await];
            some_turns().await;
            // And nobody waits for what was not dispatched.
            assert!(server.shared.handlers.wait_idle(std::time::Instant::now()));
            assert_eq!(server.dispatched(), 3 * round - 2);
            server.thaw();
            for response in asked {
                Got::of(response).await.is("hello");
            }
            mux.get("/hello").await.is("hello");
        }
    });
}

#[test]
fn freeze_lets_go_on_what_has_begun() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        let mut stream = mux.ask("/stream").await.await.unwrap().into_body();
        let (echoed, mut upload) = mux.send("POST", "/echo", false).await;
        upload.send_data(Bytes::from_static(b"half"), false).unwrap();
        until(|| server.dispatched() == 3).await;
        server.freeze();
        // A stream is not a handler that runs, an upload is.
        assert!(!server.shared.handlers.wait_idle(std::time::Instant::now()));
        upload.send_data(Bytes::from_static(b"half"), true).unwrap();
        Got::of(echoed).await.is("halfhalf");
        assert!(server.shared.handlers.wait_idle(std::time::Instant::now()));
        server.piece("one");
        assert_eq!(piece(&mut stream).await.unwrap(), "one");
        server.thaw();
        server.end_stream();
        assert_eq!(piece(&mut stream).await, None);
        mux.get("/hello").await.is("hello");
    });
}

#[test]
fn what_came_in_the_freeze_is_refused_after_the_handoff_and_may_be_sent_again() {
    within(async {
        let server = Server::start(NEVER).await;
        let _total = crate::Live::declare("total", 0u64, &server.shared);
        let mut mux = Mux::connect(&server).await;
        let slow = mux.ask("/slow").await;
        server.entered().await;
        server.freeze();
        let (get, (post, mut upload)) = (mux.ask("/hello").await, mux.send("POST", "/echo", false).await);
        upload.send_data(Bytes::from_static(b"half"), false).unwrap();
        some_turns().await;
        server.hand_off();
        for response in [get, post] {
            let error = response.await.unwrap_err();
            assert!(refused(&error), "{error:?}");
            // It is known by then that this connection is the wrong one to send it again.
            let error = mux.send.clone().ready().await.unwrap_err();
            assert!(error.is_go_away() && error.reason() == Some(Reason::NO_ERROR), "{error:?}");
        }
        // What had begun is answered.
        assert_eq!(server.dispatched(), 2);
        server.release();
        Got::of(slow).await.is("slow");
        drop(upload);
        mux.ends().await;
        server.ends().await;
    });
}

/// As the bytes have it: the client's library does not tell.
#[test]
fn goaway_names_the_last_stream_that_is_answered() {
    /// Of `GET /hello` or `/slow`, in HPACK (RFC 7541): the method and the scheme by number, the rest in letters.
    fn asks(stream: u8, path: &str) -> Vec<u8> {
        let block = [&[0x82, 0x86, 0x04, path.len() as u8][..], path.as_bytes(), &[0x01, 1, b'x']].concat();
        // HEADERS, END_STREAM and END_HEADERS.
        [&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, stream], &*block].concat()
    }
    within(async {
        for phase in [Phase::HandedOff, Phase::Stopping] {
            let server = Server::start(NEVER).await;
            let mut io = server.client().await.io;
            // With empty SETTINGS.
            let begin = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
            io.write_all(&[begin, asks(1, "/hello"), asks(3, "/slow")].concat()).await.unwrap();
            server.entered().await;
            server.freeze();
            server.shared.phase.set(phase);
            let (mut last, mut ended) = (vec![], vec![]);
            let mut head = [0; 9];
            while io.read_exact(&mut head).await.is_ok() {
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                io.read_exact(&mut payload).await.unwrap();
                let (kind, flags, stream) = (head[3], head[4], head[8]);
                match kind {
                    // SETTINGS and PING, and their acknowledgements.
                    4 if flags == 0 => io.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap(),
                    6 if flags == 0 => io.write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0], &*payload].concat()).await.unwrap(),
                    7 => {
                        assert_eq!(payload[4..], [0; 4]);
                        last.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                        if last.len() == 2 {
                            server.release();
                        }
                    }
                    0 | 1 if flags & 1 == 1 => ended.push(stream),
                    _ => {}
                }
            }
            // First that none should follow, whatever is on its way; then which ones have been taken.
            assert_eq!((last, ended), (vec![u32::MAX >> 1, 3], vec![1, 3]));
            drop(io);
            server.ends().await;
        }
    });
}

#[test]
fn what_came_in_the_freeze_is_answered_after_the_handoff_where_there_is_no_state() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        server.freeze();
        let (get, (post, mut upload)) = (mux.ask("/hello").await, mux.send("POST", "/echo", false).await);
        upload.send_data(Bytes::from_static(b"half"), false).unwrap();
        some_turns().await;
        assert_eq!(server.dispatched(), 1);
        server.hand_off();
        Got::of(get).await.is("hello");
        upload.send_data(Bytes::from_static(b"half"), true).unwrap();
        Got::of(post).await.is("halfhalf");
        mux.is_told().await;
        mux.ends().await;
        server.ends().await;
    });
}

#[test]
fn a_stream_goes_on_after_the_handoff_and_the_connection_ends_with_it() {
    within(async {
        for phase in [Phase::HandedOff, Phase::Stopping] {
            let server = Server::start(NEVER).await;
            let mut mux = Mux::connect(&server).await;
            let mut idle = Mux::connect(&server).await;
            let mut stream = mux.ask("/stream").await.await.unwrap().into_body();
            server.freeze();
            server.shared.phase.set(phase);
            idle.is_told().await;
            idle.ends().await;
            mux.is_told().await;
            assert!(!server.served.is_finished());
            for sent in ["one", "two"] {
                server.piece(sent);
                assert_eq!(piece(&mut stream).await.unwrap(), sent);
            }
            server.end_stream();
            assert_eq!(piece(&mut stream).await, None);
            mux.ends().await;
            server.ends().await;
        }
    });
}

#[test]
fn a_service_that_stops_answers_what_it_accepted() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        server.freeze();
        let asked = mux.ask("/hello").await;
        some_turns().await;
        server.shared.phase.set(Phase::Stopping);
        Got::of(asked).await.is("hello");
        mux.is_told().await;
        mux.ends().await;
        server.ends().await;
    });
}

#[test]
fn a_fresh_connection_gets_its_answer_from_a_service_that_stops() {
    within(async {
        let server = Server::start(NEVER).await;
        let (early, late) = (server.client().await.io, server.client().await.io);
        let mut early = Mux::over(early).await;
        some_turns().await;
        server.shared.accepting.close();
        server.shared.phase.set(Phase::Stopping);
        some_turns().await;
        // Nothing but its preface came before, and of the other one not even that.
        let mut late = Mux::over(late).await;
        for mux in [&mut early, &mut late] {
            some_turns().await;
            mux.get("/hello").await.is("hello");
            mux.is_told().await;
        }
        early.ends().await;
        late.ends().await;
        server.ends().await;
    });
}

#[test]
fn many_connections_are_served_until_it_is_their_turn() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        mux.get("/hello").await.is("hello");
        // Some time in seven weeks.
        server.stop(usize::MAX);
        for _ in 0..3 {
            some_turns().await;
            mux.get("/hello").await.is("hello");
        }
        server.shared.phase.set(Phase::Cut);
        server.served.await.unwrap().unwrap();
    });
}

#[test]
fn turn_comes_in_a_service_that_stops() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        mux.get("/hello").await.is("hello");
        server.stop(100 + 50);
        mux.is_told().await;
        mux.ends().await;
        server.ends().await;
    });
}

#[test]
fn what_is_left_is_cut() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        let slow = mux.ask("/slow").await;
        server.entered().await;
        server.hand_off();
        mux.is_told().await;
        server.shared.phase.set(Phase::Cut);
        assert!(slow.await.is_err());
        server.served.await.unwrap().unwrap();
        until(|| server.shared.connections.is_empty()).await;
        // Its handler is gone with it.
        until(|| server.shared.handlers.wait_idle(std::time::Instant::now())).await;
    });
}

#[test]
fn a_panic_takes_one_stream() {
    within(async {
        let server = Server::start(NEVER).await;
        let mut mux = Mux::connect(&server).await;
        assert!(mux.ask("/boom").await.await.unwrap_err().is_reset());
        mux.get("/hello").await.is("hello");
        assert!(server.shared.handlers.wait_idle(std::time::Instant::now()));
    });
}

/// Kept connections with several requests at once, and fresh ones, over many freezes.
#[test]
fn nothing_is_lost_over_many_freezes() {
    const FREEZES: usize = 150;
    within(async {
        let server = Arc::new(Server::start(NEVER).await);
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let (stop, answers, address) = (Arc::clone(&stop), Arc::clone(&answers), server.address);
                tokio::spawn(async move {
                    let mut kept = None;
                    while !stop.load(Ordering::SeqCst) {
                        let mut mux = match kept.take() {
                            Some(mux) => mux,
                            None => Mux::over(TcpStream::connect(address).await.unwrap()).await,
                        };
                        let (echoed, mut upload) = mux.send("POST", "/echo", false).await;
                        let asked = [mux.ask("/hello").await, mux.ask("/hello").await];
                        upload.send_data(Bytes::from_static(b"half"), false).unwrap();
                        tokio::task::yield_now().await;
                        upload.send_data(Bytes::from_static(b"half"), true).unwrap();
                        for response in asked {
                            Got::of(response).await.is("hello");
                        }
                        Got::of(echoed).await.is("halfhalf");
                        answers.fetch_add(3, Ordering::SeqCst);
                        kept = (number % 2 == 0).then_some(mux);
                    }
                })
            })
            .collect();
        for _ in 0..FREEZES {
            let before = answers.load(Ordering::SeqCst);
            until(|| answers.load(Ordering::SeqCst) > before + 20).await;
            server.freeze();
            until(|| server.shared.handlers.wait_idle(std::time::Instant::now())).await;
            let dispatched = server.dispatched();
            tokio::task::yield_now().await;
            assert_eq!(server.dispatched(), dispatched);
            server.thaw();
        }
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
    });
}
