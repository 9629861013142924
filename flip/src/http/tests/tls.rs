//! What TLS adds.

use std::io::Write;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A certificate of its own for each test, and who trusts it.
struct Identity {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    fn new(protocols: &[&str]) -> Identity {
        let protocols: Vec<_> = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let made = rcgen::generate_simple_self_signed(["test".to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.cert);
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let mut server =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        server.alpn_protocols.clone_from(&protocols);
        let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = protocols;
        Identity { server: Arc::new(server), client: Arc::new(client) }
    }

    async fn server(&self, grace: Duration, limit: Duration) -> Server {
        self.server_with(Options { grace, linger: NEVER, lasting: false, rebuilt: None }, limit).await
    }

    async fn server_with(&self, options: Options, limit: Duration) -> Server {
        let new = |listener| Tls::new(listener, Arc::clone(&self.server)).handshake_timeout(limit);
        Server::on(new, options).await
    }

    async fn secure(&self, io: TcpStream) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(Arc::clone(&self.client));
        connector.connect(ServerName::try_from("test").unwrap(), io).await.unwrap()
    }

    async fn client(&self, server: &Server) -> Client<TlsStream<TcpStream>> {
        Client { io: self.secure(server.client().await.io).await, read: Vec::new() }
    }

    /// The first bytes of a handshake.
    fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("test").unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let mut bytes = vec![];
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }
}

/// As [`frozen`], under TLS.
fn frozen_tls<F: Future<Output = ()>>(test: impl Fn(Identity, Server) -> F) {
    within(async {
        for rebuilt in [None, Some(&*Box::leak(Box::new(AtomicUsize::new(0))))] {
            let identity = Identity::new(&[]);
            let server =
                identity.server_with(Options { grace: NEVER, linger: NEVER, lasting: false, rebuilt }, NEVER).await;
            test(identity, server).await;
        }
    });
}

#[test]
fn freeze_holds_requests_and_a_roll_back_closes_nothing() {
    frozen_tls(async |identity, server| {
        let mut client = identity.client(&server).await;
        client.get("/hello").await.is("hello", false);
        for round in 1..4 {
            server.freeze();
            client.send(&request("/hello")).await;
            server.stays_frozen(round, round).await;
            server.thaw();
            client.answer().await.is("hello", false);
        }
        client.send(&[request("/slow"), request("/hello"), "GET /hel".into()].concat()).await;
        server.entered().await;
        server.freeze();
        server.release();
        client.answer().await.is("slow", false);
        client.send("lo HTTP/1.1\r\n\r\n").await;
        server.stays_frozen(4, 5).await;
        server.thaw();
        for _ in 0..2 {
            client.answer().await.is("hello", false);
        }
    });
}

#[test]
fn handshake_does_not_begin_in_a_freeze_and_one_that_has_goes_on() {
    within(async {
        let identity = Identity::new(&[]);
        let server = identity.server(NEVER, NEVER).await;
        let (mut silent, begun) = (server.client().await, server.client().await);
        let (mut io, (first, second)) = (begun.io, (identity.hello(), identity.hello()));
        // The answer to it begins with a record of its kind.
        io.write_all(&first[..9]).await.unwrap();
        some_turns().await;
        server.freeze();
        silent.io.write_all(&second).await.unwrap();
        io.write_all(&first[9..]).await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), 22);
        some_turns().await;
        assert_eq!(silent.io.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        server.thaw();
        assert_eq!(silent.io.read_u8().await.unwrap(), 22);
    });
}

