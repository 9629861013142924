use flip::{Live, Shutdown};

#[flip::main(ready = manual)]
fn start(
    #[with(std::env::current_dir()?)] directory: std::path::PathBuf,
    visits: Live<u64>,
    shutdown: Shutdown,
) -> Result<(), String> {
    drop((directory, visits, shutdown));
    Err("nothing to do".into())
}

fn main() {
    let _ = start;
}
