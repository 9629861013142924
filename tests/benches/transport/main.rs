//! The transport benchmark: how long a gigabyte takes from one thread to another, way by way, into memory that the kernel
//! has yet to give and into memory that it gave before.
//!
//! `cargo bench -p flip-tests --bench transport -- [--rounds N] [--mb N]`
//!
//! Each round goes all the ways, beginning with another one each time. Nothing is asserted about times.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use flip_tests::copy::{Way, copy, touched, untouched};

fn main() -> ExitCode {
    let Some((rounds, megabytes)) = options() else {
        eprintln!("usage: transport [--rounds N] [--mb N]");
        return ExitCode::FAILURE;
    };
    match run(rounds, megabytes << 20) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transport benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Option<(usize, usize)> {
    let (mut rounds, mut megabytes) = (9, 1024);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number = match arg.as_str() {
            "--rounds" => &mut rounds,
            "--mb" => &mut megabytes,
            // cargo says it to every benchmark.
            "--bench" => continue,
            _ => return None,
        };
        *number = args.next()?.parse().ok().filter(|&number| number > 0)?;
    }
    Some((rounds, megabytes))
}

fn run(rounds: usize, bytes: usize) -> io::Result<()> {
    let (from, mut ready) = (touched(bytes), touched(bytes));
    let mut taken: BTreeMap<(usize, bool), Vec<f64>> = BTreeMap::new();
    let turns: Vec<_> = (0..Way::ALL.len()).flat_map(|way| [(way, false), (way, true)]).collect();
    for round in 0..rounds {
        for place in 0..turns.len() {
            let (way, before) = turns[(round + place) % turns.len()];
            let time = if before {
                copy(Way::ALL[way], &from, &mut ready)?
            } else {
                copy(Way::ALL[way], &from, &mut untouched(bytes))?
            };
            taken.entry((way, before)).or_default().push(time.as_secs_f64() * 1e3);
        }
    }
    println!("{} MiB in pieces of 16 MiB, median of {rounds} rounds (least to most), ms\n", bytes >> 20);
    println!("{:<40}{:>24}{:>24}", "", "memory of the moment", "memory touched before");
    for (at, way) in Way::ALL.iter().enumerate() {
        let cell = |before| {
            let mut times = taken[&(at, before)].clone();
            times.sort_by(f64::total_cmp);
            format!("{:.0} ({:.0} to {:.0})", times[times.len() / 2], times[0], times[times.len() - 1])
        };
        println!("{:<40}{:>24}{:>24}", way.name(), cell(false), cell(true));
    }
    Ok(())
}
