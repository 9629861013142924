//! A conversation by lines goes on in the new process, wherever it is in between two answers.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;

use flip_tests::client::{Load, Loss, Lost, Shared};
use flip_tests::{Chain, Exit, Start};
use nix::sys::signal::Signal;

fn start() -> (Chain, SocketAddr) {
    let service = Start::new(env!("CARGO_BIN_EXE_talks")).linked_as("service").start();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    service.line(" takes what is passed");
    (service, address)
}

struct Client {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let write = TcpStream::connect(address).unwrap();
        write.set_read_timeout(Some(flip_tests::PATIENCE)).unwrap();
        write.set_nodelay(true).unwrap();
        Client { read: BufReader::new(write.try_clone().unwrap()), write }
    }

    fn send(&mut self, text: &str) {
        self.write.write_all(text.as_bytes()).unwrap();
    }

    /// The next line; empty at the end.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\n"));
        self.hear()
    }
}

#[test]
fn conversation_goes_on_in_the_new_process() {
    let (mut service, address) = start();
    let mut client = Client::connect(address);
    assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
    for number in 2..6 {
        let old = service.upgrade().unwrap();
        // Nothing is left there: it does not wait for the client.
        assert_eq!(service.exit(&old), Exit::Status(0));
        assert_eq!(client.ask("more"), format!("{number} {} more", service.owner().pid));
    }
    assert_eq!(service.log().count("cut"), 0);
    service.stop();
}

#[test]
fn half_a_line_moves_and_is_answered_once() {
    let (mut service, address) = start();
    let mut client = Client::connect(address);
    assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
    client.send("ha");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    client.send("l");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    let pid = service.owner().pid;
    client.send("f\nnext\n");
    assert_eq!(client.hear(), format!("2 {pid} half"));
    assert_eq!(client.hear(), format!("3 {pid} next"));
    service.stop();
}

#[test]
fn what_is_not_sent_yet_moves_too() {
    let (mut service, address) = start();
    let mut client = Client::connect(address);
    client.send("big 100000000\n");
    let said = service.line(" took ");
    let taken: usize = said.split(' ').rev().nth(1).unwrap().parse().unwrap();
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    let pid = service.owner().pid;
    client.send("after\n");
    let mut bytes = vec![0; taken];
    client.read.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == b'x'));
    assert_eq!(client.hear(), format!("2 {pid} after"));
    service.stop();
}

#[test]
fn one_amid_a_message_moves_after_it_or_is_cut_with_its_process() {
    let start = Start::new(env!("CARGO_BIN_EXE_talks")).linked_as("service").env("FLIP_DRAIN_TIMEOUT", "5s");
    let mut service = start.start();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    service.line(" takes what is passed");
    let first = service.owner().pid;
    let mut clients = [Client::connect(address), Client::connect(address)];
    for client in &mut clients {
        let mark = service.log().mark();
        client.send("read 4\nab");
        service.line_after(mark, " is amid a message");
    }
    let old = service.upgrade().unwrap();
    let [mut comes, mut stays] = clients;
    comes.send("cd");
    assert_eq!(comes.hear(), format!("1 {first} abcd"));
    assert_eq!(comes.ask("more"), format!("2 {} more", service.owner().pid));
    let peer = stays.write.local_addr().unwrap();
    service.line(&format!("cut: lines from {peer}, "));
    assert_eq!(stays.hear(), "");
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(service.log().count("cut: "), 1, "{}", service.log().text());
    service.stop();
}

#[test]
fn roll_back_leaves_it_where_it_is() {
    let (mut service, address) = start();
    let mut client = Client::connect(address);
    assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
    client.send("ha");
    service.at_start("panic");
    service.upgrade().unwrap_err();
    client.send("lf\n");
    assert_eq!(client.hear(), format!("2 {} half", service.owner().pid));
    service.stop();
}

#[test]
fn generation_that_takes_nothing_is_passed_over() {
    let (mut service, address) = start();
    let mut clients: Vec<_> = (0..100).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
    }
    let mut gate = service.gate("take");
    // More than it has room for: some wait there, some in the socket, some in the first generation.
    let first = service.upgrade().unwrap();
    service.line(" is at the gate take");
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGHUP);
    let third = service.started_after(mark);
    service.line_after(mark, &format!("pid {} is ready", third.pid));
    gate.open();
    let second = service.upgraded(mark).unwrap();
    let pid = service.owner().pid;
    assert_eq!(pid, third.pid);
    for client in &mut clients {
        assert_eq!(client.ask("two"), format!("2 {pid} two"));
    }
    assert_eq!(service.exit(&first), Exit::Status(0));
    assert_eq!(service.exit(&second), Exit::Status(0));
    service.stop();
}

#[test]
fn process_without_the_relay_leaves_it_to_the_old_one_to_say_goodbye() {
    let (mut service, address) = start();
    let mut client = Client::connect(address);
    assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
    service.install("service", |path| symlink(env!("CARGO_BIN_EXE_lines"), path).unwrap());
    let old = service.upgrade().unwrap();
    assert_eq!(client.hear(), "goodbye: the process that owns the service takes no items of this relay");
    assert_eq!(client.hear(), "");
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.line("the old process has a relay `talks`, which is none here");
    service.stop();
}

#[test]
fn stop_is_told() {
    let (mut service, address) = start();
    let mut client = Client::connect(address);
    assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
    service.owner().signal(Signal::SIGTERM);
    assert_eq!(client.hear(), "goodbye: the service stops");
    assert_eq!(client.hear(), "");
    service.stopped();
}

#[test]
fn peer_that_is_gone_leaves_nothing_behind() {
    let (mut service, address) = start();
    let before = service.owner().descriptor_kinds();
    for how in [Shutdown::Write, Shutdown::Both] {
        let mut gate = service.gate("take");
        let mut client = Client::connect(address);
        assert_eq!(client.ask("one"), format!("1 {} one", service.owner().pid));
        let mark = service.log().mark();
        let old = service.upgrade().unwrap();
        service.line_after(mark, " is at the gate take");
        assert_eq!(service.exit(&old), Exit::Status(0));
        // On its way, and not taken.
        client.write.shutdown(how).unwrap();
        gate.open();
        service.line_after(mark, " takes what is passed");
        assert_eq!(client.hear(), "");
        let is_as_before = || service.owner().descriptor_kinds() == before;
        service.until(&format!("it has the descriptors {before:?}"), is_as_before);
    }
    service.stop();
}

#[test]
fn fifty_restarts_close_no_conversation() {
    let (mut service, address) = start();
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for client in 0..8 {
            let mut talk = Client::connect(address);
            load.client(scope, move |_, number| {
                let line = format!("{client}/{number}");
                // In two pieces, so that it is caught amid a line, too.
                let (first, second) = line.split_at(2);
                talk.send(first);
                let answer = talk.ask(second);
                let mut words = answer.split(' ');
                let (count, pid, echo) = (words.next(), words.next(), words.next());
                let is_right = count == Some(&*(number + 1).to_string()) && pid.is_some() && echo == Some(&*line);
                if is_right { Ok(()) } else { Err(Lost(Loss::Wrong, format!("{line:?} came back as {answer:?}"))) }
            });
        }
        for restart in 1..=50 {
            let enough = shared.answered() + 50;
            service.until("the clients talk", || shared.answered() >= enough || shared.first_loss().is_some());
            let old = service.upgrade().unwrap_or_else(|report| panic!("restart {restart}: {report}"));
            assert_eq!(service.exit(&old), Exit::Status(0));
        }
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    service.stop();
}
