//! The least that a restart without a refused connection can be: spawn, inherit the listener, one byte through a pipe.
//!
//! No state, no checks, no deadline, no roll-back. It shows what the operating system and the runtime cost, and is what
//! the others' times are compared with.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use flip_tests::contender::{self, ADDRESS, GENERATION, LISTENER, Visits};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The write end of the pipe that the old process waits on.
const READY: &str = "BENCH_READY";

#[tokio::main]
async fn main() -> io::Result<()> {
    let generation = contender::number(GENERATION).unwrap_or(1);
    let listener = match inherited(LISTENER)? {
        Some(fd) => {
            let listener = std::net::TcpListener::from(fd);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        }
        None => TcpListener::bind(std::env::var(ADDRESS).expect("the driver gives an address")).await?,
    };
    let hand_over = listener.as_fd().try_clone_to_owned()?;
    let hangup = signal(SignalKind::hangup())?;

    let app = contender::routes(generation)
        .route("/", get(|State(visits): State<Arc<Visits>>| async move { contender::answer(visits.add()) }))
        .with_state(Arc::new(Visits::default()));
    let server = tokio::spawn(
        axum::serve(listener, app).with_graceful_shutdown(succeeded(hangup, hand_over, generation)).into_future(),
    );
    if let Some(ready) = inherited(READY)? {
        nix::unistd::write(&ready, b"!")?;
    }
    server.await.expect("the server does not panic")
}

/// Resolves when a successor serves.
async fn succeeded(mut hangup: Signal, listener: OwnedFd, generation: u64) {
    loop {
        hangup.recv().await;
        match succeed(&listener, generation).await {
            Ok(()) => return,
            Err(error) => eprintln!("no successor: {error}"),
        }
    }
}

async fn succeed(listener: &OwnedFd, generation: u64) -> io::Result<()> {
    let (mut receiver, sender) = {
        let (receiver, sender) = io::pipe()?;
        (pipe::Receiver::from_owned_fd(receiver.into())?, OwnedFd::from(sender))
    };
    {
        // Inheritable copies, closed again right after the spawn. Whatever another thread spawned meanwhile would inherit
        // them too; nothing here does, and clearing the flag in the child would need pre_exec, which makes std fork.
        let (listener, ready) = (inheritable(listener)?, inheritable(&sender)?);
        let mut arguments = std::env::args_os();
        Command::new(arguments.next().expect("a program has a name"))
            .args(arguments)
            .env(LISTENER, listener.as_raw_fd().to_string())
            .env(READY, ready.as_raw_fd().to_string())
            .env(GENERATION, (generation + 1).to_string())
            .spawn()?;
    }
    drop(sender);
    receiver.read_u8().await.map(drop)
}

fn inheritable(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD(3))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn inherited(variable: &str) -> io::Result<Option<OwnedFd>> {
    let Some(number) = contender::number(variable) else { return Ok(None) };
    // SAFETY: the predecessor left this descriptor open for us alone, and each variable is asked for once.
    let fd = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(Some(fd))
}
