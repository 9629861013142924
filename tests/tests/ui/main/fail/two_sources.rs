use flip::TcpListener;

#[flip::main]
async fn main(
    #[listen("127.0.0.1:0")]
    #[with(3)]
    _http: TcpListener,
) {
}
