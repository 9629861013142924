//! The implementation: facts about each field, and one call a field.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{GenericArgument, Ident, Path, PathArguments, Type};

use super::{
    ast::{Field, Input, Shape, Variant},
    attr::{Default_, From_},
    bounds,
};

/// Where the expansion finds flip.
pub struct Paths {
    pub private: TokenStream,
}

impl Paths {
    pub fn of(krate: Option<&Path>) -> Self {
        let krate = krate.map_or_else(|| quote!(::flip), ToTokens::to_token_stream);
        Self { private: quote!(#krate::__private) }
    }
}

/// For `struct Visits { total: u64 }`:
///
/// ```text
/// const _: () = {
///     use ::flip::__private::{Level0 as _, Level1 as _, Level2 as _, Level3 as _};
///     impl Visits {
///         fn __flip_field0() -> impl Codec<u64> {
///             (&&&&Probe::<u64>::NEW).__flip_codec(ByNothing)
///         }
///     }
///     #[automatically_derived]
///     impl ::flip::__private::Handoff for Visits {
///         fn schema(__schemas: &mut Schemas) -> Type {
///             __schemas.structure::<Self>("Visits", |__fields| {
///                 __fields.field::<u64, _>("total", Self::__flip_field0());
///             })
///         }
///         fn save<'a>(&'a self, __out: &mut Saver<'a>) -> Result<(), SaveError> {
///             let Self { total: __field0 } = self;
///             __out.enter()?;
///             save_field::<u64, _>("total", Self::__flip_field0(), __field0, __out)?;
///             __out.leave();
///             Ok(())
///         }
///         fn restore(__input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
///             __input.enter()?;
///             let __value = Self { total: restore_field::<u64, _>("total", Self::__flip_field0(), __input)? };
///             __input.leave();
///             Ok(__value)
///         }
///     }
/// };
/// ```
///
/// The codec of a field stands in a function of its own: there its type is looked for once, and where it has none, the
/// error comes once, because who calls the function knows no more than that it gives a codec.
pub fn expand(input: &Input<'_>) -> TokenStream {
    let paths = Paths::of(input.attrs.krate.as_ref());
    let private = &paths.private;
    let ident = &input.item.ident;
    let (impl_generics, ty_generics, _) = input.item.generics.split_for_impl();
    let where_clause = bounds::where_clause(input, &paths);

    let name = input.name();
    let (schema, save, restore) = match &input.shape {
        Shape::Struct(fields) => of_struct(&name, input.attrs.from.as_ref(), fields, &paths),
        Shape::Enum(variants) => of_enum(&name, input.attrs.from.as_ref(), variants, &paths),
        Shape::Union => return TokenStream::new(),
    };
    let codecs = input.fields().filter(|field| field.attrs.skip.is_none()).map(|field| codec_of(field, &paths));
    let calls = calls(input, &paths);
    let accepts = accepts(input, &paths);

    quote! {
        #[doc(hidden)]
        #[allow(unused_imports, unused_qualifications, deprecated, non_local_definitions, clippy::all)]
        const _: () = {
            use #private::{Level0 as _, Level1 as _, Level2 as _, Level3 as _};

            #[automatically_derived]
            impl #impl_generics #ident #ty_generics #where_clause {
                #(#codecs)*
            }

            #[automatically_derived]
            impl #impl_generics #private::Handoff for #ident #ty_generics #where_clause {
                fn schema(__schemas: &mut #private::Schemas) -> #private::Type {
                    #schema
                }

                #[inline]
                fn save<'__flip>(
                    &'__flip self,
                    __out: &mut #private::Saver<'__flip>,
                ) -> ::core::result::Result<(), #private::SaveError> {
                    #save
                }

                #[inline]
                fn restore(
                    __input: &mut #private::Restorer<'_>,
                ) -> ::core::result::Result<Self, #private::RestoreError> {
                    #restore
                }

                #calls
            }

            #accepts
        };
    }
}

type Parts = (TokenStream, TokenStream, TokenStream);

