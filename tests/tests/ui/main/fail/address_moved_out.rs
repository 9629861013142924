use flip::TcpListener;

struct Config {
    http: String,
}

// An address is only looked at, but a value is taken.
#[flip::main]
async fn main(
    #[with(Config { http: "127.0.0.1:0".into() })] _config: Config,
    #[listen(_config.http)] _http: TcpListener,
    #[with(_config.http)] _address: String,
) {
}
