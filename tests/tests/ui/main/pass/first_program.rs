// Compiled, never called: a passing case is run, and a service would go on.
use flip::{Live, TcpListener};

#[flip::main]
async fn start(#[listen("127.0.0.1:8080")] http: TcpListener, visits: Live<u64>) -> std::io::Result<()> {
    drop((http, visits));
    Ok(())
}

fn main() {
    let _ = start;
}
