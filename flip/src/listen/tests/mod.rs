//! Two registries in one process stand for old and new; descriptors move by duplication, as they do by SCM_RIGHTS.

#[cfg(feature = "tokio")]
mod asynchronous;
mod passed;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::blocking;
use super::*;
use crate::phase::Phase;
use crate::shared::Shared;
use crate::sys::oom::Without;

/// One process.
struct Side {
    shared: Arc<Shared>,
    listeners: Arc<Listeners>,
}

fn cold() -> Side {
    let shared = Shared::new(true).unwrap();
    Side { listeners: Listeners::new(Arc::clone(&shared), Vec::new(), None).unwrap(), shared }
}

impl Side {
    /// A new process that got this one's offer.
    fn successor(&self) -> Side {
        self.listeners.allow_overlap();
        let inherited = self
            .listeners
            .offer()
            .into_iter()
            .map(|outgoing| {
                // What crosses the channel.
                let text = serde_json::to_string(&outgoing.offered).unwrap();
                let fd = outgoing.as_fd().try_clone_to_owned().unwrap();
                InheritedSocket { offered: serde_json::from_str(&text).unwrap(), fd }
            })
            .collect();
        let shared = Shared::new(false).unwrap();
        let listeners = Listeners::new(Arc::clone(&shared), inherited, Some(std::process::id())).unwrap();
        Side { shared, listeners }
    }

    fn freeze(&self) {
        self.shared.accepting.close();
        self.shared.phase.set(Phase::Frozen);
        assert!(self.shared.accepting.wait_empty(std::time::Instant::now() + std::time::Duration::from_secs(30)));
    }

    fn serve(&self) -> registry::Started {
        let started = self.listeners.start();
        self.shared.accepting.open();
        self.shared.phase.set(Phase::Serving);
        started
    }

    fn leave(&self, phase: Phase) {
        self.shared.accepting.close();
        self.shared.phase.set(phase);
        assert!(self.shared.accepting.wait_empty(std::time::Instant::now() + std::time::Duration::from_secs(30)));
        self.listeners.close();
    }

    fn commit(&self, new: &Side) -> registry::Started {
        self.freeze();
        let started = new.serve();
        assert!(started.failed.is_empty(), "{:?}", started.failed);
        self.leave(Phase::HandedOff);
        started
    }

    fn get<L: Listen<A::Out>, A: ToAddress>(&self, name: &str, address: A) -> L {
        self.try_get(name, address, ListenOptions::new()).unwrap()
    }

    fn try_get<L: Listen<A::Out>, A: ToAddress>(
        &self,
        name: &str,
        address: A,
        options: ListenOptions,
    ) -> Result<L, ListenError> {
        L::listen(&self.listeners, name, address.to_address().unwrap(), &options)
    }

    fn polled_notes(&self) -> usize {
        self.shared.notes.take().len()
    }
}

fn connect(to: SocketAddr) -> io::Result<std::net::TcpStream> {
    std::net::TcpStream::connect(to)
}

fn accept(listener: &blocking::TcpListener) -> (blocking::TcpStream, SocketAddr) {
    listener.accept().unwrap().unwrap()
}

fn error<T>(result: Result<T, ListenError>) -> String {
    match result {
        Ok(_) => panic!("it was bound"),
        Err(error) => error.to_string(),
    }
}

/// Runs the rest of a test in a process of its own, because it counts or limits descriptors. True in that process.
fn alone(test: &str) -> bool {
    const CHILD: &str = "FLIP_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn descriptors() -> Vec<String> {
    let mut fds: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|link| link.display().to_string())
        .filter(|link| !link.starts_with("/proc/"))
        .collect();
    fds.sort();
    fds
}

/// How many descriptors of this process are of that socket.
fn held(inode: u64) -> usize {
    descriptors().iter().filter(|link| **link == format!("socket:[{inode}]")).count()
}

fn inode(socket: impl AsFd) -> u64 {
    nix::sys::stat::fstat(socket).unwrap().st_ino
}

const ANY: &str = "127.0.0.1:0";

#[test]
fn port_that_takes_a_capability_is_explained() {
    // CAP_NET_BIND_SERVICE; who is not root has none.
    let without = Without::capability(10);
    let why = error(cold().try_get::<blocking::TcpListener, _>("http", "127.0.0.1:1", ListenOptions::new()));
    drop(without);
    let wanted = "listener `http` at 127.0.0.1:1: to bind a port below 1024 takes CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit";
    assert!(why.starts_with(wanted), "{why}");
}

#[test]
fn a_listener_is_inherited_by_name_and_address() {
    let old = cold();
    let before: blocking::TcpListener = old.get("http", ANY);
    let at = before.local_addr().unwrap();
    let queued = connect(at).unwrap();
    let new = old.successor();
    assert_eq!(new.listeners.unclaimed(), ["http"]);
    let after: blocking::TcpListener = new.get("http", ANY);
    assert!(new.listeners.unclaimed().is_empty());
    // Port 0 is compared as it is written, and keeps its port.
    assert_eq!(after.local_addr().unwrap(), at);
    let late = connect(at).unwrap();
    assert!(old.commit(&new).closed.is_empty());
    assert!(before.accept().unwrap().is_none());
    let peers = [accept(&after).1, accept(&after).1];
    assert_eq!(peers, [queued.local_addr().unwrap(), late.local_addr().unwrap()]);
}

