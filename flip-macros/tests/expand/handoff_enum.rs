#[doc(hidden)]
#[allow(
    unused_imports,
    unused_qualifications,
    deprecated,
    non_local_definitions,
    clippy::all
)]
const _: () = {
    use crate::flip::__private::{Level0 as _, Level1 as _, Level2 as _, Level3 as _};
    #[automatically_derived]
    impl<'a, T: Iterator, const N: usize> Mode<'a, T, N>
    where
        T: ::core::marker::Send,
        T::Item: crate::flip::__private::Handoff,
        T: crate::flip::__private::Handoff,
    {
        #[doc(hidden)]
        #[inline]
        fn __flip_field3() -> impl crate::flip::__private::Codec<PhantomData<T>> {
            (&&&&crate::flip::__private::Probe::<PhantomData<T>>::NEW)
                .__flip_codec(crate::flip::__private::ByNothing)
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field2() -> impl crate::flip::__private::Codec<Option<Box<Self>>> {
            (&&&&crate::flip::__private::Probe::<Option<Box<Self>>>::NEW)
                .__flip_codec(
                    crate::flip::__private::Of(
                        (&&&&crate::flip::__private::Probe::<Box<Self>>::NEW)
                            .__flip_codec(
                                crate::flip::__private::Of(
                                    (&&&&crate::flip::__private::Probe::<Self>::NEW)
                                        .__flip_codec(crate::flip::__private::ByNothing),
                                ),
                            ),
                    ),
                )
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field0() -> impl crate::flip::__private::Codec<T::Item> {
            (&&&&crate::flip::__private::Probe::<T::Item>::NEW)
                .__flip_codec(crate::flip::__private::ByNothing)
        }
        #[doc(hidden)]
        #[inline]
        fn __flip_field1() -> impl crate::flip::__private::Codec<
            [(T, Cow<'a, str>); N],
        > {
            (&&&&crate::flip::__private::Probe::<[(T, Cow<'a, str>); N]>::NEW)
                .__flip_codec(
                    crate::flip::__private::Of(
                        (&&&&crate::flip::__private::Probe::<(T, Cow<'a, str>)>::NEW)
                            .__flip_codec((
                                (&&&&crate::flip::__private::Probe::<T>::NEW)
                                    .__flip_codec(crate::flip::__private::ByNothing),
                                (&&&&crate::flip::__private::Probe::<Cow<'a, str>>::NEW)
                                    .__flip_codec(crate::flip::__private::ByNothing),
                            )),
                    ),
                )
        }
    }
    #[automatically_derived]
    impl<'a, T: Iterator, const N: usize> crate::flip::__private::Handoff
    for Mode<'a, T, N>
    where
        T: ::core::marker::Send,
        T::Item: crate::flip::__private::Handoff,
        T: crate::flip::__private::Handoff,
    {
        fn schema(
            __schemas: &mut crate::flip::__private::Schemas,
        ) -> crate::flip::__private::Type {
            __schemas
                .enumeration::<
                    Self,
                >(
                    "State",
                    |__variants| {
                        __variants.variant("Idle", &[], |__fields| {});
                        __variants
                            .variant(
                                "Named",
                                &[],
                                |__fields| {
                                    __fields
                                        .field::<PhantomData<T>, _>("tag", Self::__flip_field3());
                                    __fields
                                        .field::<
                                            Option<Box<Self>>,
                                            _,
                                        >("type", Self::__flip_field2());
                                },
                            );
                        __variants
                            .variant(
                                "Running",
                                &["Active"],
                                |__fields| {
                                    __fields.field::<T::Item, _>("0", Self::__flip_field0());
                                    __fields
                                        .field::<
                                            [(T, Cow<'a, str>); N],
                                            _,
                                        >("1", Self::__flip_field1());
                                },
                            );
                        __variants.from::<OldMode>();
                    },
                )
        }
        #[inline]
        fn save<'__flip>(
            &'__flip self,
            __out: &mut crate::flip::__private::Saver<'__flip>,
        ) -> ::core::result::Result<(), crate::flip::__private::SaveError> {
            __out.enter()?;
            match self {
                Self::Idle {} => {
                    __out.variant(0u32)?;
                }
                Self::Named { tag: __field0, r#type: __field1 } => {
                    __out.variant(1u32)?;
                    crate::flip::__private::save_field::<
                        PhantomData<T>,
                        _,
                    >("tag", Self::__flip_field3(), __field0, __out)?;
                    crate::flip::__private::save_field::<
                        Option<Box<Self>>,
                        _,
                    >("type", Self::__flip_field2(), __field1, __out)?;
                }
                Self::Busy { 0: __field0, 1: __field1 } => {
                    __out.variant(2u32)?;
                    crate::flip::__private::save_field::<
                        T::Item,
                        _,
                    >("0", Self::__flip_field0(), __field0, __out)?;
                    crate::flip::__private::save_field::<
                        [(T, Cow<'a, str>); N],
                        _,
                    >("1", Self::__flip_field1(), __field1, __out)?;
                }
            }
            __out.leave();
            ::core::result::Result::Ok(())
        }
        #[inline]
        fn restore(
            __input: &mut crate::flip::__private::Restorer<'_>,
        ) -> ::core::result::Result<Self, crate::flip::__private::RestoreError> {
            if let ::core::option::Option::Some(__value) = crate::flip::__private::migrated::<
                Self,
                OldMode,
            >(newer, __input)? {
                return ::core::result::Result::Ok(__value);
            }
            __input.enter()?;
            let __value = match __input.variant()? {
                0u32 => Self::Idle {},
                1u32 => {
                    Self::Named {
                        tag: crate::flip::__private::restore_field::<
                            PhantomData<T>,
                            _,
                        >("tag", Self::__flip_field3(), __input)?,
                        r#type: crate::flip::__private::restore_field::<
                            Option<Box<Self>>,
                            _,
                        >("type", Self::__flip_field2(), __input)?,
                    }
                }
                2u32 => {
                    Self::Busy {
                        0: crate::flip::__private::restore_field::<
                            T::Item,
                            _,
                        >("0", Self::__flip_field0(), __input)?,
                        1: crate::flip::__private::restore_field::<
                            [(T, Cow<'a, str>); N],
                            _,
                        >("1", Self::__flip_field1(), __input)?,
                    }
                }
                __number => {
                    return ::core::result::Result::Err(
                        __input.no_variant::<Self>(__number),
                    );
                }
            };
            __input.leave();
            ::core::result::Result::Ok(__value)
        }
    }
};
