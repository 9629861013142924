#[flip::service(ready = manual)]
fn number(#[given] number: u64, #[with(number + 1)] next: u64) -> u64 {
    number
}

// ---- becomes ----

fn number(__flip_given: u64) -> impl ::flip::Service<Output = u64> {
    fn number(#[allow(unused_variables)] number: u64, next: u64) -> u64 {
        number
    }
    ::flip::__private::service_blocking(
        ::flip::__private::Config {
            ready: ::flip::__private::Ready::Manual,
            ..::flip::__private::Config::NEW
        },
        async move |__flip: &::flip::Setup| {
            let __flip_function = number;
            let number = __flip_given;
            let next: u64 = __flip
                .with(
                    "next",
                    async {
                        let __flip_value: u64 = number + 1;
                        ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
                    },
                )
                .await?;
            ::core::result::Result::Ok::<
                _,
                ::flip::Error,
            >(move || __flip_function(number, next))
        },
        |__flip_ended: &u64| {
            use ::flip::__private::NoWords as _;
            ::flip::__private::Ended(__flip_ended).words()
        },
    )
}
