#[flip::service(drain_timeout = 5m)]
/// Runs the server.
pub async fn serve(#[given] mut options: Options, #[listen(options.http)] http: TcpListener, #[given] _: &str) -> io::Result<()> {
    Ok(())
}

// ---- becomes ----

/// Runs the server.
pub fn serve(
    options: Options,
    __flip_2: &str,
) -> impl ::flip::Service<Output = io::Result<()>> {
    async fn serve(
        #[allow(unused_variables)]
        mut options: Options,
        #[allow(unused_variables)]
        http: TcpListener,
        _: &str,
    ) -> io::Result<()> {
        Ok(())
    }
    ::flip::__private::service_async(
        ::flip::__private::Config {
            drain_timeout: ::core::time::Duration::from_nanos(300000000000u64),
            ..::flip::__private::Config::NEW
        },
        async move |__flip: &::flip::Setup| {
            let http: TcpListener = __flip
                .listen::<
                    TcpListener,
                >(
                    "http",
                    async { ::flip::__private::address(&(options.http)) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(serve(options, http, __flip_2))
        },
        |__flip_ended: &io::Result<()>| {
            use ::flip::__private::NoWords as _;
            ::flip::__private::Ended(__flip_ended).words()
        },
    )
}
