//! Clients as a service's users have them: over blocking sockets, with no second try. Whatever is not the right answer
//! counts as lost.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// Why a request has no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Loss {
    Refused,
    Reset,
    /// The connection ended before the answer began.
    Unanswered,
    /// The connection ended before the answer did.
    Cut,
    TimedOut,
    /// An answer, and not the right one.
    Wrong,
    Other,
}

impl From<&io::Error> for Loss {
    fn from(error: &io::Error) -> Loss {
        match error.kind() {
            ErrorKind::ConnectionRefused => Loss::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Loss::Reset,
            ErrorKind::UnexpectedEof => Loss::Cut,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Loss::TimedOut,
            _ => Loss::Other,
        }
    }
}

/// What was lost, and what exactly was seen.
#[derive(Clone, Debug)]
pub struct Lost(pub Loss, pub String);

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        Lost((&error).into(), error.to_string())
    }
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    /// Connections that the service closed, though they were to be kept.
    pub closed: u64,
    lost: BTreeMap<Loss, u64>,
    first: Option<Lost>,
    latencies: Vec<Duration>,
}

impl Tally {
    pub fn answer(&mut self, since: Instant) {
        self.answered += 1;
        self.latencies.push(since.elapsed());
    }

    pub fn lose(&mut self, lost: Lost) {
        *self.lost.entry(lost.0).or_default() += 1;
        self.first.get_or_insert(lost);
    }

    pub fn add(&mut self, other: Tally) {
        self.answered += other.answered;
        self.closed += other.closed;
        for (loss, count) in other.lost {
            *self.lost.entry(loss).or_default() += count;
        }
        self.first = self.first.take().or(other.first);
        self.latencies.extend(other.latencies);
    }

    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// How many requests came to nothing.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// The time that this part of the answers, 0 to 1, took at most.
    pub fn quantiles<const N: usize>(&self, parts: [f64; N]) -> [Duration; N] {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        let at = |part: f64| (latencies.len().saturating_sub(1) as f64 * part) as usize;
        parts.map(|part| latencies.get(at(part)).copied().unwrap_or_default())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered, {} kept connections closed, lost {:?}", self.answered, self.closed, self.lost)?;
        if let Some(first) = &self.first {
            write!(f, " (first: {first:?})")?;
        }
        for (name, latency) in ["p50", "p99", "p99.9", "max"].into_iter().zip(self.quantiles([0.5, 0.99, 0.999, 1.0])) {
            write!(f, ", {name} {:.2} ms", latency.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// Clients that do the same again and again, each as soon as the last time is done.
pub struct Load<'scope> {
    clients: Vec<ScopedJoinHandle<'scope, Tally>>,
    shared: &'scope Shared,
}

/// What clients of a [`Load`] share; made by the test, because scoped threads borrow it.
#[derive(Default)]
pub struct Shared {
    done: AtomicBool,
    answered: AtomicU64,
    broken: Mutex<Option<Lost>>,
}

impl Shared {
    /// How many exchanges are done.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// What was lost first, if anything was.
    pub fn first_loss(&self) -> Option<Lost> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<'scope> Load<'scope> {
    pub fn new(shared: &'scope Shared) -> Load<'scope> {
        Load { clients: vec![], shared }
    }

    /// Another client. What it does gets the tally and its own number of the exchange.
    pub fn client<F>(&mut self, scope: &'scope Scope<'scope, '_>, mut exchange: F)
    where
        F: FnMut(&mut Tally, u64) -> Result<(), Lost> + Send + 'scope,
    {
        let shared = self.shared;
        self.clients.push(scope.spawn(move || {
            let mut tally = Tally::default();
            for number in 0.. {
                if shared.done.load(Ordering::SeqCst) {
                    break;
                }
                let since = Instant::now();
                match exchange(&mut tally, number) {
                    Ok(()) => {
                        tally.answer(since);
                        shared.answered.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(lost) => {
                        shared.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(lost.clone());
                        tally.lose(lost);
                    }
                }
            }
            tally
        }));
    }

    /// Lets each finish what it is at. Gives what all of them saw.
    pub fn stop(mut self) -> Tally {
        self.shared.done.store(true, Ordering::SeqCst);
        let mut all = Tally::default();
        for client in self.clients.drain(..) {
            all.add(client.join().expect("a client counts and does not panic"));
        }
        all
    }
}

/// Sees to it that clients end when a test fails, so that the test does.
impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::SeqCst);
    }
}

/// Sends a line over a connection of its own and reads one back.
///
/// # Errors
/// What was lost.
pub fn ask_line(address: SocketAddr, line: &str) -> Result<String, Lost> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    read_line(&mut stream)
}

/// Reads a line.
///
/// # Errors
/// What was lost.
pub fn read_line(from: &mut impl Read) -> Result<String, Lost> {
    let (mut line, mut buffer) = (vec![], [0; 256]);
    loop {
        match from.read(&mut buffer)? {
            0 if line.is_empty() => return Err(Lost(Loss::Unanswered, "closed without an answer".to_owned())),
            0 => return Err(Lost(Loss::Cut, format!("closed after {:?}", String::from_utf8_lossy(&line)))),
            n => line.extend_from_slice(&buffer[..n]),
        }
        if line.ends_with(b"\n") {
            line.pop();
            return String::from_utf8(line).map_err(|error| Lost(Loss::Wrong, error.to_string()));
        }
    }
}

/// An answer of HTTP/1.1.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// As it came, without the first line.
    pub headers: String,
    pub body: String,
    /// The service closes the connection after it.
    pub last: bool,
}

/// A connection of HTTP/1.1, by hand: what goes out is what the test writes.
pub struct Http<S = TcpStream> {
    pub stream: S,
    unread: Vec<u8>,
}

impl Http {
    /// # Errors
    /// It is refused.
    pub fn open(address: SocketAddr) -> Result<Http, Lost> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Http::over(stream))
    }
}

