//! Connections that are part of the state, beside two moments and much text.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use flip::{Handle, Handoff, Live, Shutdown};
use flip_tests::inside::{Gates, answer, digest, say, start};
use nix::time::{ClockId, clock_gettime};

#[derive(Handoff)]
struct Wires {
    streams: HashMap<String, TcpStream>,
    since: Instant,
    born: SystemTime,
    text: String,
    gates: Gates,
}

impl Wires {
    fn new() -> Wires {
        let (since, born) = (Instant::now(), SystemTime::now());
        Wires { streams: HashMap::new(), since, born, text: String::new(), gates: Gates }
    }
}

/// The monotonic clock that lies under `Instant`.
fn clock() -> std::io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// Between which two readings of that clock a moment was, in nanoseconds.
fn placed(moment: Instant) -> std::io::Result<String> {
    let before = clock()?;
    let age = moment.elapsed();
    Ok(format!("{} {}", (before - age).as_nanos(), (clock()? - age).as_nanos()))
}

fn read_line(mut stream: TcpStream) -> std::io::Result<String> {
    let (mut line, mut byte) = (vec![], [0]);
    while stream.read(&mut byte)? > 0 && byte != *b"\n" {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// What is asked, in words.
fn obey(wires: &Live<Wires>, question: &str) -> Result<String, flip::BoxError> {
    let stream = |name: &str| {
        wires.read(|wires| {
            wires.streams.get(name).ok_or("nobody has this name")?.try_clone().map_err(flip::BoxError::from)
        })?
    };
    let words: Vec<_> = question.split(' ').collect();
    Ok(match words[..] {
        ["connect", name, to] => {
            let stream = TcpStream::connect(to)?;
            wires.update(|wires| wires.streams.insert(name.to_owned(), stream))?;
            "connected".to_owned()
        }
        ["send", name, text] => stream(name)?.write_all(format!("{text}\n").as_bytes()).map(|()| "sent".to_owned())?,
        ["receive", name] => read_line(stream(name)?)?,
        ["text", text, times] => {
            let text = text.repeat(times.parse()?);
            wires.update(|wires| wires.text = text)?;
            "written".to_owned()
        }
        ["text"] => wires.read(|wires| digest(wires.text.as_bytes()))?,
        ["since"] => placed(wires.read(|wires| wires.since)?)?,
        ["born"] => wires.read(|wires| wires.born)?.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos().to_string(),
        _ => return Err(format!("{question}?").into()),
    })
}

#[flip::main(ready = manual)]
async fn main(
    #[live(init = Wires::new())] wires: Live<Wires>,
    flip: Handle,
    shutdown: Shutdown,
) -> Result<(), flip::BoxError> {
    if std::fs::read_to_string("start").is_ok_and(|what| what == "late") {
        wires.ready().await;
        wires.read(|wires| say(&format!("has {} wires", wires.streams.len())))?;
        return Err("the new one fails when it has the content".into());
    }
    start()?;
    answer(move |question| {
        let answer = obey(&wires, &question);
        async move { answer.unwrap_or_else(|error| format!("error: {error}")) }
    });
    flip.ready();
    flip.serving().await;
    say("is ready");
    shutdown.await;
    Ok(())
}
