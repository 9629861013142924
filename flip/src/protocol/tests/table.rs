//! All states × all events, × what else decides: the word, whether somebody supervises, what is remembered, what drains.
//!
//! The text beside this file is the protocol as a table. A change of it is a change of the protocol, to be read as one;
//! `UPDATE_SNAPSHOT=1 cargo test -p flip protocol` writes it anew.

use std::fmt::Write as _;

use super::*;

/// So many generations drain in the samples: none, one, and as many as may live beside an owner and its successor and
/// one more.
const DRAINING: [u8; 3] = [0, 1, 3];
const GENERATIONS: u8 = 4;
const WORDS: [Owner; 4] = [Owner::Old, Owner::New, Owner::Serving, Owner::RolledBack];

#[test]
fn every_event_in_every_state_is_as_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/tests/table.txt");
    let table = table();
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        std::fs::write(path, table).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap();
    for (n, (is, was)) in table.lines().zip(written.lines()).enumerate() {
        assert_eq!(is, was, "line {} of table.txt (UPDATE_SNAPSHOT=1 writes it anew)", n + 1);
    }
    assert_eq!(table.lines().count(), written.lines().count(), "the length of table.txt");
}

/// Every state, each followed by the next; a state that is missing here does not compile.
fn next_state(state: Option<&State>) -> Option<State> {
    use State as S;
    let Some(state) = state else { return Some(S::New(New::AwaitingOffer)) };
    Some(match state {
        S::New(New::AwaitingOffer) => S::New(New::Initialising),
        S::New(New::Initialising) => S::New(New::AwaitingContent { polled: false }),
        S::New(New::AwaitingContent { polled: false }) => S::New(New::AwaitingContent { polled: true }),
        S::New(New::AwaitingContent { polled: true }) => S::New(New::AwaitingPolls),
        S::New(New::AwaitingPolls) => S::New(New::AwaitingCommit),
        S::New(New::AwaitingCommit) => S::New(New::TakingOver { polled: false }),
        S::New(New::TakingOver { polled: false }) => S::New(New::TakingOver { polled: true }),
        S::New(New::TakingOver { polled: true }) => S::New(New::Leaving),
        S::New(New::Leaving) => S::Old(Old::Starting),
        S::Old(Old::Starting) => S::Old(Old::Serving),
        S::Old(Old::Serving) => S::Old(Old::AwaitingHello),
        S::Old(Old::AwaitingHello) => S::Old(Old::AwaitingPrepared),
        S::Old(Old::AwaitingPrepared) => S::Old(Old::Frozen),
        S::Old(Old::Frozen) => S::Old(Old::AwaitingServing),
        S::Old(Old::AwaitingServing) => S::Old(Old::Draining { asked_to_stop: false }),
        S::Old(Old::Draining { asked_to_stop: false }) => S::Old(Old::Draining { asked_to_stop: true }),
        S::Old(Old::Draining { asked_to_stop: true }) => S::Old(Old::Stopping { drained: false }),
        S::Old(Old::Stopping { drained: false }) => S::Old(Old::Stopping { drained: true }),
        S::Old(Old::Stopping { drained: true }) => S::Old(Old::Cutting { handed_over: false }),
        S::Old(Old::Cutting { handed_over: false }) => S::Old(Old::Cutting { handed_over: true }),
        S::Old(Old::Cutting { handed_over: true }) => S::Old(Old::Gone),
        S::Old(Old::Gone) => return None,
    })
}

