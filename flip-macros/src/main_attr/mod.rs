//! `#[flip::main]` and `#[flip::service]`.
//!
//! Neither knows what a restart is. They turn parameters into calls, and the configuration into a constant; what both
//! mean is decided by the crate `flip`.

mod args;
mod check;
mod expand;
mod item;
#[cfg(test)]
mod tests;

use crate::diag::{Errors, compile_errors};
use crate::provide::Site;
use args::Args;
use item::Item;
use proc_macro2::TokenStream;
use quote::quote;

pub(crate) fn main(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(Site::Main, args, item)
}

pub(crate) fn service(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(Site::Service, args, item)
}

fn attribute(site: Site, args: TokenStream, tokens: TokenStream) -> TokenStream {
    let mut errors = Errors::new();
    let args = Args::parse(args, &mut errors);
    let Some(item) = Item::parse(site, tokens.clone(), &mut errors) else {
        let errors = compile_errors(errors.finish());
        return quote!(#errors #tokens);
    };
    check::check(&args, &item, &mut errors);
    match (errors.finish(), site) {
        (None, Site::Service) => expand::service(&args, &item),
        (None, _) => expand::main(&args, &item),
        (errors, Site::Service) => expand::refused_service(compile_errors(errors), &args, &item),
        (errors, _) => expand::refused_main(compile_errors(errors), &item),
    }
}
