#[flip::main(ready = never)]
#[tokio::main]
pub const async fn main(http: TcpListener, #[lisen("a")] mut n: u64) -> std::io::Result<()> {
    n += 1;
    Ok(())
}

// ---- becomes ----

::core::compile_error! {
    "`ready` is `auto` or `manual`"
}
::core::compile_error! {
    "flip has no `#[lisen]` for a parameter: it knows `#[args]`, `#[with]`, `#[listen]`, `#[live]` and `#[exclusive]`"
}
::core::compile_error! {
    "what flip runs cannot be evaluated by the compiler: remove `const`"
}
::core::compile_error! {
    "flip starts the runtime itself: remove `#[tokio::main]` and give its arguments to flip's attribute"
}
::core::compile_error! {
    "a `TcpListener` needs an address: put `#[listen(\"127.0.0.1:8080\")]` in front of it, with yours"
}
pub fn main() {
    #[allow(dead_code)]
    async fn main(http: TcpListener, mut n: u64) -> std::io::Result<()> {
        n += 1;
        Ok(())
    }
}
