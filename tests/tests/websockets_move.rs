//! WebSockets, whatever they are at when the process is replaced, go on in the next one; and those that cannot are told.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use flip_tests::websocket::{CLOSE, CONTINUATION, Client, FINAL, PING, PONG, TEXT, frame};
use flip_tests::{Chain, Exit, Start, client};
use nix::sys::signal::Signal;

const RESTARTS: u64 = 10;
const CLIENTS: usize = 50;
/// So that nobody waits for long: a fifth of it at most.
const DRAIN: (&str, &str) = ("FLIP_DRAIN_TIMEOUT", "5s");

fn start(settings: &[(&str, &str)]) -> (Chain, SocketAddr) {
    let service = Start::new(env!("CARGO_BIN_EXE_ws")).linked_as("service").envs(settings).start();
    let address = service.address();
    (service, address)
}

fn total(address: SocketAddr) -> String {
    client::Http::open(address).unwrap().exchange("GET", "/total").unwrap().body
}

/// Says it, and is answered by this process as the message of this number, after so many moves.
fn exchange(client: &mut Client, text: &str, by: i32, number: u64, moves: u64) {
    client.say(text).unwrap();
    assert_eq!(client.hear_text().unwrap(), format!("{by} {number} {moves} {text}"));
}

#[test]
fn message_is_moved_at_each_of_its_bytes() {
    let (mut service, address) = start(&[]);
    // In two fragments, with a ping in between.
    let message = [frame(TEXT, b"one "), frame(FINAL | PING, b"?"), frame(FINAL | CONTINUATION, b"message")].concat();
    let mut clients: Vec<_> = (0..=message.len()).map(|_| Client::open(address, "/").unwrap()).collect();
    let first = service.owner().pid;
    for (at, client) in clients.iter_mut().enumerate() {
        exchange(client, "begin", first, 1, 0);
        client.send(&message[..at]).unwrap();
    }
    service.replace();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&message[at..]).unwrap();
        assert_eq!(client.hear().unwrap(), (FINAL | PONG, b"?".to_vec()), "cut at {at}");
        let answer = client.hear_text().unwrap();
        // All of it may have been there before.
        let (by, moves) = if answer.starts_with(&first.to_string()) { (first, 0) } else { (service.owner().pid, 1) };
        assert_eq!(answer, format!("{by} 2 {moves} one message"), "cut at {at}");
        assert!(moves == 1 || at == message.len());
        exchange(client, "end", service.owner().pid, 3, 1);
    }
    assert_eq!(total(address), (3 * clients.len()).to_string());
    service.stop();
}

#[test]
fn message_goes_through_several_processes() {
    let (mut service, address) = start(&[]);
    let mut client = Client::open(address, "/").unwrap();
    for part in [frame(TEXT, b"a"), frame(CONTINUATION, b"b"), frame(CONTINUATION, b"c")] {
        client.send(&part[..3]).unwrap();
        service.replace();
        client.send(&part[3..]).unwrap();
        service.replace();
    }
    client.send(&frame(FINAL | CONTINUATION, b"d")).unwrap();
    assert_eq!(client.hear_text().unwrap(), format!("{} 1 6 abcd", service.owner().pid));
    service.stop();
}

