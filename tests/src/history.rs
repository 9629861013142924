//! What clients of a ledger did and were told, and whether one process without handoffs could have told them the same.
//!
//! The ledger is a log of writes and the registers that they make. Each answer says where in the log it was given, so
//! the order in which everything happened is known, and is only compared with what was seen: no order has to be searched
//! for, and a history of any length is checked in one pass.

use std::collections::{BTreeMap, HashMap};

/// A line of the log: this write set this register to its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: u64,
    pub key: u64,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wish {
    /// Sets the register.
    Put,
    /// Sets the register if it has this value.
    Swap(u64),
    /// Tells the register.
    Read,
    /// Tells the register, and the log from here on.
    List(usize),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    Seen(Seen),
    /// The client was told that nothing was done.
    NotDone,
    /// Done once, or not at all; for all that the client knows it may yet be done.
    Unknown,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The ledger's number: another one is another, empty ledger.
    pub epoch: u64,
    /// It was written.
    pub done: bool,
    /// Where it was written, otherwise how long the log was.
    pub at: usize,
    /// The register, before it was written.
    pub value: u64,
    /// What was listed.
    pub entries: Vec<Entry>,
}

/// One request, and what came of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// No other one's.
    pub id: u64,
    pub key: u64,
    pub wish: Wish,
    /// Before it was sent, and after it was answered, on one clock for all clients.
    pub begin: u64,
    pub end: u64,
    pub outcome: Outcome,
}

/// Everything that happened to a service.
#[derive(Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// The ledgers, in the order in which they were begun. Each has taken the place of the one before, with nothing in it.
    pub epochs: Vec<u64>,
    /// The whole log of the last one, where the service lived to tell it.
    pub last: Option<Vec<Entry>>,
}

/// A log, as far as anybody has seen it.
#[derive(Default)]
struct Log {
    entries: BTreeMap<usize, Entry>,
    /// The positions of each register's writes, and the writes.
    registers: HashMap<u64, BTreeMap<usize, u64>>,
    /// All positions of `entries`, so that gaps are found quickly.
    known: Vec<usize>,
}

impl Log {
    /// What the register was when the log had this length; nothing where a write that nobody has seen may have set it.
    fn value(&self, key: u64, length: usize) -> Option<u64> {
        let last = self.registers.get(&key).and_then(|writes| writes.range(..length).next_back());
        let (from, value) = last.map_or((0, 0), |(at, id)| (at + 1, *id));
        let before = |length| self.known.partition_point(|at| *at < length);
        (before(length) - before(from) == length - from).then_some(value)
    }
}

impl History {
    /// Whether a single ledger that does one thing after the other could have given all these answers: nothing is lost,
    /// nothing is there twice, whatever was answered before something else began came first, and every error told the truth.
    ///
    /// # Errors
    /// What cannot have been.
    pub fn check(&self) -> Result<(), String> {
        let operations: HashMap<u64, &Operation> = self.operations.iter().map(|one| (one.id, one)).collect();
        if operations.len() != self.operations.len() {
            return Err("two operations have one number".to_owned());
        }
        let (logs, places) = self.logs(&operations)?;
        self.nothing_is_lost(&logs)?;
        self.values_are_right(&logs)?;
        self.order_is_that_of_time(&places)
    }

    fn epoch(&self, seen: &Seen) -> Result<usize, String> {
        let epoch = self.epochs.iter().position(|epoch| *epoch == seen.epoch);
        epoch.ok_or_else(|| format!("nobody has begun the ledger of this answer: {seen:?}"))
    }

