//! Clients at full speed: half of them connect for every request, half keep their connection. Closed loops on plain
//! threads, one blocking socket each, which takes the fewest system calls a request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::http::{Connection, Loss, ROOT};

/// What the clients of one turn saw.
#[derive(Default)]
pub struct Tally {
    /// Microseconds of requests answered before the signal.
    pub calm: Vec<u32>,
    /// Microseconds of requests answered after it.
    pub during: Vec<u32>,
    pub answers: u64,
    pub lost_fresh: Vec<Loss>,
    pub lost_kept: Vec<Loss>,
    /// Kept connections that the server ended: announced in an answer, or found closed before they were used again.
    pub closed: u64,
}

impl Tally {
    fn absorb(&mut self, other: Tally) {
        self.calm.extend(other.calm);
        self.during.extend(other.during);
        self.answers += other.answers;
        self.lost_fresh.extend(other.lost_fresh);
        self.lost_kept.extend(other.lost_kept);
        self.closed += other.closed;
    }
}

#[derive(Default)]
struct Phase {
    signalled: AtomicBool,
    stop: AtomicBool,
}

pub struct Load {
    phase: Arc<Phase>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub fn start(address: SocketAddr, fresh: usize, kept: usize) -> Load {
        let phase = Arc::new(Phase::default());
        let clients = (0..fresh + kept)
            .map(|n| {
                let phase = Arc::clone(&phase);
                std::thread::spawn(
                    move || if n < fresh { connect_each_time(address, &phase) } else { keep(address, &phase) },
                )
            })
            .collect();
        Load { phase, clients }
    }

    /// From here on answers count as `during`.
    pub fn signalled(&self) {
        self.phase.signalled.store(true, Ordering::Relaxed);
    }

    pub fn stop(self) -> Tally {
        self.phase.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for client in self.clients {
            tally.absorb(client.join().expect("a client does not panic"));
        }
        tally
    }
}

/// Clients that read one stream of events each.
pub struct Streams(Vec<JoinHandle<Result<(), Loss>>>);

impl Streams {
    /// Returns when all of them flow.
    pub fn open(address: SocketAddr, count: usize) -> Streams {
        let (sender, flowing) = mpsc::channel();
        let clients = (0..count).map(|_| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                Connection::open(address)?.events(|| {
                    // Nobody waits any more when another stream failed to flow; its result says so.
                    let _ = sender.send(());
                })
            })
        });
        let streams = Streams(clients.collect());
        drop(sender);
        flowing.iter().take(count).for_each(drop);
        streams
    }

    /// What became of them, once they have all ended.
    pub fn join(self) -> Vec<Result<(), Loss>> {
        self.0.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    }
}

fn connect_each_time(address: SocketAddr, phase: &Phase) -> Tally {
    let mut tally = Tally::default();
    while !phase.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let result = Connection::open(address).and_then(|mut connection| {
            connection.exchange(ROOT)?;
            Ok(connection)
        });
        match result {
            Ok(connection) => {
                tally.answered(start, phase);
                connection.close_at_once();
            }
            Err(loss) => tally.lost_fresh.push(loss),
        }
    }
    tally
}

fn keep(address: SocketAddr, phase: &Phase) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Connection> = None;
    while !phase.stop.load(Ordering::Relaxed) {
        if kept.take_if(|connection| connection.is_closed()).is_some() {
            tally.closed += 1;
        }
        let start = Instant::now();
        let result = kept.take().map_or_else(|| Connection::open(address), Ok).and_then(|mut connection| {
            let last = connection.exchange(ROOT)?.last;
            Ok((connection, last))
        });
        match result {
            Ok((connection, last)) => {
                tally.answered(start, phase);
                tally.closed += u64::from(last);
                kept = (!last).then_some(connection);
            }
            Err(loss) => tally.lost_kept.push(loss),
        }
    }
    if let Some(connection) = kept {
        connection.close_at_once();
    }
    tally
}

impl Tally {
    fn answered(&mut self, start: Instant, phase: &Phase) {
        let micros = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.answers += 1;
        if phase.signalled.load(Ordering::Relaxed) {
            self.during.push(micros);
        } else {
            self.calm.push(micros);
        }
    }
}
