//! Every interleaving of a chain of three processes and a supervisor, breadth first, against the promises.
//!
//! What can happen, and what the machines may rely on, is in [`world`](super::world). A run has a budget of faults, so
//! that the walk ends; several configurations together cover what one would be too large for.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::world::{Broken, Budget, Config, Life, Mistake, Notes, Sometimes, World};
use super::*;

/// The name of a promise, and whether a world keeps it. Those about a single step are checked where it is made.
type Promise = (&'static str, fn(&World) -> Result<(), String>);

/// After each move.
const ALWAYS: [Promise; 4] = [
    ("somebody_will_accept", somebody_will_accept),
    ("one_owner", one_owner),
    ("acknowledged_writes_survive", acknowledged_writes_survive),
    ("the_owner_knows_who_drains", the_owner_knows_who_drains),
];

/// Where nothing can happen any more without a fault or a request.
const AT_REST: [Promise; 4] = [
    ("somebody_will_accept", somebody_accepts),
    ("the_truth_is_told", whoever_asked_is_answered),
    ("a_request_is_acted_on_once", what_was_remembered_is_done),
    ("stop_belongs_to_the_service", what_was_stopped_is_gone),
];

/// Somebody accepts or may come to, unless the service was told to stop or a fault left nobody.
fn somebody_will_accept(world: &World) -> Result<(), String> {
    if world.excused || world.has_viable() { Ok(()) } else { Err("every living process has stopped for good".into()) }
}

/// At most one accepts and at most one writes: old until the word says `Serving`, new from then on.
fn one_owner(world: &World) -> Result<(), String> {
    let who = |is: fn(&world::Proc) -> bool| -> Vec<usize> {
        (0..world.procs.len()).filter(|&p| is(&world.procs[p])).map(|p| p + 1).collect()
    };
    let (accept, write) = (who(|p| p.accepts), who(|p| p.writes));
    if accept.len() > 1 || write.len() > 1 {
        return Err(format!("accepting: {accept:?}, writing: {write:?}"));
    }
    if let Some(p) = world.accepts_too_long() {
        return Err(format!("process {} accepts in {:?}", p + 1, world.procs[p].machine.state));
    }
    for (p, proc) in world.procs.iter().enumerate() {
        let (Some(n), true) = (proc.new, proc.lives() && !proc.handed_over) else { continue };
        let new = &world.procs[n];
        if proc.accepts && new.word == Owner::Serving {
            return Err(format!("process {} accepts, the word says Serving", p + 1));
        }
        if new.accepts && new.word != Owner::Serving {
            return Err(format!("process {} accepts, the word says {:?}", n + 1, new.word));
        }
    }
    Ok(())
}

fn acknowledged_writes_survive(world: &World) -> Result<(), String> {
    match world.procs.iter().position(|p| p.writes && p.content != world.acknowledged) {
        Some(p) => Err(format!(
            "process {} owns content {} where {} was acknowledged",
            p + 1,
            world.procs[p].content,
            world.acknowledged
        )),
        None => Ok(()),
    }
}

fn the_owner_knows_who_drains(world: &World) -> Result<(), String> {
    match world.miscounts() {
        Some(p) => Err(format!(
            "process {} waits for {} that drain, and that is wrong",
            p + 1,
            world.procs[p].machine.draining
        )),
        None => Ok(()),
    }
}

/// One process serves and no other is left; or, where a silent one could, that one.
fn somebody_accepts(world: &World) -> Result<(), String> {
    let serves = |p: &world::Proc| {
        p.life == Life::Running && p.machine.state == State::Old(Old::Serving) && p.accepts && p.writes
    };
    let serving = world.procs.iter().filter(|p| serves(p)).count();
    let silent = world.procs.iter().any(|p| p.life == Life::Silent);
    let silent_may = (0..world.procs.len()).any(|p| world.procs[p].life == Life::Silent && world.is_viable(p));
    // Who runs beside a silent process has a deadline of its own.
    let others = world.procs.iter().filter(|p| p.life == Life::Running && !serves(p)).count();
    let ended = world.stop || world.excused && !world.is_supervised();
    if serving + usize::from(silent_may) == 0 && !ended && !(silent && world.excused) {
        return Err("nobody serves, and nothing more happens".into());
    }
    if others > 0 {
        return Err("a process is left that neither serves nor leaves".into());
    }
    Ok(())
}

fn whoever_asked_is_answered(world: &World) -> Result<(), String> {
    match world.procs.iter().position(|p| p.life == Life::Running && p.asked) {
        Some(p) if world.procs.iter().all(|p| p.life != Life::Silent) => {
            Err(format!("whoever asked process {} still waits", p + 1))
        }
        _ => Ok(()),
    }
}

fn what_was_remembered_is_done(world: &World) -> Result<(), String> {
    let undisturbed = !world.crashed && !world.excused && world.procs.iter().all(|p| p.life != Life::Silent);
    if undisturbed && world.owed { Err("an upgrade was signalled and none was started".into()) } else { Ok(()) }
}

fn what_was_stopped_is_gone(world: &World) -> Result<(), String> {
    let undisturbed = !world.crashed && world.procs.iter().all(|p| p.life != Life::Silent);
    if undisturbed && world.stop && world.procs.iter().any(|p| p.lives()) {
        return Err("the service was told to stop and goes on".into());
    }
    Ok(())
}

struct Walked {
    states: usize,
    sometimes: BTreeSet<Sometimes>,
}

struct Violation {
    promise: &'static str,
    text: String,
}

/// Walks everything that can happen, nearest first, so that the first violation has a shortest trace.
fn walk(config: &Config) -> Result<Walked, Violation> {
    let mut seen = HashSet::<u128, Plain>::default();
    // How each state was first reached: its parent, and which of the parent's moves. Enough to tell the whole way.
    let mut ways: Vec<(u32, u16)> = vec![(0, 0)];
    let mut queue = VecDeque::from([(World::new(config), 0u32)]);
    let mut sometimes = BTreeSet::new();
    let mut moves = vec![];
    seen.insert(digest(&queue[0].0));
    while let Some((world, at)) = queue.pop_front() {
        let free = world.moves(config, &mut moves);
        if free == 0 {
            for (promise, holds) in AT_REST {
                holds(&world).map_err(|why| violation(config, &ways, at, None, (promise, why)))?;
            }
        }
        for (n, &a_move) in moves.iter().enumerate() {
            let mut next = world.clone();
            let mut notes = Notes::default();
            next.make(a_move, n < free, config, &mut notes);
            let way = (at, u16::try_from(n).expect("a state has few moves"));
            let is_first = seen.insert(digest(&next));
            if is_first {
                for (promise, holds) in ALWAYS {
                    if let Err(why) = holds(&next) {
                        notes.broken.get_or_insert((promise, why));
                    }
                }
            }
            if let Some(broken) = notes.broken {
                return Err(violation(config, &ways, at, Some(way), broken));
            }
            sometimes.extend(notes.sometimes);
            if is_first {
                let id = u32::try_from(ways.len()).expect("a walk has fewer than 2^32 states");
                ways.push(way);
                queue.push_back((next, id));
            }
        }
    }
    Ok(Walked { states: ways.len(), sometimes })
}

fn violation(
    config: &Config,
    ways: &[(u32, u16)],
    at: u32,
    last: Option<(u32, u16)>,
    (promise, why): Broken,
) -> Violation {
    let mut steps: Vec<u16> = last.iter().map(|way| way.1).collect();
    let mut at = at;
    while at != 0 {
        let (parent, n) = ways[at as usize];
        steps.push(n);
        at = parent;
    }
    let mut world = World::new(config);
    let mut text = format!("{promise}: {why}\nin \"{}\", after\n", config.name);
    let mut moves = vec![];
    for (line, &n) in steps.iter().rev().enumerate() {
        let free = world.moves(config, &mut moves);
        let n = usize::from(n);
        text += &format!("  {:>2}. {}\n", line + 1, world.tell(moves[n]));
        world.make(moves[n], n < free, config, &mut Notes::default());
    }
    text += &format!("then\n  {}\n", world.describe());
    Violation { promise, text }
}

fn digest(world: &World) -> u128 {
    let mut hasher = Mixer(0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f);
    world.hash(&mut hasher);
    u128::from(hasher.0) << 64 | u128::from(hasher.1)
}

/// Two multiply-rotate hashes side by side: a walk of millions of states must not take two for one.
struct Mixer(u64, u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        self.1 = (self.1.rotate_left(23) ^ n).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.1 ^= self.1 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.1
    }
}

