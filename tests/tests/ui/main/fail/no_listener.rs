use flip::{Live, Shutdown};

#[flip::main]
async fn main(_visits: Live<u64>, _shutdown: Shutdown) {}