#[test]
fn a_listener_of_another_name_at_the_same_address_is_inherited_too() {
    let old = cold();
    let before: blocking::TcpListener = old.get("http", ANY);
    let at = before.local_addr().unwrap();
    let other: blocking::TcpListener = old.get("admin", ANY);
    let other_at = other.local_addr().unwrap();
    let new = old.successor();
    // They have changed their names.
    let after: blocking::TcpListener = new.get("admin", at);
    let other_after: blocking::TcpListener = new.get("http", other_at);
    assert!(new.listeners.unclaimed().is_empty());
    let client = connect(at).unwrap();
    assert!(old.commit(&new).closed.is_empty());
    assert_eq!(accept(&after).1, client.local_addr().unwrap());
    drop(other_after);
}

#[test]
fn a_new_address_is_bound_at_once_and_listens_when_it_serves() {
    let old = cold();
    let before: blocking::TcpListener = old.get("http", ANY);
    let queued = connect(before.local_addr().unwrap()).unwrap();
    let new = old.successor();
    let after: blocking::TcpListener = new.get("http", (Ipv4Addr::new(127, 0, 0, 2), 0));
    let at = after.local_addr().unwrap();
    assert_ne!(at.port(), 0);
    assert_eq!(connect(at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(new.listeners.unclaimed(), ["http"]);
    assert!(old.commit(&new).closed.is_empty());
    let client = connect(at).unwrap();
    // Who waits at the address that is given up is served, by whoever has its name.
    let mut peers = [accept(&after).1, accept(&after).1];
    peers.sort();
    let mut clients = [queued.local_addr().unwrap(), client.local_addr().unwrap()];
    clients.sort();
    assert_eq!(peers, clients);
    // Then nobody listens there.
    let third = connect(at).unwrap();
    assert_eq!(accept(&after).1, third.local_addr().unwrap());
    let before_at = before.local_addr().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| after.accept());
        while new.listeners.sockets() > 1 {
            std::thread::yield_now();
        }
        assert_eq!(connect(before_at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        new.leave(Phase::Stopping);
        assert!(waiting.join().unwrap().unwrap().is_none());
    });
}

#[test]
fn a_listener_that_nobody_asks_for_is_closed_and_named() {
    let old = cold();
    let before: blocking::TcpListener = old.get("metrics", ANY);
    let new = old.successor();
    assert_eq!(old.commit(&new).closed, ["metrics"]);
    assert_eq!(connect(before.local_addr().unwrap()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_address_that_includes_the_old_one_can_be_bound_beside_it() {
    let old = cold();
    let before: blocking::TcpListener = old.get("http", ANY);
    let port = before.local_addr().unwrap().port();
    let new = old.successor();
    let after: blocking::TcpListener = new.get("http", (Ipv4Addr::UNSPECIFIED, port));
    let queued = connect(before.local_addr().unwrap()).unwrap();
    old.commit(&new);
    assert_eq!(accept(&after).1, queued.local_addr().unwrap());
}

#[test]
fn after_a_roll_back_nobody_else_may_bind_there() {
    let old = cold();
    let before: blocking::TcpListener = old.get("http", ANY);
    let at = before.local_addr().unwrap();
    let second = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at.into())
    };
    assert!(second().is_err());
    old.listeners.allow_overlap();
    old.listeners.forbid_overlap();
    assert!(second().is_err());
    // Nor where the new process serves.
    let new = old.successor();
    let _after: blocking::TcpListener = new.get("http", at);
    old.commit(&new);
    assert!(second().is_err());
    let old = new;
    old.listeners.allow_overlap();
    assert!(second().is_ok());
    // One that was bound so keeps it.
    let _shards: blocking::TcpListener = old.try_get("shards", ANY, ListenOptions::new().shards(2)).unwrap();
    old.listeners.allow_overlap();
    old.listeners.forbid_overlap();
    let shared: Vec<_> =
        old.listeners.offer().iter().map(|one| socket2::SockRef::from(one).reuse_port().unwrap()).collect();
    assert_eq!(shared, [false, true, true]);
}

#[test]
fn shards_are_handed_over_each_with_its_queue() {
    for (had, wants) in [(3, 3), (3, 1), (1, 3)] {
        let old = cold();
        let before: blocking::TcpListener = old.try_get("http", ANY, ListenOptions::new().shards(had)).unwrap();
        let at = before.local_addr().unwrap();
        let queued: Vec<_> = (0..20).map(|_| connect(at).unwrap()).collect();
        let new = old.successor();
        let after: blocking::TcpListener = new.try_get("http", ANY, ListenOptions::new().shards(wants)).unwrap();
        assert_eq!(new.listeners.sockets(), had.max(wants) as usize);
        old.commit(&new);
        let late: Vec<_> = (0..20).map(|_| connect(at).unwrap()).collect();
        let mut clients: Vec<_> = queued.iter().chain(&late).map(|client| client.local_addr().unwrap()).collect();
        let mut peers: Vec<_> = (0..40).map(|_| accept(&after).1).collect();
        clients.sort();
        peers.sort();
        assert_eq!(peers, clients, "{had} shards to {wants}");
        // And what comes next is all of them again, in order.
        let shards: Vec<_> = new.listeners.offer().iter().map(|outgoing| outgoing.offered.shard).collect();
        assert_eq!(shards, (0..had.max(wants)).collect::<Vec<_>>());
    }
}

#[test]
fn several_of_one_name_are_told_apart_by_their_address() {
    let old = cold();
    let before: Vec<blocking::TcpListener> = old.get("http", [ANY, ANY]);
    let at: Vec<_> = before.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let new = old.successor();
    let after: Vec<blocking::TcpListener> = new.get("http", [at[1], at[0]]);
    assert_eq!(after[0].local_addr().unwrap(), at[1]);
    assert!(old.commit(&new).closed.is_empty());

    // The same texts stay in their order.
    let old = cold();
    let before: Vec<blocking::TcpListener> = old.get("http", [ANY, ANY]);
    let new = old.successor();
    let after: Vec<blocking::TcpListener> = new.get("http", [ANY, ANY]);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.local_addr().unwrap(), after.local_addr().unwrap());
    }
    assert!(old.get::<Option<blocking::TcpListener>, _>("off", None::<&str>).is_none());
    assert!(old.get::<Option<blocking::TcpListener>, _>("on", ANY).is_some());
}

