//! Two states that are only ever changed together, by tasks of this process's own and by whoever asks, until it is told to
//! `rest`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use flip::{Apply, HandedOff, Handle, Handoff, Live, Shutdown};
use flip_tests::inside::{Gates, answer, say};
use tokio::task::{JoinSet, spawn_blocking};

/// Whatever goes out here comes in there.
#[derive(Default, Handoff)]
#[handoff(calls(Move))]
struct Debit {
    total: i64,
}

#[derive(Default, Handoff)]
struct Credit {
    total: i64,
    gates: Gates,
}

#[derive(Handoff)]
struct Move;

/// Where a call that is applied to the one state finds the other.
static CREDIT: OnceLock<Live<Credit>> = OnceLock::new();

impl Apply<Move> for Debit {
    type Answer = ();
    fn apply(&mut self, _: Move) {
        self.total -= 1;
        std::thread::yield_now();
        let credit = CREDIT.get().expect("`main` has set it before it is ready");
        credit.update(|credit| credit.total += 1).expect("who applies a call owns all of the states");
    }
}

/// One within the other.
fn transfer(debit: &Live<Debit>, credit: &Live<Credit>) -> Result<(), HandedOff> {
    debit.update(|debit| {
        debit.total -= 1;
        // So that a freeze may come here.
        std::thread::yield_now();
        credit.update(|credit| credit.total += 1).expect("who owns the one owns the other");
    })
}

/// The tasks of this process, and what of theirs was acknowledged.
#[derive(Default)]
struct Load {
    tasks: Mutex<JoinSet<()>>,
    is_over: AtomicBool,
    updates: AtomicU64,
    calls: AtomicU64,
}

impl Load {
    fn start(self: &Arc<Self>, debit: &Live<Debit>, credit: &Live<Credit>) {
        let mut tasks = self.tasks.lock().expect("nobody panics with it");
        for _ in 0..2 {
            tasks.spawn(Arc::clone(self).update(debit.clone(), credit.clone()));
            tasks.spawn(Arc::clone(self).call(debit.clone()));
        }
    }

    /// For as long as the states are this process's.
    async fn update(self: Arc<Self>, debit: Live<Debit>, credit: Live<Credit>) {
        while !self.is_over.load(Ordering::SeqCst) && transfer(&debit, &credit).is_ok() {
            self.updates.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    }

    /// Whoever owns them.
    async fn call(self: Arc<Self>, debit: Live<Debit>) {
        while !self.is_over.load(Ordering::SeqCst) {
            debit.call(Move).await.expect("the owner lives and knows it");
            self.calls.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    }

    async fn rest(&self) -> String {
        self.is_over.store(true, Ordering::SeqCst);
        let tasks = std::mem::take(&mut *self.tasks.lock().expect("nobody panics with it"));
        tasks.join_all().await;
        format!("{} {}", self.updates.load(Ordering::SeqCst), self.calls.load(Ordering::SeqCst))
    }
}

/// The state that is changed last is saved first: whoever saves one after the other would find it as it was before.
#[flip::main(ready = manual)]
async fn main(credit: Live<Credit>, debit: Live<Debit>, flip: Handle, shutdown: Shutdown) {
    // Nobody else sets it.
    let _ = CREDIT.set(credit.clone());
    let load = Arc::new(Load::default());
    let open = Arc::new(Mutex::new(Some(flip.guard("the load"))));
    let (a, b, asked) = (debit.clone(), credit.clone(), Arc::clone(&load));
    answer(move |question| {
        let (debit, credit, load, open) = (a.clone(), b.clone(), Arc::clone(&asked), Arc::clone(&open));
        async move {
            match &*question {
                "get" => debit
                    .read(|debit| credit.read(|credit| format!("{} {}", debit.total, credit.total)))
                    .and_then(|read| read)
                    .unwrap_or_else(|error| format!("error: {error}")),
                "transfer" => {
                    say("is about to transfer");
                    // A thread of the runtime that waits may be the one that was to hear of the next question.
                    let done = spawn_blocking(move || transfer(&debit, &credit)).await.expect("it does not panic");
                    done.map_or_else(|error| format!("error: {error}"), |()| "done".to_owned())
                }
                "rest" => load.rest().await,
                "release" => {
                    open.lock().expect("nobody panics with it").take();
                    "released".to_owned()
                }
                other => format!("error: {other}?"),
            }
        }
    });
    flip.ready();
    flip.serving().await;
    say("is ready");
    if std::path::Path::new("load").exists() {
        load.start(&debit, &credit);
    }
    shutdown.await;
}
