use flip::TcpListener;

#[flip::main]
async fn main(_http: Option<TcpListener>) {}
