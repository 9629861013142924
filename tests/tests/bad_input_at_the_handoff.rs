//! What well-meaning clients do not do, at the moment at which one process takes over from another: each gets what a single
//! process gives, once, and keeps nobody from handing over.

use std::collections::HashSet;
use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use flip_tests::{Chain, Exit, Process, Start};

/// For handlers that run. Whoever is waited for as if it ran one fails the upgrade: the freeze takes too long.
const LONG: &str = "10m";
const REQUEST: &str = "GET /pid HTTP/1.1\r\nhost: test\r\n\r\n";

fn start(quiesce: &str) -> (Chain, SocketAddr) {
    let service = Start::new(env!("CARGO_BIN_EXE_web")).env("FLIP_QUIESCE_TIMEOUT", quiesce).start();
    let address = service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    (service, address)
}

/// An upgrade after which the old process has nothing left to do.
fn upgrade(service: &mut Chain) {
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
}

/// Connections that the service has accepted: one behind them has been answered.
fn accepted(address: SocketAddr, count: usize) -> Vec<Http> {
    let connections = (0..count).map(|_| Http::open(address).unwrap()).collect();
    Http::open(address).unwrap().exchange("GET", "/pid").unwrap();
    connections
}

/// Everything that comes until the service closes the connection, in order and not by a reset.
fn all(http: &mut Http) -> String {
    let mut all = String::new();
    http.stream.read_to_string(&mut all).unwrap();
    all
}

#[test]
fn those_who_send_a_byte_now_and_then_delay_nobody_and_are_answered() {
    let (mut service, address) = start(LONG);
    let length = REQUEST.len();
    // Each is at another place of its request.
    let mut slow: Vec<_> = accepted(address, 3 * length).into_iter().zip((0..length).cycle()).collect();
    for (http, at) in &mut slow {
        http.send(&REQUEST[..*at]).unwrap();
    }
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        let slow = &mut slow;
        load.client(scope, move |_, _| {
            for (http, at) in slow.iter_mut() {
                http.send(&REQUEST[*at..=*at])?;
                *at = (*at + 1) % length;
                if *at == 0 && http.good_answer()?.last {
                    return Err(Lost(Loss::Wrong, "a connection is closed".to_owned()));
                }
            }
            Ok(())
        });
        // Each byte of a request may come to another process than the one before.
        for _ in 0..10 {
            let before = shared.answered();
            service.until("bytes come", || shared.answered() > before + 3 || shared.first_loss().is_some());
            upgrade(&mut service);
        }
        let before = shared.answered();
        service
            .until("all are through", || shared.answered() > before + length as u64 || shared.first_loss().is_some());
        load.stop()
    });
    assert!(!tally.has_lost(), "{tally}");
    drop(slow);
    service.stop();
}

#[test]
fn pipelined_visits_are_counted_once_and_answered_in_order() {
    const AT_ONCE: u64 = 100;
    let (mut service, address) = start(LONG);
    let mut http = Http::open(address).unwrap();
    let many = "POST /visit HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n".repeat(AT_ONCE as usize);
    let (shared, mut visits) = (Shared::default(), 0u64);
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        let (http, visits) = (&mut http, &mut visits);
        load.client(scope, move |_, number| {
            // Always so many behind the one that is answered next.
            if number % AT_ONCE == 0 {
                let sent = if number == 0 { 2 } else { 1 };
                (0..sent).try_for_each(|_| http.send(&many))?;
            }
            *visits += 1;
            let answer = http.good_answer()?;
            let expected = visits.to_string();
            if answer.body == expected { Ok(()) } else { Err(Lost(Loss::Wrong, format!("{answer:?}, not {expected}"))) }
        });
        for _ in 0..10 {
            let before = shared.answered();
            service.until("it is answered", || shared.answered() > before + 10 || shared.first_loss().is_some());
            upgrade(&mut service);
        }
        load.stop()
    });
    assert!(!tally.has_lost(), "{tally}");
    // What was sent and not yet answered is not lost either.
    for visit in visits + 1..=(visits.div_ceil(AT_ONCE) + 1) * AT_ONCE {
        assert_eq!(http.good_answer().unwrap().body, visit.to_string());
    }
    drop(http);
    service.stop();
}

