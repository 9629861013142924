//! Slow and odd clients: whatever they are at when the process is replaced, they get their answer.

use std::net::SocketAddr;

use flip_tests::client::{Http, Loss};
use flip_tests::{Chain, Exit, Start};

fn start(settings: &[(&str, &str)]) -> (Chain, SocketAddr) {
    let service = Start::new(env!("CARGO_BIN_EXE_web")).envs(settings).start();
    let address = service.address();
    (service, address)
}

#[test]
fn kept_connection_goes_to_the_new_process() {
    let (mut service, address) = start(&[]);
    let mut kept: Vec<_> = (0..50).map(|_| Http::open(address).unwrap()).collect();
    for _ in 0..4 {
        for http in &mut kept {
            let answer = http.exchange("GET", "/pid").unwrap();
            assert_eq!((answer.body, answer.last), (service.owner().pid.to_string(), false));
        }
        service.replace();
    }
    drop(kept);
    service.stop();
}

#[test]
fn kept_connection_waits_for_a_server_that_begins_late() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_late")).start();
    let address = service.line(" is ready at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let mut gate = service.gate("serve-2");
    let mut http = Http::open(address).unwrap();
    http.exchange("GET", "/").unwrap();
    service.replace();
    service.line("is at the gate serve-2");
    http.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    gate.open();
    assert_eq!(http.good_answer().unwrap().body, service.owner().pid.to_string());
    drop(http);
    service.stop();
}

#[test]
fn half_a_head_is_answered_by_the_new_process() {
    let (mut service, address) = start(&[]);
    let request = "GET /pid HTTP/1.1\r\nhost: test\r\n\r\n";
    // Of connections that had an answer before, and of some that had none; cut at each byte.
    for kept in [false, true] {
        let mut clients: Vec<_> = (0..request.len()).map(|_| Http::open(address).unwrap()).collect();
        for (at, http) in clients.iter_mut().enumerate() {
            if kept {
                http.exchange("GET", "/pid").unwrap();
            }
            http.send(&request[..at]).unwrap();
        }
        service.replace();
        for (at, http) in clients.iter_mut().enumerate() {
            http.send(&request[at..]).unwrap();
            assert_eq!(http.good_answer().unwrap().body, service.owner().pid.to_string(), "cut at {at}");
        }
    }
    service.stop();
}

#[test]
fn half_a_head_goes_through_several_processes() {
    let (mut service, address) = start(&[]);
    let mut http = Http::open(address).unwrap();
    for part in ["GET /pid HT", "TP/1.1\r\nho", "st: test\r", "\n\r"] {
        http.send(part).unwrap();
        service.replace();
    }
    http.send("\n").unwrap();
    assert_eq!(http.good_answer().unwrap().body, service.owner().pid.to_string());
    drop(http);
    service.stop();
}

#[test]
fn pipelined_requests_are_all_answered() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("slow");
    let mut http = Http::open(address).unwrap();
    let get = |path| format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    // The first is answered by the old process, and nothing behind it has been looked at when the new one takes over.
    http.send(&format!("{}{}{}GET /pid HT", get("/slow"), get("/pid"), get("/pid"))).unwrap();
    service.line("is in slow");
    let old = service.upgrade().unwrap();
    gate.open();
    assert_eq!(http.good_answer().unwrap().body, old.pid.to_string());
    for _ in 0..2 {
        assert_eq!(http.good_answer().unwrap().body, service.owner().pid.to_string());
    }
    http.send("TP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(http.good_answer().unwrap().body, service.owner().pid.to_string());
    assert_eq!(service.exit(&old), Exit::Status(0));
    drop(http);
    service.stop();
}