impl<S: Read + Write> Http<S> {
    /// Over what is connected already.
    pub fn over(stream: S) -> Http<S> {
        Http { stream, unread: vec![] }
    }

    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, text: &str) -> Result<(), Lost> {
        Ok(self.stream.write_all(text.as_bytes())?)
    }

    /// A request without a body, and its answer, which must be a 200.
    ///
    /// # Errors
    /// What was lost.
    pub fn exchange(&mut self, method: &str, path: &str) -> Result<Answer, Lost> {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n"))?;
        self.good_answer()
    }

    /// An answer, which must be a 200.
    ///
    /// # Errors
    /// What was lost.
    pub fn good_answer(&mut self) -> Result<Answer, Lost> {
        let answer = self.answer()?;
        if answer.status == 200 { Ok(answer) } else { Err(Lost(Loss::Wrong, format!("{answer:?}"))) }
    }

    /// An answer, whatever its status.
    ///
    /// # Errors
    /// What was lost.
    pub fn answer(&mut self) -> Result<Answer, Lost> {
        let (status, headers) = self.head()?;
        let lower = headers.to_ascii_lowercase();
        let body = if lower.contains("transfer-encoding: chunked") {
            let mut body = String::new();
            while let Some(chunk) = self.chunk()? {
                body.push_str(&chunk);
            }
            body
        } else {
            let length = lower
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())
                .ok_or_else(|| Lost(Loss::Wrong, format!("no length: {headers}")))?;
            self.take(length)?
        };
        Ok(Answer { status, last: lower.contains("connection: close"), headers, body })
    }

    /// The status and the headers of an answer whose body the test reads by the chunk.
    ///
    /// # Errors
    /// What was lost.
    pub fn head(&mut self) -> Result<(u16, String), Lost> {
        let end = self.find(b"\r\n\r\n", Loss::Unanswered)?;
        let head = self.take(end + 4)?;
        let (first, headers) = head.split_once("\r\n").expect("it ends with one");
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| Lost(Loss::Wrong, format!("not HTTP: {first}")))?;
        Ok((status, headers.to_owned()))
    }

    /// A chunk of a body, or `None` at its end.
    ///
    /// # Errors
    /// What was lost.
    pub fn chunk(&mut self) -> Result<Option<String>, Lost> {
        let end = self.find(b"\r\n", Loss::Cut)?;
        let size = self.take(end + 2)?;
        let size =
            usize::from_str_radix(size.trim(), 16).map_err(|_| Lost(Loss::Wrong, format!("a size: {size:?}")))?;
        let mut chunk = self.take(size + 2)?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    /// Whether the service closed the connection, with nothing unread.
    ///
    /// # Errors
    /// It did not, and what it did instead.
    pub fn ended(&mut self) -> Result<(), Lost> {
        match self.fill()? {
            0 if self.unread.is_empty() => Ok(()),
            _ => Err(Lost(Loss::Wrong, format!("more came: {:?}", String::from_utf8_lossy(&self.unread)))),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let n = self.stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    fn find(&mut self, what: &[u8], nothing: Loss) -> Result<usize, Lost> {
        loop {
            if let Some(at) = self.unread.windows(what.len()).position(|window| window == what) {
                return Ok(at);
            }
            if self.fill()? == 0 {
                let loss = if self.unread.is_empty() { nothing } else { Loss::Cut };
                return Err(Lost(loss, format!("ended after {:?}", String::from_utf8_lossy(&self.unread))));
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<String, Lost> {
        while self.unread.len() < length {
            if self.fill()? == 0 {
                return Err(Lost(Loss::Cut, format!("ended after {:?}", String::from_utf8_lossy(&self.unread))));
            }
        }
        let rest = self.unread.split_off(length);
        let taken = std::mem::replace(&mut self.unread, rest);
        String::from_utf8(taken).map_err(|error| Lost(Loss::Wrong, error.to_string()))
    }
}
