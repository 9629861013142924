//! A service that a `main` of one's own runs, by an attribute or by a `Builder`, is replaced and stopped as any other, and
//! `main` goes on with what it returned.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::SocketAddr;

use flip_tests::client::ask_line;
use flip_tests::{Chain, Exit, Process, Start};
use nix::sys::signal::Signal;

fn start(command: &str, begin: &str) -> Start {
    Start::new(env!("CARGO_BIN_EXE_commands")).arg(command).arg("hello").arg(begin)
}

fn address_of(service: &Chain) -> SocketAddr {
    service.line(" listens at ").rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn upgrade(service: &mut Chain) -> Result<Process, String> {
    let mark = service.log().mark();
    service.owner().signal(Signal::SIGUSR2);
    service.upgraded(mark)
}

/// Both ways lead to the same.
macro_rules! ways {
    ($($name:ident: $command:literal;)*) => {
        mod replaced_and_stopped {
            $(#[test] fn $name() { super::is_replaced_and_stopped($command) })*
        }
        mod rolled_back {
            $(#[test] fn $name() { super::is_rolled_back($command) })*
        }
        mod without_a_first_content {
            $(#[test] fn $name() { super::does_not_start_without_its_content($command) })*
        }
    };
}

ways! {
    attribute: "attribute";
    builder: "builder";
}

fn is_replaced_and_stopped(command: &str) {
    let mut service = start(command, "7").start();
    let address = address_of(&service);
    for total in 8..=12 {
        let pid = service.owner().pid;
        assert_eq!(ask_line(address, "a line").unwrap(), format!("{pid} hello {total}"));
        let old = upgrade(&mut service).unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
        service.line(&format!("pid {pid} is back in main"));
    }
    assert_eq!(ask_line(address, "a line").unwrap(), format!("{} hello 13", service.owner().pid));
    service.owner().signal(Signal::SIGINT);
    let log = service.stopped();
    assert_eq!(log.count("makes the first content"), 1, "{}", log.text());
    assert_eq!(log.count("is back in main"), 6, "{}", log.text());
}

fn is_rolled_back(command: &str) {
    let mut service = start(command, "7").start();
    let address = address_of(&service);
    service.at_start("panic");
    let report = upgrade(&mut service).unwrap_err();
    assert!(report.contains("the new one panics on purpose"), "{report}");
    service.only(&[service.owner()]);
    assert_eq!(ask_line(address, "a line").unwrap(), format!("{} hello 8", service.owner().pid));
    service.at_start("");
    upgrade(&mut service).unwrap();
    assert_eq!(ask_line(address, "a line").unwrap(), format!("{} hello 9", service.owner().pid));
    service.owner().signal(Signal::SIGINT);
    let log = service.stopped();
    assert_eq!(log.count("makes the first content"), 1, "{}", log.text());
}

/// Its `main` is not reached again either.
fn does_not_start_without_its_content(command: &str) {
    let mut service = start(command, "nothing").spawn();
    assert_eq!(service.exit(service.owner()), Exit::Status(1));
    service.gone();
    let said = service.log().text();
    assert!(said.contains("error: the parameter `count` cannot be made: invalid digit found in string"), "{said}");
    assert!(!said.contains("panicked") && !said.contains("is back in main"), "{said}");
}

// ---- what main returns

/// A line ends the owner, in the second generation.
fn ended_by_a_line(command: &str) -> (Exit, String) {
    let mut service = start(command, "7").start();
    let address = address_of(&service);
    let old = upgrade(&mut service).unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    ask_line(address, "end").unwrap_err();
    let exit = service.exit(service.owner());
    service.gone();
    service.line(&format!("pid {} is back in main", service.owner().pid));
    (exit, service.log().text())
}

#[test]
fn error_is_printed_and_becomes_status_1() {
    let (exit, said) = ended_by_a_line("attribute");
    assert_eq!(exit, Exit::Status(1), "{said}");
    assert_eq!(said.matches("Error: \"a line said so\"").count(), 1, "{said}");
}

#[test]
fn exit_code_becomes_the_status() {
    let (exit, said) = ended_by_a_line("builder");
    assert_eq!(exit, Exit::Status(3), "{said}");
    assert!(!said.contains("Error: "), "{said}");
}

// ---- the attribute's arguments

#[test]
fn threads_have_the_name_that_the_attribute_gives() {
    let service = start("attribute", "7").start();
    let threads = service.owner().threads();
    assert!(threads.iter().any(|name| name == "clerk"), "{threads:?}");
    service.owner().signal(Signal::SIGINT);
    let mut service = service;
    service.stopped();
}

/// What is not flip's does what it always does.
#[test]
fn signals_that_nobody_names_are_not_handled() {
    for command in ["attribute", "builder"] {
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let mut service = start(command, "7").start();
            service.owner().signal(signal);
            assert_eq!(service.exit(service.owner()), Exit::Signal(signal), "{command}");
            service.gone();
        }
    }
}
