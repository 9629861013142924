//! A service without a runtime: blocking sockets, a thread a connection, and waits on threads of their own.

use std::io::{self, BufRead, BufReader, Write};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use flip::blocking::{TcpListener, TcpStream};
use flip::{Apply, Handle, Handoff, Live, Shutdown};
use flip_tests::inside::{pass_gate, say, start};

#[derive(Default, Handoff)]
#[handoff(calls(Line))]
struct Lines {
    total: u64,
}

#[derive(Handoff)]
struct Line;

impl Apply<Line> for Lines {
    type Answer = u64;
    fn apply(&mut self, _: Line) -> u64 {
        self.total += 1;
        self.total
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What a program without a runtime has for the one future that it needs.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

fn or_why<T: ToString>(result: Result<T, impl ToString>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {}", error.to_string()),
    }
}

#[derive(Clone)]
struct Service {
    lines: Live<Lines>,
    flip: Handle,
    shutdown: Shutdown,
}

impl Service {
    fn reply(&self, line: &str) -> String {
        match line {
            "get" => or_why(self.lines.read(|lines| lines.total)),
            "generation" => self.flip.generation().to_string(),
            "upgrade" => or_why(self.flip.upgrade_blocking().map(|new| format!("{new:?}"))),
            "until it serves" => {
                self.flip.wait_serving();
                "serves".to_owned()
            }
            "until it leaves" => {
                say("waits until it leaves");
                format!("{:?}", self.shutdown.wait())
            }
            _ => or_why(block_on(self.lines.call(Line))),
        }
    }

    fn talk(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line)? > 0 {
            let answer = format!("{} {}\n", std::process::id(), self.reply(line.trim_end()));
            stream.get_mut().write_all(answer.as_bytes())?;
            line.clear();
        }
        Ok(())
    }
}

#[flip::main]
fn main(
    #[listen("127.0.0.1:0")] lines: TcpListener,
    count: Live<Lines>,
    flip: Handle,
    shutdown: Shutdown,
) -> Result<(), flip::BoxError> {
    say(&format!("listens at {}", lines.local_addr()?));
    let serving = flip.clone();
    thread::spawn(move || {
        serving.wait_serving();
        say("runs the job");
    });
    start()?;
    let service = Service { lines: count, flip: flip.clone(), shutdown: shutdown.clone() };
    let acceptor = thread::spawn(move || {
        pass_gate("accept");
        while let Some((stream, _)) = lines.accept()? {
            let service = service.clone();
            thread::spawn(move || service.talk(stream));
        }
        io::Result::Ok(())
    });
    flip.wait_serving();
    say("is ready");
    let why = shutdown.wait();
    acceptor.join().map_err(|_| "the acceptor panicked")??;
    pass_gate("return");
    say(&format!("leaves: {why:?}"));
    Ok(())
}
