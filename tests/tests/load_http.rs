//! Two hundred restarts of a service that counts, under clients that connect for each request, clients that keep their
//! connection, and one that listens to events all the time.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use flip_tests::client::{Http, Load, Loss, Lost, Shared};
use flip_tests::{Chain, Start};

const RESTARTS: u64 = 200;
const FRESH: usize = 4;
const KEPT: usize = 4;

fn address(service: &Chain) -> SocketAddr {
    service.line("listens at ").rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Counts in this way, `path`, from all sides during all the restarts; `count` says how often the service thinks it was.
fn counts(path: &'static str, count: impl Fn(&str) -> u64) {
    let mut service = Start::new(env!("CARGO_BIN_EXE_web")).env("FLIP_GENERATIONS", "4").start();
    let address = address(&service);
    let (shared, seen, streaming) = (Shared::default(), Mutex::new(HashSet::new()), AtomicBool::new(true));
    let (streams, events) = (AtomicU64::new(0), AtomicU64::new(0));
    // All totals that are answered are different.
    let count_it = |body: &str| {
        let total: u64 = body.parse().map_err(|_| Lost(Loss::Wrong, format!("a total of {body:?}")))?;
        if seen.lock().unwrap().insert(total) { Ok(()) } else { Err(Lost(Loss::Wrong, format!("{total} again"))) }
    };
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for _ in 0..FRESH {
            load.client(scope, |_, _| count_it(&Http::open(address)?.exchange("POST", path)?.body));
        }
        for _ in 0..KEPT {
            let mut kept: Option<Http> = None;
            load.client(scope, move |tally, _| {
                let mut http = match kept.take() {
                    Some(http) => http,
                    None => Http::open(address)?,
                };
                let answer = http.exchange("POST", path)?;
                if answer.last {
                    tally.closed += 1;
                } else {
                    kept = Some(http);
                }
                count_it(&answer.body)
            });
        }
        // It may connect anew, when the process that streams is cut; to do so is all that ever happens to it.
        let listener = scope.spawn(|| {
            while streaming.load(Ordering::SeqCst) {
                let mut http = Http::open(address)?;
                http.send("GET /events HTTP/1.1\r\nhost: test\r\n\r\n")?;
                let (status, head) = http.head()?;
                if status != 200 {
                    return Err(Lost(Loss::Wrong, head));
                }
                streams.fetch_add(1, Ordering::SeqCst);
                while let Ok(Some(_)) = http.chunk() {
                    events.fetch_add(1, Ordering::SeqCst);
                    if !streaming.load(Ordering::SeqCst) {
                        break;
                    }
                }
            }
            Ok(())
        });
        service.until("the stream has begun", || events.load(Ordering::SeqCst) > 0);
        let begin = Instant::now();
        for _ in 0..RESTARTS {
            service.upgrade().unwrap();
        }
        println!("{path}: {RESTARTS} restarts in {:.1?}", begin.elapsed());
        let tally = load.stop();
        streaming.store(false, Ordering::SeqCst);
        let listened = listener.join().expect("it does not panic");
        assert!(listened.is_ok(), "{listened:?}");
        tally
    });
    println!("{path}: {tally}");
    println!("{path}: {} events on {} streams", events.into_inner(), streams.load(Ordering::SeqCst));
    assert!(!tally.has_lost(), "{tally}");
    assert_eq!(tally.closed, 0, "{tally}");
    // Its process may drain long after the others: it was cut only because too many drained.
    assert!(streams.into_inner() <= RESTARTS / 3 + 1, "streams were cut too early");
    let total = Http::open(address).and_then(|mut http| http.exchange("GET", "/total")).unwrap().body;
    assert_eq!(count(&total), tally.answered);
    service.stop();
}

#[test]
fn two_hundred_restarts_lose_no_update() {
    counts("/visit", |total| total.split(' ').next().unwrap().parse().unwrap());
}

#[test]
fn two_hundred_restarts_lose_no_call() {
    counts("/hit", |total| total.split(' ').nth(1).unwrap().parse().unwrap());
}
