#[flip::service]
fn serve(#[listen("a")] http: TcpListener) {}

// ---- becomes ----

fn serve() -> impl ::flip::Service<Output = ()> {
    fn serve(http: TcpListener) {}
    ::flip::__private::service_blocking(
        ::flip::__private::Config::NEW,
        async move |__flip: &::flip::Setup| {
            let http: TcpListener = __flip
                .listen::<
                    TcpListener,
                >(
                    "http",
                    async { ::flip::__private::address(&("a")) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            ::core::result::Result::Ok::<_, ::flip::Error>(move || serve(http))
        },
        ::flip::__private::wordless,
    )
}
