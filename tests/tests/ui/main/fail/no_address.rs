use flip::TcpListener;

#[flip::main]
async fn main(#[listen(80)] _http: TcpListener) {}
