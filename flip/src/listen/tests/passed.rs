//! What a service manager passed.

use std::os::unix::net::UnixListener as Unix;

use super::*;

fn with(passed: Vec<(&str, OwnedFd)>) -> Side {
    let shared = Shared::new(true).unwrap();
    let passed = passed.into_iter().map(|(name, fd)| (name.to_owned(), fd)).collect();
    Side { listeners: Listeners::cold(Arc::clone(&shared), passed), shared }
}

fn tcp() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

fn ask<L: Listen<Address>>(side: &Side, name: &str, address: &str) -> Result<L, ListenError> {
    L::listen(&side.listeners, name, address.parse().unwrap(), &ListenOptions::new())
}

fn refused<L: Listen<Address>>(side: &Side, address: &str) -> String {
    match ask::<L>(side, "web", address) {
        Ok(_) => panic!("it was had"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_socket_is_found_by_its_name_and_goes_on_through_handoffs() {
    let (web, admin) = (tcp(), tcp());
    let (at, admin_at) = (web.local_addr().unwrap(), admin.local_addr().unwrap());
    // The service manager keeps its own.
    let kept = web.try_clone().unwrap();
    let mut side = with(vec![("web.socket", web.into()), ("admin", admin.into())]);
    let mut faces = vec![];
    for _ in 0..3 {
        let http: blocking::TcpListener = ask(&side, "http", "systemd:web").unwrap();
        let other: blocking::TcpListener = ask(&side, "other", "systemd:admin").unwrap();
        assert_eq!((http.local_addr().unwrap(), other.local_addr().unwrap()), (at, admin_at));
        side.serve();
        let client = std::net::TcpStream::connect(at).unwrap();
        let (_, peer) = http.accept().unwrap().expect("it serves");
        assert_eq!(peer, client.local_addr().unwrap());
        // Its options are its owner's, also while a new process starts.
        let next = side.successor();
        assert!(!socket2::SockRef::from(&kept).reuse_port().unwrap());
        faces.push((http, other, std::mem::replace(&mut side, next)));
    }
    drop(faces);
    drop(side);
    // Nothing of it was shut down.
    let _client = std::net::TcpStream::connect(at).unwrap();
    kept.accept().unwrap();
}

#[test]
fn one_that_nobody_named_answers_to_any_name_and_several_do_not() {
    for name in ["unknown", "app.socket"] {
        let alone = with(vec![(name, tcp().into())]);
        ask::<blocking::TcpListener>(&alone, "http", "systemd:http").unwrap();
    }
    let chosen = with(vec![("metrics", tcp().into())]);
    let why = refused::<blocking::TcpListener>(&chosen, "systemd:http");
    assert!(why.contains("passed were `metrics` (TCP 127.0.0.1:") && why.contains("FileDescriptorName=http"), "{why}");
    let two = with(vec![("unknown", tcp().into()), ("unknown", tcp().into())]);
    assert!(refused::<blocking::TcpListener>(&two, "systemd:http").contains("no socket of this name is left"));
    let why = refused::<blocking::TcpListener>(&cold(), "systemd:http");
    assert!(why.contains("no socket was passed at the start"), "{why}");
}

#[test]
fn several_of_one_name_are_a_vec() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let sockets = paths.clone().map(|path| Unix::bind(path).unwrap());
    let mut side = with(sockets.into_iter().map(|socket| ("app", socket.into())).collect());
    let why = refused::<blocking::UnixListener>(&side, "systemd:app");
    assert!(why.contains("ask for a Vec") && why.contains(&paths[1].display().to_string()), "{why}");
    let mut faces = vec![];
    for _ in 0..2 {
        let all: Vec<blocking::UnixListener> = ask(&side, "web", "systemd:app").unwrap();
        let at = |face: &blocking::UnixListener| face.local_addr().unwrap().as_pathname().unwrap().to_owned();
        assert_eq!(all.iter().map(at).collect::<Vec<_>>(), paths);
        side.serve();
        let next = side.successor();
        faces.push((all, std::mem::replace(&mut side, next)));
    }
    // They are the service manager's.
    for (all, side) in faces {
        side.shared.phase.set(Phase::Stopping);
        side.listeners.close();
        side.listeners.unlink_owned();
        drop(all);
    }
    assert!(paths.iter().all(|path| path.exists()));
}

#[test]
fn what_lies_in_a_store_goes_on_or_makes_room_for_another_address() {
    let first = cold();
    let http: blocking::TcpListener = ask(&first, "http", "127.0.0.1:0").unwrap();
    let at = http.local_addr().unwrap();
    let stored = |side: &Side| -> Vec<_> {
        let kept = side.listeners.to_store();
        kept.into_iter().map(|(name, fd)| (name, fd.as_fd().try_clone_to_owned().unwrap())).collect()
    };
    let passed = |kept: &[(String, OwnedFd)]| -> Vec<_> {
        kept.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect()
    };
    // The manager's own, which stay open until it is told.
    let kept = stored(&first);
    drop((http, first));
    let start = |kept| {
        let shared = Shared::new(true).unwrap();
        Side { listeners: Listeners::cold(Arc::clone(&shared), kept), shared }
    };
    let second = start(passed(&kept));
    let http: blocking::TcpListener = ask(&second, "http", "127.0.0.1:0").unwrap();
    assert_eq!(http.local_addr().unwrap(), at);
    assert_eq!(second.listeners.stored_before(), [kept[0].0.as_str()]);
    drop((http, second));
    // The same port on every interface, as a new configuration has it.
    let third = start(passed(&kept));
    let http: blocking::TcpListener = ask(&third, "http", &format!("0.0.0.0:{}", at.port())).unwrap();
    assert_eq!(http.local_addr().unwrap().port(), at.port());
    third.listeners.close_unclaimed();
    assert_ne!(stored(&third)[0].0, kept[0].0);
}

#[test]
fn name_that_no_store_takes_is_left_out() {
    let side = cold();
    let (short, long) = ("a".repeat(10), "b".repeat(250));
    let _short: blocking::TcpListener = ask(&side, &short, "127.0.0.1:0").unwrap();
    let _long: blocking::TcpListener = ask(&side, &long, "127.0.0.1:0").unwrap();
    for _ in 0..2 {
        let kept = side.listeners.to_store();
        assert!(kept.len() == 1 && kept[0].0.contains(&short));
    }
    assert!(side.listeners.says_unstored.is_completed());
}

#[test]
fn what_does_not_fit_is_named() {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let why = refused::<blocking::TcpListener>(&with(vec![("web", udp.into())]), "systemd:web");
    assert!(why.contains("`web` (UDP 127.0.0.1:") && why.contains("which is no TCP listener"), "{why}");

    let listener = tcp();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let why = refused::<blocking::TcpListener>(&with(vec![("web", client.into())]), "systemd:web");
    assert!(why.contains("Accept=no"), "{why}");

    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let why = refused::<blocking::TcpListener>(&with(vec![("web", bound.into())]), "systemd:web");
    assert!(why.contains("does not listen: whoever passes it"), "{why}");

    // No socket at all: said, and left open for whoever understands it.
    let (read, write) = io::pipe().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&write);
    let side = with(vec![("pipe", write.into()), ("web", tcp().into())]);
    ask::<blocking::TcpListener>(&side, "http", "systemd:web").unwrap();
    // SAFETY: given away above, and nobody has closed it.
    #[expect(unsafe_code, reason = "the test's own pipe")]
    let mut write = std::fs::File::from(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) });
    write.write_all(b"x").unwrap();
    drop((read, write));

    // A successor is passed nothing.
    let side = cold().successor();
    let why = refused::<blocking::TcpListener>(&side, "systemd:web");
    assert!(why.contains("only a first process can be passed one"), "{why}");
    let sharded: Result<blocking::TcpListener, _> = Listen::listen(
        &with(vec![("web", tcp().into())]).listeners,
        "web",
        Address::Systemd("web".into()),
        &ListenOptions::new().shards(2),
    );
    assert!(sharded.unwrap_err().to_string().contains("ReusePort=yes"));
}