#[test]
fn two_listeners_do_not_share_a_name_or_an_address() {
    let side = cold();
    let http: blocking::TcpListener = side.get("http", ANY);
    let same_name = error(side.try_get::<blocking::TcpListener, _>("http", ANY, ListenOptions::new()));
    assert_eq!(
        same_name,
        "listener `http` at 127.0.0.1:0: two listeners have this name; give this TCP listener one of its own"
    );
    let at = http.local_addr().unwrap();
    let same_address = error(side.try_get::<blocking::TcpListener, _>("web", at, ListenOptions::new()));
    assert_eq!(same_address, format!("listener `web` at {at}: the listener `http` already has {at}"));
    let wider = (Ipv4Addr::UNSPECIFIED, at.port());
    let overlap = error(side.try_get::<blocking::TcpListener, _>("web", wider, ListenOptions::new()));
    assert!(overlap.ends_with(&format!("the listener `http` already has {at}")), "{overlap}");
    // UDP's ports are others.
    let _udp: blocking::UdpSocket = side.get("dns", at);
    // A name is free again when its listener is gone.
    drop(http);
    let _again: blocking::TcpListener = side.get("http", at);
}

#[test]
fn an_address_of_another_kind_is_refused_by_name() {
    let side = cold();
    let unix = error(side.try_get::<blocking::TcpListener, _>("http", "unix:/run/app.sock", ListenOptions::new()));
    assert_eq!(
        unix,
        "listener `http` at unix:/run/app.sock: a TCP listener needs `host:port`, not the address of a Unix socket \
         (unix:/run/app.sock)"
    );
    let ip = error(side.try_get::<blocking::UnixListener, _>("admin", ANY, ListenOptions::new()));
    assert!(ip.contains("a Unix listener needs `unix:/path` or `@abstract`, not an IP address"), "{ip}");
}

#[test]
fn a_host_name_is_resolved_and_the_first_that_binds_counts() {
    let side = cold();
    let http: blocking::TcpListener = side.get("http", "localhost:0");
    assert!(http.local_addr().unwrap().ip().is_loopback());
    let new = side.successor();
    let at = format!("localhost:{}", http.local_addr().unwrap().port());
    // Another text for the same address is the same listener.
    let after: blocking::TcpListener = new.get("http", at);
    assert_eq!(after.local_addr().unwrap(), http.local_addr().unwrap());
    assert!(new.listeners.unclaimed().is_empty());
}

#[test]
fn who_holds_an_address_is_told() {
    let outside = std::net::TcpListener::bind(ANY).unwrap();
    let at = outside.local_addr().unwrap();
    let side = cold();
    let mine = error(side.try_get::<blocking::TcpListener, _>("http", at, ListenOptions::new()));
    let prefix = format!("listener `http` at {at}: the address is in use: ");
    assert!(mine.starts_with(&format!("{prefix}this process itself holds it, as descriptor ")), "{mine}");
    let new = side.successor();
    let result = new.try_get::<blocking::TcpListener, _>("http", at, ListenOptions::new());
    let kind = io::Error::from(result.unwrap_err()).kind();
    assert_eq!(kind, io::ErrorKind::AddrInUse);
    let theirs = error(new.try_get::<blocking::TcpListener, _>("http", at, ListenOptions::new()));
    let pid = std::process::id();
    assert!(theirs.starts_with(&format!("{prefix}the old process ({pid}) holds it outside of flip, as its descr")));
    assert!(theirs.contains("take it by #[listen]"), "{theirs}");

    let name = format!("@flip-test-{pid}-held");
    let first: blocking::UnixListener = side.get("first", &name);
    let second = error(cold().try_get::<blocking::UnixListener, _>("second", &name, ListenOptions::new()));
    assert!(second.contains("this process itself holds it"), "{second}");
    drop(first);
}

