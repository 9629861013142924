//! The codec benchmark: what writing and reading a state costs, next to what else could do it, in turns within one run.
//!
//! `cargo bench -p flip-tests --bench codec -- [--rounds N] [--quick] [FILTER…]`
//!
//! Each round gives every contender of a group a turn, beginning with another one each time. A ratio is taken between
//! neighbours in a round, because this machine's times drift more than the contenders differ. Nothing is asserted about
//! times; what is read is compared with what was written. Times are those of the processor, not of the wall, except where
//! several threads read.
//!
//! Freed memory is kept by the allocator, so that after the first rounds nobody's time is that of fresh pages. It lies in
//! large pages where the kernel has some: how small ones are scattered differs from process to process, and takes up to a
//! fifth of a copy's time, now of one contender's and now of another's.
//!
//! What many bytes are measured by is two copies, of what is written to where it waits, and from there to what is read, in
//! pieces of 256 KiB: nothing can go through a stream in less, or all at once. Copies of all at once are there, too: some
//! processors have a faster way for those, past their caches.

mod case;
mod value;

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::case::Group;

struct Options {
    rounds: usize,
    /// By how much less there is of everything.
    scale: usize,
    filters: Vec<String>,
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: codec [--rounds N] [--quick] [FILTER…]");
        return ExitCode::FAILURE;
    };
    in_large_pages();
    // SAFETY: takes two numbers, and no other thread is there yet.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX) };

    println!("{}", header());
    println!("median of {} rounds (least to most); ratios are to the first line of each group\n", options.rounds);
    for (name, make) in case::GROUPS {
        if options.filters.is_empty() || options.filters.iter().any(|filter| name.contains(filter.as_str())) {
            play(name, make(options.scale), options.rounds);
        }
    }
    ExitCode::SUCCESS
}

/// Begins again with an allocator that asks for large pages, which only the environment can tell it (glibc from 2.35 on).
fn in_large_pages() {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    let tunables = match std::env::var(TUNABLES) {
        Ok(tunables) if tunables.contains("hugetlb") => return,
        Ok(tunables) => format!("{tunables}:glibc.malloc.hugetlb=1"),
        Err(_) => "glibc.malloc.hugetlb=1".to_owned(),
    };
    let error = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).env(TUNABLES, tunables).exec();
    eprintln!("pages stay as they are: {error}");
}

fn options() -> Option<Options> {
    let mut options = Options { rounds: 15, scale: 1, filters: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => options.rounds = args.next()?.parse().ok().filter(|&rounds| rounds > 0)?,
            "--quick" => (options.rounds, options.scale) = (3, 100),
            // cargo says it to every benchmark.
            "--bench" => {}
            option if option.starts_with('-') => return None,
            filter => options.filters.push(filter.to_owned()),
        }
    }
    Some(options)
}

fn header() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    format!("{cores} cores ({}), load {load}", model.map_or("?", |(_, model)| model))
}

fn play(name: &str, Group(mut contenders): Group, rounds: usize) {
    let count = contenders.len();
    let mut times = vec![Vec::with_capacity(rounds); count];
    // The first round is for caches and the allocator.
    for round in 0..=rounds {
        for place in 0..count {
            let at = (round + place) % count;
            if std::io::stderr().is_terminal() {
                eprint!("\r\x1b[K{}: round {round} of {rounds}", name);
                let _ = std::io::stderr().flush(); // It is only there to be looked at.
            }
            let taken = (contenders[at].turn)();
            if round > 0 {
                times[at].push(taken.as_secs_f64() * 1e3);
            }
        }
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }

    println!("== {}", name);
    for (contender, own) in contenders.iter().zip(&times) {
        let [least, median, most] = spread(own.clone());
        let [low, ratio, high] = spread(own.iter().zip(&times[0]).map(|(own, first)| own / first).collect());
        let target = contender.target.map_or(String::new(), |target| format!("   at most {target} wanted"));
        println!(
            "{:<44} {median:8.1} ms ({least:.1} to {most:.1})   {ratio:5.2} x ({low:.2} to {high:.2}){target}",
            contender.name
        );
    }
    println!();
}

/// The least, the middle and the most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}
