//! What a parameter of `main`, or a field of a group, asks for, and the call that provides it.

use crate::diag::{Errors, say};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, GenericArgument, Meta, Path, PathArguments, Token, Type};

/// One value that flip provides.
pub(crate) struct Wanted {
    /// The variable that holds it, for those that come after it.
    pub variable: Ident,
    /// Its name for flip, which is how the next process finds it again.
    pub name: String,
    pub ty: Type,
    pub source: Source,
    /// The `#[cfg]`s that it stands under.
    pub cfgs: Vec<Attribute>,
}

/// Where the value comes from.
pub(crate) enum Source {
    /// `#[args]`: the command line.
    Args(Span),
    /// `#[with(value)]`: the expression.
    With(Expr),
    /// `#[listen(address, …)]`: the old process, or a new socket.
    Listen(Box<Listen>),
    /// `#[live(init = value)]`: the old process, or the expression.
    Live(Expr),
    /// `#[exclusive(open = opener, …)]`: what opens it.
    Exclusive(Box<Exclusive>),
    /// `#[given]`: the caller of a service.
    Given,
    /// No attribute: the type says.
    Type,
    /// The attribute is wrong, which has been reported; nothing else about the parameter is worth a second message.
    Mistaken,
}

#[derive(Default)]
pub(crate) struct Listen {
    /// None: what systemd passed by the parameter's name.
    pub address: Option<Expr>,
    pub options: Option<Expr>,
    pub backlog: Option<Expr>,
    pub shards: Option<Expr>,
    pub keep_accepting: Option<Expr>,
}

pub(crate) struct Exclusive {
    pub open: Expr,
    pub close: Option<Expr>,
}

/// Whose attributes are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Main,
    Service,
    Field,
}

impl Site {
    fn known(self) -> &'static [&'static str] {
        match self {
            Site::Main | Site::Field => &["args", "with", "listen", "live", "exclusive"],
            Site::Service => &["args", "with", "listen", "live", "exclusive", "given"],
        }
    }
}

impl Source {
    /// Reads one parameter's attributes; what is rustc's stays with the parameter and is handed back.
    pub(crate) fn read(attributes: Vec<Attribute>, site: Site, errors: &mut Errors) -> (Self, Vec<Attribute>) {
        let mut source = None::<(String, Source)>;
        let mut kept = Vec::new();
        for attribute in attributes {
            let path = attribute.path();
            let key = path.get_ident().map(ToString::to_string).unwrap_or_else(|| text(path));
            let read = match key.as_str() {
                "given" if site == Site::Main => Err(syn::Error::new_spanned(attribute.path(), say::GIVEN_IN_MAIN)),
                known if site.known().contains(&known) => Self::parse(known, &attribute),
                // A field's other attributes are read by other derives.
                _ if site == Site::Field => continue,
                "cfg" | "allow" | "expect" | "warn" | "deny" | "forbid" => {
                    kept.push(attribute);
                    continue;
                }
                "cfg_attr" => Err(syn::Error::new_spanned(attribute.path(), say::CFG_ATTR)),
                _ => {
                    let message = say::unknown_parameter_attribute(&key, site.known());
                    Err(syn::Error::new_spanned(attribute.path(), message))
                }
            };
            let is_known = |key: &String| site.known().contains(&key.as_str());
            if let Some((first, _)) = source.as_ref().filter(|(first, _)| is_known(first) && is_known(&key)) {
                errors.push(attribute.path(), say::second_source(first, &key));
                continue;
            }
            let read = errors.take(read).unwrap_or(Source::Mistaken);
            if !matches!(source, Some((_, Source::Mistaken))) {
                source = Some((key, read));
            }
        }
        (source.map_or(Source::Type, |(_, source)| source), kept)
    }

    fn parse(key: &str, attribute: &Attribute) -> syn::Result<Self> {
        let nothing = match &attribute.meta {
            Meta::Path(_) => true,
            Meta::List(list) => list.tokens.is_empty(),
            Meta::NameValue(_) => false,
        };
        let missing = |message| Err(syn::Error::new_spanned(attribute, message));
        match key {
            "args" if nothing => Ok(Source::Args(attribute.path().span())),
            "args" => missing(say::ARGS_TAKES_NOTHING),
            "given" if nothing => Ok(Source::Given),
            "given" => missing(say::GIVEN_TAKES_NOTHING),
            "with" if nothing => missing(say::WITH_NEEDS_VALUE),
            "with" => attribute.parse_args_with(with).map(Source::With),
            "listen" if nothing => Ok(Source::Listen(Box::default())),
            "listen" => attribute.parse_args_with(listen).map(|listen| Source::Listen(Box::new(listen))),
            "live" if nothing => missing(say::LIVE_NEEDS_INIT),
            "live" => attribute.parse_args_with(live).map(Source::Live),
            _ if nothing => missing(say::EXCLUSIVE_NEEDS_OPEN),
            _ => attribute.parse_args_with(exclusive).map(|exclusive| Source::Exclusive(Box::new(exclusive))),
        }
    }
}

