//! What is sent to the launcher and to the service counts once: by name (pkill(1)), to their group, to their control group.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Command;

use flip_tests::{Chain, PATIENCE, Process, Start, number_after};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::Signal;

const SERVICE: &str = env!("CARGO_BIN_EXE_service");

/// A service in a terminal, where the launcher is what was started. They are of one group.
struct Launched {
    chain: Chain,
    service: Process,
    terminal: OwnedFd,
}

impl Launched {
    fn start() -> Launched {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let chain = Start::new(SERVICE).terminal(slave).env("FLIP_LAUNCHER", "auto").spawn();
        let service = Process::open(number_after(&chain.line(" is ready"), "pid ").unwrap());
        assert_ne!(service.pid, chain.owner().pid);
        Launched { chain, service, terminal: master }
    }

    fn launcher(&self) -> i32 {
        self.chain.owner().pid
    }

    /// By a process of its own, one after the other, as pkill(1) does; the second may be gone by then. Gives the number of that.
    fn send(&self, signal: &str, to: &[i32]) -> i32 {
        let script = format!("kill -{signal} \"$@\" 2> /dev/null; true");
        let to = to.iter().map(ToString::to_string);
        let mut sender = Command::new("sh").args(["-c", &script, "sh"]).args(to).spawn().unwrap();
        assert!(sender.wait().unwrap().success());
        sender.id().cast_signed()
    }

    /// Waits until nothing waits for a handler, and the launcher has forwarded what it has.
    fn until_delivered(&self) {
        let launcher = self.chain.owner();
        let pending = |process: &Process| u64::from_str_radix(&process.status("ShdPnd"), 16).unwrap();
        self.chain.until("the launcher has nothing to do", || {
            pending(launcher) == 0 && launcher.status("State").starts_with('S')
        });
        self.chain.until("the service has heard all", || pending(&self.service) == 0);
    }

    /// Follows the service to this generation, once the one before is gone.
    fn follow_to(&mut self, generation: u64) {
        let line = self.chain.line(&format!("handed over to generation {generation} (pid "));
        let next = Process::open(number_after(&line, "(pid ").unwrap());
        let before = std::mem::replace(&mut self.service, next);
        assert!(before.ends_within(PATIENCE), "{}", self.chain.log().text());
    }

    fn upgrades_by(&self, sender: i32) -> usize {
        self.chain.log().count(&format!("SIGHUP from pid {sender}: upgrade"))
    }
}

#[test]
fn upgrade_by_name_is_one_upgrade() {
    let mut service = Launched::start();
    for generation in 2..=6 {
        let sender = service.send("HUP", &[service.launcher(), service.service.pid]);
        service.follow_to(generation);
        // All that it was sent it has looked at before its end.
        assert_eq!(service.upgrades_by(sender), 1, "{}", service.chain.log().text());
    }
    let log = service.chain.stop();
    assert_eq!(log.count("starts as pid"), 5, "{}", log.text());
}

#[test]
fn upgrade_by_name_is_one_where_the_service_hears_of_it_first() {
    let mut service = Launched::start();
    for generation in 2..=6 {
        // It serves for as long as the launcher may take.
        let (mut gate, mark) = (service.chain.gate("start"), service.chain.log().mark());
        let sender = service.send("HUP", &[service.service.pid, service.launcher()]);
        service.chain.line_after(mark, "is at the gate start");
        service.until_delivered();
        gate.open();
        service.follow_to(generation);
        assert_eq!(service.upgrades_by(sender), 1, "{}", service.chain.log().text());
    }
    let log = service.chain.stop();
    assert_eq!(log.count("starts as pid"), 5, "{}", log.text());
}

#[test]
fn what_the_launcher_forwards_is_from_whoever_has_sent_it() {
    let mut service = Launched::start();
    for generation in 2..=3 {
        let sender = service.send("HUP", &[service.launcher()]);
        service.follow_to(generation);
        assert_eq!(service.upgrades_by(sender), 1, "{}", service.chain.log().text());
    }
    let sender = service.send("TERM", &[service.launcher()]);
    let log = service.chain.stopped();
    assert_eq!(log.count(&format!("SIGTERM from pid {sender}: stop")), 1, "{}", log.text());
}

/// One stop, as it is sent here, lets what is open go on, and one more by way of the launcher cuts it.
fn is_one_stop(send: impl Fn(&Launched) -> i32) {
    let mut service = Launched::start();
    service.chain.ask(&service.service, "hold an upload");
    let sender = send(&service);
    let said = format!("SIGTERM from pid {sender}: stop");
    service.chain.line(&said);
    service.until_delivered();
    let other = service.send("TERM", &[service.launcher()]);
    service.chain.line(&format!("SIGTERM from pid {other}: stop"));
    service.chain.line("cut: an upload, ");
    let log = service.chain.stopped();
    assert_eq!(log.count(&said), 1, "{}", log.text());
}

#[test]
fn stop_by_name_cuts_nothing() {
    // Often the kernel makes one of two that wait, and there is nothing to see.
    for _ in 0..10 {
        is_one_stop(|service| service.send("TERM", &[service.launcher(), service.service.pid]));
        is_one_stop(|service| service.send("TERM", &[service.service.pid, service.launcher()]));
    }
}

