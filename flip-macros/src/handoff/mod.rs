//! `#[derive(Handoff)]`.

mod ast;
mod attr;
mod bounds;
mod check;
mod expand;
mod fallback;
#[cfg(test)]
mod tests;

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::diag::Errors;

pub fn derive(input: TokenStream) -> TokenStream {
    let item: DeriveInput = match syn::parse2(input) {
        Ok(item) => item,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Errors::new();
    let input = ast::Input::from_item(&item, &mut errors);
    check::check(&input, &mut errors);
    match errors.finish() {
        None => expand::expand(&input.in_order()),
        Some(error) => {
            // With an implementation, though one that never runs, no error follows from these elsewhere.
            let fallback = fallback::expand(&input);
            let errors = error.into_compile_error();
            quote::quote!(#errors #fallback)
        }
    }
}
