#[flip::main(
    upgrade = SIGUSR2,
    stop = [SIGTERM, "SIGQUIT"],
    ready = manual,
    ready_timeout = 5m,
    freeze_timeout = "1s",
    quiesce_timeout = 200ms,
    drain_timeout = 1h,
    generations = 3,
    executable = concat!("/usr/bin/", "app"),
    pid_file = "app.pid",
    launcher = off,
    crate = ::flip,
    flavor = "multi_thread",
    worker_threads = 2,
    name = "app",
)]
async fn start() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}

fn main() {
    let _ = start;
}