#[test]
fn stop_of_the_group_cuts_nothing() {
    for _ in 0..10 {
        is_one_stop(|service| {
            service.chain.signal_all(Signal::SIGTERM);
            std::process::id().cast_signed()
        });
    }
}

#[test]
fn what_was_open_at_a_stop_by_name_comes_to_its_end() {
    let mut service = Launched::start();
    service.chain.ask(&service.service, "hold an upload");
    service.send("TERM", &[service.launcher(), service.service.pid]);
    service.chain.line("stops and drains 1 connection");
    service.until_delivered();
    assert_eq!(service.chain.ask(&service.service, "generation"), "1");
    service.chain.release(&service.service);
    let log = service.chain.stopped();
    assert_eq!((log.count("leaves: Stopped"), log.count("cut: ")), (1, 0), "{}", log.text());
}

#[test]
fn second_stop_cuts_by_each_way() {
    for ways in [[true, true], [false, false]] {
        let mut service = Launched::start();
        service.chain.ask(&service.service, "hold an upload");
        let said = format!("SIGTERM from pid {}: stop", std::process::id());
        for (seen, by_the_launcher) in (1..).zip(ways) {
            let to = if by_the_launcher { service.chain.owner() } else { &service.service };
            to.signal(Signal::SIGTERM);
            service.chain.until("it is seen", || service.chain.log().count(&said) == seen);
        }
        service.chain.line("cut: an upload, ");
        service.chain.stopped();
    }
}

#[test]
fn second_key_cuts() {
    let mut service = Launched::start();
    service.chain.ask(&service.service, "hold an upload");
    let mut keys = std::fs::File::from(service.terminal.try_clone().unwrap());
    for seen in 1..=2 {
        assert_eq!(service.chain.log().count("cut: "), 0, "{}", service.chain.log().text());
        keys.write_all(b"\x03").unwrap();
        let said = || service.chain.log().count("SIGINT from the kernel: stop");
        service.chain.until("it is seen", || said() == seen);
    }
    service.chain.line("cut: an upload, ");
    service.chain.stopped();
}

#[test]
fn terminal_that_hangs_up_stops_the_service_of_whoever_leads_its_session() {
    let Launched { mut chain, service, terminal } = Launched::start();
    drop(terminal);
    chain.line("SIGHUP from the kernel: stop");
    assert!(service.ends_within(PATIENCE), "{}", chain.log().text());
    let log = chain.stopped();
    assert_eq!(log.count("starts as pid"), 0, "{}", log.text());
}

#[test]
fn terminal_that_hangs_up_before_the_launcher_knows_who_serves_stops_the_service() {
    let Launched { mut chain, service, terminal } = Launched::start();
    chain.owner().signal(Signal::SIGSTOP);
    service.signal(Signal::SIGHUP);
    let line = chain.line("handed over to generation 2 (pid ");
    let next = Process::open(number_after(&line, "(pid ").unwrap());
    // With the hang-up comes a SIGCONT.
    drop(terminal);
    assert!(next.ends_within(PATIENCE), "{}", chain.log().text());
    let log = chain.stopped();
    assert_eq!(log.count("generation 3 starts"), 0, "{}", log.text());
}

#[test]
fn hang_up_that_is_told_twice_cuts_nothing() {
    let Launched { mut chain, service, terminal } = Launched::start();
    chain.ask(&service, "hold an upload");
    drop(terminal);
    chain.line("stops and drains 1 connection");
    // As a shell does that ends.
    service.signal(Signal::SIGHUP);
    chain.line(&format!("SIGHUP from pid {}: this process leaves already", std::process::id()));
    chain.release(&service);
    let log = chain.stopped();
    assert_eq!((log.count("leaves: Stopped"), log.count("cut: ")), (1, 0), "{}", log.text());
}

#[test]
fn keys_reach_a_service_that_reads_nothing_from_the_terminal() {
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let script = "exec \"$0\" \"$@\" < /dev/null";
    let start = Start::new(SERVICE).terminal(slave).env("FLIP_LAUNCHER", "on").through(&["sh", "-c", script]);
    let mut chain = start.spawn();
    let service = Process::open(number_after(&chain.line(" is ready"), "pid ").unwrap());
    assert_ne!(service.pid, chain.owner().pid);
    std::fs::File::from(master.try_clone().unwrap()).write_all(b"\x03").unwrap();
    chain.line("SIGINT from the kernel: stop");
    assert!(service.ends_within(PATIENCE), "{}", chain.log().text());
    chain.stopped();
}

#[test]
fn timer_of_the_launcher_s_rings_for_the_service() {
    let OpenptyResult { master: _terminal, slave } = openpty(None, None).unwrap();
    // It goes on in what is executed, and no child has it (setitimer(2)); it is ignored until somebody listens, and rings again.
    let script = "import os, sys, signal\n\
        signal.signal(signal.SIGALRM, signal.SIG_IGN)\n\
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    let start = Start::new(SERVICE).terminal(slave).env("FLIP_LAUNCHER", "on").env("FLIP_STOP", "SIGALRM");
    let mut chain = start.through(&["python3", "-c", script]).spawn();
    chain.line("SIGALRM from the kernel: stop");
    chain.stopped();
}
