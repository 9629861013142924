//! A program with a `main` of its own, whose subcommands are services: one of an attribute, one of a `Builder`. Both
//! greet whoever sends a line, count it, and end when a line says so: with an error, or with a status.

use std::num::ParseIntError;
use std::process::ExitCode;

use flip::{BoxError, Handle, Live, Params, TcpListener};
use flip_tests::inside::{say, start};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[derive(Params)]
struct Desk {
    #[listen("127.0.0.1:0")]
    lines: TcpListener,
    flip: Handle,
}

/// What the count begins with.
async fn first(text: &str) -> Result<u64, ParseIntError> {
    tokio::task::yield_now().await;
    say("makes the first content");
    text.parse()
}

/// Whether a line said that this is the end.
async fn greet(greeting: &str, desk: Desk, count: Live<u64>) -> Result<bool, BoxError> {
    say(&format!("listens at {}", desk.lines.local_addr()?));
    start()?;
    let ready = desk.flip.clone();
    tokio::spawn(async move {
        ready.serving().await;
        say("is ready");
    });
    while let Some((stream, _)) = desk.lines.accept().await? {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line == "end\n" {
            return Ok(true);
        }
        let total = count.update(|count| {
            *count += 1;
            *count
        })?;
        stream.write_all(format!("{} {greeting} {total}\n", std::process::id()).as_bytes()).await?;
    }
    Ok(false)
}

#[flip::service(upgrade = SIGUSR2, stop = [SIGINT], name = "clerk", worker_threads = 1)]
async fn attribute(
    #[given] greeting: &str,
    #[given] begin: String,
    desk: Desk,
    #[live(init = first(&begin).await?)] count: Live<u64>,
) -> Result<(), BoxError> {
    if greet(greeting, desk, count).await? { Err("a line said so".into()) } else { Ok(()) }
}

fn builder(greeting: &str, begin: &str) -> ExitCode {
    let program = flip::Builder::new().upgrade("SIGUSR2").stop(&["SIGINT"]);
    program.run(async |setup: &flip::Setup| {
        let desk: Desk = setup.param("desk").await?;
        let count = setup.live_with("count", async { Ok(first(begin).await?) }).await?;
        Ok(async move {
            match greet(greeting, desk, count).await {
                Ok(true) => ExitCode::from(3),
                Ok(false) => ExitCode::SUCCESS,
                Err(error) => {
                    say(&format!("fails: {error}"));
                    ExitCode::FAILURE
                }
            }
        })
    })
}

fn main() -> Result<ExitCode, BoxError> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [command, greeting, begin] = &words[..] else { return Err("usage: COMMAND GREETING BEGIN".into()) };
    let ended = match &**command {
        "attribute" => flip::run(attribute(greeting, begin.clone())).map(|()| ExitCode::SUCCESS),
        "builder" => Ok(builder(greeting, begin)),
        other => Err(format!("nobody knows the command {other}").into()),
    };
    say("is back in main");
    ended
}
