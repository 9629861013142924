//! Clients notice nothing: not of upgrades, not of those that fail, not of a process that is cut off in the middle.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::SocketAddr;

use flip_tests::http::{Client, Load, Tally, Wrong};
use flip_tests::{Chain, Exit, Start};
use nix::sys::signal::Signal;

fn start(address: &str) -> Start {
    let start = Start::new(env!("CARGO_BIN_EXE_visits"));
    std::fs::write(start.dir().join("address"), address).unwrap();
    start.env("FLIP_READY_TIMEOUT", "25s").env("FLIP_FREEZE_TIMEOUT", "25s")
}

fn serve(start: Start) -> (Chain, SocketAddr) {
    let service = start.start();
    let line = service.line("listens on ");
    let address = line.rsplit(' ').next().unwrap().parse().unwrap();
    (service, address)
}

fn nothing_wrong(service: &Chain, tally: &Tally) {
    if tally.wrong() > 0 {
        service.fail(&format!("{tally:?}"));
    }
}

#[test]
fn upgrades_under_load() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let load = Load::start(address, 3, 3);
    load.go_on_for(50);
    let mut pids = vec![service.owner().pid];
    for _ in 0..5 {
        let old = service.upgrade().unwrap();
        pids.push(service.owner().pid);
        assert_eq!(service.exit(&old), Exit::Status(0));
        load.go_on_for(50);
    }
    let tally = load.stop();
    nothing_wrong(&service, &tally);
    // Everybody who owned has answered, and nobody else.
    pids.sort_unstable();
    assert_eq!(tally.pids.iter().copied().collect::<Vec<_>>(), pids);
    assert_eq!(service.tell("get"), tally.answered.to_string());
    service.stop();
}

#[test]
fn failed_upgrades_under_load() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let load = Load::start(address, 3, 3);
    load.go_on_for(50);
    for what in ["panic", "exit", "error"] {
        service.at_start(what);
        service.upgrade().unwrap_err();
        load.go_on_for(50);
    }
    let tally = load.stop();
    nothing_wrong(&service, &tally);
    assert_eq!(tally.pids.len(), 1);
    assert_eq!(service.tell("get"), tally.answered.to_string());
    service.stop();
}

/// Its listener is dropped on the way, which must not pass for having nothing left to do.
#[test]
fn failure_that_takes_its_time_is_no_readiness() {
    for what in ["panic", "error"] {
        let (mut service, address) = serve(start("127.0.0.1:0").env("FLIP_READY_TIMEOUT", "500ms"));
        let mut gate = service.gate("end");
        service.at_start(what);
        let mark = service.log().mark();
        let report = service.upgrade().map(|_| "it was upgraded").unwrap_err();
        assert!(report.contains("was not ready within 500ms"), "{report}");
        service.line_after(mark, "is at the gate end");
        assert_eq!(Client::connect(address).unwrap().get("/").unwrap().pid(), Some(service.owner().pid));
        gate.open();
        service.stop();
    }
}

#[test]
fn connections_wait_in_the_backlog_while_nobody_accepts() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, "is at the gate start");
    // Nobody is there for them from here on, and the kernel takes them all the same.
    service.owner().signal(Signal::SIGSTOP);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address).unwrap()).collect();
    for client in &mut clients {
        client.ask("/").unwrap();
    }
    service.owner().signal(Signal::SIGCONT);
    gate.open();
    service.upgraded(mark).unwrap();
    for client in &mut clients {
        assert_eq!(client.hear().unwrap().status, 200);
    }
    assert_eq!(service.owner().pid, new.pid);
    drop(clients);
    service.stop();
}

