//! No service and not flip: it does on its channel what the test tells it, line by line.
//!
//! `send HEX N` sends a packet with N descriptors of no use, `hear` waits for one,
//! `await` too and leaves it unread, `take N` reads so many bytes of the content, `shut` closes the channel, `exit N`
//! ends. Each is answered with a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use flip_tests::PATIENCE;
use flip_tests::peer::Peer;

fn main() {
    let variable = std::env::var("FLIP_CHANNEL").expect("the old process gives it");
    let number: RawFd = variable.split(':').nth(1).expect("it has three parts").parse().expect("a number");
    // SAFETY: the old process has opened it for this one, and nothing else here knows the number.
    let mut channel = Some(Peer(unsafe { OwnedFd::from_raw_fd(number) }));
    let stream = UnixStream::connect("stranger.tell").expect("the test listens");
    let mut kept = vec![];
    let null = File::open("/dev/null").expect("it is everywhere");
    let mut answers = stream.try_clone().expect("a descriptor");
    for line in BufReader::new(stream).lines() {
        let line = line.expect("the test writes text");
        let words: Vec<_> = line.split(' ').collect();
        let open = || channel.as_ref().expect("it is not shut yet");
        let answer = match words[..] {
            ["send", hex, count] => {
                let bytes: Vec<_> = (0..hex.len() / 2)
                    .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("two digits a byte"))
                    .collect();
                let descriptors = vec![null.as_raw_fd(); count.parse().expect("a number")];
                format!("{:?}", open().send(&bytes, &descriptors))
            }
            ["hear"] => match open().hear(PATIENCE).expect("the old process says something") {
                Some(message) => {
                    let answer = format!("{} {}", message.descriptors.len(), message.value);
                    kept.extend(message.descriptors);
                    answer
                }
                None => "the end".to_owned(),
            },
            ["await"] => {
                open().wait(PATIENCE).expect("the old process says something");
                "there".to_owned()
            }
            // It is the third that comes with an offer.
            ["take", count] => {
                let fd: &OwnedFd = kept.get(2).expect("an offer was heard");
                let mut bytes = vec![0; count.parse().expect("a number")];
                let mut content = File::from(fd.try_clone().expect("a descriptor"));
                format!("{}", content.read(&mut bytes).expect("it can be read"))
            }
            ["shut"] => {
                channel = None;
                "shut".to_owned()
            }
            // SAFETY: ends the process.
            ["exit", status] => unsafe { libc::_exit(status.parse().expect("a number")) },
            _ => panic!("{line}?"),
        };
        answers.write_all(format!("{answer}\n").as_bytes()).expect("the test listens");
    }
}
