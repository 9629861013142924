//! What the attributes become: one call, given a constant, one provider call a parameter, and the user's function.

use super::args::Args;
use super::check::{impl_trait, is_other_runtime};
use super::item::Item;
use crate::provide::{Source, Wanted, ordered, setup};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Path, ReturnType, Safety, Signature, Token, Type};

/// ```text
/// fn main() -> io::Result<()> {
///     async fn main(http: TcpListener, visits: Live<Visits>) -> io::Result<()> { … }
///     ::flip::__private::main_async(::flip::__private::Config::NEW, async |__flip: &::flip::Setup| {
///         let http: TcpListener = __flip.listen::<TcpListener>("http", …).await?;
///         let visits: Live<Visits> = __flip.param::<Live<Visits>>("visits").await?;
///         ::core::result::Result::Ok::<_, ::flip::Error>(main(http, visits))
///     }, words)
/// }
/// ```
///
/// The user's function is called with what was provided, and its future returned without being polled: when it runs,
/// and on which thread, is not for the expansion to say. A function that is not async is returned as a closure.
pub(crate) fn main(args: &Args, item: &Item) -> TokenStream {
    let Item { attributes, visibility, signature, body, .. } = item;
    let (fn_token, name, output) = (&signature.fn_token, &signature.ident, &signature.output);
    let flip = &args.krate;
    let run = runner(item, "main");
    let config = args.config();
    let provide = provide(args, item, None);
    let words = words(flip, signature);
    let allowed = allowed(item);
    quote! {
        #(#attributes)*
        #visibility #fn_token #name() #output {
            #allowed
            #signature #body
            #flip::__private::#run(#config, #provide, #words)
        }
    }
}

/// ```text
/// fn serve(opts: Opts) -> impl ::flip::Service<Output = io::Result<()>> {
///     async fn serve(opts: Opts, http: TcpListener) -> io::Result<()> { … }
///     ::flip::__private::service_async(::flip::__private::Config::NEW, async move |__flip: &::flip::Setup| {
///         let http: TcpListener = __flip.listen::<TcpListener>("http", …).await?;
///         ::core::result::Result::Ok::<_, ::flip::Error>(serve(opts, http))
///     }, words)
/// }
/// ```
pub(crate) fn service(args: &Args, item: &Item) -> TokenStream {
    let provide = provide(args, item, Some(<Token![move]>::default()));
    let words = words(&args.krate, &item.signature);
    service_around(args, &item.attributes, &item.signature, item, (args.config(), provide, words))
}

fn service_around(
    args: &Args,
    attributes: &[Attribute],
    signature: &Signature,
    item: &Item,
    (config, provide, words): (TokenStream, TokenStream, TokenStream),
) -> TokenStream {
    let (visibility, body) = (&item.visibility, &item.body);
    let (fn_token, name, flip) = (&signature.fn_token, &signature.ident, &args.krate);
    let given = item.wanted.iter().filter(|wanted| wanted.is_given()).map(|wanted| {
        let (variable, Wanted { ty, cfgs, .. }) = (given(item, wanted), wanted);
        quote!(#(#cfgs)* #variable: #ty)
    });
    let output = match &signature.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    let run = runner(item, "service");
    let allowed = allowed(item);
    quote! {
        #(#attributes)*
        #visibility #fn_token #name(#(#given),*) -> impl #flip::Service<Output = #output> {
            #allowed
            #signature #body
            #flip::__private::#run(#config, #provide, #words)
        }
    }
}

