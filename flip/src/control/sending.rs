//! What was sent once and arrives twice: by name (pkill(1), killall(1)), to a process group or to a control group a signal is sent to the
//! launcher and to the service, and the launcher forwards its own.

use std::collections::VecDeque;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sys::signal::{BY_THE_KERNEL, Received, Sender};

/// How long one may be behind the other: much longer than a launcher that waits for its turn takes, shorter than anybody takes who
/// tells first the one and then the other, and means two.
const BEHIND: Duration = Duration::from_secs(1);
/// Of how many the other one is awaited. Where more are sent in that time nobody has counted them.
const AWAITED: usize = 64;

/// Those that came by one of the two ways, and not yet by the other.
#[derive(Debug)]
pub(super) struct Sendings {
    /// Where there is none, there is one way.
    launcher: Option<Pid>,
    awaited: VecDeque<Sending>,
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    signal: Signal,
    /// 0 where it is in another pid namespace: all who are there are taken for one.
    sender: Pid,
    is_forwarded: bool,
    at: Duration,
}

impl Sending {
    /// Whether this is the same as that by the other way.
    fn is_also(&self, that: &Sending) -> bool {
        (self.signal, self.sender) == (that.signal, that.sender)
            && self.is_forwarded != that.is_forwarded
            && self.at.abs_diff(that.at) < BEHIND
    }
}

impl Sendings {
    pub(super) fn new(launcher: Option<Pid>) -> Sendings {
        Sendings { launcher, awaited: VecDeque::new() }
    }

