//! A protocol of one's own over plain TCP: each line comes back with the pid of the process that answers.
//!
//! A connection stays with the process that accepted it. After an upgrade new connections reach the new process while
//! the old one still serves its own, until they are closed or `drain_timeout` has passed.

use std::io;
use std::net::SocketAddr;

use flip::{TcpListener, TcpStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = format!("{}: {}\n", std::process::id(), line.trim_end());
        stream.write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] lines: TcpListener) -> io::Result<()> {
    flip_examples::log();
    // `None`: this process accepts no more, because it handed over or stops.
    while let Some((stream, peer)) = lines.accept().await? {
        tokio::spawn(async move {
            if let Err(error) = echo(stream).await {
                tracing::info!(%peer, %error, "connection ended");
            }
        });
    }
    // The streams that are still open keep the process until they are done: each carries a guard.
    Ok(())
}