/// Every event, as [`next_state`] every state.
fn next_event(event: Option<Event>) -> Option<Event> {
    use Event as E;
    let Some(event) = event else { return Some(E::UpgradeAsked) };
    Some(match event {
        E::UpgradeAsked => E::UpgradeSignalled,
        E::UpgradeSignalled => E::StopSignalled,
        E::StopSignalled => E::MainEnded,
        E::MainEnded => E::Touched,
        E::Touched => E::Polled,
        E::Polled => E::Restored { draining: 2 },
        E::Restored { .. } => E::RestoreFailed,
        E::RestoreFailed => E::SpawnFailed,
        E::SpawnFailed => E::FreezeFailed,
        E::FreezeFailed => E::Drained,
        E::Drained => E::Hello,
        E::Hello => E::Offer,
        E::Offer => E::Prepared,
        E::Prepared => E::Ready,
        E::Ready => E::Commit,
        E::Commit => E::Serving,
        E::Serving => E::Again,
        E::Again => E::Stop,
        E::Stop => E::Cut,
        E::Cut => E::Garbled,
        E::Garbled => E::NewDied,
        E::NewDied => E::OldDied,
        E::OldDied => E::DrainingGone,
        E::DrainingGone => E::DeadlinePassed,
        E::DeadlinePassed => return None,
    })
}

/// What one step did, remembered flags aside.
#[derive(Clone, PartialEq)]
struct Outcome {
    state: State,
    actions: Vec<Action>,
    word: Owner,
}

/// One point of the table: everything that a step can depend on.
#[derive(Clone, Copy)]
struct Point {
    word: Owner,
    supervised: bool,
    again: bool,
    draining: u8,
}

fn step(state: &State, event: Event, at: Point) -> (Outcome, Process) {
    let mut process = Process {
        state: state.clone(),
        again: at.again,
        supervised: at.supervised,
        draining: at.draining,
        generations: GENERATIONS,
    };
    let word = SharedWord::new(at.word);
    let actions = process.step(event, &word);
    (Outcome { state: process.state.clone(), actions, word: word.owner() }, process)
}

fn table() -> String {
    let mut out = String::from(
        "# What every event does in every state. `·`: nothing. Written by table.rs; read it as the protocol.\n\
         # In `when`: what the word says, whether somebody supervises, whether a request is remembered, how many\n\
         # generations drain (at most 4 may live); what is not named makes no difference. Events with the same lines\n\
         # share them.\n",
    );
    let mut state = next_state(None);
    while let Some(this) = state {
        let process = Process { state: this.clone(), ..Process::cold(false, GENERATIONS) };
        let deadline = process.deadline().map_or(String::new(), |d| format!(", at most {d:?}"));
        writeln!(out, "\n{this:?}{deadline}").unwrap();
        writeln!(out, "  {:<18} {:<50} {:<40} does", "event", "when", "becomes").unwrap();
        let mut nothing = vec![];
        // Events that mean the same are one case with several names.
        let mut cases: Vec<(Vec<String>, Rows)> = vec![];
        let mut event = next_event(None);
        while let Some(e) = event {
            let rows = rows(&this, e);
            if rows == [(String::new(), "·".to_string())] {
                nothing.push(name(e));
            } else {
                match cases.iter_mut().find(|(_, r)| *r == rows) {
                    Some((names, _)) => names.push(name(e)),
                    None => cases.push((vec![name(e)], rows)),
                }
            }
            event = next_event(Some(e));
        }
        for (names, rows) in cases {
            for n in 0..names.len().max(rows.len()) {
                let name = names.get(n).map_or("", String::as_str);
                let (when, text) = rows.get(n).map_or(("", ""), |(when, text)| (when, text));
                writeln!(out, "{}", format!("  {name:<18} {when:<50} {text}").trim_end()).unwrap();
            }
        }
        for (n, names) in nothing.chunks(8).enumerate() {
            let dot = if n == 0 { "·" } else { " " };
            writeln!(out, "  {dot} {}", names.join(" ")).unwrap();
        }
        state = next_state(Some(&this));
    }
    out
}

fn name(event: Event) -> String {
    match event {
        Event::Restored { .. } => "Restored".into(),
        event => format!("{event:?}"),
    }
}

/// When, and what then.
type Rows = Vec<(String, String)>;

