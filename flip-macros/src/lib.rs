//! The macros of flip. Their documentation lives in the crate `flip`, which re-exports them.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used)]

mod diag;
mod handoff;
mod main_attr;
mod params;
mod provide;

use proc_macro::TokenStream;

#[proc_macro_attribute]
pub fn main(args: TokenStream, item: TokenStream) -> TokenStream {
    main_attr::main(args.into(), item.into()).into()
}

#[proc_macro_attribute]
pub fn service(args: TokenStream, item: TokenStream) -> TokenStream {
    main_attr::service(args.into(), item.into()).into()
}

#[proc_macro_derive(Params, attributes(args, with, listen, live, exclusive, params))]
pub fn derive_params(input: TokenStream) -> TokenStream {
    params::derive(input.into()).into()
}

#[proc_macro_derive(Handoff, attributes(handoff))]
pub fn derive_handoff(input: TokenStream) -> TokenStream {
    handoff::derive(input.into()).into()
}
