//! Connections that wait to be accepted while the process is replaced are the new process's, and none is refused.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use flip_tests::client::read_line;
use flip_tests::places::{address_of, put, start, who, who_answers};
use flip_tests::{Chain, Exit, Gate, Mark};

const WAITING: usize = 100;

/// The service with an old process that accepts nothing more: it waits at a gate.
fn deaf(places: &str, name: &str) -> (Chain, SocketAddr, Gate) {
    let service = start(env!("CARGO_BIN_EXE_sockets"), places);
    let address = address_of(&service, Mark::START, name);
    let gate = service.gate("accept-1");
    assert_eq!(who_answers(address).unwrap().0, service.owner().pid);
    service.line("is at the gate accept-1");
    (service, address, gate)
}

fn connect(address: SocketAddr) -> Vec<TcpStream> {
    let connect = |number| {
        let mut stream = TcpStream::connect(address).unwrap();
        // Half of them say nothing before the restart.
        if number % 2 == 0 {
            stream.write_all(b"who\n").unwrap();
        }
        stream
    };
    (0..WAITING).map(connect).collect()
}

fn assert_served_by(pid: i32, streams: Vec<TcpStream>) {
    for (number, mut stream) in streams.into_iter().enumerate() {
        if number % 2 == 1 {
            stream.write_all(b"who\n").unwrap();
        }
        assert_eq!(who(&read_line(&mut stream).unwrap()).unwrap().0, pid);
    }
}

#[test]
fn queue_of_the_old_process_is_served_by_the_new_one() {
    let (mut service, address, mut gate) = deaf("tcp 127.0.0.1:0", "tcp");
    let waiting = connect(address);
    let old = service.upgrade().unwrap();
    assert_served_by(service.owner().pid, waiting);
    gate.open();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn queue_survives_an_upgrade_that_is_rolled_back() {
    let (mut service, address, mut gate) = deaf("tcp 127.0.0.1:0", "tcp");
    let waiting = connect(address);
    for what in ["panic", "exit", "error"] {
        service.at_start(what);
        service.upgrade().unwrap_err();
    }
    gate.open();
    assert_served_by(service.owner().pid, waiting);
    service.stop();
}

#[test]
fn queues_of_all_shards_are_served_even_when_there_are_fewer() {
    let (mut service, address, mut gate) = deaf("tcp 127.0.0.1:0\nshards 4", "tcp");
    let waiting = connect(address);
    put(service.dir(), "tcp 127.0.0.1:0\nshards 2");
    let old = service.upgrade().unwrap();
    assert_served_by(service.owner().pid, waiting);
    service.line("the old process had 4 shards of the listener `tcp`, more than the 2 asked for; all are kept");
    gate.open();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn queue_of_an_address_that_goes_is_served_by_whoever_has_the_name() {
    let (mut service, address, mut gate) = deaf("tcp 127.0.0.1:0", "tcp");
    let waiting = connect(address);
    put(service.dir(), "tcp 127.0.0.2:0");
    let old = service.upgrade().unwrap();
    assert_served_by(service.owner().pid, waiting);
    gate.open();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}
