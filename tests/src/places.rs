//! Where services listen. What `sockets` does is in a file of its directory, which a test may change between two generations.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::client::{Lost, ask_line};
use crate::{Chain, Mark, Process, Start};

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

/// A service that says nowhere where it listens, which is at one address, and that address.
pub fn spawn(start: Start) -> (Chain, SocketAddr) {
    let service = start.spawn();
    let mut addresses = BTreeSet::new();
    service.until("it listens", || {
        if service.owner().has_ended() {
            service.fail("it has ended");
        }
        addresses = listening(service.owner());
        !addresses.is_empty()
    });
    let address = addresses.pop_first().expect("it was waited for");
    (service, address)
}

/// Where a process listens on TCP: it has the sockets, and the kernel says what they are (proc_pid_net(5)).
pub fn listening(process: &Process) -> BTreeSet<SocketAddr> {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{}/fd", process.pid))
        .expect("the process is there")
        .flatten()
        .filter_map(|entry| {
            let target = entry.path().read_link().ok()?;
            Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = String::from_utf8(process.proc("net/tcp")).expect("the kernel writes text");
    let address = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
        let listens = *fields.get(3)? == "0A" && sockets.contains(*fields.get(9)?);
        listens.then(|| SocketAddr::from((ip, u16::from_str_radix(port, 16).expect("the kernel writes numbers"))))
    };
    table.lines().skip(1).filter_map(address).collect()
}
