use flip::{Exclusive, Live, Shutdown};

#[flip::main(ready = manual)]
fn start(
    #[with(std::env::current_dir()?)] directory: std::path::PathBuf,
    #[exclusive(open = || std::fs::File::create("lock"), close = |file| file.sync_all())] lock: Exclusive<std::fs::File>,
    visits: Live<u64>,
    shutdown: Shutdown,
) -> Result<(), String> {
    drop((directory, lock.with(|file| file.metadata().is_ok()), visits, shutdown));
    Err("nothing to do".into())
}

fn main() {
    let _ = start;
}
