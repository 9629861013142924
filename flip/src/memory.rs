//! Memory: what there is, and whether a second copy of this process fits into it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// How much there is, and who says so.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    bytes: u64,
    by: String,
}

/// How many bytes can be had: as the kernel says (`MemAvailable`, proc(5)), and as the control groups of this process leave it
/// (`memory.max`, cgroups(7)), where what they keep of files counts as free.
pub(crate) fn left() -> u64 {
    least(&read("/proc/meminfo").unwrap_or_default()).map_or(0, |left| left.bytes)
}

fn least(meminfo: &str) -> Option<Left> {
    let root = Path::new("/sys/fs/cgroup");
    let has_groups = statfs(root).is_ok_and(|system| system.filesystem_type() == CGROUP2_SUPER_MAGIC);
    // Of version 1 no limit is known, and where its groups are many, so are the lines.
    let cgroup = has_groups.then(|| read("/proc/self/cgroup").unwrap_or_default());
    least_of(meminfo, cgroup.as_deref(), root)
}

/// What the kernel says in a file. It does not say its length before, with which [`std::fs::read_to_string`] would read it at once.
fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(4096);
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn least_of(meminfo: &str, cgroup: Option<&str>, root: &Path) -> Option<Left> {
    let machine = field(meminfo, "MemAvailable:").map(|kilobytes| Left {
        bytes: kilobytes.saturating_mul(1024),
        by: "MemAvailable of /proc/meminfo".to_owned(),
    });
    let group =
        cgroup.map(|text| root.join(text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default()));
    let groups = group.iter().flat_map(|group| group.ancestors()).take_while(|group| group.starts_with(root));
    groups.filter_map(left_by).chain(machine).min_by_key(|left| left.bytes)
}

/// What a control group leaves; nothing where it has no limit, and says `max`.
fn left_by(group: &Path) -> Option<Left> {
    let number = |file| read(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let (most, current) = (number("memory.max")?, number("memory.current")?);
    let stat = read(group.join("memory.stat")).unwrap_or_default();
    let files = ["inactive_file", "active_file"].iter().filter_map(|name| field(&stat, name)).sum();
    let bytes = most.saturating_sub(current.saturating_sub(files));
    Some(Left { bytes, by: format!("memory.max of {}", group.display()) })
}

/// A number behind its name, one to a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What is this process's alone, and a second one would need as well. What it maps of a region is shared.
fn own() -> Option<u64> {
    let status = read("/proc/self/status").ok()?;
    let kilobytes = field(&status, "RssAnon:")?.saturating_add(field(&status, "VmSwap:").unwrap_or(0));
    Some(kilobytes.saturating_mul(1024))
}

/// The most that it can be, where nothing is swapped out: all that this process ever had in memory. That takes less to know.
fn own_at_most() -> Option<u64> {
    let kilobytes = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
    u64::try_from(kilobytes).ok()?.checked_mul(1024)
}

/// Why a second process of this one's size should not be started: the kernel would end one of the two.
///
/// Where nobody says how much there is, nothing is refused.
pub(crate) fn refusal() -> Option<String> {
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let left = least(&meminfo)?;
    let is_swapped = field(&meminfo, "SwapTotal:") != field(&meminfo, "SwapFree:");
    if !is_swapped && own_at_most().is_some_and(|own| own <= left.bytes) {
        return None;
    }
    let own = own()?;
    (own > left.bytes).then(|| {
        format!(
            "this process has {} of memory, a second one would need as much, and {} are left ({}); give the service room for two, \
             or set FLIP_MEMORY=ignore where a new process is smaller",
            mebibytes(own),
            mebibytes(left.bytes),
            left.by
        )
    })
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & ((1 << 20) - 1)) * 10) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_what_the_machine_and_each_group_leave_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a/b");
        std::fs::create_dir_all(&group).unwrap();
        let write = |group: &Path, name: &str, text: &str| std::fs::write(group.join(name), text).unwrap();
        let meminfo = "MemTotal: 9000 kB\nMemAvailable:    1000 kB\n";
        let left = || least_of(meminfo, Some("1:cpu:/\n0::/a/b\n"), root.path()).unwrap();
        assert_eq!(left(), Left { bytes: 1_024_000, by: "MemAvailable of /proc/meminfo".to_owned() });
        write(&group, "memory.max", "max\n");
        write(&group, "memory.current", "500\n");
        assert_eq!(left().bytes, 1_024_000);
        // The outer one, less what it keeps of files.
        let outer = root.path().join("a");
        write(&outer, "memory.max", "10000\n");
        write(&outer, "memory.current", "9500\n");
        assert_eq!(left(), Left { bytes: 500, by: format!("memory.max of {}", outer.display()) });
        write(&outer, "memory.stat", "anon 9000\nactive_file 100\ninactive_file 200\n");
        assert_eq!(left().bytes, 800);
        write(&group, "memory.max", "600\n");
        assert_eq!(left(), Left { bytes: 100, by: format!("memory.max of {}", group.display()) });
        assert_eq!(least_of("", Some(""), Path::new("/nowhere")), None);
    }

    #[test]
    fn this_process_has_a_size_and_the_machine_some_left() {
        let some = std::hint::black_box(vec![1u8; 8 << 20]);
        let own = own().unwrap();
        assert!(own >= some.len() as u64);
        if field(&read("/proc/self/status").unwrap(), "VmSwap:") == Some(0) {
            assert!(own_at_most().unwrap() >= own);
        }
        assert!(left() > 0);
        assert_eq!(mebibytes((3 << 20) + (1 << 19)), "3.5 MiB");
    }
}
