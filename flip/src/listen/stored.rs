//! The names of listeners in a service manager's store of descriptors (systemd.service(5), `FileDescriptorStoreMax=`). A name has all
//! that the next process needs to know them again, where there is no process left that could say it.
//!
//! ```text
//! flip.http.0.0.tcp.127%2E0%2E0%2E1%3A8080            name, place in a Vec, shard, kind, address as it is configured
//! flip.admin.0.0.unix.unix%3A%2Frun%2Fa.29-5f1c       and of a path the inode that was the socket's
//! ```

use std::path::Path;

use super::address::Address;
use super::kind::Kind;
use super::named::Offered;
use super::path::PathInode;

/// What all of flip's names begin with.
pub(super) const OURS: &str = "flip.";
/// sd_pid_notify_with_fds(3), `FDNAME=`.
const LONGEST: usize = 255;

const KINDS: [(Kind, &str); 5] = [
    (Kind::Tcp, "tcp"),
    (Kind::Udp, "udp"),
    (Kind::Unix, "unix"),
    (Kind::Seqpacket, "seqpacket"),
    (Kind::UnixDatagram, "datagram"),
];

/// The name of a listener's socket; none where it would be too long.
pub(super) fn name(offered: &Offered) -> Option<String> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == offered.kind)?.1;
    let Offered { name, index, shard, address, path, .. } = offered;
    let mut text = format!("{OURS}{}.{index}.{shard}.{kind}.{}", escaped(name), escaped(address));
    if let Some(path) = path {
        let (device, inode) = path.identity();
        text.push_str(&format!(".{device:x}-{inode:x}"));
    }
    (text.len() <= LONGEST).then_some(text)
}

/// What [`name`] wrote.
pub(super) fn parse(text: &str) -> Option<Offered> {
    let mut fields = text.strip_prefix(OURS)?.split('.');
    let mut next = || fields.next();
    let (name, index, shard) = (plain(next()?)?, next()?.parse().ok()?, next()?.parse().ok()?);
    let kind = next()?;
    let kind = KINDS.iter().find(|(_, text)| *text == kind)?.0;
    let address = plain(next()?)?;
    let inode = next();
    let path = match (address.parse().ok()?, inode) {
        (Address::Unix(path), Some(inode)) => {
            let (device, inode) = inode.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some(PathInode::known(Path::new(&path), number(device)?, number(inode)?)?)
        }
        (Address::Unix(_), None) | (_, Some(_)) => return None,
        (_, None) => None,
    };
    fields.next().is_none().then_some(())?;
    Some(Offered { name, index, shard, kind, address, bound: None, path, blocking: false, overlap_allowed: false })
}

/// Neither a colon nor what cannot be printed is allowed; a dot is between the fields.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn plain(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(name: &str, kind: Kind, address: &str, path: Option<PathInode>) -> Offered {
        let (name, address) = (name.to_owned(), address.to_owned());
        Offered { name, index: 3, shard: 1, kind, address, bound: None, path, blocking: false, overlap_allowed: false }
    }

    #[test]
    fn a_listener_is_known_again_by_its_name() {
        let path = PathInode::known(Path::new("/run/a.sock"), 0x29, 0x5f1c);
        for (one, text) in [
            (offered("http", Kind::Tcp, "[::1]:80", None), Some("flip.http.3.1.tcp.%5B%3A%3A1%5D%3A80")),
            (offered("a.b:c%ä", Kind::Udp, "localhost:1", None), None),
            (offered("r", Kind::Seqpacket, "@abstract", None), None),
            (
                offered("admin", Kind::Unix, "unix:/run/a.sock", path.clone()),
                Some("flip.admin.3.1.unix.unix%3A%2Frun%2Fa%2Esock.29-5f1c"),
            ),
            (offered("d", Kind::UnixDatagram, "unix:/run/a.sock", path), None),
        ] {
            let written = name(&one).unwrap();
            assert!(text.is_none_or(|text| text == written), "{written}");
            assert!(written.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{written}");
            assert_eq!(parse(&written), Some(one));
        }
        assert_eq!(name(&offered(&"n".repeat(250), Kind::Tcp, "[::1]:80", None)), None);
    }

    #[test]
    fn what_is_no_name_of_flip_s_is_none() {
        for text in [
            "",
            "stored",
            "flip.",
            "flip.a.0.0.tcp",
            "flip.a.0.0.pipe.x%3A1",
            "flip.a.-1.0.tcp.x%3A1",
            "flip.a.0.0.tcp.x",
            "flip.a.0.0.tcp.x%3A1.0-0",
            "flip.a.0.0.tcp.x%3",
            "flip.a.0.0.tcp.%zz",
            "flip.a.0.0.tcp.%FF%3A1",
            "flip.a.0.0.tcp.x%ä1",
            "flip.a.0.0.unix.unix%3A%2Fa",
            "flip.a.0.0.unix.unix%3A%2Fa.12",
            "flip.a.0.0.unix.unix%3A%2Fa.1-2.3",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
