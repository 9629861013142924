#[derive(flip::Params)]
#[params(prefix = "admin")]
pub struct Admin<T> where T: Default {
    #[with(Config::load()?)]
    config: Config,
    /// Who may ask.
    #[listen(config.http)]
    pub http: TcpListener,
    r#type: Live<T>,
    #[serde(skip)]
    inner: Inner,
}

// ---- becomes ----

#[automatically_derived]
impl<T> ::flip::Param for Admin<T>
where
    T: Default,
{
    async fn provide(
        __flip: &::flip::Setup,
        _: &::core::primitive::str,
    ) -> ::core::result::Result<Self, ::flip::Error> {
        let config: Config = __flip
            .with(
                "admin.config",
                async {
                    let __flip_value: Config = Config::load()?;
                    ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                },
            )
            .await?;
        let http: TcpListener = __flip
            .listen::<
                TcpListener,
            >(
                "admin.http",
                async { ::flip::__private::address(&(config.http)) },
                ::flip::ListenOptions::new(),
            )
            .await?;
        let r#type: Live<T> = __flip.param::<Live<T>>("admin.type").await?;
        let inner: Inner = __flip.param::<Inner>("admin.inner").await?;
        ::core::result::Result::Ok(Self {
            config,
            http,
            r#type,
            inner,
        })
    }
}
