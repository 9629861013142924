//! A service of which no thread may execute anything: each that the program has set itself a filter of system calls, seccomp(2), or, where
//! the file `all` is there, one for all threads of the process.

use std::sync::{Arc, Barrier};

use flip::{Handoff, Live, TcpListener};
use flip_tests::inside::say;
use nix::errno::Errno;
use tokio::io::AsyncWriteExt;

const WORKERS: usize = 2;

#[derive(Default, Handoff)]
struct Visits {
    total: u64,
}

/// Whoever calls execve(2) or execveat(2) hears EPERM.
fn forbid_execution(flags: libc::c_ulong) -> Result<(), Errno> {
    let [load, equal, answer] =
        [libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET];
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the call comes first in what a filter sees.
        step(load, 0, 0, 0),
        step(equal, 1, 0, libc::SYS_execve as u32),
        step(equal, 0, 1, libc::SYS_execveat as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the program and its steps are there until it returns.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    Errno::result(set).map(drop)
}

/// On every worker: each waits there for the other.
async fn forbid_workers() -> Result<(), flip::BoxError> {
    let barrier = Arc::new(Barrier::new(WORKERS));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait();
                forbid_execution(0)
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

#[flip::main(worker_threads = 2)]
async fn main(#[listen("127.0.0.1:0")] http: TcpListener, visits: Live<Visits>) -> Result<(), flip::BoxError> {
    if std::path::Path::new("all").exists() {
        forbid_execution(libc::SECCOMP_FILTER_FLAG_TSYNC)?;
    } else {
        forbid_workers().await?;
        forbid_execution(0)?;
    }
    say(&format!("has tcp at {}", http.local_addr()?));
    say("is ready");
    while let Some((mut stream, _)) = http.accept().await? {
        let total = visits.update(|visits| {
            visits.total += 1;
            visits.total
        })?;
        tokio::spawn(async move {
            let executed = match std::process::Command::new("true").status() {
                Ok(_) => "may execute".to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            };
            stream.write_all(format!("{} {total} {executed}\n", std::process::id()).as_bytes()).await
        });
    }
    Ok(())
}
