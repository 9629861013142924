use std::os::unix::net::UnixStream;

use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::codec::{Codec, Next};
use super::socket::{Io, Link};
use super::sockets::Moving;
use super::*;
use crate::Handoff;
use crate::golden::golden;
use crate::handoff::Schema;
use crate::testing::Process;

const LIMIT: usize = 1 << 20;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;

/// A frame of a client's: masked (RFC 6455, 5.3).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = head(first, 0x80, payload.len());
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame of a server's.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, 0, payload.len());
    frame.extend(payload);
    frame
}

fn head(first: u8, masked: u8, length: usize) -> Vec<u8> {
    match length {
        0..126 => vec![first, masked | length as u8],
        126..65536 => [&[first, masked | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, masked | 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}

fn close(code: u16) -> Vec<u8> {
    code.to_be_bytes().to_vec()
}

/// What a client says, the messages that it consists of, and what it hears by itself.
fn conversation() -> (Vec<u8>, Vec<Message>, Vec<u8>) {
    let long = vec![7; 300];
    let said = [
        frame(FINAL | TEXT, b"first"),
        // Cut in a character, with pings in between.
        frame(TEXT, &"é".as_bytes()[..1]),
        frame(FINAL | PING, b"one"),
        frame(CONTINUATION, &"é".as_bytes()[1..]),
        frame(CONTINUATION, b""),
        frame(FINAL | PONG, b"nobody asked"),
        frame(FINAL | PING, b""),
        frame(FINAL | CONTINUATION, b"nd"),
        frame(FINAL | BINARY, &long),
        frame(FINAL | TEXT, b""),
        frame(BINARY, &long[..200]),
        frame(FINAL | CONTINUATION, &long[200..]),
        frame(FINAL | PING, b"two"),
        frame(FINAL | TEXT, b"last"),
    ];
    let heard = [unmasked(FINAL | PONG, b"one"), unmasked(FINAL | PONG, b""), unmasked(FINAL | PONG, b"two")];
    let long = Message::from(long);
    let messages = ["first".into(), "énd".into(), long.clone(), "".into(), long, "last".into()];
    (said.concat(), messages.to_vec(), heard.concat())
}

/// All messages that are there.
fn drain(codec: &mut Codec) -> Vec<Message> {
    let mut messages = vec![];
    loop {
        match codec.next().unwrap() {
            Next::Message(message) => messages.push(message),
            Next::Nothing => return messages,
            Next::Closed => panic!("nobody closes it"),
        }
    }
}

fn moved(codec: Codec) -> Codec {
    let (unread, unsent) = codec.into_parts();
    Codec::new(unread, unsent, LIMIT)
}

#[test]
fn moved_at_any_byte_each_message_is_there_once_and_in_order() {
    let (said, expected, heard) = conversation();
    for cut in 0..=said.len() {
        // What is whole was asked for, or it was not.
        for asks in [true, false] {
            let mut codec = Codec::new(vec![], vec![], LIMIT);
            codec.arrived(&said[..cut]);
            let mut messages = if asks { drain(&mut codec) } else { vec![] };
            let mut codec = moved(codec);
            codec.arrived(&said[cut..]);
            messages.extend(drain(&mut codec));
            assert_eq!(messages, expected, "cut at {cut}");
            assert_eq!(codec.unsent(), heard, "cut at {cut}");
        }
    }
}

#[test]
fn moved_after_every_byte_each_message_is_there_once_and_in_order() {
    let (said, expected, heard) = conversation();
    let (mut codec, mut messages) = (Codec::new(vec![], vec![], LIMIT), vec![]);
    for byte in said {
        codec.arrived(&[byte]);
        messages.extend(drain(&mut codec));
        codec = moved(codec);
    }
    assert_eq!(messages, expected);
    assert_eq!(codec.unsent(), heard);
}

#[test]
fn long_frame_is_moved_in_its_middle() {
    let long = vec![1; 70_000];
    let said = [frame(BINARY, &long), frame(FINAL | CONTINUATION, &long)].concat();
    for cut in [9, 10, 13, 14, 15, 35_000, 70_013, 70_014, 70_015, 140_027] {
        let mut codec = Codec::new(vec![], vec![], LIMIT);
        codec.arrived(&said[..cut]);
        assert!(drain(&mut codec).is_empty());
        let mut codec = moved(codec);
        codec.arrived(&said[cut..]);
        assert_eq!(drain(&mut codec), [Message::from([&long[..], &long].concat())]);
    }
}

#[test]
fn what_is_not_sent_is_moved_from_any_byte_on() {
    let expected = [
        unmasked(FINAL | TEXT, b"one"),
        unmasked(FINAL | BINARY, &[2; 200]),
        unmasked(FINAL | TEXT, b"three"),
        unmasked(FINAL | TEXT, b"after"),
    ];
    let expected = expected.concat();
    let until = expected.len() - 7;
    for cut in 0..=until {
        let mut codec = Codec::new(vec![], vec![], LIMIT);
        for message in [Message::from("one"), vec![2; 200].into(), "three".into()] {
            codec.send(message).unwrap();
        }
        assert_eq!(codec.unsent(), &expected[..until]);
        codec.sent(cut);
        let mut codec = moved(codec);
        codec.send("after".into()).unwrap();
        assert_eq!(codec.unsent(), &expected[cut..]);
    }
}

#[test]
fn close_is_answered_and_nothing_moves_after_it() {
    let mut codec = Codec::new(vec![], vec![], LIMIT);
    codec.arrived(&[frame(FINAL | TEXT, b"bye"), frame(FINAL | CLOSE, &close(1001))].concat());
    assert!(matches!(codec.next(), Ok(Next::Message(_))));
    // Not seen, it moves with the rest.
    assert!(codec.is_open());
    assert!(matches!(codec.next(), Ok(Next::Closed)));
    assert!(!codec.is_open());
    assert_eq!(codec.unsent(), unmasked(FINAL | CLOSE, &close(1001)));
    assert!(matches!(codec.send("late".into()), Err(Error::Closed)));
}

#[test]
fn close_of_ours_is_the_last_that_is_sent() {
    let mut codec = Codec::new(vec![], vec![], LIMIT);
    codec.close(1012, &"é".repeat(100));
    assert!(!codec.is_open());
    // 61 of them: what fits, in whole characters.
    let expected = unmasked(FINAL | CLOSE, &[close(1012), "é".repeat(61).into_bytes()].concat());
    assert_eq!(codec.unsent(), expected);
    codec.arrived(&[frame(FINAL | TEXT, b"on its way"), frame(FINAL | CLOSE, &close(1012))].concat());
    assert!(matches!(codec.next(), Ok(Next::Message(_))));
    assert!(matches!(codec.next(), Ok(Next::Closed)));
    assert_eq!(codec.unsent(), expected);
}

#[test]
fn peer_that_breaks_the_protocol_is_told_so() {
    let cases = [
        (unmasked(FINAL | TEXT, b"no mask"), 1002),
        (frame(FINAL | CONTINUATION, b"of nothing"), 1002),
        (frame(FINAL | 0x3, b"reserved"), 1002),
        (frame(FINAL | 0x40 | TEXT, b"compressed"), 1002),
        (frame(FINAL | PING, &[0; 126]), 1002),
        (frame(PING, b"in parts"), 1002),
        (frame(FINAL | TEXT, b"\xff"), 1007),
        (head(FINAL | BINARY, 0, LIMIT + 1), 1009),
        (head(FINAL | BINARY, 0, usize::MAX >> 1), 1009),
        (head(FINAL | BINARY, 0, usize::MAX), 1002),
        ([frame(BINARY, &vec![0; LIMIT]), frame(FINAL | CONTINUATION, b"more")].concat(), 1009),
    ];
    for (said, code) in cases {
        // Also where it is moved just before.
        for moves in [false, true] {
            let mut codec = Codec::new(vec![], vec![], LIMIT);
            codec.arrived(&said[..said.len() - 1]);
            assert!(matches!(codec.next(), Ok(Next::Nothing)), "{code}: {:?}", &said[..10]);
            codec = if moves { moved(codec) } else { codec };
            codec.arrived(&said[said.len() - 1..]);
            codec.next().unwrap_err();
            assert!(!codec.is_open());
            assert!(matches!(codec.next(), Ok(Next::Closed)));
            assert_eq!(codec.unsent()[0], FINAL | CLOSE);
            assert_eq!(codec.unsent()[2..4], close(code), "{:?}", &said[..10]);
        }
    }
}

#[test]
fn length_without_end_is_refused_where_there_is_no_limit() {
    for (length, code) in [(usize::MAX, 1002), (usize::MAX >> 1, 1009)] {
        let mut codec = Codec::new(vec![], vec![], usize::MAX);
        codec.arrived(&head(FINAL | BINARY, 0x80, length));
        codec.arrived(&[0; 4]);
        codec.next().unwrap_err();
        assert_eq!(codec.unsent()[2..4], close(code));
    }
}

#[test]
fn small_fragments_take_no_more_memory_than_what_is_in_them() {
    let mut codec = Codec::new(vec![], vec![], LIMIT);
    codec.arrived(&frame(BINARY, b""));
    for number in 0..100_000 {
        codec.arrived(&frame(CONTINUATION, if number % 1000 == 0 { b"1" } else { b"" }));
        assert!(drain(&mut codec).is_empty());
    }
    assert!(codec.kept() < 4096, "{}", codec.kept());
    codec = moved(codec);
    codec.arrived(&frame(FINAL | CONTINUATION, b"."));
    assert_eq!(drain(&mut codec), [Message::from([&[b'1'; 100][..], b"."].concat())]);
}

#[test]
fn memory_of_a_message_in_fragments_is_given_back() {
    let mut codec = Codec::new(vec![], vec![], LIMIT);
    codec.arrived(&frame(BINARY, &vec![1; LIMIT / 2]));
    assert!(drain(&mut codec).is_empty());
    assert!(codec.kept() > LIMIT / 2);
    codec.arrived(&frame(FINAL | CONTINUATION, &vec![2; LIMIT / 2]));
    assert_eq!(drain(&mut codec).len(), 1);
    assert!(codec.kept() < LIMIT / 8, "{}", codec.kept());
}

fn socket(room: usize) -> (WebSocket, DuplexStream) {
    let (ours, theirs) = duplex(room);
    (WebSocket::over(Link::new(Io::Duplex(ours), Codec::new(vec![], vec![], LIMIT), None), None), theirs)
}

/// All that the peer hears, to the end.
async fn hears(mut peer: DuplexStream) -> Vec<u8> {
    let mut heard = vec![];
    peer.read_to_end(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn messages_come_and_go() {
    let (said, expected, heard) = conversation();
    let (mut socket, mut peer) = socket(64);
    let (mut reads, mut writes) = tokio::io::split(&mut peer);
    let talk = async {
        let mut messages = vec![];
        for _ in 0..expected.len() {
            messages.push(socket.recv().await.unwrap().unwrap());
        }
        socket.send("done").await.unwrap();
        messages
    };
    let expects = [heard, unmasked(FINAL | TEXT, b"done")].concat();
    let mut hears = vec![0; expects.len()];
    let (messages, written, read) = tokio::join!(talk, writes.write_all(&said), reads.read_exact(&mut hears));
    written.unwrap();
    read.unwrap();
    assert_eq!(messages, expected);
    assert_eq!(hears, expects);
    drop(peer);
    assert!(matches!(socket.recv().await, Some(Err(Error::Lost(_)))));
    assert!(socket.recv().await.is_none());
    assert!(matches!(socket.send("late").await, Err(Error::Closed)));
}

#[tokio::test]
async fn close_of_the_peer_is_the_end() {
    let (mut socket, mut peer) = socket(1024);
    peer.write_all(&frame(FINAL | CLOSE, &close(1000))).await.unwrap();
    assert!(socket.recv().await.is_none());
    assert_eq!(hears(peer).await, unmasked(FINAL | CLOSE, &close(1000)));
}

#[tokio::test]
async fn dropped_one_is_closed() {
    let (socket, mut peer) = socket(1024);
    drop(socket);
    peer.write_all(&frame(FINAL | CLOSE, &close(1000))).await.unwrap();
    assert_eq!(hears(peer).await, unmasked(FINAL | CLOSE, &close(1000)));
}

#[tokio::test]
async fn panic_is_told_as_an_error_of_the_server() {
    let (socket, mut peer) = socket(1024);
    let panics = tokio::spawn(async move {
        let _socket = socket;
        panic!("on purpose");
    });
    panics.await.unwrap_err();
    peer.write_all(&frame(FINAL | CLOSE, &close(1011))).await.unwrap();
    assert_eq!(hears(peer).await, unmasked(FINAL | CLOSE, &[close(1011), b"internal error".to_vec()].concat()));
}

#[tokio::test]
async fn peer_that_neither_reads_nor_answers_holds_nobody_up() {
    let (socket, peer) = socket(1);
    socket.close(1000, "").await;
    drop(peer);
}

#[tokio::test]
async fn send_that_was_dropped_is_ended_by_the_next() {
    let (mut socket, mut peer) = socket(3);
    // It is begun, and has no room.
    assert!(tokio::select! { biased; _ = socket.send("first") => false, () = std::future::ready(()) => true });
    let mut heard = [0; 15];
    let (sent, read) = tokio::join!(socket.send("second"), peer.read_exact(&mut heard));
    sent.unwrap();
    read.unwrap();
    assert_eq!(heard[..], [unmasked(FINAL | TEXT, b"first"), unmasked(FINAL | TEXT, b"second")].concat());
}

#[tokio::test]
async fn pings_of_a_peer_that_does_not_read_are_read_no_more() {
    let (mut socket, mut peer) = socket(1024);
    let pings = frame(FINAL | PING, &[7; 125]).repeat(100);
    let floods = async {
        // Until it is read no more: then nothing has come of a write for many turns of both.
        let mut count = 0;
        while count < 1024 * 1024 {
            let writes = peer.write_all(&pings);
            tokio::select! { biased; written = writes => written.unwrap(), () = turns(1000) => break }
            count += pings.len();
        }
        count
    };
    let count = tokio::select! { biased; _ = socket.recv() => panic!("nothing was said"), count = floods => count };
    assert!((32 * 1024..256 * 1024).contains(&count), "{count}");
    // What is dropped is a write in its middle: the rest is of no interest.
    drop(peer);
    assert!(matches!(socket.recv().await, Some(Err(_))));
}

async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn passed_without_a_running_flip_it_arrives_here() {
    let sockets = Sockets::<u32>::new();
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut peer = tokio::net::UnixStream::from_std(peer).unwrap();
    let io = Io::Unix(tokio::net::UnixStream::from_std(ours).unwrap());
    let unread = [frame(FINAL | TEXT, b"whole"), frame(TEXT, b"half ")].concat();
    let socket = WebSocket::over(Link::new(io, Codec::new(unread, vec![], LIMIT), None), Some("chat".into()));
    sockets.pass(socket, 7).await;
    let (mut socket, session) = sockets.next().await.unwrap();
    assert_eq!((session, socket.protocol()), (7, Some("chat")));
    peer.write_all(&frame(FINAL | CONTINUATION, b"way")).await.unwrap();
    assert_eq!(socket.recv().await.unwrap().unwrap(), "whole".into());
    assert_eq!(socket.recv().await.unwrap().unwrap(), "half way".into());
    // Closed, it is not passed.
    peer.write_all(&frame(FINAL | CLOSE, &close(1000))).await.unwrap();
    assert!(socket.recv().await.is_none());
    sockets.pass(socket, 8).await;
    assert!(tokio::select! { biased; _ = sockets.next() => false, () = std::future::ready(()) => true });
}

/// A WebSocket in the process of this relay, and its peer.
fn socket_in<S>(relay: &crate::Relay<Moving<S>>) -> (WebSocket, tokio::net::UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let shared = relay.post().shared().unwrap();
    let guard: Box<dyn Send + Sync> = Box::new(shared.track("test".into(), None));
    let io = Io::Unix(tokio::net::UnixStream::from_std(ours).unwrap());
    let link = Link::new(io, Codec::new(vec![], vec![], LIMIT), Some((std::sync::Arc::clone(shared), guard)));
    (WebSocket::over(link, None), tokio::net::UnixStream::from_std(peer).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_peer_does_not_read_moves_with_what_it_has_not_read() {
    let old = Process::new();
    let relay = old.relay::<Moving<u32>>("sockets").unwrap();
    let sockets = Sockets::over(relay.clone());
    let (mut socket, mut peer) = socket_in(&relay);
    let large = Message::Binary(Bytes::from(vec![1; LIMIT]));
    // More than there is room for: it waits.
    let mut sending = Box::pin(async {
        socket.send(large.clone()).await.unwrap();
        socket
    });
    assert!(tokio::select! { biased; _ = &mut sending => false, () = std::future::ready(()) => true });
    let (_new, arriving) = tokio::task::block_in_place(|| {
        old.hand_over(|new| Ok(Sockets::over(new.relay::<Moving<u32>>("sockets")?))).unwrap()
    });
    let mut socket = sending.await;
    assert!(socket.recv().await.is_none());
    sockets.pass(socket, 1).await;
    let (mut socket, _) = arriving.next().await.unwrap();
    let expected = [unmasked(FINAL | BINARY, &vec![1; LIMIT]), unmasked(FINAL | TEXT, b"from the new one")].concat();
    let mut heard = vec![0; expected.len()];
    let (sent, read) = tokio::join!(socket.send("from the new one"), peer.read_exact(&mut heard));
    sent.unwrap();
    read.unwrap();
    assert!(heard == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn task_that_only_sends_is_told_that_its_process_leaves() {
    let old = Process::new();
    let relay = old.relay::<Moving<u32>>("sockets").unwrap();
    let sockets = Sockets::over(relay.clone());
    let (mut socket, mut peer) = socket_in(&relay);
    let (_new, arriving) = tokio::task::block_in_place(|| {
        old.hand_over(|new| Ok(Sockets::over(new.relay::<Moving<u32>>("sockets")?))).unwrap()
    });
    let piece = vec![1; 100 * 1000];
    let mut taken = 0;
    let error = loop {
        match socket.send(piece.clone()).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(matches!(error, Error::Leaving), "{error}");
    // What was taken moves.
    sockets.pass(socket, 1).await;
    let (mut socket, _) = arriving.next().await.unwrap();
    let expected = [unmasked(FINAL | BINARY, &piece).repeat(taken), unmasked(FINAL | TEXT, b"last")].concat();
    let mut heard = vec![0; expected.len()];
    let (sent, read) = tokio::join!(socket.send("last"), peer.read_exact(&mut heard));
    sent.unwrap();
    read.unwrap();
    assert!(heard == expected);
}

#[tokio::test]
async fn who_waits_for_the_peer_is_not_at_work() {
    let process = Process::new();
    let relay = process.relay::<Moving<u32>>("sockets").unwrap();
    let (mut socket, mut peer) = socket_in(&relay);
    let shared = relay.post().shared().unwrap();
    let running = || shared.handlers.running();
    peer.write_all(&frame(FINAL | TEXT, b"?")).await.unwrap();
    assert_eq!(socket.recv().await.unwrap().unwrap(), "?".into());
    assert_eq!(running(), 1);
    {
        let mut sending = std::pin::pin!(socket.send(vec![1; LIMIT]));
        assert!(tokio::select! { biased; _ = &mut sending => false, () = std::future::ready(()) => true });
        assert_eq!(running(), 0);
    }
    // It is at work again, on whatever it does instead.
    assert_eq!(running(), 1);
    let mut heard = vec![0; LIMIT];
    let (sent, read) = tokio::join!(socket.send("."), peer.read_exact(&mut heard));
    sent.unwrap();
    read.unwrap();
    assert_eq!(running(), 1);
    assert!(tokio::select! { biased; _ = socket.recv() => false, () = std::future::ready(()) => true });
    assert_eq!(running(), 0);
}

#[derive(flip::Handoff)]
struct Session {
    #[handoff(rename = "half")]
    number: u32,
    more: String,
}

#[test]
fn what_a_websocket_is_made_of_stays() {
    let schema = Schema::of::<Moving<Session>>();
    let theirs = Schema::decode(&golden("schema of a websocket", &schema.encode())).unwrap();
    assert!(!schema.plan(&theirs).unwrap().is_needed());
}

/// What the next release makes of it: an odd one is too bad for it.
mod next {
    #[derive(flip::Handoff)]
    pub(super) struct Session {
        #[handoff(from = "u32", migrate = even)]
        pub(super) half: u8,
        pub(super) more: String,
    }

    fn even(number: u32) -> u8 {
        assert!(number.is_multiple_of(2), "{number} is odd");
        u8::try_from(number / 2).unwrap()
    }
}

/// The same in the same release.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Even(u32);

impl TryFrom<u32> for Even {
    type Error = String;

    fn try_from(number: u32) -> Result<Even, String> {
        if number.is_multiple_of(2) { Ok(Even(number)) } else { Err(format!("{number} is odd")) }
    }
}

impl From<Even> for u32 {
    fn from(Even(number): Even) -> u32 {
        number
    }
}

impl Clone for Even {
    fn clone(&self) -> Even {
        Even(self.0)
    }
}

/// Of three that are passed the second has a session that cannot be read.
async fn second_of_three_is_told<Old: Handoff, New: Handoff>(session: fn(u32) -> Old, even: fn(New) -> u32) {
    let old = Process::new();
    let relay = old.relay::<Moving<Old>>("sockets").unwrap();
    let sockets = Sockets::over(relay.clone());
    let (_new, arriving) = tokio::task::block_in_place(|| {
        old.hand_over(|new| Ok(Sockets::over(new.relay::<Moving<New>>("sockets")?))).unwrap()
    });
    let mut peers = vec![];
    for number in [4, 5, 6] {
        let (socket, peer) = socket_in(&relay);
        sockets.pass(socket, session(number)).await;
        peers.push(peer);
    }
    let (mut first, session) = arriving.next().await.unwrap();
    assert_eq!(even(session), 4);
    let (_third, session) = arriving.next().await.unwrap();
    assert_eq!(even(session), 6);
    hears_of_the_restart(peers.remove(1)).await;
    assert_eq!(arriving.lost(), 1);
    first.send("here").await.unwrap();
    let mut heard = [0; 6];
    peers[0].read_exact(&mut heard).await.unwrap();
    assert_eq!(heard[..], unmasked(FINAL | TEXT, b"here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_session_cannot_be_read_is_told_and_the_next_one_comes() {
    let session = |number| Session { number, more: "more".to_owned() };
    second_of_three_is_told(session, |session: next::Session| {
        assert_eq!(session.more, "more");
        u32::from(session.half) * 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_session_is_refused_by_its_type_is_told() {
    // Written by one that takes any number.
    let session = |number| (crate::Serde(Even(number)), "more".to_owned());
    second_of_three_is_told(session, |(crate::Serde(Even(number)), more): (crate::Serde<Even>, String)| {
        assert_eq!(more, "more");
        number
    })
    .await;
}

async fn hears_of_the_restart(mut peer: tokio::net::UnixStream) {
    let expected = unmasked(FINAL | CLOSE, &[close(1012), b"service restart".to_vec()].concat());
    let mut heard = vec![0; expected.len()];
    peer.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_nobody_takes_any_more_are_told() {
    let old = Process::new();
    let relay = old.relay::<Moving<u32>>("sockets").unwrap();
    let sockets = Sockets::over(relay.clone());
    let (_new, arriving) = tokio::task::block_in_place(|| {
        old.hand_over(|new| Ok(Sockets::over(new.relay::<Moving<u32>>("sockets")?))).unwrap()
    });
    let mut peers = vec![];
    for number in 0..10 {
        let (socket, peer) = socket_in(&relay);
        sockets.pass(socket, number).await;
        peers.push(peer);
    }
    // Some lie there by now, and some are on their way.
    assert_eq!(arriving.next().await.unwrap().1, 0);
    drop((peers.remove(0), arriving));
    for number in 0..10 {
        let (socket, peer) = socket_in(&relay);
        let sockets = sockets.clone();
        tokio::spawn(async move { sockets.pass(socket, number).await });
        peers.push(peer);
    }
    for peer in peers {
        hears_of_the_restart(peer).await;
    }
}

/// A WebSocket in the process of this relay, which does not move.
#[cfg(feature = "test-util")]
fn unmovable_in(relay: &crate::Relay<Moving<u32>>) -> (WebSocket, DuplexStream) {
    let (ours, theirs) = duplex(1024);
    let shared = relay.post().shared().unwrap();
    let guard: Box<dyn Send + Sync> = Box::new(shared.track("test".into(), None));
    let codec = Codec::new(vec![], vec![], LIMIT);
    let link = Link::new(Io::Duplex(ours), codec, Some((std::sync::Arc::clone(shared), guard)));
    (WebSocket::over(link, None), theirs)
}

#[cfg(feature = "test-util")]
#[tokio::test(start_paused = true)]
async fn those_that_do_not_move_are_told_after_some_time_of_chance() {
    for (drain, longest) in [(10, 2.0), (60, 5.0)] {
        let process = Process::new();
        let relay = process.relay::<Moving<u32>>("sockets").unwrap();
        let shared = relay.post().shared().unwrap();
        shared.drain_timeout.store(drain * 1000, std::sync::atomic::Ordering::Relaxed);
        let begin = tokio::time::Instant::now();
        let told: Vec<_> = (0..200)
            .map(|number| {
                let (mut socket, mut peer) = unmovable_in(&relay);
                // One is received from, another is dropped.
                tokio::spawn(async move {
                    if number % 2 == 0 {
                        assert!(socket.recv().await.is_none());
                    }
                });
                tokio::spawn(async move {
                    let mut heard = [0; 4];
                    peer.read_exact(&mut heard).await.unwrap();
                    assert_eq!((heard[0], heard[2..4].to_vec()), (FINAL | CLOSE, close(1012)));
                    begin.elapsed().as_secs_f64()
                })
            })
            .collect();
        shared.phase.set(crate::phase::Phase::Stopping);
        let mut quarters = [0; 4];
        for told in told {
            let after = told.await.unwrap();
            // The clock goes in milliseconds.
            assert!(after <= longest + 0.002, "{after}");
            quarters[((after / longest * 4.0) as usize).min(3)] += 1;
        }
        // Five times the standard deviation.
        assert!(quarters.iter().all(|count| (20..80).contains(count)), "{quarters:?}");
    }
}
