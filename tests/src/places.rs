//! Where the service `sockets` listens: a file in its directory, which a test may change between two generations.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::client::{Lost, ask_line};
use crate::{Chain, Mark, Start};

/// Lets the next process listen at these places: a name and an address a line.
pub fn put(dir: &Path, places: &str) {
    std::fs::write(dir.join("places"), places).expect("the test's own directory");
}

/// The service `sockets`, which listens at these places.
pub fn start(executable: &str, places: &str) -> Chain {
    let start = Start::new(executable);
    put(start.dir(), places);
    start.start()
}

/// Where a listener of this name is, as the process says that started after the mark.
pub fn address_of(service: &Chain, after: Mark, name: &str) -> SocketAddr {
    let line = service.line_after(after, &format!(" has {name} at "));
    let (_, address) = line.rsplit_once(' ').expect("it ends with the address");
    address.parse().expect("an address")
}

/// An address that is free, and that the kernel gives nobody else: on a loopback host of its own, for a port that it has
/// given to one test of 127.0.0.1 is the next test's once it is free.
pub fn free_address() -> SocketAddr {
    static HOSTS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, high | 128, low, HOSTS.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((host, 0)).expect("there are free ports");
    listener.local_addr().expect("it is bound")
}

/// Who answers there: the process, and the listener's name.
///
/// # Errors
/// What was lost.
pub fn who_answers(address: SocketAddr) -> Result<(i32, String), Lost> {
    who(&ask_line(address, "who")?)
}

/// Who wrote this answer.
///
/// # Errors
/// It is none.
pub fn who(answer: &str) -> Result<(i32, String), Lost> {
    let mut words = answer.split(' ');
    let pid = words.next().and_then(|pid| pid.parse().ok());
    match (pid, words.next()) {
        (Some(pid), Some(name)) => Ok((pid, name.to_owned())),
        _ => Err(Lost(crate::client::Loss::Wrong, answer.to_owned())),
    }
}
