use flip::TcpListener;

#[flip::main]
async fn main(#[cfg_attr(unix, listen("127.0.0.1:0"))] _http: TcpListener) {}