    /// Puts together what was seen of each log, and where each write is.
    #[allow(clippy::type_complexity, reason = "both are used where they are made")]
    fn logs(&self, operations: &HashMap<u64, &Operation>) -> Result<(Vec<Log>, HashMap<u64, (usize, usize)>), String> {
        let mut logs: Vec<Log> = self.epochs.iter().map(|_| Log::default()).collect();
        let mut places = HashMap::new();
        let mut put = |epoch: usize, at: usize, entry: Entry| {
            let other = *logs[epoch].entries.entry(at).or_insert(entry);
            if other != entry {
                return Err(format!("lost: at {at} of ledger {epoch} there is {other:?}, and {entry:?} as well"));
            }
            let place = *places.entry(entry.id).or_insert((epoch, at));
            if place != (epoch, at) {
                return Err(format!(
                    "twice: {entry:?} is at {at} of ledger {epoch}, and at {} of {}",
                    place.1, place.0
                ));
            }
            Ok(())
        };
        for one in &self.operations {
            let Outcome::Seen(seen) = &one.outcome else { continue };
            let epoch = self.epoch(seen)?;
            if seen.done {
                put(epoch, seen.at, Entry { id: one.id, key: one.key })?;
            }
            if let Wish::List(from) = one.wish {
                for (at, entry) in (from..).zip(&seen.entries) {
                    put(epoch, at, *entry)?;
                }
            }
        }
        for (at, entry) in self.last.iter().flatten().enumerate() {
            put(self.epochs.len() - 1, at, *entry)?;
        }
        for log in &mut logs {
            for (at, entry) in &log.entries {
                let Some(one) = operations.get(&entry.id).filter(|one| one.key == entry.key) else {
                    return Err(format!("invented: nobody asked for {entry:?}"));
                };
                match &one.outcome {
                    Outcome::NotDone => return Err(format!("dishonest: said not to be done, and it is: {one:?}")),
                    Outcome::Seen(seen) if !seen.done => return Err(format!("dishonest: it was written: {one:?}")),
                    _ => {}
                }
                log.registers.entry(entry.key).or_default().insert(*at, entry.id);
            }
            log.known = log.entries.keys().copied().collect();
        }
        Ok((logs, places))
    }

    /// Each log is whole up to the last position that anybody was told of: what is at the others can only have been
    /// written by who was not told.
    fn nothing_is_lost(&self, logs: &[Log]) -> Result<(), String> {
        let unknown = self.operations.iter().filter(|one| one.outcome == Outcome::Unknown);
        let mut unknown = unknown.filter(|one| matches!(one.wish, Wish::Put | Wish::Swap(_))).count();
        let mut lengths: Vec<usize> = logs.iter().map(|log| log.known.last().map_or(0, |at| at + 1)).collect();
        for one in &self.operations {
            if let Outcome::Seen(seen) = &one.outcome {
                let length = &mut lengths[self.epoch(seen)?];
                *length = seen.at.max(*length);
            }
        }
        for (epoch, (log, length)) in logs.iter().zip(lengths).enumerate() {
            if let Some(last) = self.last.as_ref().filter(|_| epoch == logs.len() - 1)
                && length > last.len()
            {
                return Err(format!("lost: the log had {length} entries, and ends with {}", last.len()));
            }
            let missing = length - log.known.len();
            unknown = unknown
                .checked_sub(missing)
                .ok_or_else(|| format!("lost: nobody can have written {missing} of the entries of ledger {epoch}"))?;
        }
        Ok(())
    }

    fn values_are_right(&self, logs: &[Log]) -> Result<(), String> {
        for one in &self.operations {
            let Outcome::Seen(seen) = &one.outcome else { continue };
            let value = logs[self.epoch(seen)?].value(one.key, seen.at);
            if value.is_some_and(|value| value != seen.value) {
                return Err(format!("stale: the register was {value:?} then: {one:?}"));
            }
            let right = match one.wish {
                Wish::Put => seen.done,
                Wish::Swap(expected) => seen.done == (seen.value == expected),
                Wish::Read => !seen.done,
                // Another ledger may be shorter than the one that the client had in mind.
                Wish::List(from) => !seen.done && seen.at == from.min(seen.at) + seen.entries.len(),
            };
            if !right {
                return Err(format!("wrong: no ledger answers so: {one:?}"));
            }
        }
        Ok(())
    }