/// Says numbers, some of them in fragments, a few ahead of what it hears, and sees that each is answered, in order.
fn count(address: SocketAddr, done: &AtomicBool, answered: &AtomicU64) -> (u64, BTreeSet<String>) {
    const AHEAD: u64 = 5;
    let mut client = Client::open(address, "/").unwrap();
    let (mut said, mut heard, mut pids, mut moves) = (0, 0, BTreeSet::new(), 0);
    while !done.load(Ordering::SeqCst) || heard < said {
        while said < heard + AHEAD && !done.load(Ordering::SeqCst) {
            said += 1;
            let number = said.to_string();
            if said % 3 == 0 {
                client.send(&frame(TEXT, b"")).unwrap();
                client.send(&frame(FINAL | CONTINUATION, number.as_bytes())).unwrap();
            } else {
                client.say(&number).unwrap();
            }
        }
        if heard < said {
            let answer = client.hear_text().unwrap();
            heard += 1;
            let [pid, number, moved, text] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
            assert_eq!((number, text), (&*heard.to_string(), &*heard.to_string()));
            let moved: u64 = moved.parse().unwrap();
            assert!(moved >= moves, "{answer}");
            moves = moved;
            pids.insert(pid.to_owned());
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
    (heard, pids)
}

#[test]
fn ten_restarts_lose_no_message() {
    // The processor may be somebody else's between a message and its count.
    let (mut service, address) = start(&[("FLIP_QUIESCE_TIMEOUT", "5s"), ("FLIP_FREEZE_TIMEOUT", "20s")]);
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let counted = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| count(address, &done, &answered))).collect();
        for _ in 0..RESTARTS {
            let before = answered.load(Ordering::SeqCst);
            service.until("clients are answered", || answered.load(Ordering::SeqCst) >= before + 10 * CLIENTS as u64);
            service.replace();
        }
        done.store(true, Ordering::SeqCst);
        let mut counted = 0;
        for client in clients {
            let (heard, pids) = client.join().unwrap();
            counted += heard;
            assert!(pids.len() > 1, "{pids:?}");
        }
        counted
    });
    assert_eq!(total(address), counted.to_string());
    service.stop();
}

