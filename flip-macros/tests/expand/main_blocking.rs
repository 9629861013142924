#[flip::main]
fn main(#[args] args: Cli, #[listen(args.listen)] http: flip::blocking::TcpListener, shutdown: Shutdown) -> Result<(), Error> {
    serve(http, shutdown)
}

// ---- becomes ----

fn main() -> Result<(), Error> {
    fn main(
        #[allow(unused_variables)]
        args: Cli,
        http: flip::blocking::TcpListener,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        serve(http, shutdown)
    }
    ::flip::__private::main_blocking(
        ::flip::__private::Config::NEW,
        async |__flip: &::flip::Setup| {
            let args: Cli = __flip.args::<Cli>().await?;
            let http: flip::blocking::TcpListener = __flip
                .listen::<
                    flip::blocking::TcpListener,
                >(
                    "http",
                    async { ::flip::__private::address(&(args.listen)) },
                    ::flip::ListenOptions::new(),
                )
                .await?;
            let shutdown: Shutdown = __flip.param::<Shutdown>("shutdown").await?;
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(move || main(args, http, shutdown))
        },
        |__flip_ended: &Result<(), Error>| {
            use ::flip::__private::NoWords as _;
            ::flip::__private::Ended(__flip_ended).words()
        },
    )
}
