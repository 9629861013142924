//! Who holds an address that cannot be bound: `/proc/net` names the socket, `/proc/<pid>/fd` who has it (proc(5)).

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::Address;
use super::kind::Kind;

/// A sentence about who has the address, and the remedy. `handed` are the sockets that the old process gives.
pub(super) fn of(
    kind: Kind,
    address: &Address,
    resolved: Option<SocketAddr>,
    predecessor: Option<u32>,
    handed: &[u64],
) -> String {
    let inodes = inodes(kind, address, resolved);
    let (handed, outside): (HashSet<_>, HashSet<_>) = inodes.iter().copied().partition(|inode| handed.contains(inode));
    if let Some(pid) = predecessor
        && let Some(fd) = descriptor(&pid.to_string(), &outside)
    {
        return format!(
            "the old process ({pid}) holds it outside of flip, as its descriptor {fd}; take it by #[listen] there too, so \
             that it can be handed over"
        );
    }
    if !handed.is_empty() {
        return "the old process has a listener that overlaps it, and SO_REUSEPORT lets both be bound only by the same \
                user; stop and start once"
            .to_owned();
    }
    if let Some(fd) = descriptor("self", &outside) {
        return format!(
            "this process itself holds it, as descriptor {fd}; if it is bound outside of flip, take it by #[listen] instead"
        );
    }
    "another process holds it; `ss -lxtunp` tells which".to_owned()
}

/// Whether binding one while another is bound to the other fails, as far as addresses decide that (socket(7)).
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port()
        && match (a, b) {
            // `::` takes IPv4 too, unless IPV6_V6ONLY; taking it so costs nothing where it does not.
            (IpAddr::V6(six), IpAddr::V4(_)) | (IpAddr::V4(_), IpAddr::V6(six)) => six.is_unspecified(),
            _ => a == b || a.is_unspecified() || b.is_unspecified(),
        }
}

fn inodes(kind: Kind, address: &Address, resolved: Option<SocketAddr>) -> HashSet<u64> {
    let mut found = HashSet::new();
    match (kind, resolved) {
        (Kind::Tcp | Kind::Udp, Some(wanted)) => {
            let tables = if kind == Kind::Tcp { ["tcp", "tcp6"] } else { ["udp", "udp6"] };
            for table in tables {
                let Ok(file) = fs::File::open(format!("/proc/net/{table}")) else { continue };
                for line in BufReader::new(file).lines().map_while(Result::ok).skip(1) {
                    let fields: Vec<_> = line.split_whitespace().collect();
                    let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
                    if kind == Kind::Tcp && state != LISTENING {
                        // Those come first, and a busy host has a hundred thousand of the others.
                        break;
                    }
                    if endpoint(local).is_some_and(|local| overlap(local, wanted)) {
                        found.extend(inode.parse::<u64>().ok());
                    }
                }
            }
        }
        _ => {
            let wanted = match address {
                Address::Unix(path) => path.display().to_string(),
                Address::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
                Address::Ip(_) | Address::Host(_) | Address::Systemd(_) => return found,
            };
            for line in read("/proc/net/unix").lines().skip(1) {
                // Num RefCount Protocol Flags Type St Inode Path
                let mut fields = line.split_whitespace().skip(6);
                if let (Some(inode), Some(path)) = (fields.next(), fields.next())
                    && path == wanted
                {
                    found.extend(inode.parse::<u64>().ok());
                }
            }
        }
    }
    found
}

/// TCP_LISTEN as `/proc/net/tcp` writes it.
const LISTENING: &str = "0A";

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// `0100007F:1F90`: words as this machine stores them, the port as people write it.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(n * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn descriptor(pid: &str, inodes: &HashSet<u64>) -> Option<String> {
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().find_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        inodes.contains(&inode).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        if cfg!(target_endian = "little") {
            assert_eq!(endpoint("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
            assert_eq!(endpoint("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        }
        assert_eq!(endpoint("0100007F"), None);
        assert_eq!(endpoint("xyz:1"), None);
    }

    #[test]
    fn what_overlaps() {
        let overlap = |a: &str, b: &str| overlap(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlap("0.0.0.0:1", "127.0.0.1:1"));
        assert!(overlap("[::]:1", "127.0.0.1:1"));
        assert!(overlap("[::ffff:127.0.0.1]:1", "127.0.0.1:1"));
        assert!(overlap("[::1]:1", "[::]:1"));
        assert!(!overlap("0.0.0.0:1", "0.0.0.0:2"));
        assert!(!overlap("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!overlap("0.0.0.0:1", "[::1]:1"));
    }
}
