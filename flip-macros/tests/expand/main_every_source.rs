#[flip::main]
/// The docs stay.
#[allow(clippy::too_many_arguments)]
pub(crate) async fn main(
    #[with(Config::load(&args.config)?)] config: Config,
    #[args] mut args: Cli,
    #[listen(config.http)] http: flip::TcpListener,
    #[listen(config.admin, backlog = 16, shards = config.shards, keep_accepting = true, options = |socket| socket.set_nodelay(true))]
    admin: Option<flip::TcpListener>,
    #[live(init = load(&config).await?)] rates: Live<Rates>,
    #[live(init = 3)] alias: Counter,
    #[exclusive(open = opener(&config))] store: Exclusive<Database>,
    #[exclusive(open = || Lease::take("app"), close = Lease::give_back)] lease: Held,
    visits: Live<Visits>,
    app: App,
    shutdown: Shutdown,
) {
    // The body is nobody's business.
    drop((config, args));
}

// ---- becomes ----

/// The docs stay.
#[allow(clippy::too_many_arguments)]
pub(crate) fn main() {
    #[allow(clippy::too_many_arguments)]
    async fn main(
        #[allow(unused_variables)]
        config: Config,
        #[allow(unused_variables)]
        mut args: Cli,
        #[allow(unused_variables)]
        http: flip::TcpListener,
        #[allow(unused_variables)]
        admin: Option<flip::TcpListener>,
        rates: Live<Rates>,
        alias: Counter,
        store: Exclusive<Database>,
        lease: Held,
        visits: Live<Visits>,
        app: App,
        shutdown: Shutdown,
    ) {
        drop((config, args));
    }
    ::flip::__private::main_async(
        ::flip::__private::Config::NEW,
        async |__flip: &::flip::Setup| {
            let args: Cli = __flip.args::<Cli>().await?;
            let config: Config = __flip
                .with(
                    "config",
                    async {
                        let __flip_value: Config = Config::load(&args.config)?;
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            let http: flip::TcpListener = __flip
                .listen::<
                    flip::TcpListener,
                >(
                    "http",
                    async { ::flip::__private::address(&(config.http)) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            let admin: Option<flip::TcpListener> = __flip
                .listen::<
                    Option<flip::TcpListener>,
                >(
                    "admin",
                    async { ::flip::__private::address(&(config.admin)) },
                    ::flip::ListenOptions::new()
                        .backlog(16)
                        .shards(config.shards)
                        .keep_accepting(true)
                        .socket(|socket| socket.set_nodelay(true)),
                )
                .await?;
            let rates: Live<Rates> = __flip
                .live_with::<
                    Live<Rates>,
                >(
                    "rates",
                    async {
                        let __flip_value: Rates = load(&config).await?;
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            let alias: Counter = __flip
                .live_with::<
                    Counter,
                >(
                    "alias",
                    async {
                        let __flip_value = 3;
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            let store: Exclusive<Database> = __flip
                .exclusive::<
                    Exclusive<Database>,
                >(
                    "store",
                    async {
                        let __flip_value = ::flip::Opener::<
                            Database,
                        >::new(opener(&config));
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            let lease: Held = __flip
                .exclusive::<
                    Held,
                >(
                    "lease",
                    async {
                        let __flip_value = ::flip::Opener::new(|| Lease::take("app"))
                            .close(Lease::give_back);
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            let visits: Live<Visits> = __flip.param::<Live<Visits>>("visits").await?;
            let app: App = __flip.param::<App>("app").await?;
            let shutdown: Shutdown = __flip.param::<Shutdown>("shutdown").await?;
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(
                main(
                    config,
                    args,
                    http,
                    admin,
                    rates,
                    alias,
                    store,
                    lease,
                    visits,
                    app,
                    shutdown,
                ),
            )
        },
        ::flip::__private::wordless,
    )
}
