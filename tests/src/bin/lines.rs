//! Each line comes back with the pid of the process that answers.

use std::io;

use flip::{TcpListener, TcpStream};
use flip_tests::inside::{say, start};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

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
async fn main(#[listen("127.0.0.1:0")] lines: TcpListener) -> Result<(), flip::BoxError> {
    say(&format!("listens at {}", lines.local_addr()?));
    start()?;
    say("is ready");
    while let Some((stream, _)) = lines.accept().await? {
        tokio::spawn(echo(stream));
    }
    Ok(())
}