#[test]
fn options_that_an_inherited_socket_lacks_are_reported() {
    let old = cold();
    let before = ListenOptions::new().socket(|socket| socket.set_tcp_nodelay(true));
    let _before: blocking::TcpListener = old.try_get("http", ANY, before).unwrap();
    let new = old.successor();
    let wanted = ListenOptions::new()
        .socket(|socket| socket.set_tcp_nodelay(true))
        .socket(|socket| socket.set_keepalive(true))
        .socket(|socket| socket.set_recv_buffer_size(20000));
    let _after: blocking::TcpListener = new.try_get("http", ANY, wanted).unwrap();
    let drift = new.listeners.drift();
    let options: Vec<_> = drift.iter().map(|drift| drift.option).collect();
    assert_eq!(options, ["SO_RCVBUF", "SO_KEEPALIVE"]);
    assert_eq!((&*drift[1].name, &*drift[1].wanted, &*drift[1].found), ("http", "true", "false"));
    assert!(old.listeners.drift().is_empty());
}

#[test]
fn a_mode_that_an_inherited_path_lacks_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let old = cold();
    let _before: blocking::UnixListener = old.try_get("app", &path, ListenOptions::new().mode(0o600)).unwrap();
    let new = old.successor();
    let _after: blocking::UnixListener = new.try_get("app", &path, ListenOptions::new().mode(0o660)).unwrap();
    let drift = &new.listeners.drift()[0];
    assert_eq!((drift.option, &*drift.wanted, &*drift.found), ("mode", "0o660", "0o600"));
}

#[test]
fn a_listener_counts_as_polled_once_it_is_used_or_dropped() {
    let side = cold();
    assert_eq!(side.listeners.managed(), 0);
    let one: blocking::TcpListener = side.get("one", ANY);
    let two: blocking::UdpSocket = side.get("two", ANY);
    let bare: std::net::TcpListener = side.get("bare", ANY);
    assert_eq!(side.listeners.managed(), 2);
    assert_eq!(side.listeners.unpolled(), ["one", "two"]);
    let _client = connect(one.local_addr().unwrap()).unwrap();
    accept(&one);
    assert_eq!(side.polled_notes(), 1);
    drop(one);
    assert_eq!(side.polled_notes(), 0);
    assert!(!side.listeners.all_polled());
    drop(two);
    assert_eq!(side.polled_notes(), 1);
    assert!(side.listeners.all_polled());
    assert_eq!(side.listeners.managed(), 2);
    drop(bare);
}

#[test]
fn a_program_that_drops_all_its_listeners_on_its_way_out_is_not_ready() {
    let side = cold();
    let one: blocking::TcpListener = side.get("one", ANY);
    drop(one);
    assert_eq!(side.polled_notes(), 1);
    assert!(!side.listeners.all_polled());
    assert_eq!(side.listeners.unpolled(), ["one (dropped unused)"]);
    // Another one, which is used.
    let two: blocking::TcpListener = side.get("two", ANY);
    let _client = connect(two.local_addr().unwrap()).unwrap();
    accept(&two);
    assert!(side.listeners.all_polled());
    // And one that a panic takes along.
    let three: blocking::TcpListener = side.get("three", ANY);
    std::thread::spawn(move || {
        let _three = three;
        std::panic::resume_unwind(Box::new("on purpose"));
    })
    .join()
    .unwrap_err();
    assert!(!side.listeners.all_polled());
}

#[test]
fn an_accepted_connection_is_counted_until_its_last_clone_is_gone() {
    let side = cold();
    let http: blocking::TcpListener = side.get("http", ANY);
    let mut client = connect(http.local_addr().unwrap()).unwrap();
    let (mut stream, peer) = accept(&http);
    let open = side.shared.connections.open();
    assert_eq!((&*open[0].name, open[0].peer.clone()), ("http", Some(peer.to_string())));
    let mut clone = stream.try_clone().unwrap();
    // It blocks, as those of std do.
    let reader = std::thread::spawn(move || {
        let mut text = [0; 5];
        stream.read_exact(&mut text).unwrap();
        text
    });
    client.write_all(b"hello").unwrap();
    assert_eq!(&reader.join().unwrap(), b"hello");
    clone.write_all(b"!").unwrap();
    assert!(!side.shared.connections.is_empty());
    let (std, guard) = clone.into_inner();
    drop(std);
    assert!(!side.shared.connections.is_empty());
    drop(guard);
    assert!(side.shared.connections.is_empty());
}

