//! `#[derive(Params)]`: a group of parameters, provided as one.

use crate::diag::{Errors, compile_errors, say};
use crate::provide::{self, Site, Source, Wanted, crate_path, default_crate, name, ordered, setup};
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Data, DeriveInput, Fields, LitStr, Path};

/// ```text
/// #[automatically_derived]
/// impl ::flip::Param for App {
///     async fn provide(
///         __flip: &::flip::Setup,
///         _: &::core::primitive::str,
///     ) -> ::core::result::Result<Self, ::flip::Error> {
///         let http: TcpListener = __flip.listen::<TcpListener>("http", …).await?;
///         let visits: Live<Visits> = __flip.param::<Live<Visits>>("visits").await?;
///         ::core::result::Result::Ok(Self { http, visits })
///     }
/// }
/// ```
///
/// The group's own name is not used: its fields are found again by theirs, wherever the group stands.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Errors::new();
    let container = Container::parse(&input.attrs, &mut errors);
    let wanted = wanted(&input, &container, &mut errors);
    check(&wanted, &mut errors);

    let flip = &container.krate;
    let errors = errors.finish();
    let setup = setup(Span::call_site());
    // With mistakes, the group is still one, so that nobody is told that it is not.
    let body = match &errors {
        Some(_) => quote!(::core::unreachable!()),
        None => {
            let statements = ordered(&wanted).map(|wanted| wanted.statement(flip));
            let fields = wanted.iter().map(|wanted| &wanted.variable);
            quote! {
                #(#statements)*
                ::core::result::Result::Ok(Self { #(#fields),* })
            }
        }
    };
    let errors = compile_errors(errors);
    let (ident, generics) = (&input.ident, &input.generics);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    quote! {
        #errors
        #[automatically_derived]
        impl #impl_generics #flip::Param for #ident #ty_generics #where_clause {
            async fn provide(
                #setup: &#flip::Setup,
                _: &::core::primitive::str,
            ) -> ::core::result::Result<Self, #flip::Error> {
                #body
            }
        }
    }
}

/// `#[params(prefix = "admin", crate = path)]`
struct Container {
    krate: Path,
    prefix: Option<String>,
}

impl Container {
    fn parse(attributes: &[Attribute], errors: &mut Errors) -> Self {
        let mut container = Self { krate: default_crate(), prefix: None };
        let mut seen = Vec::new();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("params")) {
            let parsed = attribute.parse_nested_meta(|meta| container.value(meta, &mut seen));
            errors.take(parsed);
        }
        container
    }

    fn value(&mut self, meta: ParseNestedMeta<'_>, seen: &mut Vec<Ident>) -> syn::Result<()> {
        let key = meta.path.require_ident()?;
        if seen.contains(key) {
            return Err(meta.error(say::argument_twice(&key.to_string())));
        }
        seen.push(key.clone());
        match key.to_string().as_str() {
            "prefix" => self.prefix = Some(meta.value()?.parse::<LitStr>()?.value()),
            "crate" => self.krate = crate_path(meta.value()?)?,
            unknown => return Err(meta.error(say::unknown_params_key(unknown))),
        }
        Ok(())
    }
}

fn wanted(input: &DeriveInput, container: &Container, errors: &mut Errors) -> Vec<Wanted> {
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => &fields.named,
            _ => {
                errors.push(&input.ident, say::NOT_A_STRUCT);
                return Vec::new();
            }
        },
        _ => {
            errors.push(&input.ident, say::NOT_A_STRUCT);
            return Vec::new();
        }
    };
    let wanted = fields.iter().filter_map(|field| {
        let variable = field.ident.clone()?;
        let (source, _) = Source::read(field.attrs.clone(), Site::Field, errors);
        let name = match &container.prefix {
            Some(prefix) => format!("{prefix}.{}", name(&variable)),
            None => name(&variable),
        };
        // `#[cfg]` has been decided before a derive sees the field.
        Some(Wanted { variable, name, ty: field.ty.clone(), source, cfgs: Vec::new() })
    });
    wanted.collect()
}

fn check(wanted: &[Wanted], errors: &mut Errors) {
    for wanted in wanted {
        provide::check(wanted, errors);
    }
    let args = wanted.iter().filter_map(|wanted| match wanted.source {
        Source::Args(attribute) => Some(attribute),
        _ => None,
    });
    for attribute in args.skip(1) {
        errors.at(attribute, say::ARGS_TWICE);
    }
}
