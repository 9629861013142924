use flip::TcpListener;

#[flip::main]
async fn start(
    #[cfg(unix)]
    #[listen("127.0.0.1:0")]
    http: TcpListener,
    #[cfg(windows)]
    #[listen(this.is.not.looked.at)]
    http: NoSuchType,
) {
    drop(http);
}

fn main() {
    let _ = start;
}