#[test]
fn a_listener_that_lasts_accepts_until_all_else_is_done() {
    let side = cold();
    let http: blocking::TcpListener = side.get("http", "127.0.0.1:0");
    let options = ListenOptions::new().keep_accepting(true);
    let health: blocking::TcpListener = side.try_get("health", "127.0.0.1:0", options).unwrap();
    let (http_at, health_at) = (http.local_addr().unwrap(), health.local_addr().unwrap());
    let _client = connect(http_at).unwrap();
    let open = accept(&http);
    side.shared.lasting.open();
    side.leave(Phase::Stopping);
    assert!(http.accept().unwrap().is_none() && connect(http_at).is_err());
    let _clients = [(); 2].map(|()| connect(health_at).unwrap());
    let _checked = [(); 2].map(|()| accept(&health));
    assert!(!side.shared.is_drained());
    drop(open);
    assert!(side.shared.is_drained() && !side.shared.connections.is_empty());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| health.accept().unwrap().is_none());
        side.shared.lasting.close();
        side.leave(Phase::Stopping);
        assert!(waiter.join().unwrap());
    });
    assert!(connect(health_at).is_err());
}

#[test]
fn path_of_a_listener_that_lasts_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("health.sock");
    let side = cold();
    let options = ListenOptions::new().keep_accepting(true);
    let health: blocking::UnixListener = side.try_get("health", &path, options).unwrap();
    side.shared.lasting.open();
    side.leave(Phase::Stopping);
    side.listeners.unlink_owned();
    assert!(lives(&path));
    assert!(health.accept().unwrap().is_some());
    side.shared.lasting.close();
    side.leave(Phase::Stopping);
    side.listeners.unlink_owned();
    assert!(files(dir.path()).is_empty() && health.accept().unwrap().is_none());
}

#[test]
fn a_bare_listener_cannot_last() {
    let options = ListenOptions::new().keep_accepting(true);
    let refused = cold().try_get::<std::net::TcpListener, _>("health", "127.0.0.1:0", options);
    assert!(error(refused).contains("keep_accepting needs one of flip's listeners"));
}

#[test]
fn a_thread_that_waits_in_poll_hears_that_this_process_leaves() {
    for phase in [Phase::HandedOff, Phase::Stopping] {
        let side = cold();
        let http: blocking::TcpListener = side.get("http", ANY);
        let at = http.local_addr().unwrap();
        let inode = inode(&side.listeners.offer()[0]);
        assert_eq!(held(inode), 1);
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| http.accept())).collect();
            // Both were in poll(2), or will be: either must end.
            let _client = connect(at).unwrap();
            while !waiting.iter().any(|waiting| waiting.is_finished()) {
                std::thread::yield_now();
            }
            side.leave(phase);
            let accepted = waiting.into_iter().filter_map(|waiting| waiting.join().unwrap().unwrap()).count();
            assert_eq!(accepted, 1);
        });
        assert_eq!(held(inode), 0);
        assert_eq!(connect(at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(http.accept().unwrap().is_none());
        assert_eq!(http.local_addr().unwrap(), at);
    }
}

#[test]
fn accept_waits_while_the_gate_is_closed() {
    let side = cold();
    let http: blocking::TcpListener = side.get("http", ANY);
    side.freeze();
    let client = connect(http.local_addr().unwrap()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| accept(&http).1);
        // It has been polled, and so has seen the closed gate or will.
        while side.polled_notes() == 0 {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        side.serve();
        assert_eq!(waiting.join().unwrap(), client.local_addr().unwrap());
    });
}

#[test]
fn a_datagram_is_received_by_one_process_and_answered_by_both() {
    let old = cold();
    let before: blocking::UdpSocket = old.get("dns", ANY);
    let client = std::net::UdpSocket::bind(ANY).unwrap();
    client.connect(before.local_addr().unwrap()).unwrap();
    client.send(b"one").unwrap();
    let mut buf = [0; 16];
    let (length, peer) = before.recv_from(&mut buf).unwrap().unwrap();
    assert_eq!((&buf[..length], peer), (&b"one"[..], client.local_addr().unwrap()));
    let new = old.successor();
    let after: blocking::UdpSocket = new.get("dns", ANY);
    client.send(b"two").unwrap();
    old.commit(&new);
    assert!(before.recv_from(&mut buf).unwrap().is_none());
    let (length, _) = after.recv_from(&mut buf).unwrap().unwrap();
    assert_eq!(&buf[..length], b"two");
    // What was begun is still answered.
    before.send_to(b"answer", peer).unwrap();
    assert_eq!(client.recv(&mut buf).unwrap(), 6);
}

#[test]
fn a_socket_that_receives_at_once_takes_nothing_from_the_old_process() {
    let old = cold();
    let before: blocking::UdpSocket = old.get("dns", ANY);
    let port = before.local_addr().unwrap().port();
    let new = old.successor();
    let overlapping = new.try_get::<blocking::UdpSocket, _>("all", (Ipv4Addr::UNSPECIFIED, port), ListenOptions::new());
    assert!(error(overlapping).contains("stop and start"));
    let _after: blocking::UdpSocket = new.try_get("dns", ANY, ListenOptions::new().shards(4)).unwrap();
    let mut buf = [0; 16];
    // Each from a port of its own: with more sockets there, some would go to another one.
    for _ in 0..32 {
        let client = std::net::UdpSocket::bind(ANY).unwrap();
        client.send_to(b"still", before.local_addr().unwrap()).unwrap();
        assert_eq!(before.recv_from(&mut buf).unwrap().unwrap().0, 5);
    }
}

