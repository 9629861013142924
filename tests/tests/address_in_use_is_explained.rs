//! An address that cannot be had: the message says which, who has it, and what to do.

use flip_tests::places::{address_of, free_address, put, start, who_answers};
use flip_tests::{Exit, Mark, Start};

const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");

#[test]
fn listener_that_the_old_process_has_bound_without_flip() {
    let address = free_address();
    let mut service = start(SOCKETS, &format!("udp 127.0.0.1:0\nbare {address}"));
    put(service.dir(), &format!("udp 127.0.0.1:0\ntcp {address}"));
    let report = service.upgrade().unwrap_err();
    let expected = format!(
        "listener `tcp` at {address}: the address is in use: the old process ({}) holds it outside of flip, as its descriptor ",
        service.owner().pid
    );
    assert!(report.contains(&expected), "{report}");
    assert!(report.contains("take it by #[listen] there too"), "{report}");
    service.stop();
}

#[test]
fn listener_that_the_old_process_has_under_another_name() {
    let mut service = start(SOCKETS, "tcp 127.0.0.1:0");
    let address = address_of(&service, Mark::START, "tcp");
    put(service.dir(), &format!("more {address}"));
    // It is a listener of flip's in both, so that it changes its name without a gap.
    service.upgrade().unwrap();
    assert_eq!(who_answers(address).unwrap(), (service.owner().pid, "more0".to_owned()));
    service.stop();
}

#[test]
fn two_listeners_at_one_address() {
    let address = free_address();
    let start = Start::new(SOCKETS);
    put(start.dir(), &format!("tcp {address}\nmore {address}"));
    let mut service = start.spawn();
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    service.line(&format!("listener `more` at {address}: "));
    service.line("`tcp`");
    service.gone();
}

#[test]
fn two_listeners_at_one_address_in_the_new_process() {
    let mut service = start(SOCKETS, "tcp 127.0.0.1:0");
    let address = address_of(&service, Mark::START, "tcp");
    put(service.dir(), &format!("tcp 127.0.0.1:0\nmore {address}"));
    let report = service.upgrade().unwrap_err();
    assert!(report.contains(&format!("listener `more` at {address}: ")) && report.contains("`tcp`"), "{report}");
    assert_eq!(who_answers(address).unwrap().0, service.owner().pid);
    put(service.dir(), "tcp 127.0.0.1:0");
    service.upgrade().unwrap();
    service.stop();
}

#[test]
fn option_that_an_inherited_socket_does_not_have() {
    let mut service = start(SOCKETS, "tcp 127.0.0.1:0");
    put(service.dir(), "tcp 127.0.0.1:0\nkeepalive yes");
    service.upgrade().unwrap();
    service.line(
        "the inherited socket of the listener `tcp` keeps the options it was bound with: SO_KEEPALIVE is false, and true is \
         asked for; stop and start to change it",
    );
    let mark = service.log().mark();
    put(service.dir(), "tcp 127.0.0.1:0");
    service.upgrade().unwrap();
    service.line_after(mark, "freeze to commit");
    assert_eq!(service.log().count("keeps the options"), 1, "{}", service.log().text());
    service.stop();
}