fn with(input: ParseStream<'_>) -> syn::Result<Expr> {
    let value = input.parse()?;
    input.parse::<Option<Token![,]>>()?;
    if !input.is_empty() {
        return Err(input.error(say::WITH_TAKES_ONE));
    }
    Ok(value)
}

fn listen(input: ParseStream<'_>) -> syn::Result<Listen> {
    let mut listen = Listen::default();
    if !is_named(input) {
        listen.address = Some(input.parse()?);
        input.parse::<Option<Token![,]>>()?;
    }
    while !input.is_empty() {
        if !is_named(input) {
            return Err(input.error(say::LISTEN_OPTION));
        }
        let key: Ident = input.parse()?;
        let value = match key.to_string().as_str() {
            "options" => &mut listen.options,
            "backlog" => &mut listen.backlog,
            "shards" => &mut listen.shards,
            "keep_accepting" => &mut listen.keep_accepting,
            _ => return Err(syn::Error::new(key.span(), say::LISTEN_OPTION)),
        };
        if value.is_some() {
            return Err(syn::Error::new(key.span(), say::option_twice(&key.to_string())));
        }
        input.parse::<Token![=]>()?;
        *value = Some(input.parse()?);
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(listen)
}

fn live(input: ParseStream<'_>) -> syn::Result<Expr> {
    if !is_named(input) {
        return Err(input.error(say::LIVE_NEEDS_INIT));
    }
    let key: Ident = input.parse()?;
    if key != "init" {
        return Err(syn::Error::new(key.span(), say::LIVE_NEEDS_INIT));
    }
    input.parse::<Token![=]>()?;
    let value = input.parse()?;
    input.parse::<Option<Token![,]>>()?;
    if !input.is_empty() {
        return Err(input.error(say::LIVE_NEEDS_INIT));
    }
    Ok(value)
}

fn exclusive(input: ParseStream<'_>) -> syn::Result<Exclusive> {
    let (mut open, mut close) = (None, None);
    let first = input.span();
    while !input.is_empty() {
        if !is_named(input) {
            return Err(input.error(if open.is_some() { say::EXCLUSIVE_OPTION } else { say::EXCLUSIVE_NEEDS_OPEN }));
        }
        let key: Ident = input.parse()?;
        let value = match key.to_string().as_str() {
            "open" => &mut open,
            "close" => &mut close,
            _ => return Err(syn::Error::new(key.span(), say::EXCLUSIVE_OPTION)),
        };
        if value.is_some() {
            return Err(syn::Error::new(key.span(), say::option_twice(&key.to_string())));
        }
        input.parse::<Token![=]>()?;
        *value = Some(input.parse()?);
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    let open = open.ok_or_else(|| syn::Error::new(first, say::EXCLUSIVE_NEEDS_OPEN))?;
    Ok(Exclusive { open, close })
}

/// `key = value`, which would otherwise be read as an assignment.
fn is_named(input: ParseStream<'_>) -> bool {
    input.peek(syn::Ident) && input.peek2(Token![=]) && !input.peek2(Token![==]) && !input.peek2(Token![=>])
}

impl Wanted {
    /// The statement that provides the value. Each of its tokens has the place of the user's token that is to blame for
    /// what the compiler may say about it: the type, or the expression.
    pub(crate) fn statement(&self, flip: &Path) -> TokenStream {
        let Self { variable, name, ty, source, cfgs } = self;
        let at = generated(ty.span());
        let setup = setup(at);
        let value = match source {
            // __flip.args::<Cli>()
            Source::Args(attribute) => {
                let args = Ident::new("args", generated(*attribute));
                quote_spanned!(at=> #setup.#args::<#ty>())
            }

            // __flip.with("config", async {
            //     let __flip_value: Config = Config::load(&args.config)?;
            //     ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
            // })
            Source::With(value) => {
                let value = fallible(flip, Some(ty), value);
                quote_spanned!(at=> #setup.with(#name, #value))
            }

            // __flip.listen::<TcpListener>(
            //     "http",
            //     async { ::flip::__private::address(&(config.http)) },
            //     ::flip::ListenOptions::new().backlog(1024),
            // )
            //
            // The address is taken by reference, so that `config.http` is not moved out of `config`.
            Source::Listen(listen) => {
                let address = match &listen.address {
                    Some(expression) => expression.to_token_stream(),
                    None => format!("systemd:{name}").to_token_stream(),
                };
                let span = generated(listen.address.as_ref().map_or(ty.span(), Spanned::span));
                let flip_there = located(flip, span);
                let address = quote_spanned!(span=> async { #flip_there::__private::address(&(#address)) });
                let options = listen.options(&located(flip, at), at);
                quote_spanned!(at=> #setup.listen::<#ty>(#name, #address, #options))
            }

            // __flip.live_with::<Live<Rates>>("rates", async {
            //     let __flip_value: Rates = load(&config).await?;
            //     ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
            // })
            Source::Live(value) => {
                let value = fallible(flip, content(ty, "Live"), value);
                quote_spanned!(at=> #setup.live_with::<#ty>(#name, #value))
            }

            // __flip.exclusive::<Exclusive<Database>>("store", async {
            //     let __flip_value = ::flip::Opener::<Database>::new(|| Database::create("app.db")).close(…);
            //     ::core::result::Result::Ok::<_, ::flip::BoxError>(__flip_value)
            // })
            Source::Exclusive(exclusive) => {
                let opener = exclusive.opener(flip, content(ty, "Exclusive"));
                quote_spanned!(at=> #setup.exclusive::<#ty>(#name, #opener))
            }

            // __flip.param::<Shutdown>("shutdown")
            Source::Type | Source::Mistaken => quote_spanned!(at=> #setup.param::<#ty>(#name)),

            // A parameter of the surrounding function.
            Source::Given => return TokenStream::new(),
        };
        quote_spanned!(at=> #(#cfgs)* let #variable: #ty = #value.await?;)
    }

    pub(crate) fn is_args(&self) -> bool {
        matches!(self.source, Source::Args(_))
    }

    /// Whether its attribute has this variable in it.
    pub(crate) fn reads(&self, variable: &Ident) -> bool {
        let expressions = match &self.source {
            Source::With(value) | Source::Live(value) => vec![value],
            Source::Listen(listen) => {
                let Listen { address, options, backlog, shards, keep_accepting } = &**listen;
                [address, options, backlog, shards, keep_accepting].into_iter().flatten().collect()
            }
            Source::Exclusive(exclusive) => {
                [Some(&exclusive.open), exclusive.close.as_ref()].into_iter().flatten().collect()
            }
            Source::Args(_) | Source::Given | Source::Type | Source::Mistaken => vec![],
        };
        expressions.into_iter().any(|expression| mentions(expression.to_token_stream(), variable))
    }

    pub(crate) fn is_given(&self) -> bool {
        matches!(self.source, Source::Given)
    }
}

/// The expression as a block that may use `?` and `.await`. The value has its type, where that is known, before it is
/// wrapped, so that a wrong one is found at the expression.
fn fallible(flip: &Path, ty: Option<&Type>, value: &Expr) -> TokenStream {
    let at = generated(value.span());
    let flip = located(flip, at);
    let ty = ty.map(|ty| quote_spanned!(at=> : #ty));
    quote_spanned! {at=>
        async {
            let __flip_value #ty = #value;
            ::core::result::Result::Ok::<_, #flip::BoxError>(__flip_value)
        }
    }
}

impl Listen {
    fn options(&self, flip: &TokenStream, at: Span) -> TokenStream {
        let options = [
            ("backlog", &self.backlog),
            ("shards", &self.shards),
            ("keep_accepting", &self.keep_accepting),
            ("socket", &self.options),
        ];
        let calls = options.into_iter().filter_map(|(method, value)| {
            let value = value.as_ref()?;
            let at = generated(value.span());
            let method = Ident::new(method, at);
            Some(quote_spanned!(at=> .#method(#value)))
        });
        quote_spanned!(at=> #flip::ListenOptions::new() #(#calls)*)
    }
}

impl Exclusive {
    /// The opener, in a block that may use `?` and `.await`. Where it is known what is opened, that is said first, so that
    /// whatever opens something else is found at its own expression.
    fn opener(&self, flip: &Path, content: Option<&Type>) -> TokenStream {
        let Self { open, close } = self;
        let at = generated(open.span());
        let flip_there = located(flip, at);
        let content = content.map(|content| quote_spanned!(at=> ::<#content>));
        let close = close.as_ref().map(|close| {
            let at = generated(close.span());
            quote_spanned!(at=> .close(#close))
        });
        quote_spanned! {at=>
            async {
                let __flip_value = #flip_there::Opener #content::new(#open) #close;
                ::core::result::Result::Ok::<_, #flip_there::BoxError>(__flip_value)
            }
        }
    }
}

fn mentions(tokens: TokenStream, variable: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *variable,
        TokenTree::Group(group) => mentions(group.stream(), variable),
        _ => false,
    })
}

/// In the order in which they are provided: the command line first, since the others are made from it.
pub(crate) fn ordered(wanted: &[Wanted]) -> impl Iterator<Item = &Wanted> {
    wanted.iter().filter(|w| w.is_args()).chain(wanted.iter().filter(|w| !w.is_args()))
}

/// What is wrong with one parameter, whatever it belongs to.
pub(crate) fn check(wanted: &Wanted, errors: &mut Errors) {
    let ty = &wanted.ty;
    if let (Source::Type, Some(listener)) = (&wanted.source, listener(ty)) {
        errors.push(ty, say::listener_without_address(&listener.to_string()));
    }
    if matches!(wanted.source, Source::Type) && content(ty, "Exclusive").is_some() {
        errors.push(ty, say::EXCLUSIVE_WITHOUT_OPEN);
    }
}

/// At the user's token, but not the user's: no lint looks at it, and no local variable of the user's is meant by it.
pub(crate) fn generated(span: Span) -> Span {
    span.resolved_at(Span::mixed_site())
}

/// The variable that everything is asked of.
pub(crate) fn setup(at: Span) -> Ident {
    Ident::new("__flip", generated(at))
}

/// The path to flip, meaning what it means, but at another place: a call's place begins with its path's.
fn located(flip: &Path, at: Span) -> TokenStream {
    let tokens = flip.to_token_stream().into_iter();
    let tokens = tokens.map(|mut token| {
        token.set_span(token.span().located_at(at));
        token
    });
    tokens.collect()
}

pub(crate) fn default_crate() -> Path {
    syn::parse_quote!(::flip)
}

/// `crate = path`, or `crate = "path"` as tokio writes it.
pub(crate) fn crate_path(input: ParseStream<'_>) -> syn::Result<Path> {
    if input.peek(syn::LitStr) {
        let path: syn::LitStr = input.parse()?;
        return path.parse_with(Path::parse_mod_style);
    }
    Path::parse_mod_style(input)
}

/// The name without `r#`.
pub(crate) fn name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// `http::Path`, without the spaces that tokens have between them.
pub(crate) fn text(tokens: impl ToTokens) -> String {
    tokens.to_token_stream().to_string().replace(' ', "")
}

// What types look like. A macro sees only their last name, so each of these may be wrong about an alias; they decide on
// error messages, never on what is provided.

/// The name of the listener, if it is one, or an `Option` or `Vec` of it.
pub(crate) fn listener(ty: &Type) -> Option<&Ident> {
    const LISTENERS: [&str; 5] = ["TcpListener", "UnixListener", "SeqpacketListener", "UdpSocket", "UnixDatagram"];
    last(peeled(ty)).filter(|last| LISTENERS.iter().any(|name| last == name))
}

/// A plain socket of `std` or tokio, which flip hands over but does not watch.
pub(crate) fn is_bare(ty: &Type) -> bool {
    match peeled(ty) {
        Type::Path(ty) => {
            let first = ty.path.segments.first();
            ty.path.segments.len() > 1 && first.is_some_and(|first| first.ident == "std" || first.ident == "tokio")
        }
        _ => false,
    }
}

/// One of flip's types that certainly brings no listener.
pub(crate) fn has_no_listener(ty: &Type) -> bool {
    last(ty).is_some_and(|name| name == "Shutdown" || name == "Handle" || is_kept(ty))
}

/// One of flip's types whose content the next process finds by name.
pub(crate) fn is_kept(ty: &Type) -> bool {
    last(ty).is_some_and(|name| ["Live", "Relay", "Exclusive"].iter().any(|kept| name == kept))
}

/// The `T` of `Live<T>`, or of another of those.
fn content<'ty>(ty: &'ty Type, kept: &str) -> Option<&'ty Type> {
    sole_argument(ty).filter(|_| last(ty).is_some_and(|name| name == kept))
}

/// Without what may be around a listener.
fn peeled(ty: &Type) -> &Type {
    match (last(ty), sole_argument(ty)) {
        (Some(name), Some(inner)) if name == "Option" || name == "Vec" => peeled(inner),
        _ => ungrouped(ty),
    }
}

fn last(ty: &Type) -> Option<&Ident> {
    match ungrouped(ty) {
        Type::Path(ty) => ty.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}

fn sole_argument(ty: &Type) -> Option<&Type> {
    let Type::Path(ty) = ungrouped(ty) else { return None };
    let PathArguments::AngleBracketed(arguments) = &ty.path.segments.last()?.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if arguments.args.len() == 1 => Some(ty),
        _ => None,
    }
}

/// Without the invisible delimiters that a `macro_rules` puts around a type.
pub(crate) fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(ty) => ungrouped(&ty.elem),
        Type::Paren(ty) => ungrouped(&ty.elem),
        ty => ty,
    }
}