/// What `main` says by a value that is an error, for whoever asked for this process; std prints it only at the very end:
///
/// ```text
/// |__ended: &io::Result<()>| { use ::flip::__private::NoWords as _; ::flip::__private::Ended(__ended).words() }
/// ```
fn words(flip: &Path, signature: &Signature) -> TokenStream {
    match &signature.output {
        ReturnType::Type(_, ty) if !matches!(**ty, Type::Never(_)) && impl_trait(ty).is_none() => {
            let ended = Ident::new("__flip_ended", Span::mixed_site());
            quote!(|#ended: &#ty| { use #flip::__private::NoWords as _; #flip::__private::Ended(#ended).words() })
        }
        _ => quote!(#flip::__private::wordless),
    }
}

/// Clippy counts the arguments of a function because somebody has to write them at each call; here that is this macro.
fn allowed(item: &Item) -> Option<TokenStream> {
    (item.wanted.len() > 7).then(|| quote!(#[allow(clippy::too_many_arguments)]))
}

/// `main_async`, `main_blocking`, `service_async` or `service_blocking`.
fn runner(item: &Item, what: &str) -> Ident {
    let how = if item.is_async() { "async" } else { "blocking" };
    format_ident!("{what}_{how}")
}

/// `async |__flip: &::flip::Setup| { …; Ok(main(http, visits)) }`
fn provide(args: &Args, item: &Item, capture: Option<Token![move]>) -> TokenStream {
    let flip = &args.krate;
    let setup = setup(Span::call_site());
    let statements = ordered(&item.wanted).map(|wanted| wanted.statement(flip));
    let values = item.wanted.iter().map(|Wanted { variable, cfgs, .. }| quote!(#(#cfgs)* #variable));
    let (alias, call) = call(item, values);
    quote! {
        async #capture |#setup: &#flip::Setup| {
            #alias
            #(#statements)*
            ::core::result::Result::Ok::<_, #flip::Error>(#call)
        }
    }
}

/// The user's function called with these values. Where one of them has the function's name, each would hide the other,
/// so the function gets another, and so does a parameter that the surrounding function has:
///
/// ```text
/// let __flip_function = http;
/// let http = __flip_given;
/// ```
fn call(item: &Item, values: impl Iterator<Item = TokenStream>) -> (TokenStream, TokenStream) {
    let mut function = item.signature.ident.clone();
    let mut alias = TokenStream::new();
    if let Some(wanted) = item.wanted.iter().find(|wanted| wanted.variable == function) {
        let other = Ident::new("__flip_function", Span::mixed_site());
        alias = quote!(let #other = #function;);
        if wanted.is_given() {
            let (variable, given) = (&wanted.variable, given(item, wanted));
            alias.extend(quote!(let #variable = #given;));
        }
        function = other;
    }
    let call = quote!(#function(#(#values),*));
    if item.is_async() { (alias, call) } else { (alias, quote!(move || #call)) }
}

/// What the surrounding function calls a parameter that it passes on.
fn given(item: &Item, wanted: &Wanted) -> Ident {
    if wanted.variable == item.signature.ident {
        return Ident::new("__flip_given", Span::mixed_site());
    }
    wanted.variable.clone()
}

/// With mistakes, the function is still there and its body still checked, so that an editor goes on knowing it:
///
/// ```text
/// ::core::compile_error! { … }
/// fn main() {
///     #[allow(dead_code)]
///     async fn main(http: TcpListener, visits: Live<Visits>) -> io::Result<()> { … }
/// }
/// ```
pub(crate) fn refused_main(errors: TokenStream, item: &Item) -> TokenStream {
    if item.signature.receiver().is_some() {
        return refused(errors, item);
    }
    let attributes = kept_attributes(item);
    let (signature, visibility, body) = (mended(item), &item.visibility, &item.body);
    let (fn_token, name) = (&signature.fn_token, &signature.ident);
    quote! {
        #errors
        #(#attributes)*
        #visibility #fn_token #name() {
            #[allow(dead_code)]
            #signature #body
        }
    }
}

/// A service is called, so it keeps the shape that its callers expect:
///
/// ```text
/// ::core::compile_error! { … }
/// #[allow(unreachable_code)]
/// fn serve(opts: Opts) -> impl ::flip::Service<Output = io::Result<()>> {
///     async fn serve(opts: Opts, http: TcpListener) -> io::Result<()> { … }
///     ::flip::__private::service_async(::flip::__private::Config::NEW, async move |_: &::flip::Setup| {
///         ::core::result::Result::Ok::<_, ::flip::Error>(serve(opts, ::core::unreachable!()))
///     }, words)
/// }
/// ```
pub(crate) fn refused_service(errors: TokenStream, args: &Args, item: &Item) -> TokenStream {
    if !is_callable(item) {
        return refused(errors, item);
    }
    let flip = &args.krate;
    let values = item.wanted.iter().map(|Wanted { variable, cfgs, source, .. }| match source {
        Source::Given => quote!(#(#cfgs)* #variable),
        _ => quote!(#(#cfgs)* ::core::unreachable!()),
    });
    let (alias, call) = call(item, values);
    let provide = quote! {
        async move |_: &#flip::Setup| {
            #alias
            ::core::result::Result::Ok::<_, #flip::Error>(#call)
        }
    };
    let config = quote!(#flip::__private::Config::NEW);
    let words = quote!(#flip::__private::wordless);
    let service = service_around(args, &kept_attributes(item), &mended(item), item, (config, provide, words));
    quote!(#errors #[allow(unreachable_code)] #service)
}

/// The function by itself, where it cannot be in another one.
fn refused(errors: TokenStream, item: &Item) -> TokenStream {
    let attributes = kept_attributes(item);
    let (signature, visibility, body) = (mended(item), &item.visibility, &item.body);
    quote!(#errors #[allow(dead_code)] #(#attributes)* #visibility #signature #body)
}

/// Whether it can be called with its parameters and nothing else.
fn is_callable(item: &Item) -> bool {
    let signature = &item.signature;
    signature.generics.params.is_empty() && signature.receiver().is_none() && signature.variadic.is_none()
}

/// What flip has said must go would be said again by the compiler.
fn mended(item: &Item) -> Signature {
    Signature { constness: None, safety: Safety::Default, abi: None, ..item.signature.clone() }
}

fn kept_attributes(item: &Item) -> Vec<Attribute> {
    item.attributes.iter().filter(|attribute| !is_other_runtime(attribute)).cloned().collect()
}
