//! A shape as text for people.

use super::{Container, Content, Fields, Sample, Shape, Shapes, Variant};

impl Shapes {
    /// Its structs and enums, each on lines of its own; or what else it is.
    pub(crate) fn text(&self, indent: &str) -> String {
        let mut parts = Vec::new();
        if !matches!(self.root, Shape::Container(0)) {
            parts.push(format!("{indent}{}\n", self.shape(&self.root)));
        }
        for container in &self.containers {
            parts.push(match container {
                Container::Struct { name, fields } => format!("{indent}struct {name} {}\n", self.fields(fields)),
                Container::Enum { name, variants } => {
                    let variants = variants.iter().map(|variant| format!("{indent}    {},\n", self.variant(variant)));
                    format!("{indent}enum {name} {{\n{}{indent}}}\n", variants.collect::<String>())
                }
            });
        }
        // A type that lies in itself may have been met twice.
        let mut text = String::new();
        for (at, part) in parts.iter().enumerate() {
            if !parts[..at].contains(part) {
                text += part;
            }
        }
        text
    }

    fn variant(&self, Variant { name, content }: &Variant) -> String {
        match content {
            Content::Unit => name.clone(),
            Content::Unknown => format!("{name}(?)"),
            Content::Newtype(shape) => format!("{name}({})", self.shape(shape)),
            Content::Tuple(items) => format!("{name}({})", self.items(items)),
            Content::Struct(fields) => format!("{name} {}", self.fields(fields)),
        }
    }

    fn fields(&self, fields: &Fields) -> String {
        let fields = fields.list.iter().map(|(name, shape)| format!("{name}: {}", self.shape(shape)));
        format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
    }

    fn items(&self, items: &[Shape]) -> String {
        items.iter().map(|item| self.shape(item)).collect::<Vec<_>>().join(", ")
    }

    fn shape(&self, shape: &Shape) -> String {
        match shape {
            Shape::Unknown => "?".to_owned(),
            Shape::Unit | Shape::UnitStruct => "()".to_owned(),
            Shape::Option(inner) => format!("Option<{}>", self.shape(inner)),
            Shape::Seq(inner) => format!("List<{}>", self.shape(inner)),
            Shape::Tuple(items) => format!("({})", self.items(items)),
            Shape::Map(key, value) => format!("Map<{}, {}>", self.shape(key), self.shape(value)),
            Shape::Newtype(inner) => self.shape(inner),
            Shape::Container(place) => match &self.containers[*place] {
                Container::Struct { name, .. } | Container::Enum { name, .. } => name.clone(),
            },
            Shape::Leaf { kind, sample, picky } => {
                let like = match sample {
                    _ if !picky => String::new(),
                    Sample::Any => String::new(),
                    Sample::Integer(integer) => format!(" like {integer}"),
                    Sample::Text(text) => format!(" like {text:?}"),
                    Sample::Bytes(bytes) => format!(" like {bytes:?}"),
                };
                format!("{}{like}", kind.text())
            }
        }
    }
}