fn of_struct(name: &str, from: Option<&From_>, fields: &[Field<'_>], paths: &Paths) -> Parts {
    let described = describe(fields);
    let pattern = pattern(fields);
    let saved = save(fields, paths);
    let restored = restore(fields, paths);
    let (from, migrated) = migration(from, "__fields", paths);
    let schema = quote! {
        __schemas.structure::<Self>(#name, |__fields| { #described #from })
    };
    let save = quote! {
        let Self { #pattern } = self;
        __out.enter()?;
        #saved
        __out.leave();
        ::core::result::Result::Ok(())
    };
    let restore = quote! {
        #migrated
        __input.enter()?;
        let __value = Self { #restored };
        __input.leave();
        ::core::result::Result::Ok(__value)
    };
    (schema, save, restore)
}

fn of_enum(name: &str, from: Option<&From_>, variants: &[Variant<'_>], paths: &Paths) -> Parts {
    let described = variants.iter().map(|variant| {
        let (name, aliases, fields) = (variant.name(), &variant.attrs.aliases, describe(&variant.fields));
        quote!(__variants.variant(#name, &[#(#aliases),*], |__fields| { #fields });)
    });
    let (from, migrated) = migration(from, "__variants", paths);
    let schema = quote! {
        __schemas.enumeration::<Self>(#name, |__variants| { #(#described)* #from })
    };
    if variants.is_empty() {
        let restore = quote! {
            #migrated
            let __number = __input.variant()?;
            ::core::result::Result::Err(__input.no_variant::<Self>(__number))
        };
        return (schema, quote!(match *self {}), restore);
    }

    let numbered = || (0u32..).zip(variants);
    let saved = numbered().map(|(number, variant)| {
        let (ident, pattern, fields) = (variant.ident, pattern(&variant.fields), save(&variant.fields, paths));
        quote! {
            Self::#ident { #pattern } => {
                __out.variant(#number)?;
                #fields
            }
        }
    });
    let save = quote! {
        __out.enter()?;
        match self { #(#saved)* }
        __out.leave();
        ::core::result::Result::Ok(())
    };
    let restored = numbered().map(|(number, variant)| {
        let (ident, fields) = (variant.ident, restore(&variant.fields, paths));
        quote!(#number => Self::#ident { #fields },)
    });
    let restore = quote! {
        #migrated
        __input.enter()?;
        let __value = match __input.variant()? {
            #(#restored)*
            __number => return ::core::result::Result::Err(__input.no_variant::<Self>(__number)),
        };
        __input.leave();
        ::core::result::Result::Ok(__value)
    };
    (schema, save, restore)
}

fn describe(fields: &[Field<'_>]) -> TokenStream {
    each_travelling(fields, |_, field| {
        let (name, ty, codec) = (field.name(), field.ty, codec_name(field));
        let aliases = &field.attrs.aliases;
        let default = field.attrs.default.iter().map(|_| quote!(.or_default()));
        let from = field.attrs.from.iter().map(|From_ { ty, .. }| quote_spanned!(ends(ty).0=> .from::<#ty>()));
        quote!(__fields.field::<#ty, _>(#name, Self::#codec())#(.alias(#aliases))*#(#default)*#(#from)*;)
    })
}

/// What the schema says of an older type, and how a value is made out of one of it.
fn migration(from: Option<&From_>, described: &str, paths: &Paths) -> (TokenStream, TokenStream) {
    let Some(From_ { ty, migrate }) = from else { return Default::default() };
    let private = &paths.private;
    let described = format_ident!("{described}");
    let restore = quote_spanned! {ends(ty).0=>
        if let ::core::option::Option::Some(__value) = #private::migrated::<Self, #ty>(#migrate, __input)? {
            return ::core::result::Result::Ok(__value);
        }
    };
    (quote_spanned!(ends(ty).0=> #described.from::<#ty>();), restore)
}

fn pattern(fields: &[Field<'_>]) -> TokenStream {
    let bindings = fields.iter().enumerate().map(|(at, field)| {
        let member = &field.member;
        if field.attrs.skip.is_some() {
            quote!(#member: _,)
        } else {
            let binding = binding(at);
            quote!(#member: #binding,)
        }
    });
    quote!(#(#bindings)*)
}

fn save(fields: &[Field<'_>], paths: &Paths) -> TokenStream {
    let private = &paths.private;
    each_travelling(fields, |at, field| {
        let (name, ty, codec, binding) = (field.name(), field.ty, codec_name(field), binding(at));
        quote!(#private::save_field::<#ty, _>(#name, Self::#codec(), #binding, __out)?;)
    })
}

fn restore(fields: &[Field<'_>], paths: &Paths) -> TokenStream {
    let private = &paths.private;
    let restored = fields.iter().map(|field| {
        let (member, name, ty) = (&field.member, field.name(), field.ty);
        let span = located(field.span);
        let default = match &field.attrs.default {
            Some(Default_::Expr(expr)) => quote!(|| -> #ty { #expr }),
            _ => quote_spanned!(span=> || #private::default_of::<#ty>()),
        };
        let value = if field.attrs.skip.is_some() {
            quote!(#private::made(#default))
        } else {
            let codec = codec_name(field);
            let mut value = quote!(#private::restore_field::<#ty, _>(#name, Self::#codec(), __input));
            if let Some(From_ { ty: old, migrate }) = &field.attrs.from {
                value = quote_spanned! {ends(old).0=>
                    #private::restore_field_from::<#ty, #old>(#name, #migrate, __input, |__input| #value)
                };
            }
            if field.attrs.default.is_some() {
                value = quote!(#private::restore_field_or::<#ty>(#name, #default, __input, |__input| #value));
            }
            quote!(#value?)
        };
        quote!(#member: #value,)
    });
    quote!(#(#restored)*)
}

fn each_travelling(fields: &[Field<'_>], make: impl Fn(usize, &Field<'_>) -> TokenStream) -> TokenStream {
    let travelling = fields.iter().enumerate().filter(|(_, field)| field.attrs.skip.is_none());
    travelling.map(|(at, field)| make(at, field)).collect()
}

fn binding(at: usize) -> Ident {
    format_ident!("__field{at}")
}

/// Errors show there, names are looked up where the derive stands: the field may come out of somebody's macro.
fn located(span: Span) -> Span {
    Span::call_site().located_at(span)
}

/// The function that gives the codec of a field.
fn codec_of(field: &Field<'_>, paths: &Paths) -> TokenStream {
    let private = &paths.private;
    let (name, ty) = (codec_name(field), field.ty);
    let (first, _) = ends(ty);
    let codec = match field.attrs.serde {
        Some(_) => quote_spanned!(first=> #private::BySerde),
        None => codec(ty, paths),
    };
    quote_spanned! {first=>
        #[doc(hidden)]
        #[inline]
        fn #name() -> impl #private::Codec<#ty> {
            #codec
        }
    }
}

fn codec_name(field: &Field<'_>) -> Ident {
    format_ident!("__flip_field{}", field.number)
}

/// Where a type begins and ends. Errors underline what lies between the first and the last token of an expression.
fn ends(ty: &Type) -> (Span, Span) {
    let mut tokens = ty.to_token_stream().into_iter();
    let first = tokens.next().map_or_else(Span::call_site, |token| token.span());
    let last = tokens.last().map_or(first, |token| token.span());
    (located(first), located(last))
}

/// The type itself if it can travel, else what can be made of codecs of its parts.
fn codec(ty: &Type, paths: &Paths) -> TokenStream {
    let private = &paths.private;
    let (first, last) = ends(ty);
    let fallback = fallback(ty, paths).unwrap_or_else(|| quote_spanned!(last=> #private::ByNothing));
    let probe = quote_spanned!(first=> (&&&&#private::Probe::<#ty>::NEW));
    let arguments = quote_spanned!(last=> (#fallback));
    quote_spanned!(last=> #probe.__flip_codec #arguments)
}

/// By how it is written: a collection behind an alias is not seen through, and what only looks like one of std's is
/// only used if the type itself cannot travel.
fn fallback(ty: &Type, paths: &Paths) -> Option<TokenStream> {
    let private = &paths.private;
    match ty {
        Type::Group(group) => fallback(&group.elem, paths),
        Type::Paren(paren) => fallback(&paren.elem, paths),
        Type::Array(array) => {
            let item = codec(&array.elem, paths);
            Some(quote!(#private::Of(#item)))
        }
        Type::Tuple(tuple) if !tuple.elems.is_empty() => {
            let items = tuple.elems.iter().map(|item| codec(item, paths));
            Some(quote!((#(#items,)*)))
        }
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            let types: Vec<&Type> = arguments
                .args
                .iter()
                .map(|argument| match argument {
                    GenericArgument::Type(ty) => Some(ty),
                    _ => None,
                })
                .collect::<Option<_>>()?;
            match (last.ident.to_string().as_str(), &*types) {
                ("Box", [Type::Slice(slice)]) => {
                    let item = codec(&slice.elem, paths);
                    Some(quote!(#private::Of(#item)))
                }
                ("Vec" | "VecDeque" | "LinkedList" | "BinaryHeap" | "Option" | "Box" | "BTreeSet", [item])
                | ("HashSet", [item] | [item, _]) => {
                    let item = codec(item, paths);
                    Some(quote!(#private::Of(#item)))
                }
                ("BTreeMap" | "Result", [first, second]) | ("HashMap", [first, second] | [first, second, _]) => {
                    let (first, second) = (codec(first, paths), codec(second, paths));
                    Some(quote!(#private::Pair(#first, #second)))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn calls(input: &Input<'_>, paths: &Paths) -> TokenStream {
    let private = &paths.private;
    if input.attrs.calls.is_empty() {
        return TokenStream::new();
    }
    let added = input.attrs.calls.iter().map(|op| {
        let add = quote_spanned!(ends(op).0=> add::<#op>());
        quote!(__calls.#add;)
    });
    quote! {
        fn calls(__calls: &mut #private::Calls<Self>) {
            #(#added)*
        }
    }
}

/// What tells rustc, and so the user, which calls are listed.
pub fn accepts(input: &Input<'_>, paths: &Paths) -> TokenStream {
    let private = &paths.private;
    let ident = &input.item.ident;
    let accepted = input.attrs.calls.iter().map(|op| {
        let mut generics = input.item.generics.clone();
        generics.where_clause = bounds::where_clause(input, paths);
        let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
        quote! {
            #[automatically_derived]
            impl #impl_generics #private::Accepts<#op> for #ident #ty_generics #where_clause {}
        }
    });
    quote!(#(#accepted)*)
}
