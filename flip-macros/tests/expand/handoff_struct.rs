#[doc(hidden)]
#[allow(
    unused_imports,
    unused_qualifications,
    deprecated,
    non_local_definitions,
    clippy::all
)]
const _: () = {
    use ::flip::__private::{Level0 as _, Level1 as _, Level2 as _, Level3 as _};
    #[automatically_derived]
    impl Visits {
        #[doc(hidden)]
        #[inline]
        fn __flip_field1() -> impl ::flip::__private::Codec<HashMap<String, Page>> {
            (&&&&::flip::__private::Probe::<HashMap<String, Page>>::NEW)
                .__flip_codec(
                    ::flip::__private::Pair(
                        (&&&&::flip::__private::Probe::<String>::NEW)
                            .__flip_codec(::flip::__private::ByNothing),
                        (&&&&::flip::__private::Probe::<Page>::NEW)
                            .__flip_codec(::flip::__private::ByNothing),
                    ),
                )
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field4() -> impl ::flip::__private::Codec<Config> {
            ::flip::__private::BySerde
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field3() -> impl ::flip::__private::Codec<u32> {
            (&&&&::flip::__private::Probe::<u32>::NEW)
                .__flip_codec(::flip::__private::ByNothing)
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field5() -> impl ::flip::__private::Codec<Duration> {
            (&&&&::flip::__private::Probe::<Duration>::NEW)
                .__flip_codec(::flip::__private::ByNothing)
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field0() -> impl ::flip::__private::Codec<u64> {
            (&&&&::flip::__private::Probe::<u64>::NEW)
                .__flip_codec(::flip::__private::ByNothing)
        }
    }
    #[automatically_derived]
    impl ::flip::__private::Handoff for Visits {
        fn schema(
            __schemas: &mut ::flip::__private::Schemas,
        ) -> ::flip::__private::Type {
            __schemas
                .structure::<
                    Self,
                >(
                    "Visits",
                    |__fields| {
                        __fields
                            .field::<
                                HashMap<String, Page>,
                                _,
                            >("by_page", Self::__flip_field1());
                        __fields.field::<Config, _>("config", Self::__flip_field4());
                        __fields
                            .field::<u32, _>("limit", Self::__flip_field3())
                            .or_default();
                        __fields
                            .field::<Duration, _>("timeout", Self::__flip_field5())
                            .alias("wait")
                            .or_default()
                            .from::<u64>();
                        __fields.field::<u64, _>("total", Self::__flip_field0());
                    },
                )
        }
        #[inline]
        fn save<'__flip>(
            &'__flip self,
            __out: &mut ::flip::__private::Saver<'__flip>,
        ) -> ::core::result::Result<(), ::flip::__private::SaveError> {
            let Self {
                by_page: __field0,
                cache: _,
                config: __field2,
                max: __field3,
                timeout: __field4,
                total: __field5,
            } = self;
            __out.enter()?;
            ::flip::__private::save_field::<
                HashMap<String, Page>,
                _,
            >("by_page", Self::__flip_field1(), __field0, __out)?;
            ::flip::__private::save_field::<
                Config,
                _,
            >("config", Self::__flip_field4(), __field2, __out)?;
            ::flip::__private::save_field::<
                u32,
                _,
            >("limit", Self::__flip_field3(), __field3, __out)?;
            ::flip::__private::save_field::<
                Duration,
                _,
            >("timeout", Self::__flip_field5(), __field4, __out)?;
            ::flip::__private::save_field::<
                u64,
                _,
            >("total", Self::__flip_field0(), __field5, __out)?;
            __out.leave();
            ::core::result::Result::Ok(())
        }
        #[inline]
        fn restore(
            __input: &mut ::flip::__private::Restorer<'_>,
        ) -> ::core::result::Result<Self, ::flip::__private::RestoreError> {
            __input.enter()?;
            let __value = Self {
                by_page: ::flip::__private::restore_field::<
                    HashMap<String, Page>,
                    _,
                >("by_page", Self::__flip_field1(), __input)?,
                cache: ::flip::__private::made(|| ::flip::__private::default_of::<
                    Vec<u8>,
                >()),
                config: ::flip::__private::restore_field::<
                    Config,
                    _,
                >("config", Self::__flip_field4(), __input)?,
                max: ::flip::__private::restore_field_or::<
                    u32,
                >(
                    "limit",
                    || -> u32 { 7 },
                    __input,
                    |__input| ::flip::__private::restore_field::<
                        u32,
                        _,
                    >("limit", Self::__flip_field3(), __input),
                )?,
                timeout: ::flip::__private::restore_field_or::<
                    Duration,
                >(
                    "timeout",
                    || ::flip::__private::default_of::<Duration>(),
                    __input,
                    |__input| ::flip::__private::restore_field_from::<
                        Duration,
                        u64,
                    >(
                        "timeout",
                        Duration::from_millis,
                        __input,
                        |__input| ::flip::__private::restore_field::<
                            Duration,
                            _,
                        >("timeout", Self::__flip_field5(), __input),
                    ),
                )?,
                total: ::flip::__private::restore_field::<
                    u64,
                    _,
                >("total", Self::__flip_field0(), __input)?,
            };
            __input.leave();
            ::core::result::Result::Ok(__value)
        }
        fn calls(__calls: &mut ::flip::__private::Calls<Self>) {
            __calls.add::<Hit>();
        }
    }
    #[automatically_derived]
    impl ::flip::__private::Accepts<Hit> for Visits {}
};
