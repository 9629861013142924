//! A service that has its listener as root and then goes on as nobody.

use flip::TcpListener;
use flip_tests::inside::say;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::io::AsyncWriteExt;

const NOBODY: u32 = 65534;

#[flip::main(worker_threads = 2)]
async fn main(#[listen("127.0.0.1:0")] http: TcpListener) -> Result<(), flip::BoxError> {
    if Uid::effective().is_root() {
        setgroups(&[])?;
        setgid(Gid::from_raw(NOBODY))?;
        setuid(Uid::from_raw(NOBODY))?;
    }
    say(&format!("has tcp at {}", http.local_addr()?));
    say("is ready");
    while let Some((mut stream, _)) = http.accept().await? {
        stream.write_all(format!("{} as {}\n", std::process::id(), Uid::effective()).as_bytes()).await?;
    }
    Ok(())
}