/// The cases of one event in one state, split only by what makes a difference.
fn rows(state: &State, event: Event) -> Rows {
    let mut points = vec![];
    for word in WORDS {
        for supervised in [false, true] {
            for again in [false, true] {
                for draining in DRAINING {
                    points.push(Point { word, supervised, again, draining });
                }
            }
        }
    }
    let mut rows = vec![];
    split(state, event, &points, "", &mut rows);
    rows
}

fn split(state: &State, event: Event, points: &[Point], when: &str, rows: &mut Rows) {
    let texts: Vec<String> = points.iter().map(|&p| text(state, event, p)).collect();
    if texts.iter().all(|t| *t == texts[0]) {
        rows.push((when.trim_end_matches("; ").into(), texts[0].clone()));
        return;
    }
    // The first dimension along which something differs while all others stay the same.
    for (label, key) in [
        ("word", (|p: &Point| format!("{:?}", p.word)) as fn(&Point) -> String),
        ("", |p| if p.supervised { "supervised".into() } else { "unsupervised".into() }),
        ("", |p| if p.again { "remembered".into() } else { "none remembered".into() }),
        ("draining", |p| p.draining.to_string()),
    ] {
        let mut groups: Vec<(String, Vec<Point>, Vec<String>)> = vec![];
        for (point, text) in points.iter().zip(&texts) {
            let key = key(point);
            match groups.iter_mut().find(|(k, ..)| *k == key) {
                Some((_, points, texts)) => (points.push(*point), texts.push(text.clone())).1,
                None => groups.push((key, vec![*point], vec![text.clone()])),
            }
        }
        // Values of this dimension that mean the same are one case.
        let mut merged: Vec<(String, Vec<Point>, Vec<String>)> = vec![];
        for (key, points, texts) in groups {
            match merged.iter_mut().find(|(_, _, t)| *t == texts) {
                Some((k, ..)) => *k = format!("{k}, {key}"),
                None => merged.push((key, points, texts)),
            }
        }
        if merged.len() > 1 {
            for (key, points, _) in merged {
                let label = if label.is_empty() { key } else { format!("{label} {key}") };
                split(state, event, &points, &format!("{when}{label}; "), rows);
            }
            return;
        }
    }
    unreachable!("points that differ in nothing have one outcome");
}

/// What a step does, with what happens to the flags said as a change, so that it reads the same wherever it is the same.
fn text(state: &State, event: Event, at: Point) -> String {
    let (outcome, _) = step(state, event, at);
    let mut does: Vec<String> = vec![];
    if outcome.word != at.word {
        does.push(format!("[{:?} → {:?}]", at.word, outcome.word));
    }
    does.extend(outcome.actions.iter().map(|a| format!("{a:?}")));
    let again = [false, true].map(|again| step(state, event, Point { again, ..at }).1.again);
    match again {
        [true, true] => does.push("(remember)".into()),
        // Where the request is taken up or handed on the actions say so.
        [false, false] if step(state, event, Point { again: !at.again, ..at }).0 == outcome => {
            does.push("(forget what is remembered)".into());
        }
        _ => {}
    }
    let draining = DRAINING.map(|draining| step(state, event, Point { draining, ..at }).1.draining);
    let as_change = |f: fn(u8) -> u8| draining == DRAINING.map(f);
    if as_change(|d| d + 1) {
        does.push("(draining + 1)".into());
    } else if as_change(|d| d.saturating_sub(1)) {
        does.push("(draining - 1)".into());
    } else if !as_change(|d| d) {
        let now = step(state, event, at).1.draining;
        does.push(format!("(draining = {now})"));
    }
    let becomes = if outcome.state == *state { String::new() } else { format!("{:?}", outcome.state) };
    match (becomes.is_empty(), does.is_empty()) {
        (true, true) => "·".into(),
        (true, false) => format!("{:<40} {}", "", does.join(" ")),
        (false, _) => format!("{becomes:<40} {}", does.join(" ")),
    }
}
