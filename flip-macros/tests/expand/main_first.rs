#[flip::main]
async fn main(#[listen("127.0.0.1:8080")] http: TcpListener, visits: Live<Visits>) -> std::io::Result<()> {
    flip::serve(http, router(visits)).await
}

// ---- becomes ----

fn main() -> std::io::Result<()> {
    async fn main(http: TcpListener, visits: Live<Visits>) -> std::io::Result<()> {
        flip::serve(http, router(visits)).await
    }
    ::flip::__private::main_async(
        ::flip::__private::Config::NEW,
        async |__flip: &::flip::Setup| {
            let http: TcpListener = __flip
                .listen::<
                    TcpListener,
                >(
                    "http",
                    async { ::flip::__private::address(&("127.0.0.1:8080")) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            let visits: Live<Visits> = __flip.param::<Live<Visits>>("visits").await?;
            ::core::result::Result::Ok::<_, ::flip::Error>(main(http, visits))
        },
        |__flip_ended: &std::io::Result<()>| {
            use ::flip::__private::NoWords as _;
            ::flip::__private::Ended(__flip_ended).words()
        },
    )
}
