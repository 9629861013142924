use flip::TcpListener;

#[flip::main]
async fn never(#[listen("127.0.0.1:0")] _http: TcpListener) -> ! {
    loop {
        std::future::pending::<()>().await;
    }
}

#[flip::main]
async fn some(#[listen("127.0.0.1:0")] _http: TcpListener) -> impl std::process::Termination {
    Ok::<_, std::io::Error>(())
}

fn main() {
    let _ = (never, some);
}
