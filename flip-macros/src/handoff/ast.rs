//! The item as the derive sees it: parts, names and what their attributes say.

use proc_macro2::Span;
use syn::{Data, DeriveInput, Fields, Ident, Member, Type, ext::IdentExt, spanned::Spanned};

use super::attr::{ContainerAttrs, FieldAttrs, VariantAttrs};
use crate::diag::Errors;

pub struct Input<'a> {
    pub item: &'a DeriveInput,
    pub attrs: ContainerAttrs,
    pub shape: Shape<'a>,
}

pub enum Shape<'a> {
    Struct(Vec<Field<'a>>),
    Enum(Vec<Variant<'a>>),
    /// Refused, but looked at.
    Union,
}

pub struct Variant<'a> {
    pub ident: &'a Ident,
    pub attrs: VariantAttrs,
    pub fields: Vec<Field<'a>>,
}

pub struct Field<'a> {
    pub member: Member,
    pub ty: &'a Type,
    pub attrs: FieldAttrs,
    /// Counted through all variants.
    pub number: usize,
    /// Where to complain about the field as a whole.
    pub span: Span,
}

impl<'a> Input<'a> {
    pub fn from_item(item: &'a DeriveInput, errors: &mut Errors) -> Self {
        let attrs = ContainerAttrs::parse(&item.attrs, errors);
        let shape = match &item.data {
            Data::Struct(data) => Shape::Struct(fields(&data.fields, &mut 0, errors)),
            Data::Enum(data) => {
                let mut number = 0;
                let variants = data.variants.iter().map(|variant| Variant {
                    ident: &variant.ident,
                    attrs: VariantAttrs::parse(&variant.attrs, errors),
                    fields: fields(&variant.fields, &mut number, errors),
                });
                Shape::Enum(variants.collect())
            }
            Data::Union(_) => Shape::Union,
        };
        Self { item, attrs, shape }
    }

    /// Fields and variants by their names, as they go over the wire: then their order in the source does not matter.
    pub fn in_order(mut self) -> Self {
        let sort = |fields: &mut Vec<Field<'a>>| fields.sort_by_cached_key(Field::name);
        match &mut self.shape {
            Shape::Struct(fields) => sort(fields),
            Shape::Enum(variants) => {
                variants.iter_mut().for_each(|variant| sort(&mut variant.fields));
                variants.sort_by_cached_key(Variant::name);
            }
            Shape::Union => {}
        }
        self
    }

    /// What the type is called in messages.
    pub fn name(&self) -> String {
        self.attrs.rename.clone().unwrap_or_else(|| self.item.ident.unraw().to_string())
    }

    /// Every field, of whichever variant.
    pub fn fields(&self) -> impl Iterator<Item = &Field<'a>> {
        let (own, variants): (&[Field<'a>], &[Variant<'a>]) = match &self.shape {
            Shape::Struct(fields) => (fields, &[]),
            Shape::Enum(variants) => (&[], variants),
            Shape::Union => (&[], &[]),
        };
        own.iter().chain(variants.iter().flat_map(|variant| &variant.fields))
    }
}

impl Variant<'_> {
    /// By which old and new are matched.
    pub fn name(&self) -> String {
        self.attrs.rename.clone().unwrap_or_else(|| self.ident.unraw().to_string())
    }
}

impl Field<'_> {
    /// By which old and new are matched.
    pub fn name(&self) -> String {
        self.attrs.rename.clone().unwrap_or_else(|| match &self.member {
            Member::Named(ident) => ident.unraw().to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        })
    }
}

fn fields<'a>(fields: &'a Fields, number: &mut usize, errors: &mut Errors) -> Vec<Field<'a>> {
    let with_members = fields.members().zip(fields);
    with_members
        .map(|(member, field)| Field {
            member,
            ty: &field.ty,
            attrs: FieldAttrs::parse(&field.attrs, errors),
            number: {
                *number += 1;
                *number - 1
            },
            span: field.ident.as_ref().map_or_else(|| field.ty.span(), Spanned::span),
        })
        .collect()
}
