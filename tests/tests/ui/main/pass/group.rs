use flip::{Exclusive, Live, Params, TcpListener};

#[derive(Params)]
#[params(prefix = "admin")]
struct Admin {
    #[with(String::from("127.0.0.1:0"))]
    address: String,
    /// Where the operators are.
    #[listen(address)]
    http: TcpListener,
    #[exclusive(open = std::io::pipe)]
    pipe: Exclusive<(std::io::PipeReader, std::io::PipeWriter)>,
    seen: Live<u64>,
    #[live(init = "3".parse()?)]
    r#type: Live<u64>,
}

#[flip::main]
async fn start(admin: Admin) {
    drop((admin.address, admin.http, admin.pipe, admin.seen, admin.r#type));
}

fn main() {
    let _ = start;
}
