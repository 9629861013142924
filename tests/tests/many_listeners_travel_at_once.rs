//! More listeners than the kernel lets one message carry are handed over in one upgrade, and each answers.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::SocketAddr;

use flip_tests::places::{put, start, who_answers};
use flip_tests::{Chain, Exit};

/// The kernel takes 253 with one message, unix(7).
const LISTENERS: usize = 300;

/// Where all of them are, as the owner says.
fn addresses(service: &Chain) -> Vec<SocketAddr> {
    let text = service.log().text();
    let said = format!("pid {} has more", service.owner().pid);
    let lines = text.lines().filter(|line| line.starts_with(&said));
    let addresses: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert_eq!(addresses.len(), LISTENERS, "{text}");
    addresses
}

#[test]
fn three_hundred_listeners_are_handed_over() {
    let mut service = start(env!("CARGO_BIN_EXE_sockets"), &"more 127.0.0.1:0\n".repeat(LISTENERS));
    let first = addresses(&service);
    let descriptors = service.owner().descriptor_kinds();
    for _ in 0..2 {
        let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(service.exit(&old), Exit::Status(0));
        assert_eq!(addresses(&service), first);
        for (index, address) in first.iter().enumerate() {
            assert_eq!(who_answers(*address).unwrap(), (service.owner().pid, format!("more{index}")));
        }
        service.until("it has as many descriptors", || service.owner().descriptor_kinds() == descriptors);
    }
    // What is not asked for any more is closed, also of so many.
    put(service.dir(), &format!("more {}\n", first[LISTENERS - 1]));
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(who_answers(first[LISTENERS - 1]).unwrap(), (service.owner().pid, "more0".to_owned()));
    let fewer = descriptors["socket"] - (LISTENERS - 1);
    service.until("the others are closed", || service.owner().descriptor_kinds()["socket"] == fewer);
    service.stop();
}
