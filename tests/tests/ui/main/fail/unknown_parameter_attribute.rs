use flip::TcpListener;

#[flip::main]
async fn main(#[lisen("127.0.0.1:0")] _http: TcpListener) {}