    /// Writes have a position in the log, and all else has one between two of them. What had been answered before
    /// something else began has no later one.
    fn order_is_that_of_time(&self, places: &HashMap<u64, (usize, usize)>) -> Result<(), String> {
        let (mut begins, mut ends) = (vec![], vec![]);
        for one in &self.operations {
            let point = match (places.get(&one.id), &one.outcome) {
                (Some((epoch, at)), _) => (*epoch, 2 * at + 1),
                (None, Outcome::Seen(seen)) => (self.epoch(seen)?, 2 * seen.at),
                (None, _) => continue,
            };
            begins.push((one.begin, point, one));
            if one.outcome != Outcome::Unknown {
                ends.push((one.end, point, one));
            }
        }
        begins.sort_by_key(|(begin, ..)| *begin);
        ends.sort_by_key(|(end, ..)| *end);
        let mut ends = ends.into_iter().peekable();
        let mut latest: Option<((usize, usize), &Operation)> = None;
        for (begin, point, one) in begins {
            while let Some((_, point, one)) = ends.next_if(|(end, ..)| *end < begin) {
                if latest.is_none_or(|(latest, _)| latest < point) {
                    latest = Some((point, one));
                }
            }
            if let Some((_, before)) = latest.filter(|(latest, _)| *latest > point) {
                return Err(format!(
                    "stale: it had been answered\n{before:?}\nbefore this began, which came first\n{one:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 7;

    fn one(id: u64, wish: Wish, (begin, end): (u64, u64), outcome: Outcome) -> Operation {
        Operation { id, key: 0, wish, begin, end, outcome }
    }

    fn seen(done: bool, at: usize, value: u64) -> Outcome {
        Outcome::Seen(Seen { epoch: EPOCH, done, at, value, entries: vec![] })
    }

    fn put(id: u64, time: (u64, u64), at: usize, value: u64) -> Operation {
        one(id, Wish::Put, time, seen(true, at, value))
    }

    fn entries(ids: &[u64]) -> Vec<Entry> {
        ids.iter().map(|id| Entry { id: *id, key: 0 }).collect()
    }

    /// Two writes, and a read of the first of them.
    fn good() -> History {
        let operations = vec![
            put(1, (0, 10), 0, 0),
            one(2, Wish::Read, (20, 50), seen(false, 1, 1)),
            one(3, Wish::Swap(1), (30, 40), seen(true, 1, 1)),
            one(4, Wish::Swap(1), (60, 70), seen(false, 2, 3)),
        ];
        History { operations, epochs: vec![EPOCH], last: Some(entries(&[1, 3])) }
    }

    #[track_caller]
    fn is_bad(history: &History, why: &str) {
        let found = history.check().unwrap_err();
        assert!(found.starts_with(why), "{found}");
    }

    #[test]
    fn good_history_is_good() {
        good().check().unwrap();
        History::default().check().unwrap();
    }

    #[test]
    fn acknowledged_write_is_lost() {
        let mut history = good();
        history.last = Some(entries(&[1]));
        is_bad(&history, "lost: ");
        // Another one has taken its place.
        history.operations.push(put(5, (80, 90), 1, 1));
        is_bad(&history, "lost: ");
    }

    #[test]
    fn write_is_lost_in_a_log_that_nobody_can_tell() {
        let mut history = good();
        history.last = None;
        history.operations.push(put(5, (80, 90), 3, 9));
        is_bad(&history, "lost: ");
        history.operations.push(one(9, Wish::Put, (80, 81), Outcome::Unknown));
        history.check().unwrap();
        // Length 5: another one that nobody can have written.
        history.operations.push(one(6, Wish::Read, (95, 96), seen(false, 5, 0)));
        is_bad(&history, "lost: ");
    }

    #[test]
    fn write_is_there_twice() {
        let mut history = good();
        history.last = Some(entries(&[1, 3, 1]));
        is_bad(&history, "twice: ");
        history.operations.push(one(5, Wish::Put, (80, 90), Outcome::Unknown));
        history.last = Some(entries(&[1, 3, 5, 5]));
        is_bad(&history, "twice: ");
        history.last = Some(entries(&[1, 3, 5]));
        history.check().unwrap();
    }

    #[test]
    fn write_is_there_that_nobody_asked_for() {
        let mut history = good();
        history.last = Some(entries(&[1, 3, 8]));
        is_bad(&history, "invented: ");
    }

    #[test]
    fn error_is_dishonest() {
        let mut history = good();
        history.operations.push(one(5, Wish::Put, (80, 90), Outcome::NotDone));
        history.check().unwrap();
        history.last = Some(entries(&[1, 3, 5]));
        is_bad(&history, "dishonest: ");
        // It was said to have failed, because the register was another.
        history.operations[4].wish = Wish::Swap(1);
        history.operations[4].outcome = seen(false, 2, 3);
        is_bad(&history, "dishonest: ");
    }

    #[test]
    fn read_is_stale() {
        let mut history = good();
        // What was there before the write that had been answered.
        history.operations.push(one(5, Wish::Read, (41, 42), seen(false, 1, 1)));
        is_bad(&history, "stale: it had been answered");
        // While the write was under way that is right.
        history.operations[4].begin = 39;
        history.check().unwrap();
        // The length is new, the register is not.
        history.operations[4].outcome = seen(false, 2, 1);
        is_bad(&history, "stale: the register was");
    }

    #[test]
    fn read_takes_back_what_another_has_read() {
        let mut history = good();
        history.operations.push(one(5, Wish::Read, (31, 32), seen(false, 2, 3)));
        history.operations.push(one(6, Wish::Read, (33, 34), seen(false, 1, 1)));
        is_bad(&history, "stale: it had been answered");
    }

    #[test]
    fn swap_overwrites_what_it_has_not_seen() {
        let mut history = good();
        history.operations.push(one(5, Wish::Swap(1), (80, 90), seen(true, 2, 1)));
        history.last = Some(entries(&[1, 3, 5]));
        is_bad(&history, "stale: the register was");
        history.operations[4].outcome = seen(true, 2, 3);
        is_bad(&history, "wrong: ");
    }

    #[test]
    fn writes_are_reordered_against_time() {
        let mut history = good();
        history.operations = vec![put(1, (20, 30), 0, 0), put(3, (0, 10), 1, 1)];
        is_bad(&history, "stale: it had been answered");
        history.operations[0].begin = 5;
        history.check().unwrap();
    }

    #[test]
    fn write_of_an_unknown_outcome_may_come_late_but_not_early() {
        let mut history = good();
        history.operations.push(one(5, Wish::Put, (0, 1), Outcome::Unknown));
        history.last = Some(entries(&[1, 3, 5]));
        history.check().unwrap();
        // It was in the log before it was sent.
        history.operations[4].begin = 80;
        history.last = Some(entries(&[1, 3, 5, 6]));
        history.operations.push(put(6, (71, 72), 3, 5));
        is_bad(&history, "stale: it had been answered");
    }

    #[test]
    fn listing_differs() {
        let mut history = good();
        let listed = Seen { epoch: EPOCH, at: 2, value: 3, entries: entries(&[3]), ..Seen::default() };
        history.operations.push(one(5, Wish::List(1), (80, 90), Outcome::Seen(listed.clone())));
        history.check().unwrap();
        let other = Seen { entries: entries(&[1]), ..listed };
        history.operations[4].outcome = Outcome::Seen(other);
        is_bad(&history, "lost: ");
    }

    #[test]
    fn another_ledger_is_empty_and_comes_later() {
        let mut history = good();
        history.epochs.push(8);
        let write = |id, time, at, value| {
            let seen = Seen { epoch: 8, done: true, at, value, entries: vec![] };
            one(id, Wish::Put, time, Outcome::Seen(seen))
        };
        history.operations.push(write(5, (80, 90), 0, 0));
        history.last = Some(entries(&[5]));
        history.check().unwrap();
        // A part of the first one is still there.
        history.last = Some(entries(&[1, 5]));
        is_bad(&history, "lost: ");
        history.last = Some(entries(&[5, 1]));
        is_bad(&history, "twice: ");
        // The first one answers once more.
        history.last = Some(entries(&[5]));
        history.operations.push(one(6, Wish::Read, (95, 96), seen(false, 2, 3)));
        is_bad(&history, "stale: it had been answered");
        history.operations.pop();
        // Nobody has said that it begins.
        history.epochs.pop();
        is_bad(&history, "nobody has begun");
    }
}
