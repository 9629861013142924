//! A log of writes, and the registers that they make: what clients are answered says where in the log it happened. See
//! `flip_tests::history`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use flip::{Apply, CallError, HandedOff, Handoff, Live, TcpListener, TcpStream};
use flip_tests::inside::{answer, is_called, pass_gate, say, start};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[derive(Handoff)]
#[handoff(calls(Put))]
struct Ledger {
    /// Which one: another beginning is another ledger.
    epoch: u64,
    log: Vec<(u64, u64)>,
    registers: BTreeMap<u64, u64>,
}

impl Ledger {
    fn begin() -> Ledger {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
        let epoch = now.as_nanos() as u64;
        say(&format!("begins ledger {epoch}"));
        Ledger { epoch, log: vec![], registers: BTreeMap::new() }
    }

    fn see(&self, key: u64) -> Seen {
        let value = self.registers.get(&key).copied().unwrap_or_default();
        Seen { epoch: self.epoch, done: false, at: self.log.len() as u64, value }
    }
}

#[derive(Handoff)]
struct Put {
    id: u64,
    key: u64,
    /// Only if the register has this value.
    expected: Option<u64>,
}

#[derive(Handoff)]
struct Seen {
    epoch: u64,
    done: bool,
    at: u64,
    value: u64,
}

impl Apply<Put> for Ledger {
    type Answer = Seen;
    fn apply(&mut self, Put { id, key, expected }: Put) -> Seen {
        let seen = self.see(key);
        let done = expected.is_none_or(|expected| expected == seen.value);
        if done {
            self.log.push((id, key));
            self.registers.insert(key, id);
        }
        Seen { done, ..seen }
    }
}

/// What the new process is to do, from the file `start`.
fn wanted() -> String {
    std::fs::read_to_string("start").unwrap_or_default()
}

/// The last of the content: it goes wrong while it is written or read, if that is wanted, and takes as long as the gates
/// `save` and `restore` want.
#[derive(Default)]
struct Trap;

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if !is_called("flip-freeze") {
            return to.serialize_unit();
        }
        pass_gate("save");
        match &*wanted() {
            "unwritable" => Err(serde::ser::Error::custom("it fails on purpose")),
            "panic-save" => panic!("it panics on purpose"),
            _ => to.serialize_unit(),
        }
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from)?;
        if !is_called("flip-content") {
            return Ok(Trap);
        }
        pass_gate("restore");
        match &*wanted() {
            "unreadable" => Err(D::Error::custom("it fails on purpose")),
            "panic-restore" => panic!("it panics on purpose"),
            "stuck" => loop {
                std::thread::park();
            },
            _ => Ok(Trap),
        }
    }
}

#[derive(Default, Handoff)]
struct Last {
    trap: Trap,
}

fn told(result: Result<Seen, HandedOff>) -> String {
    match result {
        Ok(Seen { epoch, done, at, value }) => format!("seen {epoch} {} {at} {value}", u8::from(done)),
        Err(error) => format!("not {error}"),
    }
}

/// Does what a line asks for: `update` or `call` with number, register and what is expected there, `read` with the
/// register, `list` with the register and where to begin.
async fn act(ledger: &Live<Ledger>, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let (Some(first), second) = (number(1), number(2).unwrap_or_default()) else {
        return format!("what is {line}?");
    };
    let put = Put { id: first, key: second, expected: number(3) };
    let said = match words[0] {
        "update" => told(ledger.update(|ledger| ledger.apply(put))),
        "call" => match ledger.call(put).await {
            Ok(seen) => told(Ok(seen)),
            Err(CallError::Lost) => "lost".to_owned(),
            Err(error) => format!("refused {error}"),
        },
        "read" => told(ledger.read(|ledger| ledger.see(first))),
        "list" => {
            let listed = ledger.read(|ledger| {
                let from = usize::try_from(second).unwrap_or(usize::MAX).min(ledger.log.len());
                (ledger.see(first), ledger.log[from..].to_vec())
            });
            match listed {
                Ok((seen, log)) => {
                    let log = log.iter().map(|(id, key)| format!(" {id} {key}"));
                    told(Ok(seen)) + &log.collect::<String>()
                }
                Err(error) => told(Err(error)),
            }
        }
        other => format!("what is {other}?"),
    };
    format!("{} {said}", std::process::id())
}

async fn converse(stream: TcpStream, ledger: Live<Ledger>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let said = act(&ledger, &line).await;
        stream.write_all(format!("{said}\n").as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

async fn post_line(State(ledger): State<Live<Ledger>>, Path(line): Path<String>) -> String {
    act(&ledger, &line.replace('/', " ")).await
}

fn address(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| format!("{name}: {error}"))
}

#[flip::main]
async fn main(
    #[with(pass_gate("parameters"))] _gate: (),
    #[listen(address("LINES")?)] lines: TcpListener,
    #[listen(address("HTTP")?)] http: TcpListener,
    #[live(init = Ledger::begin())] ledger: Live<Ledger>,
    trap: Live<Last>,
) -> Result<(), flip::BoxError> {
    // Both are handed over in this order.
    let _trap = trap;
    match &*wanted() {
        "late" => {
            ledger.ready().await;
            return Err("the new one fails when it has the content".into());
        }
        "unwritable" | "panic-save" | "unreadable" | "panic-restore" | "stuck" => {}
        _ => start()?,
    }
    let asked = ledger.clone();
    answer(move |line| {
        let ledger = asked.clone();
        async move { act(&ledger, &line).await }
    });
    let conversing = ledger.clone();
    tokio::spawn(async move {
        while let Ok(Some((stream, _))) = lines.accept().await {
            tokio::spawn(converse(stream, conversing.clone()));
        }
    });
    say("is ready");
    flip::serve(http, Router::new().route("/{*line}", post(post_line)).with_state(ledger)).await?;
    Ok(())
}
