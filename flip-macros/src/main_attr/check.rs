//! What can be said about a function before its types are known.

use super::args::{Args, Ready};
use super::item::Item;
use crate::diag::{Errors, say};
use crate::provide::{self, Source, Wanted, has_no_listener, is_bare, is_kept, text, ungrouped};
use proc_macro2::Span;
use syn::visit::{self, Visit};
use syn::{FnArg, Pat, Safety, Type};

pub(crate) fn check(args: &Args, item: &Item, errors: &mut Errors) {
    signature(item, errors);
    other_runtimes(item, errors);
    parameters(item, errors);
    readiness(args, item, errors);
    if !item.is_async() {
        for key in &args.tokio_keys {
            errors.at(key.span(), say::tokio_only(&key.to_string()));
        }
    }
}

fn signature(item: &Item, errors: &mut Errors) {
    let signature = &item.signature;
    if let Some(constness) = &signature.constness {
        errors.push(constness, say::CONST);
    }
    if let Safety::Unsafe(unsafety) = &signature.safety {
        errors.push(unsafety, say::UNSAFE);
    }
    if let Some(abi) = &signature.abi {
        errors.push(abi, say::ABI);
    }
    if !signature.generics.params.is_empty() {
        errors.push(&signature.generics, say::GENERIC);
    }
    if let Some(clause) = &signature.generics.where_clause {
        errors.push(clause, say::WHERE);
    }
    if let Some(variadic) = &signature.variadic {
        errors.push(variadic, say::VARIADIC);
    }
    for parameter in &signature.inputs {
        if let FnArg::Receiver(receiver) = parameter {
            errors.push(receiver, say::RECEIVER);
        }
    }
}

/// Another crate's `main` would start a second runtime around flip's.
fn other_runtimes(item: &Item, errors: &mut Errors) {
    for attribute in item.attributes.iter().filter(|attribute| is_other_runtime(attribute)) {
        errors.push(attribute.path(), say::other_runtime(&text(attribute.path())));
    }
}

pub(crate) fn is_other_runtime(attribute: &syn::Attribute) -> bool {
    let segments = &attribute.path().segments;
    segments.len() > 1 && segments.last().is_some_and(|last| last.ident == "main")
}

fn parameters(item: &Item, errors: &mut Errors) {
    let mut parsed_by = None::<&Wanted>;
    for (wanted, parameter) in provided(item) {
        if let Source::Mistaken | Source::Given = wanted.source {
            continue;
        }
        provide::check(wanted, errors);
        if let Type::Reference(reference) = ungrouped(&wanted.ty)
            && reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident != "static")
        {
            errors.push(reference, say::BORROWED);
        }
        if let Some(impl_token) = impl_trait(&wanted.ty) {
            errors.at(impl_token, say::IMPL_TRAIT);
        }
        if let Pat::Wild(underscore) = parameter {
            match &wanted.source {
                Source::Listen(_) => errors.push(underscore, say::nameless("a listener")),
                Source::Live(_) => errors.push(underscore, say::nameless("live state")),
                Source::Exclusive(_) => errors.push(underscore, say::nameless("an exclusive")),
                Source::Type if is_kept(&wanted.ty) => errors.push(underscore, say::nameless("what is kept")),
                _ => {}
            }
        }
        if let Source::Args(attribute) = wanted.source {
            // Two of them under opposite `#[cfg]`s are one.
            if parsed_by.is_some_and(|first| first.cfgs.is_empty() || wanted.cfgs.is_empty()) {
                errors.at(attribute, say::ARGS_TWICE);
            }
            parsed_by = parsed_by.or(Some(wanted));
        }
    }
}

/// Each parameter with the pattern that was written for it.
fn provided(item: &Item) -> impl Iterator<Item = (&Wanted, &Pat)> {
    let patterns = item.signature.inputs.iter().filter_map(|parameter| match parameter {
        FnArg::Typed(parameter) => Some(&*parameter.pat),
        FnArg::Receiver(_) => None,
    });
    item.wanted.iter().zip(patterns)
}

/// Readiness is told by the listeners, so without one it has to be said. Only what is certain is an error: a type that
/// is not known here may be a group that brings listeners.
fn readiness(args: &Args, item: &Item, errors: &mut Errors) {
    if let Some((Ready::Manual, _)) = args.ready {
        return;
    }
    let may_listen = item.wanted.iter().any(|wanted| match &wanted.source {
        Source::Listen(_) => !is_bare(&wanted.ty),
        Source::Type => !has_no_listener(&wanted.ty),
        Source::Mistaken => true,
        Source::Args(_) | Source::With(_) | Source::Live(_) | Source::Exclusive(_) | Source::Given => false,
    });
    if !may_listen {
        let at = args.ready.map_or_else(Span::call_site, |(_, span)| span);
        errors.at(at, say::NOTHING_TO_BE_READY_BY);
    }
}

/// The first `impl Trait` in a type.
pub(super) fn impl_trait(ty: &Type) -> Option<Span> {
    let mut found = ImplTrait(None);
    found.visit_type(ty);
    found.0
}

struct ImplTrait(Option<Span>);

impl<'a> Visit<'a> for ImplTrait {
    fn visit_type_impl_trait(&mut self, ty: &'a syn::TypeImplTrait) {
        self.0.get_or_insert(ty.impl_token.span);
        visit::visit_type_impl_trait(self, ty);
    }
}
