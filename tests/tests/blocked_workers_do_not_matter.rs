//! An upgrade and a stop need no thread of the program's: they work while each of them is blocked.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::{SocketAddr, TcpStream};

use flip_tests::{Chain, Exit, Start};

/// Has all threads of the owner blocked.
fn block(service: &Chain, address: SocketAddr, times: usize) {
    drop(TcpStream::connect(address).unwrap());
    service.until("all threads are blocked", || service.log().count("is at the gate blocked") == 3 * times);
}

#[test]
fn service_is_upgraded_and_stopped_while_every_worker_is_blocked() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_blocked")).env("FLIP_DRAIN_TIMEOUT", "300ms").start();
    let address = service.line(" is ready at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let _shut = service.gate("blocked");
    for generation in 1..=2 {
        block(&service, address, generation);
        let old = service.upgrade().unwrap();
        service.line(&format!("has seen {generation}"));
        // Nobody can drop a `main` that blocks.
        assert_eq!(service.exit(&old), Exit::Status(0));
    }
    block(&service, address, 3);
    service.line("has seen 3");
    service.stop();
}
