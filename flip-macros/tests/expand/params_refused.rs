#[derive(flip::Params)]
struct App {
    http: TcpListener,
}

// ---- becomes ----

::core::compile_error! {
    "a `TcpListener` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours"
}
#[automatically_derived]
impl ::flip::Param for App {
    async fn provide(
        __flip: &::flip::Setup,
        _: &::core::primitive::str,
    ) -> ::core::result::Result<Self, ::flip::Error> {
        ::core::unreachable!()
    }
}
