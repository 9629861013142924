//! A service all of whose threads can be made to stand at a gate: the two of the runtime, and that of `main`.

use std::sync::Arc;

use flip::{Handle, Handoff, Live, Shutdown, TcpListener};
use flip_tests::inside::{answer, pass_gate, say};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

#[derive(Default, Handoff)]
struct Count {
    total: u64,
}

#[flip::main(worker_threads = 2)]
async fn main(
    #[listen("127.0.0.1:0")] tcp: TcpListener,
    count: Live<Count>,
    flip: Handle,
    mut shutdown: Shutdown,
) -> std::io::Result<()> {
    say(&format!("listens at {}", tcp.local_addr()?));
    tokio::spawn(async move {
        while let Some((mut stream, _)) = tcp.accept().await? {
            tokio::spawn(async move { stream.write_all(format!("{}\n", std::process::id()).as_bytes()).await });
        }
        std::io::Result::Ok(())
    });
    let block = Arc::new(Notify::new());
    let (asked, inside) = (Arc::clone(&block), count.clone());
    answer(move |question| {
        let (count, block) = (inside.clone(), Arc::clone(&asked));
        async move {
            let added = |count: &mut Count| {
                count.total += 1;
                count.total.to_string()
            };
            match &*question {
                "get" => count.read(|count| count.total.to_string()),
                "add" => count.update(added),
                "block" => {
                    block.notify_one();
                    Ok("soon".to_owned())
                }
                "block inside" => count.update(|count| {
                    pass_gate("inside");
                    added(count)
                }),
                other => Ok(format!("error: {other}?")),
            }
            .unwrap_or_else(|error| format!("error: {error}"))
        }
    });
    flip.serving().await;
    say("is ready");
    loop {
        tokio::select! {
            _ = &mut shutdown => return Ok(()),
            () = block.notified() => {
                for _ in 0..2 {
                    tokio::spawn(async { pass_gate("block") });
                }
                pass_gate("block");
            }
        }
    }
}