/// What is stored is a digest already.
#[derive(Default, Clone, Copy)]
struct Plain;

impl std::hash::BuildHasher for Plain {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(0, 0)
    }
}

/// One budget after the other; nothing but requests where no fault is named.
const NONE: Budget =
    Budget { asks: 0, signals: 0, stops: 0, crashes: 0, silences: 0, deadlines: 0, failures: 0, writes: 0 };

const fn alone(name: &'static str, budget: Budget) -> Config {
    Config { name, budget, supervised: false, generations: 4, mistake: Mistake::None }
}

const fn supervised(name: &'static str, budget: Budget) -> Config {
    Config { supervised: true, ..alone(name, budget) }
}

/// The largest first, as they are shared among threads.
const CONFIGS: [Config; 14] = [
    // One of each fault, in any order and anywhere, over two upgrades by signal; the second may be remembered. A silent
    // process is here one that is slow: somebody's deadline passes first.
    alone("everything once", Budget { signals: 2, crashes: 1, stops: 1, deadlines: 1, failures: 1, ..NONE }),
    // Silence, long enough for one side or both to lose patience, and a crash in the middle of it.
    alone("patience", Budget { asks: 2, silences: 1, deadlines: 2, crashes: 1, writes: 1, ..NONE }),
    alone("silence and stop", Budget { asks: 2, silences: 1, deadlines: 1, stops: 1, ..NONE }),
    supervised("supervised, silence", Budget { asks: 2, crashes: 1, silences: 1, deadlines: 1, ..NONE }),
    // The content under crashes: what was acknowledged before the freeze, and after a roll-back.
    supervised("supervised, two crashes", Budget { asks: 2, crashes: 2, writes: 2, ..NONE }),
    alone("two crashes", Budget { asks: 2, crashes: 2, writes: 2, ..NONE }),
    // What fails in the program or in the system while the service is stopped or dies.
    alone("two failures", Budget { asks: 2, failures: 2, stops: 1, crashes: 1, ..NONE }),
    alone("failure and retry", Budget { asks: 1, signals: 1, failures: 1, crashes: 1, writes: 1, ..NONE }),
    // A third signal: remembered, handed on, handed on again; with room for two generations the oldest is cut.
    Config { generations: 2, ..alone("three signals, two generations", Budget { signals: 3, ..NONE }) },
    alone("three signals", Budget { signals: 3, ..NONE }),
    // The second stop cuts; a stop finds whoever owns.
    supervised("supervised, crash and stop", Budget { asks: 2, crashes: 1, stops: 1, ..NONE }),
    alone("two stops", Budget { asks: 2, stops: 2, crashes: 1, ..NONE }),
    alone("two crashes, signals", Budget { signals: 2, crashes: 2, ..NONE }),
    alone("nothing fails", Budget { asks: 2, writes: 2, ..NONE }),
];