    /// Who has sent it; none where it was heard already. Each is the other of one at most, so that two by the same way are two, and two
    /// by both ways are two as well.
    pub(super) fn heard(&mut self, received: &Received) -> Option<Sender> {
        let (Sender::Process(by), Some(launcher)) = (received.from, self.launcher) else { return Some(received.from) };
        let word = received.word.filter(|_| by == launcher);
        if word == Some(BY_THE_KERNEL) {
            return Some(Sender::KernelByLauncher);
        }
        let forwarded = word.map(Pid::from_raw);
        let sender = forwarded.unwrap_or(by);
        let sending = Sending { signal: received.signal, sender, is_forwarded: forwarded.is_some(), at: received.at };
        if let Some(other) = self.awaited.iter().position(|awaited| awaited.is_also(&sending)) {
            self.awaited.remove(other);
            return None;
        }
        if self.awaited.len() == AWAITED {
            self.awaited.pop_front();
        }
        self.awaited.push_back(sending);
        Some(Sender::Process(sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAUNCHER: i32 = 7;
    const SHELL: i32 = 100;
    const OTHER: i32 = 101;
    /// In another pid namespace.
    const OUTSIDE: i32 = 0;

    #[derive(Clone, Copy)]
    enum Way {
        Direct,
        Forwarded,
    }
    use Way::{Direct, Forwarded};

    fn received(way: Way, signal: Signal, sender: i32, ms: u64) -> Received {
        let (from, word) = match way {
            Direct => (sender, None),
            Forwarded => (LAUNCHER, Some(sender)),
        };
        Received { signal, from: Sender::Process(Pid::from_raw(from)), word, at: Duration::from_millis(ms) }
    }

    fn sendings() -> Sendings {
        Sendings::new(Some(Pid::from_raw(LAUNCHER)))
    }

    /// How often each was heard.
    fn counts(sendings: &mut Sendings, all: &[(Way, i32, u64)]) -> Vec<usize> {
        let heard = all.iter().map(|(way, sender, ms)| {
            let heard = sendings.heard(&received(*way, Signal::SIGTERM, *sender, *ms));
            assert!(heard.is_none_or(|from| from == Sender::Process(Pid::from_raw(*sender))), "{heard:?}");
            usize::from(heard.is_some())
        });
        heard.collect()
    }

    #[test]
    fn what_comes_by_both_ways_is_one_whichever_comes_first() {
        for sender in [SHELL, OUTSIDE, LAUNCHER] {
            assert_eq!(counts(&mut sendings(), &[(Direct, sender, 0), (Forwarded, sender, 1)]), [1, 0]);
            assert_eq!(counts(&mut sendings(), &[(Forwarded, sender, 0), (Direct, sender, 1)]), [1, 0]);
            // A handler may be overtaken by the next one.
            assert_eq!(counts(&mut sendings(), &[(Forwarded, sender, 1), (Direct, sender, 0)]), [1, 0]);
        }
    }

    #[test]
    fn what_comes_twice_by_one_way_is_two() {
        for way in [Direct, Forwarded] {
            for sender in [SHELL, OUTSIDE] {
                assert_eq!(counts(&mut sendings(), &[(way, sender, 0), (way, sender, 0)]), [1, 1]);
            }
        }
    }

    #[test]
    fn twice_by_both_ways_is_two_in_any_order() {
        let (d, f) = (Direct, Forwarded);
        for ways in [[d, d, f, f], [d, f, d, f], [d, f, f, d], [f, d, d, f], [f, d, f, d], [f, f, d, d]] {
            let all = ways.map(|way| (way, SHELL, 0));
            assert_eq!(counts(&mut sendings(), &all).into_iter().sum::<usize>(), 2);
        }
        // The kernel made one of two that waited: the other way has both.
        for ways in [[d, f, f], [f, d, f], [f, f, d], [d, d, f], [d, f, d], [f, d, d]] {
            let all = ways.map(|way| (way, SHELL, 0));
            assert_eq!(counts(&mut sendings(), &all).into_iter().sum::<usize>(), 2);
        }
    }

    #[test]
    fn another_sender_and_another_signal_are_others() {
        let mut sendings = sendings();
        assert_eq!(
            counts(&mut sendings, &[(Direct, SHELL, 0), (Forwarded, OTHER, 0), (Direct, OUTSIDE, 0)]),
            [1, 1, 1]
        );
        for (way, sender) in [(Forwarded, SHELL), (Direct, OTHER), (Forwarded, OUTSIDE)] {
            assert!(sendings.heard(&received(way, Signal::SIGHUP, sender, 0)).is_some());
            assert_eq!(counts(&mut sendings, &[(way, sender, 0)]), [0]);
        }
    }

    #[test]
    fn one_that_is_a_second_behind_is_another() {
        assert_eq!(counts(&mut sendings(), &[(Direct, SHELL, 0), (Forwarded, SHELL, 999)]), [1, 0]);
        assert_eq!(counts(&mut sendings(), &[(Direct, SHELL, 0), (Forwarded, SHELL, 1000)]), [1, 1]);
        assert_eq!(counts(&mut sendings(), &[(Forwarded, SHELL, 0), (Direct, SHELL, 1000)]), [1, 1]);
        // Nor is it in the way of what comes later.
        let late = [(Direct, SHELL, 0), (Direct, SHELL, 2000), (Forwarded, SHELL, 2001), (Forwarded, SHELL, 2002)];
        assert_eq!(counts(&mut sendings(), &late), [1, 1, 0, 1]);
    }

    #[test]
    fn kernel_has_no_other_way() {
        let key = Received { from: Sender::Kernel, ..received(Direct, Signal::SIGINT, 0, 0) };
        let mut sendings = sendings();
        for _ in 0..2 {
            assert_eq!(sendings.heard(&key), Some(Sender::Kernel));
            // What the launcher alone was told is no other way either.
            let forwarded = received(Forwarded, Signal::SIGINT, BY_THE_KERNEL, 0);
            assert_eq!(sendings.heard(&forwarded), Some(Sender::KernelByLauncher));
        }
        assert!(sendings.heard(&received(Forwarded, Signal::SIGINT, OUTSIDE, 0)).is_some());
    }

    #[test]
    fn nobody_but_the_launcher_forwards() {
        // Somebody who says something of its own by sigqueue(3), with a launcher and without.
        let queued = Received { word: Some(SHELL), ..received(Direct, Signal::SIGHUP, OTHER, 0) };
        for launcher in [None, Some(Pid::from_raw(LAUNCHER))] {
            let mut sendings = Sendings::new(launcher);
            assert!(sendings.heard(&received(Direct, Signal::SIGHUP, SHELL, 0)).is_some());
            assert_eq!(sendings.heard(&queued), Some(Sender::Process(Pid::from_raw(OTHER))));
        }
    }

    #[test]
    fn flood_is_not_kept() {
        let mut sendings = sendings();
        for _ in 0..10_000 {
            assert!(sendings.heard(&received(Direct, Signal::SIGHUP, SHELL, 0)).is_some());
        }
        assert_eq!(sendings.awaited.len(), AWAITED);
    }
}