#[test]
fn every_unix_kind_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let old = cold();
    let stream: blocking::UnixListener = old.get("stream", path("stream"));
    let packets: blocking::SeqpacketListener = old.get("packets", path("packets"));
    let datagrams: blocking::UnixDatagram = old.get("datagrams", path("datagrams"));
    let hidden = format!("@flip-test-{}-kinds", std::process::id());
    let abstracted: blocking::UnixListener = old.get("hidden", &hidden);
    assert_eq!(stream.local_addr().unwrap().as_pathname(), Some(&*path("stream")));
    let new = old.successor();
    let faces: (blocking::UnixListener, blocking::SeqpacketListener, blocking::UnixDatagram, blocking::UnixListener) = (
        new.get("stream", path("stream")),
        new.get("packets", path("packets")),
        new.get("datagrams", path("datagrams")),
        new.get("hidden", &hidden),
    );
    assert!(new.listeners.unclaimed().is_empty());
    old.commit(&new);
    assert!(stream.accept().unwrap().is_none());
    assert!(packets.accept().unwrap().is_none());
    drop((stream, packets, abstracted));
    let (stream, packets, after, abstracted) = faces;

    for listener in [stream, abstracted] {
        let mut client = std::os::unix::net::UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap();
        client.write_all(b"a").unwrap();
        let (mut accepted, peer) = listener.accept().unwrap().unwrap();
        assert!(peer.is_unnamed());
        accepted.read_exact(&mut [0]).unwrap();
    }

    let client = Kind::Seqpacket.open(socket2::Domain::UNIX).unwrap();
    client.connect(&socket2::SockAddr::unix(path("packets")).unwrap()).unwrap();
    let (accepted, _) = packets.accept().unwrap().unwrap();
    client.send(b"two").unwrap();
    client.send(b"parts").unwrap();
    let mut buf = [0; 4];
    assert_eq!(accepted.recv(&mut buf).unwrap(), 3);
    assert_eq!(accepted.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(accepted.send(b"answer").unwrap(), 6);
    assert_eq!((&client).read(&mut buf).unwrap(), 4);
    drop(client);
    assert_eq!(accepted.send(b"answer").unwrap_err().kind(), io::ErrorKind::BrokenPipe);

    let client = std::os::unix::net::UnixDatagram::bind(path("client")).unwrap();
    client.send_to(b"hi", path("datagrams")).unwrap();
    assert!(datagrams.recv_from(&mut buf).unwrap().is_none());
    let (length, peer) = after.recv_from(&mut buf).unwrap().unwrap();
    assert_eq!((&buf[..length], peer.as_pathname()), (&b"hi"[..], Some(&*path("client"))));
    datagrams.send_to(b"old", path("client")).unwrap();
    after.send_to_addr(b"new", &peer).unwrap();
    assert_eq!((client.recv(&mut buf).unwrap(), client.recv(&mut buf).unwrap()), (3, 3));
}

/// Files in a directory, without lock files.
fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".lock"));
    names.sort();
    names
}

fn lives(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists() && !lives(&path));
    let side = cold();
    let app: blocking::UnixListener = side.get("app", &path);
    assert!(lives(&path));
    assert_eq!(files(dir.path()), ["app.sock"]);
    assert_eq!(app.local_addr().unwrap().as_pathname(), Some(&*path));

    let second = error(cold().try_get::<blocking::UnixListener, _>("app", &path, ListenOptions::new()));
    assert!(second.contains("the address is in use: a live process listens there; "), "{second}");
    let other = error(cold().try_get::<blocking::SeqpacketListener, _>("app", &path, ListenOptions::new()));
    assert!(other.contains("a live process has a Unix socket of another kind there"), "{other}");
    assert!(lives(&path));
    // A datagram socket, likewise.
    let log = dir.path().join("log.sock");
    drop(std::os::unix::net::UnixDatagram::bind(&log).unwrap());
    let _log: blocking::UnixDatagram = side.get("log", &log);
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    client.connect(&log).unwrap();
    assert!(cold().try_get::<blocking::UnixDatagram, _>("log", &log, ListenOptions::new()).is_err());
    assert_eq!(files(dir.path()), ["app.sock", "log.sock"]);
}

#[test]
fn a_socket_with_a_full_backlog_is_alive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let busy = Kind::Unix.open(socket2::Domain::UNIX).unwrap();
    busy.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let refused = error(cold().try_get::<blocking::UnixListener, _>("app", &path, ListenOptions::new()));
    assert!(refused.contains("a live process listens there, and is busy"), "{refused}");
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    std::fs::write(&path, "precious").unwrap();
    let refused = error(cold().try_get::<blocking::UnixListener, _>("app", &path, ListenOptions::new()));
    assert!(refused.contains("no socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_that_is_too_long_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x".repeat(108));
    let refused = error(cold().try_get::<blocking::UnixListener, _>("app", &path, ListenOptions::new()));
    assert!(refused.contains("and the path of a Unix socket has at most 107"), "{refused}");
    assert!(files(dir.path()).is_empty());
    // One that just fits is bound, and its dead socket replaced if the temporary name fits too.
    let longest = dir.path().join("x".repeat(107 - dir.path().as_os_str().len() - 1));
    drop(std::os::unix::net::UnixListener::bind(&longest).unwrap());
    let _app: blocking::UnixListener = cold().get("app", &longest);
    assert!(lives(&longest));
}

