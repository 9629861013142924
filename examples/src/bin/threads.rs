//! Without an async runtime: blocking sockets, and a thread for each connection.
//!
//! Built with `--no-default-features` it compiles no tokio at all. It answers each line with the number of lines
//! so far, which outlives the process.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::thread;

use flip::blocking::{TcpListener, TcpStream};
use flip::{Handoff, Live};

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[derive(Default, Handoff)]
struct Lines {
    total: u64,
}

fn answer(stream: TcpStream, lines: &Live<Lines>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        let total = lines.update(|lines| {
            lines.total += 1;
            lines.total
        });
        let (pid, line_read) = (std::process::id(), line.trim_end());
        let answer = match total {
            Ok(total) => format!("{pid}: line {total}: {line_read}\n"),
            // The new process counts from now on: the client had better connect to it.
            Err(handed_off) => return writeln!(stream.get_mut(), "{pid}: {handed_off}"),
        };
        stream.get_mut().write_all(answer.as_bytes())?;
        line.clear();
    }
    Ok(())
}

#[flip::main]
fn main(#[args] args: Cli, #[listen(args.listen)] listener: TcpListener, lines: Live<Lines>) -> io::Result<()> {
    flip_examples::log();
    // `None`: this process accepts no more, because it handed over or stops.
    while let Some((stream, peer)) = listener.accept()? {
        let lines = lines.clone();
        thread::spawn(move || {
            if let Err(error) = answer(stream, &lines) {
                tracing::info!(%peer, %error, "connection ended");
            }
        });
    }
    // The streams that are still open keep the process until they are done: each carries a guard.
    Ok(())
}
