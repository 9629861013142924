//! Which bounds the implementation needs: only of parameters that a field's type mentions.

use std::collections::HashSet;

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{
    Generics, Ident, Macro, Type, TypePath, WhereClause, parse_quote,
    visit::{self, Visit},
};

use super::{ast::Input, attr::Default_, expand::Paths};

/// The where clause of the implementation: the item's own, and what the fields ask for.
pub fn where_clause(input: &Input<'_>, paths: &Paths) -> Option<WhereClause> {
    let mut generics = input.item.generics.clone();
    // The whole is, as `Handoff` wants it, if its parameters are.
    let params: Vec<_> = generics.type_params().map(|param| param.ident.clone()).collect();
    for param in params {
        generics.make_where_clause().predicates.push(parse_quote!(#param: ::core::marker::Send));
    }
    if let Some(bound) = &input.attrs.bound {
        if !bound.is_empty() {
            generics.make_where_clause().predicates.extend(bound.iter().cloned());
        }
        return generics.where_clause;
    }
    let private = &paths.private;
    let mut seen = HashSet::new();
    for field in input.fields() {
        let mut mentioned = Mentioned::of(&input.item.generics);
        mentioned.visit_type(field.ty);
        let attrs = &field.attrs;
        let mut bounds = Vec::new();
        match (&attrs.skip, &attrs.serde) {
            (Some(_), _) => bounds.push(quote!(::core::marker::Send)),
            (None, Some(_)) => {
                bounds.push(quote!(#private::Serialize + #private::DeserializeOwned + ::core::marker::Send))
            }
            (None, None) => bounds.push(quote!(#private::Handoff)),
        }
        match (&attrs.skip, &attrs.default) {
            (_, Some(Default_::OfType)) | (Some(_), None) => bounds.push(quote!(::core::default::Default)),
            _ => {}
        }
        for ty in &mentioned.types {
            for bound in &bounds {
                if seen.insert(quote!(#ty: #bound).to_string()) {
                    generics.make_where_clause().predicates.push(parse_quote!(#ty: #bound));
                }
            }
        }
    }
    generics.where_clause
}

/// The parameters in a type, and the associated types of parameters (`T::Item`), each as it is written.
struct Mentioned {
    params: Vec<Ident>,
    types: Vec<TokenStream>,
}

impl Mentioned {
    fn of(generics: &Generics) -> Self {
        Self { params: generics.type_params().map(|param| param.ident.clone()).collect(), types: Vec::new() }
    }

    fn is_param(&self, ident: &Ident) -> bool {
        self.params.contains(ident)
    }

    fn idents(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if self.is_param(&ident) => self.types.push(ident.into_token_stream()),
                TokenTree::Group(group) => self.idents(group.stream()),
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Mentioned {
    fn visit_type_path(&mut self, path: &'ast TypePath) {
        let segments = &path.path.segments;
        if segments.last().is_some_and(|last| last.ident == "PhantomData") {
            return;
        }
        if let (None, Some(first)) = (&path.qself, segments.first())
            && path.path.leading_colon.is_none()
            && self.is_param(&first.ident)
        {
            self.types.push(path.to_token_stream());
            return;
        }
        // `<T as Trait>::Item` is what the field is of, not `T`.
        if let Some(qself) = &path.qself
            && let Type::Path(of) = &*qself.ty
            && of.path.get_ident().is_some_and(|ident| self.is_param(ident))
        {
            self.types.push(path.to_token_stream());
            return;
        }
        visit::visit_type_path(self, path);
    }

    fn visit_macro(&mut self, makes_a_type: &'ast Macro) {
        self.idents(makes_a_type.tokens.clone());
    }
}