/// Without these a model that never gets anywhere would keep every promise.
const SOMETIMES: [Sometimes; 34] = {
    use Sometimes::*;
    [
        Completes,
        RollsBack(Reason::SpawnFailed),
        RollsBack(Reason::NewDied),
        RollsBack(Reason::TooSlow(Deadline::Ready)),
        RollsBack(Reason::TooSlow(Deadline::Freeze)),
        RollsBack(Reason::TooSlow(Deadline::Serving)),
        RollsBack(Reason::FreezeFailed),
        RollsBack(Reason::Garbled),
        RollsBack(Reason::Stopped),
        Leaves(Reason::TooSlow(Deadline::Offer)),
        Leaves(Reason::TooSlow(Deadline::Content)),
        Leaves(Reason::TooSlow(Deadline::Commit)),
        Leaves(Reason::Garbled),
        Leaves(Reason::Stopped),
        Leaves(Reason::OldDied),
        Leaves(Reason::RolledBack),
        Leaves(Reason::Failed),
        Refuses(Refusal::Starting),
        Refuses(Refusal::Busy),
        Refuses(Refusal::Stopping),
        Refuses(Refusal::HandedOver),
        Retried,
        HandedOn,
        StopHandedOn,
        ThirdServesWhileFirstDrains,
        TakesOver(Content::Restored),
        TakesOver(Content::Fresh),
        StopDuringFreeze,
        SwapLost,
        DeadlineWon,
        SecondStopCuts,
        OwnerLeavesLast,
        OldestIsCut,
        SupervisorStartsAnother,
    ]
};

