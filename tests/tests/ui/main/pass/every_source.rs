use flip::{Exclusive, Handle, Live, Shutdown, TcpListener};
use std::cell::Cell;
use std::fs::File;
use std::net::SocketAddr;

struct Config {
    http: SocketAddr,
    admin: Option<String>,
    more: Vec<String>,
    backlog: u32,
}

impl Config {
    fn load(_path: &str) -> std::io::Result<Self> {
        let http = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self { http, admin: None, more: Vec::new(), backlog: 16 })
    }
}

async fn first(config: &Config) -> Result<u64, std::num::ParseIntError> {
    config.backlog.to_string().parse()
}

fn opener(path: String) -> impl FnMut() -> std::io::Result<File> + Send + 'static {
    move || File::create(&path)
}

/// Documented.
#[flip::main]
#[allow(clippy::too_many_arguments)]
pub async fn start(
    #[with(Config::load("app.toml")?)] config: Config,
    #[with(async { "awaited" }.await)] awaited: &'static str,
    #[with(Box::new(3))] coerced: Box<dyn std::fmt::Debug>,
    #[listen(config.http)] mut http: TcpListener,
    #[listen(config.admin, backlog = config.backlog)] admin: Option<TcpListener>,
    #[listen(config.more)] more: Vec<TcpListener>,
    #[listen(SocketAddr::new(config.http.ip(), 81))] next: TcpListener,
    #[live(init = first(&config).await?)] awaited_content: Live<u64>,
    #[live(init = "3".parse()?)] fallible_content: Live<u64>,
    #[live(init = 3)] plain_content: Live<u64>,
    #[exclusive(open = opener(config.admin.clone().ok_or("no path")?))] opened: Exclusive<File>,
    #[exclusive(open = { let more = config.more.clone(); move || more[0].parse::<u64>() })] number: Exclusive<u64>,
    #[exclusive(open = || Ok::<_, String>(Cell::new(3)), close = |cell| match cell.get() {
        3 => Ok(()),
        other => Err(format!("{other}")),
    })]
    for_one_thread: Exclusive<Cell<u8>>,
    r#type: Live<u64>,
    _unused: Live<u64>,
    _: Shutdown,
    handle: Handle,
) {
    http = http;
    drop((config, awaited, coerced, http, admin, more, next, handle));
    drop((awaited_content, fallible_content, plain_content, opened, number, for_one_thread, r#type));
}

fn main() {
    let _ = start;
}
