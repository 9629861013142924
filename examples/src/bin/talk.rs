//! A protocol of one's own whose connections move: each line comes back with its number in its conversation, and the pid
//! of the process that answers.
//!
//! Between two lines a connection goes to the new process, with what was read of the next line, what was not sent yet, and its
//! count. Its client sees the pid change, and nothing else.

use std::io;
use std::net::SocketAddr;

use flip::{Connection, Relay, TcpListener};
use tokio::io::AsyncWriteExt;

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// A connection, and how many lines it has had.
type Talk = Connection<u64>;

async fn talk(talks: Relay<Talk>, mut talk: Talk) -> io::Result<()> {
    loop {
        while let Some(line) = talk.take_line() {
            talk.context += 1;
            let line = String::from_utf8_lossy(&line);
            let answer = format!("{}: line {}: {line}\n", std::process::id(), talk.context);
            talk.write_all(answer.as_bytes()).await?;
        }
        if talk.is_ended() {
            return talk.shutdown().await;
        }
        talk = match talks.at_rest(talk).await {
            Ok(Some(talk)) => talk,
            // The new process goes on with it.
            Ok(None) => return Ok(()),
            // The service stops, or a new release has no such relay.
            Err(mut refused) => {
                refused.item.write_all(b"goodbye\n").await?;
                return refused.item.shutdown().await;
            }
        };
    }
}

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] lines: TcpListener, talks: Relay<Talk>) -> io::Result<()> {
    flip_examples::log();
    loop {
        let next = tokio::select! {
            Some(moved) = talks.next() => moved,
            accepted = lines.accept() => match accepted? {
                Some((stream, _)) => Talk::new(stream, 0),
                None => return Ok(()),
            },
        };
        let talks = talks.clone();
        tokio::spawn(async move {
            if let Err(error) = talk(talks, next).await {
                tracing::info!(%error, "connection ended");
            }
        });
    }
}