#[test]
fn a_kept_connection_is_told_with_its_next_answer() {
    within(async {
        for phase in [Phase::HandedOff, Phase::Stopping] {
            let identity = Identity::new(&[]);
            let server = identity.server(NEVER, NEVER).await;
            let mut kept = identity.client(&server).await;
            kept.get("/hello").await.is("hello", false);
            // Neither has this one asked anything, nor will it before the handoff.
            let mut fresh = identity.client(&server).await;
            let mut slow = identity.client(&server).await;
            slow.send(&request("/slow")).await;
            server.entered().await;
            server.hand_off();
            server.shared.phase.set(phase);
            server.release();
            slow.answer().await.is("slow", true);
            slow.ends().await;
            for client in [&mut kept, &mut fresh] {
                client.get("/hello").await.is("hello", true);
                // Without a close_notify it would be an error.
                client.ends().await;
            }
            drop((kept, fresh, slow));
            server.ends().await;
        }
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_grace() {
    within(async {
        let identity = Identity::new(&[]);
        let server = identity.server(SHORT, NEVER).await;
        let mut half = identity.client(&server).await;
        half.get("/hello").await.is("hello", false);
        let mut idle = identity.client(&server).await;
        idle.get("/hello").await.is("hello", false);
        // Half of a record, of which rustls gives nothing.
        let (io, session) = half.io.get_mut();
        session.writer().write_all(request("/hello").as_bytes()).unwrap();
        let mut record = vec![];
        session.write_tls(&mut record).unwrap();
        let (first, second) = record.split_at(record.len() / 2);
        io.write_all(first).await.unwrap();
        some_turns().await;
        server.hand_off();
        idle.ends().await;
        // Longer than any grace.
        tokio::time::sleep(2 * SHORT).await;
        half.io.get_mut().0.write_all(second).await.unwrap();
        half.answer().await.is("hello", true);
        half.ends().await;
        // What was sent too late brings no reset.
        idle.send(&request("/hello")).await;
        idle.send(&request("/hello")).await;
        assert_eq!(idle.more().await.unwrap(), 0);
        drop((idle, half));
        server.ends().await;
    });
}

#[test]
fn half_a_handshake_is_finished_after_the_handoff() {
    within(async {
        for phase in [Phase::HandedOff, Phase::Stopping] {
            let identity = Identity::new(&[]);
            let server = identity.server(NEVER, NEVER).await;
            // A socket that lets the rest through when it is told.
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let mut socket = server.client().await.io;
            let connector = TlsConnector::from(Arc::clone(&identity.client));
            let secured = tokio::spawn(connector.connect(ServerName::try_from("test").unwrap(), near));
            let mut first = [0; 9];
            far.read_exact(&mut first).await.unwrap();
            socket.write_all(&first).await.unwrap();
            some_turns().await;
            server.hand_off();
            server.shared.phase.set(phase);
            some_turns().await;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut socket).await });
            let mut client = Client { io: secured.await.unwrap().unwrap(), read: Vec::new() };
            client.get("/hello").await.is("hello", true);
            client.ends().await;
            drop(client);
            server.ends().await;
        }
    });
}

#[test]
fn handshake_that_takes_too_long_is_ended() {
    within(async {
        let identity = Identity::new(&[]);
        let server = identity.server(NEVER, SHORT).await;
        let hello = identity.hello();
        for said in [0, 1, hello.len() - 1] {
            let mut client = server.client().await;
            client.io.write_all(&hello[..said]).await.unwrap();
            client.ends().await;
            // What was sent too late brings no reset.
            client.io.write_all(&hello[said..]).await.unwrap();
            some_turns().await;
            client.io.write_all(&hello).await.unwrap();
            client.ends().await;
            drop(client);
            until(|| server.shared.connections.is_empty()).await;
        }
        server.hand_off();
        server.ends().await;
    });
}

#[test]
fn what_is_no_handshake_gets_an_alert() {
    within(async {
        let identity = Identity::new(&[]);
        let server = identity.server(NEVER, NEVER).await;
        let mut client = server.client().await;
        client.send(&request("/hello")).await;
        client.send(&request("/hello")).await;
        // An alert.
        assert_eq!(client.io.read_u8().await.unwrap(), 21);
        while client.more().await.unwrap() > 0 {}
    });
}

#[test]
fn handlers_can_ask_for_the_peer() {
    within(async {
        let identity = Identity::new(&[]);
        let server = identity.server(NEVER, NEVER).await;
        let mut client = identity.client(&server).await;
        let address = client.io.get_ref().0.local_addr().unwrap().to_string();
        client.get("/peer").await.is(&address, false);
    });
}

#[cfg(feature = "http2")]
#[test]
fn http2_is_chosen_in_the_handshake_and_ends_with_goaway() {
    use super::http2::{Got, Mux};

    within(async {
        let identity = Identity::new(&["h2", "http/1.1"]);
        let server = identity.server(NEVER, NEVER).await;
        let io = identity.secure(server.client().await.io).await;
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut mux = Mux::over(io).await;
        mux.get("/hello").await.is("hello");
        let slow = mux.ask("/slow").await;
        server.entered().await;
        server.freeze();
        server.thaw();
        mux.get("/hello").await.is("hello");
        server.hand_off();
        mux.is_told().await;
        server.release();
        Got::of(slow).await.is("slow");
        mux.ends().await;
        server.ends().await;
    });
}

#[cfg(not(feature = "http2"))]
#[test]
fn http2_is_not_chosen_where_it_is_not_spoken() {
    within(async {
        let identity = Identity::new(&["h2", "http/1.1"]);
        let server = identity.server(NEVER, NEVER).await;
        let mut client = identity.client(&server).await;
        assert_eq!(client.io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        client.get("/hello").await.is("hello", false);
    });
}
