//! The faces on tokio.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{SeqpacketListener, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener};

const SHORT: Duration = Duration::from_millis(20);

async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.accept().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_listener_is_inherited_with_its_queue() {
    let old = cold();
    let before: TcpListener = old.get("http", ANY);
    let at = before.local_addr().unwrap();
    let first = connect(at).unwrap();
    assert_eq!(next(&before).await.1, first.local_addr().unwrap());
    let new = old.successor();
    let after: TcpListener = new.get("http", ANY);
    old.freeze();
    let queued = connect(at).unwrap();
    let old_waits = tokio::spawn(async move { before.accept().await });
    let new_waits = tokio::spawn(async move { next(&after).await.1 });
    while new.polled_notes() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!new_waits.is_finished());
    old.commit(&new);
    assert_eq!(new_waits.await.unwrap(), queued.local_addr().unwrap());
    assert!(old_waits.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn accepted_streams_read_write_and_count() {
    let side = cold();
    let http: TcpListener = side.get("http", ANY);
    let client = tokio::net::TcpStream::connect(http.local_addr().unwrap());
    let (mut client, (mut stream, peer)) = tokio::join!(async { client.await.unwrap() }, next(&http));
    assert_eq!(stream.peer_addr().unwrap(), peer);
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    client.read_exact(&mut text).await.unwrap();
    client.write_all(&text).await.unwrap();
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(side.shared.connections.open()[0].peer, Some(peer.to_string()));
    let (stream, guard) = stream.into_inner();
    drop(stream);
    assert!(!side.shared.connections.is_empty());
    drop(guard);
    assert!(side.shared.connections.is_empty());
}

#[tokio::test]
async fn a_listener_is_closed_under_a_task_that_is_never_polled_again() {
    let side = cold();
    let http: TcpListener = side.get("http", ANY);
    let at = http.local_addr().unwrap();
    let inode = inode(&side.listeners.offer()[0]);
    let mut waiting = Box::pin(http.accept());
    assert!(tokio::time::timeout(SHORT, &mut waiting).await.is_err());
    assert_eq!(held(inode), 1);
    // This task does not let the runtime go on in between.
    side.leave(Phase::Stopping);
    assert_eq!(held(inode), 0);
    assert_eq!(connect(at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(waiting.await.unwrap().is_none());
    assert!(http.accept().await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_of_phase_alone_ends_a_wait() {
    let side = cold();
    let http: TcpListener = side.get("http", ANY);
    let mut waiting = Box::pin(http.accept());
    assert!(tokio::time::timeout(SHORT, &mut waiting).await.is_err());
    side.shared.accepting.close();
    side.shared.phase.set(Phase::HandedOff);
    assert!(waiting.await.unwrap().is_none());
}

#[tokio::test]
async fn a_freeze_that_is_rolled_back_goes_on() {
    let side = cold();
    let http: Arc<TcpListener> = Arc::new(side.get("http", ANY));
    let task = tokio::spawn({
        let http = Arc::clone(&http);
        async move { next(&http).await.1 }
    });
    tokio::time::timeout(SHORT, std::future::pending::<()>()).await.unwrap_err();
    side.freeze();
    let client = connect(http.local_addr().unwrap()).unwrap();
    tokio::time::timeout(SHORT, std::future::pending::<()>()).await.unwrap_err();
    assert!(!task.is_finished());
    side.serve();
    assert_eq!(task.await.unwrap(), client.local_addr().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_may_accept_and_none_is_forgotten() {
    let side = cold();
    let http: Arc<TcpListener> = Arc::new(side.try_get("http", ANY, ListenOptions::new().shards(2)).unwrap());
    let at = http.local_addr().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let http = Arc::clone(&http);
            tokio::spawn(async move {
                let mut accepted = 0;
                while let Some((stream, _)) = http.accept().await.unwrap() {
                    drop(stream);
                    accepted += 1;
                }
                accepted
            })
        })
        .collect();
    for round in 0..100 {
        // One that gives up takes nothing with it.
        let _ = tokio::time::timeout(Duration::from_micros(round), async {
            let accept = http.accept();
            tokio::task::yield_now().await;
            drop(accept);
        })
        .await;
        let mut client = tokio::net::TcpStream::connect(at).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
    side.leave(Phase::Stopping);
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await.unwrap();
    }
    assert_eq!(accepted, 100);
}

#[tokio::test]
async fn a_full_queue_leaves_room_for_other_tasks() {
    let side = cold();
    let http: TcpListener = side.get("http", ANY);
    let at = http.local_addr().unwrap();
    let clients: Vec<_> = (0..300).map(|_| connect(at).unwrap()).collect();
    let turn = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let turn = Arc::clone(&turn);
        async move { turn.store(true, Ordering::SeqCst) }
    });
    let mut before = 0;
    for _ in &clients {
        next(&http).await;
        before += u32::from(!turn.load(Ordering::SeqCst));
    }
    assert!(before < 300, "the other task waited for {before} connections");
    // A task that has used up its turn waits like any other.
    let client = tokio::spawn(async move {
        for _ in 0..1000 {
            tokio::task::consume_budget().await;
        }
        next(&http).await.1
    });
    tokio::task::yield_now().await;
    let late = connect(at).unwrap();
    assert_eq!(client.await.unwrap(), late.local_addr().unwrap());
}

#[tokio::test]
async fn every_kind_works_on_tokio() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let side = cold();
    let unix: UnixListener = side.get("unix", path("unix"));
    let mut client = tokio::net::UnixStream::connect(path("unix")).await.unwrap();
    let (mut stream, peer) = unix.accept().await.unwrap().unwrap();
    assert!(peer.is_unnamed());
    client.write_all(b"hi").await.unwrap();
    stream.read_exact(&mut [0; 2]).await.unwrap();
    assert_eq!(side.shared.connections.open()[0].peer, None);

    let packets: SeqpacketListener = side.get("packets", path("packets"));
    let client = Kind::Seqpacket.open(socket2::Domain::UNIX).unwrap();
    client.connect(&socket2::SockAddr::unix(path("packets")).unwrap()).unwrap();
    let (stream, _) = packets.accept().await.unwrap().unwrap();
    let mut buf = [0; 8];
    let (received, ()) = tokio::join!(stream.recv(&mut buf), async {
        client.send(b"packet").unwrap();
    });
    assert_eq!(received.unwrap(), 6);
    stream.send(b"answer").await.unwrap();
    assert_eq!((&client).read(&mut buf).unwrap(), 6);

    let dns: UdpSocket = side.get("dns", ANY);
    let client = std::net::UdpSocket::bind(ANY).unwrap();
    client.send_to(b"hi", dns.local_addr().unwrap()).unwrap();
    let (length, peer) = dns.recv_from(&mut buf).await.unwrap().unwrap();
    let log: UnixDatagram = side.get("log", path("log"));
    let logger = std::os::unix::net::UnixDatagram::bind(path("logger")).unwrap();
    logger.send_to(b"line", path("log")).unwrap();
    assert_eq!(log.recv_from(&mut buf).await.unwrap().unwrap().0, 4);
    side.leave(Phase::HandedOff);
    assert!(dns.recv_from(&mut buf).await.unwrap().is_none());
    assert!(log.recv_from(&mut buf).await.unwrap().is_none());
    // What was begun is still answered.
    dns.send_to(&buf[..length], peer).await.unwrap();
    assert_eq!(client.recv(&mut buf).unwrap(), 2);
    // The receiver's queue fills up, and is read later.
    let mut sent = 0;
    while tokio::time::timeout(SHORT, log.send_to(b"x", path("logger"))).await.is_ok() {
        sent += 1;
    }
    let last = log.send_to(b"y", path("logger"));
    let (last, ()) = tokio::join!(last, async {
        for _ in 0..sent {
            logger.recv(&mut [0]).unwrap();
        }
    });
    assert_eq!(last.unwrap(), 1);
}

#[tokio::test]
async fn a_bare_socket_of_tokio_is_inherited() {
    let old = cold();
    let before: tokio::net::TcpListener = old.get("http", ANY);
    let at = before.local_addr().unwrap();
    let new = old.successor();
    let after: tokio::net::TcpListener = new.get("http", ANY);
    assert!(new.listeners.all_polled());
    let client = connect(at).unwrap();
    assert_eq!(after.accept().await.unwrap().1, client.local_addr().unwrap());
    let added: tokio::net::UdpSocket = new.get("dns", ANY);
    added.send_to(b"x", at).await.unwrap();
    old.commit(&new);
    // It is its user's.
    let client = connect(at).unwrap();
    assert_eq!(before.accept().await.unwrap().1, client.local_addr().unwrap());
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    use std::task::{Context, Poll, Waker};
    let side = cold();
    let http: TcpListener = side.get("http", ANY);
    let accept = std::pin::pin!(http.accept());
    let Poll::Ready(Err(error)) = accept.poll(&mut Context::from_waker(Waker::noop())) else { panic!("no error") };
    assert!(error.to_string().contains("needs a tokio runtime"));
}

#[test]
fn a_task_that_has_no_descriptor_left_waits_without_spinning() {
    if !alone("listen::tests::asynchronous::a_task_that_has_no_descriptor_left_waits_without_spinning") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let side = cold();
        let http: TcpListener = side.get("http", ANY);
        let client = connect(http.local_addr().unwrap()).unwrap();
        let none = NoDescriptors::left();
        let before = cpu_seconds();
        let mut waiting = Box::pin(next(&http));
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
        let used = cpu_seconds() - before;
        assert!(used < 0.1, "{used} s of processor time in 0.3 s");
        drop(none);
        assert_eq!(waiting.await.1, client.local_addr().unwrap());
        // A stop is heard meanwhile.
        let _second = connect(http.local_addr().unwrap()).unwrap();
        let none = NoDescriptors::left();
        let mut waiting = Box::pin(http.accept());
        assert!(tokio::time::timeout(SHORT, &mut waiting).await.is_err());
        side.leave(Phase::Stopping);
        assert!(waiting.await.unwrap().is_none());
        drop(none);
    });
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_serves_on_flips_listeners() {
    let side = cold();
    let http: TcpListener = side.get("http", ANY);
    let at = http.local_addr().unwrap();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    let server = tokio::spawn(axum::serve(http, router).into_future());
    let mut client = tokio::net::TcpStream::connect(at).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    side.leave(Phase::HandedOff);
    tokio::time::timeout(SHORT, std::future::pending::<()>()).await.unwrap_err();
    assert!(!server.is_finished());
    server.abort();
}
