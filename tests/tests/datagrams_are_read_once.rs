//! Datagrams across restarts: each is answered once, by one process or the other.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use flip_tests::client::{Load, Loss, Lost, Shared};
use flip_tests::places::{address_of, start};
use flip_tests::{Chain, Exit, Mark, PATIENCE};

const RESTARTS: usize = 50;

/// Sends so many of them and hears as many; each must be there once. A socket's buffer holds far more.
fn exchange(
    number: u64,
    send: impl Fn(&[u8]) -> std::io::Result<usize>,
    hear: impl Fn(&mut [u8]) -> std::io::Result<usize>,
    window: u64,
) -> Result<(), Lost> {
    for n in 0..window {
        send((number * window + n).to_string().as_bytes())?;
    }
    let mut answers = HashMap::<u64, u32>::new();
    for _ in 0..window {
        let mut buffer = [0; 512];
        let length = hear(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let sent = text.rsplit(' ').next().and_then(|sent| sent.parse().ok());
        *answers.entry(sent.ok_or(Lost(Loss::Wrong, text))?).or_default() += 1;
    }
    let wanted = (0..window).all(|n| answers.get(&(number * window + n)) == Some(&1));
    if wanted { Ok(()) } else { Err(Lost(Loss::Wrong, format!("window {number}: {answers:?}"))) }
}

fn restart(service: &mut Chain) {
    for _ in 0..RESTARTS {
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
}

#[test]
fn udp_loses_nothing_and_answers_nothing_twice() {
    let mut service = start(env!("CARGO_BIN_EXE_sockets"), "udp 127.0.0.1:0");
    let address = address_of(&service, Mark::START, "udp");
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..4 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            load.client(scope, move |_, n| exchange(n, |bytes| socket.send(bytes), |buffer| socket.recv(buffer), 16));
        }
        restart(&mut service);
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    service.stop();
}

#[test]
fn unix_datagrams_lose_nothing_and_answer_nothing_twice() {
    let mut service = start(env!("CARGO_BIN_EXE_sockets"), "datagram unix:app.sock");
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for client in 0..2 {
            let socket = UnixDatagram::bind(service.dir().join(format!("client-{client}.sock"))).unwrap();
            socket.connect(service.dir().join("app.sock")).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            load.client(scope, move |_, n| exchange(n, |bytes| socket.send(bytes), |buffer| socket.recv(buffer), 4));
        }
        restart(&mut service);
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    service.stop();
}

#[test]
fn datagram_that_was_read_before_the_handoff_is_answered_after_it() {
    let mut service = start(env!("CARGO_BIN_EXE_sockets"), "udp 127.0.0.1:0");
    let address = address_of(&service, Mark::START, "udp");
    let mut gate = service.gate("answer-1");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"early").unwrap();
    service.line("is at the gate answer-1");
    let old = service.upgrade().unwrap();
    gate.open();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(format!("{} udp early", old.pid).as_str()));
    assert_eq!(service.exit(&old), Exit::Status(0));
    socket.send(b"late").unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(format!("{} udp late", service.owner().pid).as_str()));
    service.stop();
}