#[test]
fn upload_is_finished_where_it_began() {
    const SIZE: usize = 1 << 20;
    let (mut service, address) = start(&[]);
    let mut http = Http::open(address).unwrap();
    http.exchange("GET", "/pid").unwrap();
    http.send(&format!("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: {SIZE}\r\n\r\n")).unwrap();
    let (half, rest) = ("x".repeat(SIZE / 2), "y".repeat(SIZE / 2));
    http.send(&half).unwrap();
    // Until it is there, it may well be half a head.
    service.line("begins an upload");
    let old = service.upgrade().unwrap();
    http.send(&rest).unwrap();
    assert_eq!(http.good_answer().unwrap().body, format!("{SIZE} bytes to {}", old.pid));
    // The connection was not the upload's.
    assert_eq!(http.exchange("GET", "/pid").unwrap().body, service.owner().pid.to_string());
    assert_eq!(service.exit(&old), Exit::Status(0));
    drop(http);
    service.stop();
}

#[test]
fn client_that_hangs_up_is_not_waited_for() {
    let (mut service, address) = start(&[("FLIP_DRAIN_TIMEOUT", "10m")]);
    let _gate = service.gate("slow");
    let mut leaves = Http::open(address).unwrap();
    let slow = "GET /slow HTTP/1.1\r\nhost: test\r\n\r\n";
    leaves.send(slow).unwrap();
    service.line("is in slow");
    let old = service.upgrade().unwrap();
    assert!(!old.has_ended());
    drop(leaves);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn handler_that_takes_long_answers_from_the_old_process() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("slow");
    let mut http = Http::open(address).unwrap();
    http.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is in slow");
    let first = service.upgrade().unwrap();
    let second = service.upgrade().unwrap();
    assert_eq!(service.exit(&second), Exit::Status(0));
    gate.open();
    assert_eq!(http.good_answer().unwrap().body, first.pid.to_string());
    // It knows the way to whoever owns the service by now.
    assert_eq!(http.exchange("GET", "/pid").unwrap().body, service.owner().pid.to_string());
    assert_eq!(service.exit(&first), Exit::Status(0));
    drop(http);
    service.stop();
}

#[test]
fn streaming_answer_is_finished_by_the_old_process() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("stream");
    let mut http = Http::open(address).unwrap();
    http.send("GET /stream HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(http.head().unwrap().0, 200);
    let first = http.chunk().unwrap().unwrap();
    let old = service.upgrade().unwrap();
    assert_eq!(first, format!("part 0 by {};", old.pid));
    gate.open();
    assert_eq!(http.chunk().unwrap().unwrap(), format!("part 1 by {};", old.pid));
    assert_eq!(http.chunk().unwrap(), None);
    assert_eq!(http.exchange("GET", "/pid").unwrap().body, service.owner().pid.to_string());
    assert_eq!(service.exit(&old), Exit::Status(0));
    drop(http);
    service.stop();
}

#[test]
fn stream_is_cut_at_the_drain_deadline_and_reported() {
    let (mut service, address) = start(&[("FLIP_DRAIN_TIMEOUT", "300ms")]);
    let mut http = Http::open(address).unwrap();
    http.send("GET /events HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert_eq!(http.head().unwrap().0, 200);
    http.chunk().unwrap().unwrap();
    let old = service.upgrade().unwrap();
    let peer = http.stream.local_addr().unwrap();
    service.line(&format!("cut: http from {peer}, "));
    let lost = loop {
        match http.chunk() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that was cut has no proper end"),
            Err(lost) => break lost,
        }
    };
    assert!(matches!(lost.0, Loss::Cut | Loss::Reset), "{lost:?}");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn stop_answers_what_was_asked() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("slow");
    let (mut slow, mut fresh) = (Http::open(address).unwrap(), Http::open(address).unwrap());
    // It is accepted: another one behind it has been answered.
    Http::open(address).unwrap().exchange("GET", "/pid").unwrap();
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    service.line("is in slow");
    service.owner().signal(nix::sys::signal::Signal::SIGTERM);
    service.line(" stops and drains ");
    fresh.send("GET /pid HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    gate.open();
    for http in [&mut slow, &mut fresh] {
        let answer = http.good_answer().unwrap();
        assert!(answer.last, "{answer:?}");
        http.ended().unwrap();
    }
    service.stopped();
}
