#[flip::main]
async fn main(
    #[listen("[::]:80")] http: TcpListener,
    #[cfg(feature = "tls")]
    #[listen("[::]:443")]
    #[allow(unused_variables)]
    https: TcpListener,
) {
}

// ---- becomes ----

fn main() {
    async fn main(
        http: TcpListener,
        #[cfg(feature = "tls")]
        #[allow(unused_variables)]
        https: TcpListener,
    ) {}
    ::flip::__private::main_async(
        ::flip::__private::Config::NEW,
        async |__flip: &::flip::Setup| {
            let http: TcpListener = __flip
                .listen::<
                    TcpListener,
                >(
                    "http",
                    async { ::flip::__private::address(&("[::]:80")) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            #[cfg(feature = "tls")]
            let https: TcpListener = __flip
                .listen::<
                    TcpListener,
                >(
                    "https",
                    async { ::flip::__private::address(&("[::]:443")) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(main(http, #[cfg(feature = "tls")] https))
        },
        ::flip::__private::wordless,
    )
}