#[test]
fn a_path_gets_the_mode_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let side = cold();
    for mode in [0o660, 0o600, 0o777] {
        let path = dir.path().join(format!("{mode:o}"));
        let _app: blocking::UnixListener = side.try_get("app", &path, ListenOptions::new().mode(mode)).unwrap();
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, mode);
    }
}

#[test]
fn the_last_stop_unlinks_its_own_path_and_a_handoff_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let old = cold();
    let before: blocking::UnixListener = old.get("app", &path);
    let new = old.successor();
    let after: blocking::UnixListener = new.get("app", &path);
    old.commit(&new);
    // Not even if it is told to.
    old.listeners.unlink_owned();
    drop((before, old));
    assert!(lives(&path));
    new.leave(Phase::Stopping);
    drop(after);
    assert!(path.exists());
    new.listeners.unlink_owned();
    assert!(files(dir.path()).is_empty());

    // Somebody else's stays.
    let side = cold();
    let _app: blocking::UnixListener = side.get("app", &path);
    std::fs::remove_file(&path).unwrap();
    let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
    side.leave(Phase::Stopping);
    side.listeners.unlink_owned();
    assert!(lives(&path));
    drop(theirs);
}

#[test]
fn a_successor_that_gives_up_leaves_the_path_to_the_old_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let fresh = dir.path().join("new.sock");
    let old = cold();
    let _before: blocking::UnixListener = old.get("app", &path);
    let new = old.successor();
    let after: blocking::UnixListener = new.get("app", &path);
    let added: blocking::UnixListener = new.get("new", &fresh);
    // Nobody finds a socket that does not listen yet.
    assert!(!fresh.exists());
    assert_eq!(files(dir.path()).len(), 2);
    drop((after, added, new));
    assert_eq!(files(dir.path()), ["app.sock"]);
    assert!(lives(&path));

    // One that changes the kind replaces it when it serves, and not before.
    let new = old.successor();
    let after: blocking::SeqpacketListener = new.get("app", &path);
    assert_eq!(after.local_addr().unwrap().as_pathname(), Some(&*path));
    assert!(lives(&path));
    drop((after, new));
    assert_eq!(files(dir.path()), ["app.sock"]);
    let new = old.successor();
    let _after: blocking::SeqpacketListener = new.get("app", &path);
    old.commit(&new);
    let newest = new.successor();
    let newest: blocking::SeqpacketListener = newest.get("app", &path);
    assert_eq!(newest.local_addr().unwrap().as_pathname(), Some(&*path));
    drop(newest);
    assert_eq!(files(dir.path()), ["app.sock"]);
    let client = Kind::Seqpacket.open(socket2::Domain::UNIX).unwrap();
    client.connect(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
}

#[test]
fn a_path_goes_with_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let old = cold();
    let _kept: blocking::UnixListener = old.get("kept", path("kept"));
    let _moved: blocking::UnixListener = old.get("moved", path("from"));
    let _gone: blocking::UnixListener = old.get("gone", path("gone"));
    let dropped: blocking::UnixListener = old.get("dropped", path("dropped"));
    drop(dropped);
    assert_eq!(files(dir.path()), ["from", "gone", "kept"]);
    let new = old.successor();
    let _kept: blocking::UnixListener = new.get("kept", path("kept"));
    let _moved: blocking::UnixListener = new.get("moved", path("to"));
    assert!(!path("to").exists());
    assert_eq!(old.commit(&new).closed, ["gone"]);
    assert_eq!(files(dir.path()), ["kept", "to"]);
}

#[test]
fn a_path_stays_while_a_new_process_may_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let old = cold();
    let before: blocking::UnixListener = old.get("app", &path);
    let new = old.successor();
    let after: blocking::UnixListener = new.get("app", &path);
    drop(before);
    assert!(lives(&path));
    old.commit(&new);
    assert!(lives(&path));

    let newest = new.successor();
    drop((after, newest));
    assert!(path.exists());
    // Rolled back: nobody has it.
    new.listeners.forbid_overlap();
    assert!(!path.exists());
}

