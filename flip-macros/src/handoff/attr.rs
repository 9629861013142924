//! `#[handoff(…)]`, on the type, its variants and its fields.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{
    Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Token, Type, WherePredicate,
    ext::IdentExt,
    parenthesized,
    parse::{Parse, ParseStream, Parser},
    punctuated::Punctuated,
    token::Paren,
};

use crate::diag::Errors;

#[derive(Default)]
pub struct ContainerAttrs {
    pub rename: Option<String>,
    pub from: Option<From_>,
    pub krate: Option<Path>,
    pub bound: Option<Punctuated<WherePredicate, Token![,]>>,
    pub calls: Vec<Type>,
}

#[derive(Default)]
pub struct VariantAttrs {
    pub rename: Option<String>,
    pub aliases: Vec<LitStr>,
}

#[derive(Default)]
pub struct FieldAttrs {
    /// With the word itself, to complain at.
    pub skip: Option<Ident>,
    pub default: Option<Default_>,
    pub rename: Option<String>,
    pub aliases: Vec<LitStr>,
    pub from: Option<From_>,
    pub serde: Option<Ident>,
}

/// An older type, and the function that makes a value out of one of it.
pub struct From_ {
    pub ty: Type,
    pub migrate: Expr,
}

/// What a field is where the old process has none.
pub enum Default_ {
    /// Its type's `Default`.
    OfType,
    Expr(Box<Expr>),
}

const ON_TYPE: Place = Place {
    what: "a type",
    words: &[
        ("rename", "`rename = \"…\"`"),
        ("from", "`from = \"OldType\"`"),
        ("migrate", "`migrate = function`"),
        ("calls", "`calls(Op, …)`"),
        ("bound", "`bound = \"T: …\"`"),
        ("crate", "`crate = path`"),
    ],
};
const ON_VARIANT: Place =
    Place { what: "a variant", words: &[("rename", "`rename = \"…\"`"), ("alias", "`alias = \"…\"`")] };
const ON_FIELD: Place = Place {
    what: "a field",
    words: &[
        ("skip", "`skip`"),
        ("default", "`default`, `default = expr`"),
        ("rename", "`rename = \"…\"`"),
        ("alias", "`alias = \"…\"`"),
        ("from", "`from = \"OldType\"`"),
        ("migrate", "`migrate = function`"),
        ("serde", "`serde`"),
    ],
};

/// Where an attribute stands, and what may be said there.
struct Place {
    what: &'static str,
    words: &'static [(&'static str, &'static str)],
}

impl Place {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|(known, _)| *known == word)
    }

    fn list(&self) -> String {
        self.words.iter().map(|(_, written)| *written).collect::<Vec<_>>().join(", ")
    }

    /// A word that is unknown here.
    fn refuse(&self, word: &Ident, errors: &mut Errors) {
        let elsewhere = [ON_TYPE, ON_VARIANT, ON_FIELD].into_iter().find(|place| place.has(&word.to_string()));
        let here = format!("{} takes {}", self.what, self.list());
        match elsewhere {
            Some(place) => {
                errors.push(word, format!("`{word}` stands on {}, not on {}; {here}", place.what, self.what))
            }
            None => errors.push(word, format!("`{word}` is unknown; {here}")),
        }
    }
}

/// One word of the list, with what follows it.
struct Word {
    name: Ident,
    argument: Argument,
}

enum Argument {
    None,
    Value(Expr),
    List(TokenStream),
}

impl Parse for Word {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.call(Ident::parse_any)?;
        let argument = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Argument::Value(input.parse()?)
        } else if input.peek(Paren) {
            let content;
            parenthesized!(content in input);
            Argument::List(content.parse()?)
        } else {
            Argument::None
        };
        Ok(Self { name, argument })
    }
}

/// The words of all `#[handoff(…)]` in a row; a word that stands there twice is said once.
fn words(attrs: &[Attribute], place: &Place, errors: &mut Errors) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("handoff")) {
        let Meta::List(list) = &attr.meta else {
            errors.push(&attr.meta, format!("write `#[handoff(…)]`; {} takes {}", place.what, place.list()));
            continue;
        };
        match list.parse_args_with(Punctuated::<Word, Token![,]>::parse_terminated) {
            Ok(found) => {
                for word in found {
                    if !place.has(&word.name.to_string()) {
                        place.refuse(&word.name, errors);
                    } else if word.name != "alias" && words.iter().any(|earlier| earlier.name == word.name) {
                        errors.push(&word.name, format!("`{}` is said twice; keep one", word.name));
                    } else {
                        words.push(word);
                    }
                }
            }
            Err(error) => errors.add(error),
        }
    }
    words
}

impl Word {
    /// The word stands alone.
    fn flag(self, errors: &mut Errors) -> Option<Ident> {
        match self.argument {
            Argument::None => Some(self.name),
            Argument::Value(value) => {
                errors.push(value, format!("`{}` takes no value: `#[handoff({})]`", self.name, self.name));
                None
            }
            Argument::List(..) => {
                errors.push(&self.name, format!("`{}` takes no list: `#[handoff({})]`", self.name, self.name));
                None
            }
        }
    }