#[test]
fn program_without_sockets_takes_none_and_they_are_told() {
    let (mut service, address) = start(&[DRAIN]);
    let first = service.owner().pid;
    let mut clients: Vec<_> = (0..5).map(|_| Client::open(address, "/").unwrap()).collect();
    for client in &mut clients {
        exchange(client, "one", first, 1, 0);
    }
    service.install("service", |path| symlink(env!("CARGO_BIN_EXE_web"), path).unwrap());
    let old = service.upgrade().unwrap();
    service.line("the old process has a relay `sockets`, which is none here");
    for client in clients {
        assert_eq!(client.is_closed_with().unwrap(), 1012);
    }
    service.line("a WebSocket is closed with 1012 (4 so far): its process leaves, and none takes it");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn those_that_wait_when_a_program_without_sockets_comes_are_told() {
    let (mut service, address) = start(&[DRAIN]);
    let first = service.owner().pid;
    let mut clients: Vec<_> = (0..5).map(|_| Client::open(address, "/").unwrap()).collect();
    for client in &mut clients {
        exchange(client, "one", first, 1, 0);
    }
    let before = service.owner().sockets();
    let mut gate = service.gate("take");
    service.replace();
    service.line("is at the gate take");
    // The listener and the five: they wait there, and are not on their way.
    service.until("they are there", || before.intersection(&service.owner().sockets()).count() == 6);
    service.install("service", |path| symlink(env!("CARGO_BIN_EXE_web"), path).unwrap());
    let old = service.upgrade().unwrap();
    service.line("5 items were waiting in the relay `sockets`, which this program does not have: closed");
    for client in clients {
        assert_eq!(client.is_closed_with().unwrap(), 1012);
    }
    gate.open();
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn those_that_the_new_process_does_not_take_are_told_in_time() {
    let (mut service, address) = start(&[DRAIN]);
    // Half a message of so much that few lie in a socket.
    let half = [frame(TEXT, &[b'a'; 60_000]), frame(CONTINUATION, &[b'b'; 60_000])].concat();
    let mut clients: Vec<_> = (0..80).map(|_| Client::open(address, "/").unwrap()).collect();
    for client in &mut clients {
        client.send(&half).unwrap();
        client.send(&frame(FINAL | PING, b"?")).unwrap();
        assert_eq!(client.hear().unwrap(), (FINAL | PONG, b"?".to_vec()));
    }
    let mut gate = service.gate("take");
    let old = service.upgrade().unwrap();
    service.line("is at the gate take");
    service.line("1012 (1 so far): the process that owns the service has not taken it in time");
    // Nobody answers before: what was said is there all the same.
    assert_eq!(service.exit(&old), Exit::Status(0));
    gate.open();
    let (mut told, mut moved) = (0, 0);
    for mut client in clients {
        if client.is_spoken_to().unwrap() {
            let (first, payload) = client.hear().unwrap();
            assert_eq!((first, payload.first_chunk()), (FINAL | CLOSE, Some(&1012u16.to_be_bytes())));
            told += 1;
        } else {
            client.send(&frame(FINAL | CONTINUATION, b"")).unwrap();
            let answer = client.hear_text().unwrap();
            assert!(answer.starts_with(&format!("{} 1 1 aaa", service.owner().pid)), "{}", &answer[..20]);
            moved += 1;
        }
    }
    assert!(told > 0 && moved >= 64, "{told} are told, {moved} moved");
    service.stop();
}

#[test]
fn one_whose_session_cannot_be_read_is_told() {
    let (mut service, address) = start(&[DRAIN]);
    let first = service.owner().pid;
    let mut clients: Vec<_> = (0..3).map(|_| Client::open(address, "/").unwrap()).collect();
    for client in &mut clients {
        exchange(client, "one", first, 1, 0);
    }
    for number in 2..=13 {
        exchange(&mut clients[1], "more", first, number, 0);
    }
    std::fs::write(service.dir().join("picky"), "").unwrap();
    let old = service.upgrade().unwrap();
    assert_eq!(clients.remove(1).is_closed_with().unwrap(), 1012);
    service.line("an item of the relay `sockets` cannot be read and is closed (1 so far): it panicked: 13 messages");
    assert_eq!(service.exit(&old), Exit::Status(0));
    for client in &mut clients {
        exchange(client, "two", service.owner().pid, 2, 1);
    }
    service.stop();
}

#[test]
fn what_the_client_does_not_read_moves_and_holds_no_upgrade_up() {
    // Whoever waited for this one would be too late.
    let (mut service, address) = start(&[("FLIP_QUIESCE_TIMEOUT", "60s"), ("FLIP_FREEZE_TIMEOUT", "20s")]);
    let mut client = Client::open(address, "/").unwrap();
    exchange(&mut client, "one", service.owner().pid, 1, 0);
    // More than all buffers on the way.
    const LENGTH: usize = 20_000_000;
    client.say(&format!("long {LENGTH}")).unwrap();
    service.line("sends a long answer");
    service.replace();
    let last = format!("{} 3 1 last", service.owner().pid);
    client.say("last").unwrap();
    let answer = client.hear_text().unwrap();
    assert!(answer.len() == LENGTH && answer.bytes().all(|byte| byte == b'x'));
    assert_eq!(client.hear_text().unwrap(), last);
    service.stop();
}

#[test]
fn those_that_nobody_passes_are_told() {
    let (mut service, address) = start(&[DRAIN]);
    let first = service.owner().pid;
    let mut moves = Client::open(address, "/").unwrap();
    let mut stays = Client::open(address, "/stay").unwrap();
    exchange(&mut moves, "one", first, 1, 0);
    exchange(&mut stays, "one", first, 1, 0);
    let old = service.upgrade().unwrap();
    assert_eq!(stays.is_closed_with().unwrap(), 1012);
    service.line("a WebSocket is closed with 1012 (1 so far): its process leaves, and nobody passed it");
    assert_eq!(service.exit(&old), Exit::Status(0));
    exchange(&mut moves, "two", service.owner().pid, 2, 1);
    service.stop();
}

#[test]
fn stop_tells_all() {
    let (mut service, address) = start(&[DRAIN]);
    let first = service.owner().pid;
    let mut clients: Vec<_> = ["/", "/stay", "/"].map(|path| Client::open(address, path).unwrap()).into();
    for client in &mut clients {
        exchange(client, "one", first, 1, 0);
    }
    service.owner().signal(Signal::SIGTERM);
    for client in clients {
        assert_eq!(client.is_closed_with().unwrap(), 1012);
    }
    service.stopped();
}

#[test]
fn stop_does_not_wait_for_those_who_do_not_listen() {
    let (mut service, address) = start(&[("FLIP_DRAIN_TIMEOUT", "20s")]);
    let mut client = Client::open(address, "/").unwrap();
    exchange(&mut client, "one", service.owner().pid, 1, 0);
    service.owner().signal(Signal::SIGTERM);
    // It does not answer the Close.
    let log = service.stopped();
    assert_eq!(log.count("cut: "), 0, "{}", log.text());
}

#[test]
fn roll_back_is_not_noticed() {
    let (mut service, address) = start(&[("FLIP_FREEZE_TIMEOUT", "25s")]);
    let first = service.owner().pid;
    let mut clients: Vec<_> = (0..10).map(|_| Client::open(address, "/").unwrap()).collect();
    for client in &mut clients {
        exchange(client, "one", first, 1, 0);
        client.send(&frame(TEXT, b"tw")).unwrap();
    }
    let mut gate = service.gate("restore");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let new = service.started_after(mark);
    service.line_after(mark, "is at the gate restore");
    // Into the freeze: nobody reads it there.
    for client in &mut clients {
        client.send(&frame(FINAL | CONTINUATION, b"o")).unwrap();
    }
    new.signal(Signal::SIGKILL);
    service.upgraded(mark).unwrap_err();
    gate.open();
    for client in &mut clients {
        assert_eq!(client.hear_text().unwrap(), format!("{first} 2 0 two"));
    }
    assert_eq!(total(address), "20");
    service.replace();
    for client in &mut clients {
        exchange(client, "three", service.owner().pid, 3, 1);
    }
    service.stop();
}

#[test]
fn message_that_comes_in_the_freeze_is_received_by_the_new_process() {
    let (mut service, address) = start(&[("FLIP_FREEZE_TIMEOUT", "25s")]);
    let mut client = Client::open(address, "/").unwrap();
    exchange(&mut client, "one", service.owner().pid, 1, 0);
    let mut gate = service.gate("restore");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    service.line_after(mark, "is at the gate restore");
    client.say("two").unwrap();
    gate.open();
    service.upgraded(mark).unwrap();
    assert_eq!(client.hear_text().unwrap(), format!("{} 2 1 two", service.owner().pid));
    service.stop();
}

#[test]
fn one_whose_peer_goes_on_the_way_harms_nobody() {
    let (mut service, address) = start(&[]);
    let mut gate = service.gate("take");
    let first = service.owner().pid;
    let mut clients: Vec<_> = (0..3).map(|_| Client::open(address, "/").unwrap()).collect();
    for client in &mut clients {
        exchange(client, "one", first, 1, 0);
    }
    service.replace();
    let gone = clients.remove(1);
    drop(gone);
    gate.open();
    service.line("has lost a client after 1 messages");
    for client in &mut clients {
        exchange(client, "two", service.owner().pid, 2, 1);
    }
    service.stop();
}

#[test]
fn one_that_is_being_closed_does_not_move() {
    let (mut service, address) = start(&[]);
    let first = service.owner().pid;
    let mut closes = Client::open(address, "/").unwrap();
    exchange(&mut closes, "one", first, 1, 0);
    let mut is_closed = Client::open(address, "/once").unwrap();
    closes.send(&frame(FINAL | CLOSE, &1000u16.to_be_bytes())).unwrap();
    assert_eq!(closes.hear().unwrap(), (FINAL | CLOSE, 1000u16.to_be_bytes().to_vec()));
    is_closed.say("one").unwrap();
    assert_eq!(is_closed.hear().unwrap(), (FINAL | CLOSE, [&4000u16.to_be_bytes()[..], b"once"].concat()));
    // It ends with the old process, whose end it does not hold up.
    service.replace();
    closes.is_over().unwrap();
    is_closed.is_over().unwrap();
    service.stop();
}

#[test]
fn request_that_is_none_for_a_websocket_is_refused() {
    let (service, address) = start(&[]);
    let mut http = client::Http::open(address).unwrap();
    assert_eq!(http.exchange("GET", "/").unwrap_err().0, client::Loss::Wrong);
    http = client::Http::open(address).unwrap();
    let old = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 8\r\nsec-websocket-key: x\r\n";
    http.send(&format!("GET / HTTP/1.1\r\nhost: test\r\n{old}\r\n")).unwrap();
    assert_eq!(http.answer().unwrap().status, 426);
    for key in ["x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "dGhlIHNhbXBsZSBub25j!Q=="] {
        http = client::Http::open(address).unwrap();
        let ask = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: ";
        http.send(&format!("GET / HTTP/1.1\r\nhost: test\r\n{ask}{key}\r\n\r\n")).unwrap();
        assert_eq!(http.answer().unwrap().status, 400, "{key}");
    }
    service.stop();
}
