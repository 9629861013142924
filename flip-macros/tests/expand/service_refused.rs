#[flip::service]
async fn serve(#[given] options: Options, http: TcpListener) -> io::Result<()> {
    Ok(())
}

// ---- becomes ----

::core::compile_error! {
    "a `TcpListener` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours"
}
#[allow(unreachable_code)]
fn serve(options: Options) -> impl ::flip::Service<Output = io::Result<()>> {
    async fn serve(options: Options, http: TcpListener) -> io::Result<()> {
        Ok(())
    }
    ::flip::__private::service_async(
        ::flip::__private::Config::NEW,
        async move |_: &::flip::Setup| {
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(serve(options, ::core::unreachable!()))
        },
        ::flip::__private::wordless,
    )
}