/// What is wrong, and some that is only rare.
const ODD: &[&str] = &[
    "\r\n\r\nGET /pid HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
    "GET /pid HTTP/1.1\nhost: test\nconnection: close\n\n",
    "GET /pid HTTP/1.0\r\n\r\n",
    "GET http://test/pid HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
    "nonsense\r\n\r\n",
    "GET /pid HTTP/1.7\r\nhost: test\r\n\r\n",
    "GET /pid HTTP/1.1\r\nho st: test\r\n\r\n",
    "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: many\r\n\r\nabcd",
    "POST /upload HTTP/1.1\r\nhost: test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
];

/// Sends this and hears what becomes of it, with the process that answered and the date taken out.
fn outcome(http: &mut Http, input: &str) -> String {
    // It may be cut off by an answer that nothing can follow.
    let _ = http.send(input);
    let said = all(http);
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
    let date = |line: &&str| !line.starts_with("date: ") && !line.starts_with("content-length: ");
    let head: Vec<_> = head.lines().filter(date).collect();
    let body: Vec<_> = body.split(' ').map(|word| if word.parse::<i32>().is_ok() { "N" } else { word }).collect();
    format!("{head:?} {}", body.join(" "))
}

#[test]
fn odd_input_gets_what_a_single_process_gives() {
    let (mut service, address) = start("10ms");
    for kept in [false, true] {
        let cases = || ODD.iter().flat_map(|input| (0..=input.len()).map(move |at| (*input, at)));
        let mut clients: Vec<_> = cases().map(|(input, at)| (Http::open(address).unwrap(), input, at)).collect();
        for (http, input, at) in &mut clients {
            if kept {
                http.exchange("GET", "/pid").unwrap();
            }
            http.send(&input[..*at]).unwrap();
        }
        // Those that have begun an upload, or were refused, may keep the old process; nobody is passed twice.
        service.upgrade().unwrap();
        for (http, input, at) in &mut clients {
            let mut alone = Http::open(address).unwrap();
            if kept {
                alone.exchange("GET", "/pid").unwrap();
            }
            assert_eq!(outcome(http, &input[*at..]), outcome(&mut alone, input), "kept {kept}: {input:?} cut at {at}");
        }
    }
    service.stop();
}

#[test]
fn upload_that_waits_for_100_continue_is_finished_where_it_began() {
    const HEAD: &str = "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n";
    let (mut service, address) = start("10ms");
    // One that was told to go on, and has sent half of it; and one whose head is not whole.
    let (mut begun, mut half) = (Http::open(address).unwrap(), Http::open(address).unwrap());
    half.exchange("GET", "/pid").unwrap();
    half.send(&HEAD[..HEAD.len() - 1]).unwrap();
    begun.send(HEAD).unwrap();
    service.line("begins an upload");
    assert_eq!(begun.head().unwrap().0, 100);
    begun.send("abcd").unwrap();
    let old = service.upgrade().unwrap();
    let pid = service.owner().pid;
    begun.send("efgh").unwrap();
    assert_eq!(begun.good_answer().unwrap().body, format!("8 bytes to {}", old.pid));
    half.send(&HEAD[HEAD.len() - 1..]).unwrap();
    assert_eq!(half.head().unwrap().0, 100);
    half.send("abcdefgh").unwrap();
    assert_eq!(half.good_answer().unwrap().body, format!("8 bytes to {pid}"));
    for http in [&mut begun, &mut half] {
        assert_eq!(http.exchange("GET", "/pid").unwrap().body, pid.to_string());
    }
    assert_eq!(service.exit(&old), Exit::Status(0));
    drop((begun, half));
    // By no other process, too.
    assert_eq!(service.stop().count("begins an upload"), 2);
}

/// When a client closes its side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Closes {
    /// Before the upgrade, whatever it has said by then.
    Early,
    /// Behind its request.
    Behind,
    /// When its answer has begun.
    InTheAnswer,
}

