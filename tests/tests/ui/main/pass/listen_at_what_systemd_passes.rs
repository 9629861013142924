//! Without an address: what was passed by the parameter's name.

use flip::{TcpListener, UnixListener};

#[flip::main]
async fn start(
    #[listen] _http: TcpListener,
    #[listen()] _admin: Vec<UnixListener>,
    #[listen(backlog = 16)] _checks: Option<TcpListener>,
    #[listen("systemd:metrics")] _metrics: TcpListener,
) {
}

fn main() {
    let _ = start;
}
