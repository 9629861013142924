//! The annotated function. Its signature is understood; its body is one token tree that nobody looks into, so that what
//! is being typed there stays exactly what the compiler and an editor see.

use crate::diag::{Errors, say};
use crate::provide::{Site, Source, Wanted, generated, name};
use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote};
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, FnArg, Pat, Signature, Token, Visibility};

pub(crate) struct Item {
    pub attributes: Vec<Attribute>,
    pub visibility: Visibility,
    /// Without flip's attributes on the parameters.
    pub signature: Signature,
    /// One for each parameter, in order.
    pub wanted: Vec<Wanted>,
    pub body: TokenTree,
}

impl Item {
    /// `None` if it is not a function, in which case it is best left as it is.
    pub(crate) fn parse(site: Site, tokens: TokenStream, errors: &mut Errors) -> Option<Self> {
        let parts = |input: ParseStream<'_>| parts(site, input);
        let (attributes, visibility, mut signature, body) = errors.take(parts.parse2(tokens))?;
        let body = body.unwrap_or_else(|end| {
            errors.at(end, say::NO_BODY);
            TokenTree::Group(proc_macro2::Group::new(Delimiter::Brace, quote!(loop {})))
        });
        let wanted = signature.inputs.iter_mut().enumerate();
        let wanted: Vec<_> =
            wanted.filter_map(|(index, parameter)| wanted_by(site, index, parameter, errors)).collect();
        allow_unread(&mut signature, &wanted);
        Some(Self { attributes, visibility, signature, wanted, body })
    }

    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some()
    }
}

type Parts = (Vec<Attribute>, Visibility, Signature, Result<TokenTree, Span>);

fn parts(site: Site, input: ParseStream<'_>) -> syn::Result<Parts> {
    let attributes = input.call(Attribute::parse_outer)?;
    let visibility = input.parse()?;
    let starts_function = input.peek(Token![fn])
        || input.peek(Token![async])
        || input.peek(Token![unsafe])
        || input.peek(Token![extern]) && !input.peek2(Token![crate])
        || input.peek(Token![const]) && (input.peek2(Token![fn]) || input.peek2(Token![async]));
    if !starts_function {
        let attribute = if site == Site::Main { "flip::main" } else { "flip::service" };
        return Err(input.error(say::not_a_function(attribute)));
    }
    let signature = input.parse()?;
    let body = match input.parse()? {
        TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => Ok(TokenTree::Group(body)),
        end => Err(end.span()),
    };
    Ok((attributes, visibility, signature, body))
}

fn wanted_by(site: Site, index: usize, parameter: &mut FnArg, errors: &mut Errors) -> Option<Wanted> {
    let parameter = match parameter {
        FnArg::Typed(parameter) => parameter,
        FnArg::Receiver(receiver) => {
            receiver.attrs.clear();
            return None;
        }
    };
    let attributes = std::mem::take(&mut parameter.attrs);
    let (source, kept) = Source::read(attributes, site, errors);
    let cfgs = kept.iter().filter(|attribute| attribute.path().is_ident("cfg")).cloned().collect();
    parameter.attrs = kept;

    let (variable, name) = match &*parameter.pat {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => {
            (pattern.ident.clone(), name(&pattern.ident))
        }
        Pat::Wild(_) => (unnamed(index), "_".into()),
        pattern => {
            errors.push(pattern, say::PATTERN);
            (unnamed(index), "_".into())
        }
    };
    Some(Wanted { variable, name, ty: (*parameter.ty).clone(), source, cfgs })
}

/// A parameter that an attribute reads is used, even where the body has no need of it.
fn allow_unread(signature: &mut Signature, wanted: &[Wanted]) {
    for parameter in &mut signature.inputs {
        let FnArg::Typed(parameter) = parameter else { continue };
        let Pat::Ident(pattern) = &*parameter.pat else { continue };
        if wanted.iter().any(|wanted| wanted.reads(&pattern.ident)) {
            parameter.attrs.push(syn::parse_quote!(#[allow(unused_variables)]));
        }
    }
}

fn unnamed(index: usize) -> Ident {
    format_ident!("__flip_{index}", span = generated(Span::call_site()))
}
