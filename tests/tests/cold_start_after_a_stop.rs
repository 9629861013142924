//! A service that is started where one has just stopped gets its address, whatever the old one left in the kernel.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use flip_tests::places::{free_address, start, who_answers};
use flip_tests::{Chain, Exit, Process};
use nix::sys::signal::Signal;

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");

/// Connections that the service closed first, so that its side of them waits; see TIME_WAIT in tcp(7).
fn leave_connections(service: &Chain, address: SocketAddr) {
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"bye\n").unwrap();
        stream.read_to_end(&mut vec![]).unwrap();
    }
    service.until("they wait", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X} ", address.port());
        let waits = |line: &&str| line.contains(&port) && line.contains(" 06 ");
        table.lines().filter(waits).count() >= 5
    });
}

#[test]
fn connections_in_time_wait_do_not_matter() {
    let address = free_address();
    let places = format!("tcp {address}");
    for _ in 0..3 {
        let mut service = start(SOCKETS, &places);
        leave_connections(&service, address);
        service.upgrade().unwrap();
        leave_connections(&service, address);
        service.stop();
    }
}

#[test]
fn child_that_outlives_the_service_does_not_keep_its_port() {
    let address = free_address();
    let places = format!("tcp {address}");
    let mut service = start(SOCKETS, &places);
    let outlive = "sleep 1000 > /dev/null 2>&1 & echo $!";
    let mut children = vec![Process::open(service.tell(outlive).parse().unwrap())];
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    children.push(Process::open(service.tell(outlive).parse().unwrap()));
    service.owner().signal(Signal::SIGTERM);
    assert_eq!(service.exit(service.owner()), Exit::Status(0));
    // With the children still there.
    let next = start(SOCKETS, &places);
    assert_eq!(who_answers(address).unwrap().0, next.owner().pid);
    next.stop();
    for child in children {
        assert!(!child.has_ended());
        child.signal(Signal::SIGKILL);
        assert_eq!(service.exit(&child), Exit::Signal(Signal::SIGKILL));
    }
    service.gone();
}