/// Where a client closes its side, hyper takes it for gone, and an answer that is not there yet is dropped.
#[test]
fn client_that_closes_its_side_gets_one_answer_or_none_and_an_end() {
    const VISIT: &str = "POST /visit HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n";
    let (mut service, address) = start(LONG);
    let (mut answered, mut unanswered) = (HashSet::new(), 0);
    for kept in [false, true] {
        // At each byte: what was sent before the upgrade.
        let ends = [Closes::Early, Closes::Behind, Closes::InTheAnswer];
        let cases = || (0..=VISIT.len()).flat_map(|at| ends.map(|closes| (at, closes)));
        let mut clients: Vec<_> = accepted(address, cases().count()).into_iter().zip(cases()).collect();
        for (http, (at, closes)) in &mut clients {
            if kept {
                http.exchange("GET", "/pid").unwrap();
            }
            http.send(&VISIT[..*at]).unwrap();
            if *closes == Closes::Early {
                http.stream.shutdown(Shutdown::Write).unwrap();
            }
        }
        upgrade(&mut service);
        for (http, (at, closes)) in &mut clients {
            if *closes != Closes::Early {
                http.send(&VISIT[*at..]).unwrap();
            }
            match closes {
                Closes::Early => {}
                Closes::Behind => http.stream.shutdown(Shutdown::Write).unwrap(),
                Closes::InTheAnswer => {
                    assert_eq!(http.stream.peek(&mut [0]).unwrap(), 1, "kept {kept}, cut at {at}: no answer");
                    http.stream.shutdown(Shutdown::Write).unwrap();
                }
            }
            let whole = *at == VISIT.len() || *closes != Closes::Early;
            match http.good_answer() {
                Ok(answer) => {
                    assert!(whole, "half a request was answered");
                    // Each is handled once, by the process that owns the number.
                    let visit: u64 = answer.body.parse().unwrap();
                    assert!(answered.insert(visit), "{visit} was answered twice");
                    http.ended().unwrap();
                }
                Err(Lost(Loss::Unanswered, _)) if *closes != Closes::InTheAnswer => unanswered += u64::from(whole),
                Err(lost) => panic!("kept {kept}, cut at {at}, closes {closes:?}: {lost:?}"),
            }
        }
    }
    let total = Http::open(address).unwrap().exchange("GET", "/total").unwrap().body;
    let visits: u64 = total.split(' ').next().unwrap().parse().unwrap();
    let answered = answered.len() as u64;
    assert!((answered..=answered + unanswered).contains(&visits), "{visits} visits, {answered} of them answered");
    service.stop();
}

/// They wait in the new process for their server, which begins late; meanwhile some of their clients leave.
#[test]
fn passed_connections_whose_clients_are_gone_disturb_nobody() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_late")).start();
    let address = service.line(" is ready at ").rsplit_once(' ').unwrap().1.parse().unwrap();
    let mut gate = service.gate("serve-2");
    let request = REQUEST.replace("/pid", "/");
    let clients: Vec<_> = (0..60)
        .map(|number| {
            let mut http = Http::open(address).unwrap();
            http.exchange("GET", "/").unwrap();
            // It rests, or is in the middle of a request.
            http.send(&request[..[0, 10][number % 2]]).unwrap();
            http
        })
        .collect();
    let sockets = |process: &Process| process.descriptor_kinds()["socket"];
    let without = sockets(service.owner()) - clients.len();
    upgrade(&mut service);
    service.line("is at the gate serve-2");
    let mut staying: Vec<_> = clients
        .into_iter()
        .enumerate()
        .filter_map(|(number, mut http)| {
            let rest = &request[[0, 10][number % 2]..];
            match number % 6 {
                // Gone by a reset, or in order, in the middle of a request or behind a whole one.
                0 | 1 => socket2::SockRef::from(&http.stream).set_linger(Some(Duration::ZERO)).unwrap(),
                2 => {}
                3 => http.send(rest).unwrap(),
                _ => {
                    http.send(rest).unwrap();
                    return Some(http);
                }
            }
            None
        })
        .collect();
    gate.open();
    let pid = service.owner().pid.to_string();
    for http in &mut staying {
        assert_eq!(http.good_answer().unwrap().body, pid);
        assert_eq!(http.exchange("GET", "/").unwrap().body, pid);
    }
    drop(staying);
    // Nothing is left of them.
    service.until("their sockets are closed", || sockets(service.owner()) <= without);
    let log = service.stop();
    assert_eq!(log.count("panicked"), 0, "{}", log.text());
}
