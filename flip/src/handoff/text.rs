//! A schema as text for people: who compares two of them sees what has changed.

use std::collections::HashMap;

use super::schema::{Field, Node, Schema, Shape};

impl Schema {
    /// Much as the types would be declared.
    pub(crate) fn text(&self) -> String {
        let mut counts = HashMap::<&str, usize>::new();
        let names = self.named.iter().map(|named| {
            // The second one of a name has a 2 behind it.
            let count = counts.entry(&named.name).or_default();
            *count += 1;
            if *count == 1 { named.name.clone() } else { format!("{}{count}", named.name) }
        });
        let mut text = Text { names: names.collect(), serde: Vec::new() };
        let mut parts = vec![format!("{}\n", text.node(&self.root))];
        for (place, named) in self.named.iter().enumerate() {
            let name = text.names[place].clone();
            let from = named.from.as_ref().map(|from| text.node(from));
            let attributes = attributes("", &[], false, from);
            parts.push(match &named.shape {
                Shape::Struct(fields) => format!("{attributes}struct {name} {}\n", text.fields("", fields)),
                Shape::Enum(variants) => {
                    let variants = variants.iter().map(|variant| {
                        let attributes = self::attributes(INDENT, &variant.aliases, false, None);
                        let fields = match &*variant.fields {
                            [] => String::new(),
                            fields => format!(" {}", text.fields(INDENT, fields)),
                        };
                        format!("{attributes}{INDENT}{}{fields},\n", variant.name)
                    });
                    format!("{attributes}enum {name} {{\n{}}}\n", variants.collect::<String>())
                }
            });
        }
        parts.append(&mut text.serde);
        parts.join("\n")
    }
}

const INDENT: &str = "    ";

struct Text {
    /// Each type's own.
    names: Vec<String>,
    /// What is known of types that only serde knows, each once.
    serde: Vec<String>,
}

impl Text {
    fn node(&mut self, node: &Node) -> String {
        match node {
            Node::Leaf(leaf) => leaf.text().to_owned(),
            Node::SelfDescribed(described) => {
                let (name, shape) = described.text();
                let text = format!("serde {name} {{\n{shape}}}\n");
                if !self.serde.contains(&text) {
                    self.serde.push(text);
                }
                format!("serde {name}")
            }
            Node::Option(inner) => format!("Option<{}>", self.node(inner)),
            Node::List(inner) => format!("List<{}>", self.node(inner)),
            Node::Set(inner) => format!("Set<{}>", self.node(inner)),
            Node::Array(inner, length) => format!("[{}; {length}]", self.node(inner)),
            Node::Map(key, value) => format!("Map<{}, {}>", self.node(key), self.node(value)),
            Node::Result(ok, err) => format!("Result<{}, {}>", self.node(ok), self.node(err)),
            Node::Tuple(items) => {
                format!("({})", items.iter().map(|item| self.node(item)).collect::<Vec<_>>().join(", "))
            }
            Node::Named(place) => self.names[*place].clone(),
        }
    }

    fn fields(&mut self, indent: &str, fields: &[Field]) -> String {
        if fields.is_empty() {
            return "{}".to_owned();
        }
        let inner = format!("{indent}{INDENT}");
        let lines = fields.iter().map(|field| {
            let from = field.from.as_ref().map(|from| self.node(from));
            let attributes = attributes(&inner, &field.aliases, field.default, from);
            format!("{attributes}{inner}{}: {},\n", field.name, self.node(&field.node))
        });
        format!("{{\n{}{indent}}}", lines.collect::<String>())
    }
}

fn attributes(indent: &str, aliases: &[String], default: bool, from: Option<String>) -> String {
    let aliases = aliases.iter().map(|alias| format!("alias = \"{alias}\""));
    let default = default.then(|| "default".to_owned());
    let from = from.map(|from| format!("from = \"{from}\""));
    let all: Vec<_> = aliases.chain(default).chain(from).collect();
    if all.is_empty() { String::new() } else { format!("{indent}#[handoff({})]\n", all.join(", ")) }
}
