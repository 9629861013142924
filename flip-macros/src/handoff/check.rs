//! What the derive refuses, in its own words, before rustc would in others.

use std::collections::HashSet;

use quote::ToTokens;
use syn::{
    LitStr, PathArguments, PathSegment, Type, TypePath,
    visit::{self, Visit},
};

use super::ast::{Field, Input, Shape};
use crate::diag::Errors;

pub fn check(input: &Input<'_>, errors: &mut Errors) {
    match &input.shape {
        Shape::Struct(fields) => names(fields, errors),
        Shape::Enum(variants) => {
            let mut taken = HashSet::new();
            for variant in variants {
                if !taken.insert(variant.name()) {
                    errors.push(variant.ident, format!("another variant is called `{}`, too", variant.name()));
                }
            }
            for variant in variants {
                aliases(&variant.attrs.aliases, "variant", &mut taken, errors);
                names(&variant.fields, errors);
            }
        }
        Shape::Union => errors.push(
            &input.item.ident,
            "a union cannot be handed over: nothing says which of its fields is the value; use an enum",
        ),
    }
    for field in input.fields() {
        attributes(field, errors);
        if field.attrs.skip.is_none() {
            Refused { errors }.visit_type(field.ty);
        }
    }
}

fn names(fields: &[Field<'_>], errors: &mut Errors) {
    let mut taken = HashSet::new();
    for field in fields.iter().filter(|field| field.attrs.skip.is_none()) {
        if !taken.insert(field.name()) {
            let message = format!("another field is called `{}`, too", field.name());
            errors.add(syn::Error::new(field.span, message));
        }
    }
    for field in fields.iter().filter(|field| field.attrs.skip.is_none()) {
        aliases(&field.attrs.aliases, "field", &mut taken, errors);
    }
}

/// An earlier name must be nobody's name now, and of one only.
fn aliases(aliases: &[LitStr], what: &str, taken: &mut HashSet<String>, errors: &mut Errors) {
    for alias in aliases {
        if !taken.insert(alias.value()) {
            errors.push(alias, format!("a {what} is called `{}` already", alias.value()));
        }
    }
}

fn attributes(field: &Field<'_>, errors: &mut Errors) {
    let Some(skip) = &field.attrs.skip else { return };
    if field.attrs.serde.is_some() {
        errors.push(skip, "`skip` leaves the field out, `serde` says how it goes; keep one");
    }
    if field.attrs.rename.is_some() || !field.attrs.aliases.is_empty() {
        errors.push(skip, "`skip` leaves the field out, so it has no name to change; keep one");
    }
    if field.attrs.from.is_some() {
        errors.push(skip, "`skip` leaves the field out, so there is nothing to migrate; keep one");
    }
}

/// Finds what can be refused by how it is written.
struct Refused<'e> {
    errors: &'e mut Errors,
}

impl<'ast> Visit<'ast> for Refused<'_> {
    fn visit_type(&mut self, ty: &'ast Type) {
        let (what, instead) = match ty {
            Type::Reference(_) => ("a reference points into the old process", "own the value"),
            Type::Ptr(_) => ("a pointer points into the old process", "own the value"),
            Type::FnPtr(_) => ("a function lies elsewhere in the new process", "use an enum of what it may be"),
            Type::TraitObject(_) | Type::ImplTrait(_) => {
                ("what a `dyn` is made of is not known", "use an enum of what it may be")
            }
            _ => return visit::visit_type(self, ty),
        };
        self.errors.push(ty, format!("{what}: {instead}, or leave the field out: `#[handoff(skip)]`"));
    }

    fn visit_type_path(&mut self, path: &'ast TypePath) {
        if let Some(last) = path.path.segments.last() {
            if last.ident == "PhantomData" {
                return;
            }
            if is_shared(last) {
                let name = &last.ident;
                let message = format!(
                    "`{name}` is changed or shared through a plain reference, so a reader could change it during the \
                     freeze: hold the plain value, or leave the field out: `#[handoff(skip)]`"
                );
                return self.errors.push(last.to_token_stream(), message);
            }
        }
        visit::visit_type_path(self, path);
    }
}

/// Cells, locks, atomics and shared owners, by their names; serde would write most of them.
///
/// A type of the user's own may be called `Cell`, so it must also be written as std's is: with an argument.
fn is_shared(segment: &PathSegment) -> bool {
    const GENERIC: &[&str] = &[
        "Arc",
        "ArcSwap",
        "Cell",
        "DashMap",
        "DashSet",
        "LazyCell",
        "LazyLock",
        "Mutex",
        "OnceCell",
        "OnceLock",
        "Rc",
        "RefCell",
        "RwLock",
        "UnsafeCell",
        "Weak",
    ];
    const PLAIN: &[&str] = &[
        "AtomicBool",
        "AtomicI8",
        "AtomicI16",
        "AtomicI32",
        "AtomicI64",
        "AtomicIsize",
        "AtomicU8",
        "AtomicU16",
        "AtomicU32",
        "AtomicU64",
        "AtomicUsize",
    ];
    let name = segment.ident.to_string();
    match segment.arguments {
        PathArguments::None => PLAIN.contains(&name.as_str()),
        _ => GENERIC.contains(&name.as_str()) || name == "AtomicPtr",
    }
}
