//! An implementation that never runs, next to the errors.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse_quote;

use super::{
    ast::Input,
    expand::{Paths, accepts},
};

pub fn expand(input: &Input<'_>) -> TokenStream {
    let paths = Paths::of(input.attrs.krate.as_ref());
    let private = &paths.private;
    let ident = &input.item.ident;
    // Where it is not `Send`, that is not said as well: behind a lifetime, what is not so is no error of its own.
    let mut generics = input.item.generics.clone();
    let send = parse_quote!(for<'__flip_send> Self: ::core::marker::Send);
    generics.make_where_clause().predicates.push(send);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let accepts = accepts(input, &paths);
    quote! {
        #[doc(hidden)]
        #[allow(unused_qualifications, deprecated, clippy::all)]
        const _: () = {
            #[automatically_derived]
            impl #impl_generics #private::Handoff for #ident #ty_generics #where_clause {
                fn schema(_: &mut #private::Schemas) -> #private::Type {
                    loop {}
                }

                fn save<'__flip>(
                    &'__flip self,
                    _: &mut #private::Saver<'__flip>,
                ) -> ::core::result::Result<(), #private::SaveError> {
                    loop {}
                }

                fn restore(_: &mut #private::Restorer<'_>) -> ::core::result::Result<Self, #private::RestoreError> {
                    loop {}
                }
            }

            #accepts
        };
    }
}
