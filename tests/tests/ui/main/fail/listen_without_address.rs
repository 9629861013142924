use flip::TcpListener;

#[flip::main]
async fn main(#[listen(backlog = 16)] _http: TcpListener) {}
