//! Where the service `sockets` listens: a file in its directory, which a test may change between two generations.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

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

/// An address that was free a moment ago, and that the kernel gives nobody else soon.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
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
