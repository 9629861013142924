#[flip::main]
async fn main(#[listen("a")] main: TcpListener, r#type: Live<u64>, _unused: Live<u64>, _: Shutdown, #[with(1)] _: u8) {}

// ---- becomes ----

fn main() {
    async fn main(
        main: TcpListener,
        r#type: Live<u64>,
        _unused: Live<u64>,
        _: Shutdown,
        _: u8,
    ) {}
    ::flip::__private::main_async(
        ::flip::__private::Config::NEW,
        async |__flip: &::flip::Setup| {
            let __flip_function = main;
            let main: TcpListener = __flip
                .listen::<
                    TcpListener,
                >(
                    "main",
                    async { ::flip::__private::address(&("a")) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            let r#type: Live<u64> = __flip.param::<Live<u64>>("type").await?;
            let _unused: Live<u64> = __flip.param::<Live<u64>>("_unused").await?;
            let __flip_3: Shutdown = __flip.param::<Shutdown>("_").await?;
            let __flip_4: u8 = __flip
                .with(
                    "_",
                    async {
                        let __flip_value: u8 = 1;
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(__flip_function(main, r#type, _unused, __flip_3, __flip_4))
        },
        ::flip::__private::wordless,
    )
}