#[test]
fn a_bare_socket_is_inherited_and_blocks_where_its_users_expect_it() {
    let flags = |socket: &dyn AsFd| socket2::SockRef::from(&socket.as_fd()).nonblocking().unwrap();
    let old = cold();
    let before: std::net::TcpListener = old.get("http", ANY);
    let at = before.local_addr().unwrap();
    assert!(!flags(&before));
    let new = old.successor();
    let after: std::net::TcpListener = new.get("http", ANY);
    assert_eq!(after.local_addr().unwrap(), at);
    assert!(!flags(&before));
    let added: std::net::TcpListener = new.get("added", ANY);
    // It listens at once, because nothing tells when its user begins.
    let _client = connect(added.local_addr().unwrap()).unwrap();
    added.accept().unwrap();
    assert!(new.listeners.all_polled());
    old.commit(&new);
    let _client = connect(at).unwrap();
    after.accept().unwrap();

    // From one of flip's to a bare one, and back: the flag is of both processes, and changes when the new one serves.
    let old = cold();
    let before: blocking::TcpListener = old.get("http", ANY);
    let new = old.successor();
    let after: std::net::TcpListener = new.get("http", ANY);
    assert!(flags(&after));
    old.commit(&new);
    assert!(!flags(&after));
    drop(before);
    let newer = new.successor();
    let again: blocking::TcpListener = newer.get("http", ANY);
    assert!(!flags(&after));
    new.commit(&newer);
    assert!(flags(&after));
    drop(again);
}

#[test]
fn an_inherited_socket_that_blocks_is_made_non_blocking() {
    let old = cold();
    let http: blocking::TcpListener = old.get("http", ANY);
    let outgoing = &old.listeners.offer()[0];
    socket2::SockRef::from(outgoing).set_nonblocking(false).unwrap();
    let new = old.successor();
    let _after: blocking::TcpListener = new.get("http", ANY);
    assert!(socket2::SockRef::from(outgoing).nonblocking().unwrap());
    drop(http);
}

#[test]
fn something_else_than_was_offered_is_refused() {
    let old = cold();
    let _http: blocking::TcpListener = old.get("http", ANY);
    let offered = old.listeners.offer()[0].offered.clone();
    let (fd, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let inherited = vec![InheritedSocket { offered, fd: fd.into() }];
    let result = Listeners::new(Shared::new(false).unwrap(), inherited, Some(1));
    assert!(error(result).contains("the old process gave something that is no TCP listener"));
}

#[test]
fn descriptors_are_as_many_as_before() {
    if !alone("listen::tests::descriptors_are_as_many_as_before") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    type Faces = (blocking::TcpListener, blocking::UnixListener, blocking::UdpSocket);
    let generations = |count: usize| {
        let mut old = cold();
        let options = || ListenOptions::new().shards(2);
        let mut faces: Faces =
            (old.try_get("a", ANY, options()).unwrap(), old.get("b", dir.path().join("b")), old.get("c", ANY));
        let mut counts = Vec::new();
        for _ in 0..count {
            let new = old.successor();
            let taken: Faces =
                (new.try_get("a", ANY, options()).unwrap(), new.get("b", dir.path().join("b")), new.get("c", ANY));
            // One is rolled back each time.
            let failed = old.successor();
            let _: blocking::UnixListener = failed.get("b", dir.path().join("b"));
            drop(failed);
            old.commit(&new);
            let client = connect(taken.0.local_addr().unwrap()).unwrap();
            drop((accept_one(&taken.0), client));
            faces = taken;
            old = new;
            counts.push(descriptors().len());
        }
        assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "{counts:?}");
        drop(faces);
        old.leave(Phase::Stopping);
        old.listeners.unlink_owned();
    };
    generations(1);
    let before = descriptors();
    generations(4);
    assert_eq!(descriptors(), before);
    assert!(files(dir.path()).is_empty());
}

fn accept_one(listener: &blocking::TcpListener) -> blocking::TcpStream {
    accept(listener).0
}

/// Lets no descriptor be opened until it is dropped.
struct NoDescriptors(u64, u64);

impl NoDescriptors {
    fn left() -> NoDescriptors {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let probe = std::fs::File::open("/dev/null").unwrap();
        let next = std::os::fd::AsRawFd::as_raw_fd(&probe) as u64;
        setrlimit(Resource::RLIMIT_NOFILE, next, hard).unwrap();
        NoDescriptors(soft, hard)
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1).unwrap();
    }
}

fn cpu_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

#[test]
fn a_thread_that_has_no_descriptor_left_waits_without_spinning() {
    if !alone("listen::tests::a_thread_that_has_no_descriptor_left_waits_without_spinning") {
        return;
    }
    let side = cold();
    let http: blocking::TcpListener = side.get("http", ANY);
    let client = connect(http.local_addr().unwrap()).unwrap();
    side.listeners.alarm(false).unwrap();
    let none = NoDescriptors::left();
    let (before, began) = (cpu_seconds(), std::time::Instant::now());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| accept(&http).1);
        // Nothing to observe but that nothing happens.
        while began.elapsed().as_millis() < 300 {
            std::thread::park_timeout(std::time::Duration::from_millis(300));
        }
        let used = cpu_seconds() - before;
        assert!(used < 0.1, "{used} s of processor time in 0.3 s");
        drop(none);
        assert_eq!(waiting.join().unwrap(), client.local_addr().unwrap());
    });
    // A stop is heard meanwhile.
    let _second = connect(http.local_addr().unwrap()).unwrap();
    let none = NoDescriptors::left();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| http.accept());
        side.leave(Phase::Stopping);
        assert!(waiting.join().unwrap().unwrap().is_none());
    });
    drop(none);
}