    /// The word is given a text.
    fn text(self, example: &str, errors: &mut Errors) -> Option<LitStr> {
        match self.argument {
            Argument::Value(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Some(text),
            Argument::Value(value) => {
                errors.push(value, format!("a text belongs here: `{example}`"));
                None
            }
            _ => {
                errors.push(&self.name, format!("write `{example}`"));
                None
            }
        }
    }

    fn rename(self, errors: &mut Errors) -> Option<String> {
        let text = self.text("rename = \"name\"", errors)?;
        if text.value().is_empty() {
            errors.push(&text, "a name cannot be empty");
        }
        Some(text.value())
    }

    fn alias(self, errors: &mut Errors) -> Option<LitStr> {
        let text = self.text("alias = \"earlier name\"", errors)?;
        if text.value().is_empty() {
            errors.push(&text, "a name cannot be empty");
        }
        Some(text)
    }
}

/// `from` and `migrate`, which need each other.
#[derive(Default)]
struct Pair {
    from: Option<(Ident, Option<Type>)>,
    migrate: Option<(Ident, Option<Expr>)>,
}

impl Pair {
    fn from(&mut self, word: Word, errors: &mut Errors) {
        let name = word.name.clone();
        let ty = word.text("from = \"OldType\"", errors).and_then(|text| match text.parse() {
            Ok(ty) => Some(ty),
            Err(error) => {
                errors.push(&text, format!("not a type: {error}"));
                None
            }
        });
        self.from = Some((name, ty));
    }

    fn migrate(&mut self, word: Word, errors: &mut Errors) {
        let name = word.name;
        let migrate = match word.argument {
            Argument::Value(expr) => Some(expr),
            _ => {
                errors.push(&name, "write `migrate = function`, which makes a value out of one of the older type");
                None
            }
        };
        self.migrate = Some((name, migrate));
    }

    fn finish(self, errors: &mut Errors) -> Option<From_> {
        match (self.from, self.migrate) {
            (Some((_, ty)), Some((_, migrate))) => Some(From_ { ty: ty?, migrate: migrate? }),
            (Some((from, _)), None) => {
                errors.push(from, "`from` says what it was, `migrate = function` how it becomes what it is; add that");
                None
            }
            (None, Some((migrate, _))) => {
                errors.push(migrate, "`migrate` needs to know the older type; add `from = \"OldType\"`");
                None
            }
            (None, None) => None,
        }
    }
}

impl ContainerAttrs {
    pub fn parse(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut all = Self::default();
        let mut pair = Pair::default();
        for word in words(attrs, &ON_TYPE, errors) {
            match word.name.to_string().as_str() {
                "rename" => all.rename = word.rename(errors),
                "from" => pair.from(word, errors),
                "migrate" => pair.migrate(word, errors),
                "bound" => {
                    if let Some(text) = word.text("bound = \"T: flip::Handoff\"", errors) {
                        match text.parse_with(Punctuated::parse_terminated) {
                            Ok(bound) => all.bound = Some(bound),
                            Err(error) => errors.push(&text, format!("not a list of bounds: {error}")),
                        }
                    }
                }
                "crate" => match word.argument {
                    Argument::Value(Expr::Path(path)) if path.qself.is_none() => all.krate = Some(path.path),
                    Argument::Value(value) => errors.push(value, "a path belongs here: `crate = ::flip`"),
                    _ => errors.push(&word.name, "write `crate = ::flip`"),
                },
                _ => match word.argument {
                    Argument::List(types) => match Punctuated::<Type, Token![,]>::parse_terminated.parse2(types) {
                        Ok(types) if types.is_empty() => {
                            errors.push(&word.name, "name at least one operation: `calls(Op)`");
                        }
                        Ok(types) => all.calls = types.into_iter().collect(),
                        Err(error) => errors.add(error),
                    },
                    _ => errors.push(&word.name, "write `calls(Op, …)`"),
                },
            }
        }
        all.from = pair.finish(errors);
        for (at, op) in all.calls.iter().enumerate() {
            let text = op.to_token_stream().to_string();
            if all.calls[..at].iter().any(|earlier| earlier.to_token_stream().to_string() == text) {
                errors.push(op, "this call is listed twice; keep one");
            }
        }
        all
    }
}

impl VariantAttrs {
    pub fn parse(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut all = Self::default();
        for word in words(attrs, &ON_VARIANT, errors) {
            if word.name == "alias" {
                all.aliases.extend(word.alias(errors));
            } else {
                all.rename = word.rename(errors);
            }
        }
        all
    }
}

impl FieldAttrs {
    pub fn parse(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut all = Self::default();
        let mut pair = Pair::default();
        for word in words(attrs, &ON_FIELD, errors) {
            match word.name.to_string().as_str() {
                "alias" => all.aliases.extend(word.alias(errors)),
                "from" => pair.from(word, errors),
                "migrate" => pair.migrate(word, errors),
                "skip" => all.skip = word.flag(errors),
                "serde" => all.serde = word.flag(errors),
                "rename" => all.rename = word.rename(errors),
                _ => match word.argument {
                    Argument::None => all.default = Some(Default_::OfType),
                    Argument::Value(expr) => all.default = Some(Default_::Expr(Box::new(expr))),
                    Argument::List(..) => errors.push(&word.name, "write `default`, or `default = expr`"),
                },
            }
        }
        all.from = pair.finish(errors);
        all
    }
}
