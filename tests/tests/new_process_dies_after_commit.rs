//! A new process that dies once it serves is a service that died: the old one has given everything up, and whoever
//! supervises the service has to start it again.

use std::net::SocketAddr;

use flip_tests::client::{Http, Loss};
use flip_tests::{Exit, Start};
use nix::sys::signal::Signal;

#[test]
fn service_is_down_and_the_old_process_finishes_what_it_has() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_web")).start();
    let address: SocketAddr = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let mut gate = service.gate("slow");
    let mut slow = Http::open(address).unwrap();
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is in slow");
    let old = service.upgrade().unwrap();
    service.owner().signal(Signal::SIGKILL);
    assert_eq!(service.exit(service.owner()), Exit::Signal(Signal::SIGKILL));
    assert_eq!(Http::open(address).err().map(|lost| lost.0), Some(Loss::Refused));
    gate.open();
    assert_eq!(slow.good_answer().unwrap().body, old.pid.to_string());
    drop(slow);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.gone();
}
