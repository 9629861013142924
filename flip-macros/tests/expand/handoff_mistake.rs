::core::compile_error! {
    "a reference points into the old process: own the value, or leave the field out: `#[handoff(skip)]`"
}
#[doc(hidden)]
#[allow(unused_qualifications, deprecated, clippy::all)]
const _: () = {
    #[automatically_derived]
    impl<T> ::flip::__private::Handoff for Visits<T>
    where
        for<'__flip_send> Self: ::core::marker::Send,
    {
        fn schema(_: &mut ::flip::__private::Schemas) -> ::flip::__private::Type {
            loop {}
        }
        fn save<'__flip>(
            &'__flip self,
            _: &mut ::flip::__private::Saver<'__flip>,
        ) -> ::core::result::Result<(), ::flip::__private::SaveError> {
            loop {}
        }
        fn restore(
            _: &mut ::flip::__private::Restorer<'_>,
        ) -> ::core::result::Result<Self, ::flip::__private::RestoreError> {
            loop {}
        }
    }
};
