//! A service whose every thread blocks at a gate as soon as somebody connects: `main`'s, and both of the runtime's workers.

use flip::{Live, TcpListener};
use flip_tests::inside::{pass_gate, say};

#[flip::main(worker_threads = 2)]
async fn main(#[listen("127.0.0.1:0")] http: TcpListener, connections: Live<u64>) -> std::io::Result<()> {
    say(&format!("is ready at {}", http.local_addr()?));
    while let Some((_stream, _peer)) = http.accept().await? {
        let count = connections.update(|count| {
            *count += 1;
            *count
        });
        say(&format!("has seen {}", count.unwrap_or_default()));
        for _ in 0..2 {
            tokio::spawn(async { pass_gate("blocked") });
        }
        pass_gate("blocked");
    }
    Ok(())
}
