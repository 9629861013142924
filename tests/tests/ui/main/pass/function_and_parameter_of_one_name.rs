use flip::TcpListener;

#[flip::service]
async fn http(#[listen("127.0.0.1:0")] http: TcpListener) {
    drop(http);
}

#[flip::service(ready = manual)]
fn number(#[given] number: u64) -> u64 {
    number
}

fn main() {
    let _ = (http, number);
}
