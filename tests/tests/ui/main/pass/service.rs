use flip::TcpListener;

struct Options {
    http: String,
}

/// A subcommand, with what its command line said.
#[flip::service(drain_timeout = 5m)]
async fn serve(#[given] mut options: Options, #[listen(options.http)] http: TcpListener) -> std::io::Result<String> {
    drop(http);
    Ok(std::mem::take(&mut options.http))
}

#[flip::service(ready = manual)]
fn work(#[given] name: &str, #[given] _: u8) -> usize {
    name.len()
}

fn start() -> std::io::Result<()> {
    let _: String = flip::run(serve(Options { http: "127.0.0.1:0".into() }))?;
    let _: usize = flip::run(work(&String::from("worker"), 3));
    Ok(())
}

fn main() {
    let _ = start;
}
