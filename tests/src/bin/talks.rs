//! Conversations by lines that move: each line comes back with its number in its conversation and the pid that answers.
//!
//! `read N` is answered with the next N bytes, which are waited for in the middle of it; `big N` is answered with so many bytes, as far as they are taken while nobody reads.

use std::io;
use std::time::Duration;

use flip::{Connection, Relay, TcpListener};
use flip_tests::inside::{pass_gate, say, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Talks = Relay<Connection<u64>>;

async fn answer(talk: &mut Connection<u64>, line: &str) -> io::Result<()> {
    talk.context += 1;
    if let Some(length) = line.strip_prefix("read ").and_then(|length| length.parse().ok()) {
        let mut bytes = vec![0; length];
        say("is amid a message");
        talk.read_exact(&mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes);
        return talk.write_all(format!("{} {} {text}\n", talk.context, std::process::id()).as_bytes()).await;
    }
    match line.strip_prefix("big ").and_then(|size| size.parse().ok()) {
        None => talk.write_all(format!("{} {} {line}\n", talk.context, std::process::id()).as_bytes()).await,
        Some(size) => {
            let (mut sent, piece) = (0, [b'x'; 8 * 1024]);
            // The peer does not read: what is taken beyond its socket waits here.
            while sent < size
                && let Ok(written) = tokio::time::timeout(Duration::ZERO, talk.write(&piece)).await
            {
                sent += written?;
            }
            say(&format!("took {sent} bytes"));
            Ok(())
        }
    }
}

async fn talk(talks: Talks, mut talk: Connection<u64>) -> io::Result<()> {
    loop {
        while let Some(line) = talk.take_line() {
            answer(&mut talk, &String::from_utf8_lossy(&line)).await?;
        }
        if talk.is_ended() {
            return talk.shutdown().await;
        }
        talk = match talks.at_rest(talk).await {
            Ok(Some(talk)) => talk,
            Ok(None) => return Ok(()),
            Err(mut refused) => {
                refused.item.write_all(format!("goodbye: {}\n", refused.why).as_bytes()).await?;
                return refused.item.shutdown().await;
            }
        };
    }
}

#[flip::main]
async fn main(#[listen("127.0.0.1:0")] lines: TcpListener, talks: Talks) -> Result<(), flip::BoxError> {
    say(&format!("listens at {}", lines.local_addr()?));
    start()?;
    let (relay, taken) = (talks.clone(), talks);
    let moved = tokio::spawn(async move {
        tokio::task::spawn_blocking(|| pass_gate("take")).await?;
        say("takes what is passed");
        while let Some(moved) = taken.next().await {
            tokio::spawn(talk(taken.clone(), moved));
        }
        Ok::<_, flip::BoxError>(())
    });
    say("is ready");
    while let Some((stream, _)) = lines.accept().await? {
        tokio::spawn(talk(relay.clone(), Connection::new(stream, 0)));
    }
    moved.await?
}
