#[flip::main(ready = manual)]
async fn start(#[listen("127.0.0.1:0")] http: std::net::TcpListener) {
    drop(http);
}

fn main() {
    let _ = start;
}
