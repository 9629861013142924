//! Clients that ask without pause, over kept connections and fresh ones, and count what goes wrong.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::PATIENCE;

/// What clients saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub answered: u64,
    /// The answer was not 200.
    pub failed: u64,
    /// Nobody listened.
    pub refused: u64,
    /// The connection was reset.
    pub reset: u64,
    /// An answer began and did not end.
    pub cut: u64,
    /// A request went out, and the connection was closed without an answer.
    pub lost: u64,
    /// Nothing came within the time.
    pub silent: u64,
    /// What the first few said that were not 200.
    pub said: Vec<String>,
    /// Who answered.
    pub pids: BTreeSet<i32>,
}

impl Tally {
    /// How many requests came to nothing.
    pub fn wrong(&self) -> u64 {
        self.failed + self.refused + self.reset + self.cut + self.lost + self.silent
    }

    fn add(&mut self, other: Tally) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.refused += other.refused;
        self.reset += other.reset;
        self.cut += other.cut;
        self.lost += other.lost;
        self.silent += other.silent;
        self.said.extend(other.said);
        self.pids.extend(other.pids);
    }

    fn count(&mut self, outcome: Result<Answer, Wrong>) {
        match outcome {
            Ok(answer) if answer.status == 200 => {
                self.answered += 1;
                self.pids.extend(answer.pid());
            }
            Ok(answer) => {
                self.failed += 1;
                if self.said.len() < 3 {
                    self.said.push(format!("{} {}", answer.status, answer.body));
                }
            }
            Err(Wrong::Refused) => self.refused += 1,
            Err(Wrong::Reset) => self.reset += 1,
            Err(Wrong::Cut) => self.cut += 1,
            Err(Wrong::Lost) => self.lost += 1,
            Err(Wrong::Silent) => self.silent += 1,
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// The server says that it closes the connection.
    pub closes: bool,
}

impl Answer {
    /// The process that answered, which the services of these tests write first.
    pub fn pid(&self) -> Option<i32> {
        self.body.split(' ').next()?.parse().ok()
    }
}

/// How a request can come to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Refused,
    Reset,
    Cut,
    Lost,
    Silent,
}

fn wrong(error: &io::Error) -> Wrong {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Wrong::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Wrong::Reset,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Wrong::Silent,
        kind => panic!("a client's connection failed: {kind}: {error}"),
    }
}

/// One connection of a client's.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// # Errors
    /// Nobody listens.
    pub fn connect(address: SocketAddr) -> Result<Client, Wrong> {
        let stream = TcpStream::connect(address).map_err(|error| wrong(&error))?;
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        stream.set_nodelay(true).expect("it is TCP");
        Ok(Client { stream })
    }

    /// # Errors
    /// What became of it instead.
    pub fn get(&mut self, path: &str) -> Result<Answer, Wrong> {
        self.ask(path)?;
        self.hear()
    }

    /// Sends the request, and does not wait for the answer.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ask(&mut self, path: &str) -> Result<(), Wrong> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.stream.write_all(request.as_bytes()).map_err(|error| wrong(&error))
    }

    /// # Errors
    /// What became of it instead.
    pub fn hear(&mut self) -> Result<Answer, Wrong> {
        let mut bytes = vec![];
        let mut buffer = [0; 4096];
        loop {
            if let Some(answer) = parse(&bytes) {
                return Ok(answer);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) if bytes.is_empty() => return Err(Wrong::Lost),
                Ok(0) => return Err(Wrong::Cut),
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(wrong(&error)),
            }
        }
    }
}

/// An answer that is whole and has a length.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut closes) = (0, false);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.parse().ok()?,
            "connection" => closes = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    (body.len() == length).then(|| Answer { status, body: body.trim_end().to_owned(), closes })
}

/// Clients that do not stop by themselves.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// So many clients that keep their connection, and so many that make one for each request.
    pub fn start(address: SocketAddr, kept: usize, fresh: usize) -> Load {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..kept + fresh)
            .map(|i| {
                let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
                thread::spawn(move || client(address, i < kept, &stop, &answers))
            })
            .collect();
        Load { stop, answers, clients }
    }

    /// Waits until so many more requests have been answered.
    pub fn go_on_for(&self, answers: u64) {
        let (wanted, deadline) = (self.answers.load(Ordering::SeqCst) + answers, Instant::now() + PATIENCE);
        while self.answers.load(Ordering::SeqCst) < wanted {
            assert!(Instant::now() < deadline, "clients get no answers");
            thread::yield_now();
        }
    }

    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut tally = Tally::default();
        for client in self.clients {
            tally.add(client.join().expect("a client does not panic"));
        }
        tally
    }
}

fn client(address: SocketAddr, keeps: bool, stop: &AtomicBool, answers: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Client> = None;
    while !stop.load(Ordering::SeqCst) {
        let mut client = match kept.take().map_or_else(|| Client::connect(address), Ok) {
            Ok(client) => client,
            Err(wrong) => {
                tally.count(Err(wrong));
                continue;
            }
        };
        let outcome = client.get("/");
        if let Ok(answer) = &outcome {
            answers.fetch_add(1, Ordering::SeqCst);
            if keeps && !answer.closes {
                kept = Some(client);
            }
        }
        tally.count(outcome);
    }
    tally
}
