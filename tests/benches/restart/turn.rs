//! One restart of one contender, measured.

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::contender::{self, Running, Watch};
use crate::http::Loss;
use crate::load::{Load, Streams, Tally};

/// How long a successor may take to answer, and the old process to leave.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long clients run before the signal, so that connections are kept and caches warm.
const BEFORE: Duration = Duration::from_millis(60);
/// How long clients run after it at least; they also outlast the old process, which may yet cut them.
const AFTER: Duration = Duration::from_millis(200);
/// How often somebody looks at the memory of the old process.
const LOOK: Duration = Duration::from_millis(20);
/// Between two turns, so that the last one's exit is not measured in the next.
const REST: Duration = Duration::from_millis(5);

/// Who is connected during a restart, besides the prober.
#[derive(Clone, Copy, Default)]
pub struct Clients {
    /// Connect for every request.
    pub fresh: usize,
    /// Keep their connection.
    pub kept: usize,
    /// Read a stream of events that has begun before the signal.
    pub streams: usize,
}

pub struct Turn {
    /// From the signal to the first answer of the new process, in microseconds.
    pub answer: f64,
    /// From the signal to the end of the old process, in microseconds.
    pub gone: f64,
    /// The longest that one of the prober's requests took, in microseconds.
    pub worst_probe: f64,
    /// As reported by the contender, in microseconds.
    pub freeze: Option<f64>,
    /// The most memory that the old and the new process had resident, each at its own worst moment, in bytes.
    pub peak: u64,
    /// What the prober lost.
    pub lost: Vec<Loss>,
    /// What became of the streams.
    pub streams: Vec<Result<(), Loss>>,
    /// What the clients saw, where there were any.
    pub tally: Tally,
    /// Answered visits that the count does not contain.
    pub uncounted: Option<u64>,
}

/// Signals the serving process and watches until the new one answers and the old one is gone.
pub fn restart(running: &mut Running, clients: Clients) -> Result<Turn, String> {
    let loaded = clients.fresh + clients.kept > 0;
    let count = if loaded && running.contender.counts { running.visit().ok() } else { None };
    let load = loaded.then(|| Load::start(running.address, clients.fresh, clients.kept));
    if loaded {
        std::thread::sleep(BEFORE);
    }
    let streams = Streams::open(running.address, clients.streams);
    running.take_freezes();
    let mut peak_of_old = 0;
    let result = measure(running, load.as_ref()).and_then(|measured| {
        let (gone, peak) = measured.gone.recv().unwrap_or_default();
        peak_of_old = peak;
        Ok((measured, gone.ok_or_else(|| format!("the old process is still there after {PATIENCE:?}"))?))
    });
    let tally = match load {
        Some(load) => {
            if let Ok((measured, _)) = &result {
                std::thread::sleep((measured.signal + AFTER).saturating_duration_since(Instant::now()));
            }
            load.stop()
        }
        None => Tally::default(),
    };
    let streams = streams.join();
    let (measured, gone) = result?;
    running.other = None;
    contender::reap();
    std::thread::sleep(REST);
    let uncounted = match (count, running.visit()) {
        // Of the second visit itself the count must know, too.
        (Some(before), Ok(after)) => Some((before + tally.answers + 1).saturating_sub(after)),
        _ => None,
    };
    let micros = |at: Instant| at.duration_since(measured.signal).as_secs_f64() * 1e6;
    Ok(Turn {
        answer: micros(measured.answered),
        gone: micros(gone),
        worst_probe: measured.worst_probe.as_secs_f64() * 1e6,
        freeze: running.take_freezes().last().map(|&freeze| freeze as f64),
        peak: peak_of_old + contender::memory(running.pid, "VmHWM:").unwrap_or(0),
        lost: measured.lost,
        streams,
        tally,
        uncounted,
    })
}

struct Measured {
    signal: Instant,
    answered: Instant,
    worst_probe: Duration,
    lost: Vec<Loss>,
    /// Hears when the old process has ended, or that it has not, and how much memory it had.
    gone: Receiver<(Option<Instant>, u64)>,
}

fn measure(running: &mut Running, load: Option<&Load>) -> Result<Measured, String> {
    let old = running.pid;
    let watch = Watch::on(old).map_err(|error| format!("pidfd_open: {error}"))?;
    // On a thread of its own: the old process may be gone before the new one's first answer is read.
    let (sender, gone) = mpsc::channel();
    std::thread::spawn(move || {
        // Its memory is told as long as it has not ended; what it takes at the very end is no more than it had.
        let (mut gone, mut peak) = (None, 0);
        let deadline = Instant::now() + PATIENCE;
        while gone.is_none() && Instant::now() < deadline {
            peak = contender::memory(old, "VmHWM:").unwrap_or(peak);
            gone = watch.wait(LOOK);
        }
        sender.send((gone, peak))
    });
    if let Some(load) = load {
        load.signalled();
    }
    let signal = Instant::now();
    kill(old, Signal::SIGHUP).map_err(|error| format!("kill: {}", io::Error::from(error)))?;

    let mut lost = Vec::new();
    let mut worst_probe = Duration::ZERO;
    loop {
        let start = Instant::now();
        let serving = running.serving_pid();
        let now = Instant::now();
        worst_probe = worst_probe.max(now - start);
        match serving {
            Ok(pid) if pid != old => {
                running.other = Some(old);
                running.pid = pid;
                return Ok(Measured { signal, answered: now, worst_probe, lost, gone });
            }
            Ok(_) => {}
            Err(loss) => lost.push(loss),
        }
        if now - signal > PATIENCE {
            return Err(format!("no new process answers after {PATIENCE:?}"));
        }
    }
}