/// In addition with `FLIP_EXPLORE=wide`: four million states, half a minute optimised, and a gigabyte.
const WIDE_CONFIGS: [Config; 6] = [
    alone(
        "everything once, in silence",
        Budget { signals: 2, crashes: 1, stops: 1, silences: 1, deadlines: 1, failures: 1, ..NONE },
    ),
    supervised(
        "supervised, everything once",
        Budget { signals: 2, crashes: 1, stops: 1, silences: 1, deadlines: 1, failures: 1, ..NONE },
    ),
    alone("two of the worst", Budget { signals: 2, crashes: 2, silences: 2, deadlines: 2, writes: 2, ..NONE }),
    alone("two stops, no patience", Budget { signals: 2, crashes: 1, stops: 2, deadlines: 2, ..NONE }),
    alone("three signals and a crash", Budget { signals: 3, crashes: 1, ..NONE }),
    Config {
        generations: 2,
        ..alone("three signals, two generations, a stop", Budget { signals: 3, stops: 1, ..NONE })
    },
];

#[test]
fn every_interleaving_keeps_the_promises() {
    let wide: &[Config] = match std::env::var("FLIP_EXPLORE") {
        Ok(how) if how == "wide" => &WIDE_CONFIGS,
        _ => &[],
    };
    // The widest last: they only add to what the others must reach.
    let mut reached = walk_all(&CONFIGS);
    reached.extend(walk_all(wide));
    let never: Vec<_> = SOMETIMES.iter().filter(|s| !reached.contains(s)).collect();
    assert!(never.is_empty(), "never reached: {never:?}");
    let unlisted: Vec<_> = reached.iter().filter(|s| !SOMETIMES.contains(s)).collect();
    assert!(unlisted.is_empty(), "reached, but not demanded: {unlisted:?}");
}

fn walk_all(configs: &[Config]) -> BTreeSet<Sometimes> {
    let (next, sometimes, states) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()), AtomicUsize::new(0));
    let began = Instant::now();
    let walker = || {
        while let Some(config) = configs.get(next.fetch_add(1, Relaxed)) {
            let began = Instant::now();
            match walk(config) {
                Ok(walked) => {
                    println!("{:>8} states in {:>5.1?}  {}", walked.states, began.elapsed(), config.name);
                    states.fetch_add(walked.states, Relaxed);
                    sometimes.lock().unwrap().extend(walked.sometimes);
                }
                Err(violation) => panic!("{}", violation.text),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(walker);
        }
    });
    println!("{:>8} states in {:.1?}", states.into_inner(), began.elapsed());
    sometimes.into_inner().unwrap()
}

/// A walk that finds nothing proves something only if it would have found it.
#[test]
fn deliberate_mistakes_are_found() {
    let patience = Budget { asks: 1, silences: 1, deadlines: 2, ..NONE };
    let signals = Budget { signals: 2, ..NONE };
    let finds = [
        (Mistake::SwapIsStore, patience, "one_owner"),
        (Mistake::ThawBeforeSwap, patience, "one_owner"),
        (Mistake::WritersRun, Budget { asks: 1, writes: 1, ..NONE }, "acknowledged_writes_survive"),
        (Mistake::DeathsUnseen, Budget { asks: 1, crashes: 1, ..NONE }, "somebody_will_accept"),
        (Mistake::HandedOnLost, signals, "a_request_is_acted_on_once"),
        (Mistake::HandedOnLost, Budget { asks: 1, stops: 1, ..NONE }, "stop_belongs_to_the_service"),
        (Mistake::DrainingForgotten, Budget { asks: 2, stops: 1, ..NONE }, "stop_belongs_to_the_service"),
    ];
    for (mistake, budget, promise) in finds {
        let config = Config { mistake, ..alone("a deliberate mistake", budget) };
        assert!(walk(&Config { mistake: Mistake::None, ..config }).is_ok(), "the budget of {mistake:?} finds more");
        match walk(&config) {
            Ok(walked) => panic!("{mistake:?} was not found in {} states", walked.states),
            Err(violation) => assert_eq!(violation.promise, promise, "{mistake:?}: {}", violation.text),
        }
    }
}
