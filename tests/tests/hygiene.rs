//! What the macros write means the same wherever it stands. It is enough that this compiles.
#![allow(dead_code, non_snake_case, unused_macros, unused_qualifications, dropping_copy_types)]

/// The crate has a name of its own, and so has everything of the prelude.
mod shadowed {
    use std as flip;

    struct Result;
    struct Option;
    struct Box;
    struct Setup;
    struct Error;
    fn Ok() {}
    fn Err() {}
    fn Some() {}
    fn None() {}
    mod core {}

    macro_rules! unreachable {
        () => {
            compile_error!("not this one")
        };
    }

    #[::flip::main(drain_timeout = 5m, executable = "/bin/app", flavor = "current_thread")]
    async fn main(
        #[with("127.0.0.1:0")] address: &'static str,
        #[listen(address, backlog = 3)] http: ::flip::TcpListener,
        #[live(init = 3)] visits: ::flip::Live<u64>,
        #[exclusive(open = ::std::io::pipe, close = |_| ::std::io::Result::Ok(()))] pipe: ::flip::Exclusive<(
            ::std::io::PipeReader,
            ::std::io::PipeWriter,
        )>,
        shutdown: ::flip::Shutdown,
    ) {
        drop((address, http, visits, pipe, shutdown));
        let _: flip::string::String = flip::string::String::new();
    }

    #[::flip::service]
    fn service(#[given] number: u64, #[listen("127.0.0.1:0")] http: ::flip::TcpListener) -> u64 {
        drop(http);
        number
    }

    #[derive(::flip::Params)]
    struct Group {
        #[with("127.0.0.1:0")]
        address: &'static ::core::primitive::str,
        #[listen(address)]
        http: ::flip::TcpListener,
    }
}

#[no_implicit_prelude]
mod without_prelude {
    #[::flip::main]
    async fn main(
        #[with("127.0.0.1:0")] address: &'static str,
        #[listen(address)] http: ::flip::TcpListener,
        visits: ::flip::Live<u64>,
    ) {
        ::std::mem::drop((address, http, visits));
    }

    #[::flip::service(ready = manual)]
    async fn service(#[given] number: u64) -> u64 {
        number
    }

    #[derive(::flip::Params)]
    struct Group {
        #[listen("127.0.0.1:0")]
        http: ::flip::TcpListener,
        visits: ::flip::Live<u64>,
    }
}

/// Types that have the names of Rust's own.
mod primitives {
    #![allow(non_camel_case_types)]
    struct str;
    struct u64;

    #[flip::main(drain_timeout = 5m, name = "app")]
    async fn main(group: Group) {
        drop(group);
    }

    #[derive(flip::Params)]
    struct Group {
        #[listen("127.0.0.1:0")]
        http: flip::TcpListener,
    }
}

/// Somebody else brings flip.
mod renamed {
    mod framework {
        pub use ::flip as restart;
    }

    #[framework::restart::main(crate = framework::restart, drain_timeout = 5m)]
    async fn main(#[listen("127.0.0.1:0")] http: framework::restart::TcpListener) {
        drop(http);
    }

    #[framework::restart::service(crate = "framework::restart")]
    async fn service(#[listen("127.0.0.1:0")] http: framework::restart::TcpListener) {
        drop(http);
    }

    #[derive(framework::restart::Params)]
    #[params(crate = framework::restart)]
    struct Group {
        shutdown: framework::restart::Shutdown,
    }
}

/// A macro writes the function, with names of its own and of its caller's.
mod generated {
    macro_rules! service {
        ($function:ident, $http:ident: $ty:ty = $address:expr, $krate:path, $timeout:tt, $body:block) => {
            #[flip::main(crate = $krate, drain_timeout = $timeout)]
            async fn $function(
                #[with($address)] address: String,
                #[listen(address)] $http: $ty,
                #[with(2)] http_of_the_macro: u64,
            ) {
                drop((address, http_of_the_macro));
                $body
            }

            #[derive(flip::Params)]
            struct Group {
                #[with($address)]
                address: String,
                #[listen(address)]
                $http: $ty,
            }
        };
    }

    service!(main, http: flip::TcpListener = "127.0.0.1:0".to_owned(), ::flip, 5m, { drop(http) });
}

/// Nothing that the macros write can be meant by what is written in an attribute, nor the other way round.
mod locals {
    #[flip::main(ready = manual)]
    async fn main(
        #[with(3)] __flip: u64,
        #[with(__flip)] __flip_value: u64,
        #[with(__flip_value)] __flip_0: u64,
        #[with(4)] _: u64,
    ) {
        drop((__flip, __flip_value, __flip_0));
    }

    #[flip::service(ready = manual)]
    async fn __flip_function(#[given] __flip_function: u64) -> u64 {
        __flip_function
    }
}

#[test]
fn compiles() {}
