#[flip::main(ready = auto)]
fn main(#[listen("127.0.0.1:0")] _http: std::net::TcpListener) {}
