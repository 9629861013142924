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
    crate = crate::vendored::flip,
    flavor = "current_thread",
    start_paused = true,
    unhandled_panic = "shutdown_runtime",
    name = "app",
)]
async fn main() -> ExitCode {
    ExitCode::SUCCESS
}

// ---- becomes ----

fn main() -> ExitCode {
    async fn main() -> ExitCode {
        ExitCode::SUCCESS
    }
    crate::vendored::flip::__private::main_async(
        crate::vendored::flip::__private::Config {
            upgrade: "SIGUSR2",
            stop: &["SIGTERM", "SIGQUIT"],
            ready: crate::vendored::flip::__private::Ready::Manual,
            ready_timeout: ::core::time::Duration::from_nanos(300000000000u64),
            freeze_timeout: ::core::time::Duration::from_nanos(1000000000u64),
            quiesce_timeout: ::core::time::Duration::from_nanos(200000000u64),
            drain_timeout: ::core::time::Duration::from_nanos(3600000000000u64),
            generations: 3,
            executable: ::core::option::Option::Some(concat!("/usr/bin/", "app")),
            runtime: crate::vendored::flip::__private::Runtime {
                flavor: crate::vendored::flip::__private::Flavor::CurrentThread,
                start_paused: true,
                unhandled_panic: crate::vendored::flip::__private::UnhandledPanic::ShutdownRuntime,
                name: ::core::option::Option::Some("app"),
                ..crate::vendored::flip::__private::Runtime::NEW
            },
            ..crate::vendored::flip::__private::Config::NEW
        },
        async |__flip: &crate::vendored::flip::Setup| {
            ::core::result::Result::Ok::<_, crate::vendored::flip::Error>(main())
        },
        |__flip_ended: &ExitCode| {
            use crate::vendored::flip::__private::NoWords as _;
            crate::vendored::flip::__private::Ended(__flip_ended).words()
        },
    )
}