#[test]
fn request_that_takes_long_is_answered_by_the_process_that_took_it() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let mut gate = service.gate("long");
    let mut client = Client::connect(address).unwrap();
    client.ask("/slow/long").unwrap();
    service.line("is at the gate long");
    let old = service.upgrade().unwrap();
    assert_eq!(Client::connect(address).unwrap().get("/").unwrap().pid(), Some(service.owner().pid));
    assert!(!old.has_ended());
    assert!(service.ask(&old, "open").starts_with("http from 127.0.0.1:"), "{}", service.ask(&old, "open"));
    gate.open();
    assert_eq!(client.hear().unwrap().pid(), Some(old.pid));
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn request_that_takes_too_long_is_cut_and_named() {
    let (mut service, address) = serve(start("127.0.0.1:0").env("FLIP_DRAIN_TIMEOUT", "300ms"));
    let _gate = service.gate("long");
    let mut client = Client::connect(address).unwrap();
    client.ask("/slow/long").unwrap();
    service.line("is at the gate long");
    let old = service.upgrade().unwrap();
    let line = service.line("cut: http from 127.0.0.1:");
    assert!(line.ends_with(" s old"), "{line}");
    assert!(matches!(client.hear(), Err(Wrong::Lost | Wrong::Reset)));
    // The thread that waits at the gate is the runtime's, and not waited for.
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn stop_answers_what_is_running() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let mut gate = service.gate("long");
    let mut client = Client::connect(address).unwrap();
    client.ask("/slow/long").unwrap();
    service.line("is at the gate long");
    service.owner().signal(Signal::SIGTERM);
    service.line("stops and drains 1 connection");
    assert!(matches!(Client::connect(address), Err(Wrong::Refused)));
    gate.open();
    assert_eq!(client.hear().unwrap().status, 200);
    service.stopped();
}

// ---- who listens, when somebody dies

#[test]
fn listener_survives_the_death_of_the_old_process() {
    let (mut service, address) = serve(start("127.0.0.1:0").env("FLIP_SUPERVISED", "no"));
    let mut gate = service.gate("start");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, "is at the gate start");
    service.owner().signal(Signal::SIGKILL);
    let old = service.owned_by(new);
    assert_eq!(service.exit(&old), Exit::Signal(Signal::SIGKILL));
    // It has the listener, and nobody was refused.
    let mut client = Client::connect(address).unwrap();
    client.ask("/").unwrap();
    gate.open();
    match client.hear() {
        Ok(answer) => assert_eq!(answer.pid(), Some(service.owner().pid)),
        Err(wrong) => service.fail(&format!("{wrong:?}")),
    }
    drop(client);
    let load = Load::start(address, 1, 1);
    load.go_on_for(10);
    service.upgrade().unwrap();
    load.go_on_for(10);
    nothing_wrong(&service, &load.stop());
    service.stop();
}

#[test]
fn nobody_listens_after_a_stop() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    for _ in 0..2 {
        service.upgrade().unwrap();
    }
    service.signal_all(Signal::SIGTERM);
    service.only(&[]);
    service.gone();
    assert!(matches!(Client::connect(address), Err(Wrong::Refused)));
}

// ---- addresses that change

#[test]
fn address_that_the_new_process_does_not_want_is_free() {
    let (mut service, before) = serve(start("127.0.0.1:0"));
    // A port that is free now; whoever takes it in between fails this test, once in a very long time.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(service.dir().join("address"), free.to_string()).unwrap();
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(Client::connect(free).unwrap().get("/").unwrap().pid(), Some(service.owner().pid));
    // Whoever was in the queue is served before it is closed.
    service.until("nobody listens there", || matches!(Client::connect(before), Err(Wrong::Refused)));
    std::net::TcpListener::bind(before).unwrap();
    service.stop();
}

#[test]
fn address_that_somebody_else_has_is_named_and_the_old_process_goes_on() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).unwrap();
    std::fs::write(service.dir().join("address"), &taken.1).unwrap();
    let report = service.upgrade().unwrap_err();
    for text in ["the parameter `http` cannot listen", &taken.1, "goes on"] {
        assert!(report.contains(text), "{text}: {report}");
    }
    assert_eq!(Client::connect(address).unwrap().get("/").unwrap().pid(), Some(service.owner().pid));
    service.stop();
}

#[test]
fn descriptors_of_listeners_do_not_grow() {
    let (mut service, address) = serve(start("127.0.0.1:0"));
    let kinds = |service: &Chain| service.owner().descriptor_kinds();
    // No connection and nothing of an upgrade is still being closed in this one.
    let first = kinds(&service);
    Client::connect(address).unwrap().get("/").unwrap();
    for _ in 0..5 {
        service.upgrade().unwrap();
        service.only(&[service.owner()]);
    }
    Client::connect(address).unwrap().get("/").unwrap();
    service.until(&format!("it has the descriptors {first:?}"), || kinds(&service) == first);
    service.stop();
}
