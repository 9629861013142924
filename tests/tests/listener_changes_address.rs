//! Listeners that come, go and move with the configuration, from one generation to the next.

use std::collections::HashSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};

use flip_tests::client::Loss;
use flip_tests::places::{address_of, free_address, put, start, who_answers};
use flip_tests::{Chain, Exit, Mark};
use nix::sys::signal::Signal;

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");

fn is_refused(address: SocketAddr) -> bool {
    who_answers(address).is_err_and(|lost| lost.0 == Loss::Refused)
}

/// The old process has its own idea of when it is gone, and this is not about that.
fn upgrade(service: &mut Chain) {
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
}

#[test]
fn changed_address_is_bound_before_and_listens_after_the_commit() {
    let (first, second) = (free_address(), free_address());
    let mut service = start(SOCKETS, &format!("tcp {first}"));
    put(service.dir(), &format!("tcp {second}"));
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    service.line_after(mark, "is at the gate start");
    // Nobody is let in to wait.
    assert!(is_refused(second));
    assert_eq!(who_answers(first).unwrap().0, service.owner().pid);
    gate.open();
    service.upgraded(mark).unwrap();
    assert_eq!(who_answers(second).unwrap().0, service.owner().pid);
    service.until("the old address is refused", || is_refused(first));
    service.stop();
}

/// Bound is not taken: until it listens, whoever sets SO_REUSEADDR may listen there first (socket(7)).
#[test]
fn address_that_somebody_takes_while_the_new_process_starts_is_named() {
    let (first, second) = (free_address(), free_address());
    let mut service = start(SOCKETS, &format!("tcp {first}\nmore 127.0.0.1:0"));
    put(service.dir(), &format!("tcp {second}\nmore 127.0.0.1:0"));
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    service.line_after(mark, "is at the gate start");
    let _thief = TcpListener::bind(second).unwrap();
    gate.open();
    service.upgraded(mark).unwrap();
    service.line(&format!("listener `tcp` at {second}: the address is in use: another process holds it"));
    let more = address_of(&service, mark, "more0");
    assert_eq!(who_answers(more).unwrap().0, service.owner().pid);
    service.stop();
}

#[test]
fn changed_address_is_given_back_when_the_upgrade_is_rolled_back() {
    let (first, second) = (free_address(), free_address());
    let mut service = start(SOCKETS, &format!("tcp {first}"));
    put(service.dir(), &format!("tcp {second}"));
    for what in ["panic", "exit", "error"] {
        service.at_start(what);
        service.upgrade().unwrap_err();
        assert_eq!(who_answers(first).unwrap().0, service.owner().pid);
        assert!(is_refused(second));
        drop(TcpListener::bind(second).expect("nobody has it"));
    }
    service.stop();
}

#[test]
fn address_that_somebody_else_has_leaves_the_old_one() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = taken.local_addr().unwrap();
    let mut service = start(SOCKETS, "tcp 127.0.0.1:0");
    let first = address_of(&service, Mark::START, "tcp");
    put(service.dir(), &format!("tcp {second}"));
    let report = service.upgrade().unwrap_err();
    let expected = format!("listener `tcp` at {second}: the address is in use: another process holds it");
    assert!(report.contains(&expected), "{report}");
    assert_eq!(who_answers(first).unwrap().0, service.owner().pid);
    service.stop();
}

#[test]
fn port_zero_keeps_its_port() {
    let mut service = start(SOCKETS, "tcp 127.0.0.1:0\nmore 127.0.0.1:0\nmore 127.0.0.1:0\nudp 127.0.0.1:0");
    let places = |after| ["tcp", "more0", "more1", "udp"].map(|name| address_of(&service, after, name));
    let before = places(Mark::START);
    assert_eq!(before[..3].iter().collect::<HashSet<_>>().len(), 3);
    for _ in 0..4 {
        let mark = service.log().mark();
        upgrade(&mut service);
        let places = ["tcp", "more0", "more1", "udp"].map(|name| address_of(&service, mark, name));
        assert_eq!(places, before);
    }
    service.stop();
}

#[test]
fn listeners_become_more_and_fewer() {
    let addresses = [free_address(), free_address(), free_address()];
    let mut service = start(SOCKETS, "udp 127.0.0.1:0");
    // Which of the three listen, by generation; and which generation has one besides, that is optional.
    for (listening, optional) in [(0..1, true), (0..3, false), (1..3, true), (0..0, false), (2..3, false)] {
        let mut places = "udp 127.0.0.1:0\n".to_owned();
        addresses[listening.clone()].iter().for_each(|address| places.push_str(&format!("more {address}\n")));
        if optional {
            places.push_str("tcp 127.0.0.1:0\n");
        }
        put(service.dir(), &places);
        let mark = service.log().mark();
        upgrade(&mut service);
        for (index, address) in addresses.into_iter().enumerate() {
            if listening.contains(&index) {
                let name = format!("more{}", index - listening.start);
                assert_eq!(who_answers(address).unwrap(), (service.owner().pid, name));
            } else {
                service.until("it is refused", || is_refused(address));
            }
        }
        if optional {
            let address = address_of(&service, mark, "tcp");
            assert_eq!(who_answers(address).unwrap().0, service.owner().pid);
        }
    }
    service.stop();
}

#[test]
fn clients_of_a_listener_that_goes_do_not_hang() {
    let mut service = start(SOCKETS, "tcp 127.0.0.1:0\nudp 127.0.0.1:0");
    let address = address_of(&service, Mark::START, "tcp");
    let mut gate = service.gate("accept-1");
    who_answers(address).unwrap();
    service.line("is at the gate accept-1");
    // Nobody accepts it any more, in either process.
    let mut waiting = TcpStream::connect(address).unwrap();
    put(service.dir(), "udp 127.0.0.1:0");
    let old = service.upgrade().unwrap();
    service
        .line("the old process had the listener `tcp` at 127.0.0.1:0, and nobody asks for it any more: it is closed");
    assert!(is_refused(address));
    assert!(waiting.read(&mut [0]).is_err(), "it is reset");
    gate.open();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}
