//! One struct that was met as two.
//!
//! Tracing tells structs apart by where the names of their fields lie, and a compiler may put the same names in two
//! places, or in one place in one build and in two in the next. What has the same parts is one, so that the same type
//! has the same shape wherever it was compiled.

use std::collections::HashMap;

use super::{Container, Content, Saver, Shape, Shapes};

impl Shapes {
    pub(super) fn without_twins(mut self) -> Self {
        // All are taken for one at first, and told apart by their parts, and by those of their parts, until nothing more
        // tells any apart: those that are in themselves have no end to begin at.
        let mut groups = vec![0; self.containers.len()];
        let mut count = 1;
        loop {
            let mut numbers = HashMap::new();
            let next = self.containers.iter().zip(&groups).map(|(container, group)| {
                let number = numbers.len();
                *numbers.entry((*group, container.with(&groups).bytes())).or_insert(number)
            });
            groups = next.collect();
            if numbers.len() <= count {
                break;
            }
            count = numbers.len();
        }
        let mut kept = Vec::new();
        for (container, group) in self.containers.iter().zip(&groups) {
            // Groups are numbered in the order of their first.
            if *group == kept.len() {
                kept.push(container.with(&groups));
            }
        }
        self.containers = kept;
        self.root.renumber(&groups);
        self
    }
}

impl Container {
    /// With the structs and enums that it refers to by these numbers.
    fn with(&self, numbers: &[usize]) -> Self {
        let mut container = self.clone();
        match &mut container {
            Container::Struct { fields, .. } => fields.list.iter_mut().for_each(|(_, shape)| shape.renumber(numbers)),
            Container::Enum { variants, .. } => {
                for variant in variants {
                    match &mut variant.content {
                        Content::Unknown | Content::Unit => {}
                        Content::Newtype(shape) => shape.renumber(numbers),
                        Content::Tuple(items) => items.iter_mut().for_each(|shape| shape.renumber(numbers)),
                        Content::Struct(fields) => {
                            fields.list.iter_mut().for_each(|(_, shape)| shape.renumber(numbers));
                        }
                    }
                }
            }
        }
        container
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Saver::in_memory();
        // In memory nothing can fail.
        let _ = self.write(&mut out);
        out.into_bytes()
    }
}

impl Shape {
    fn renumber(&mut self, numbers: &[usize]) {
        match self {
            Shape::Unknown | Shape::Unit | Shape::UnitStruct | Shape::Leaf { .. } => {}
            Shape::Option(inner) | Shape::Seq(inner) | Shape::Newtype(inner) => inner.renumber(numbers),
            Shape::Map(key, value) => {
                key.renumber(numbers);
                value.renumber(numbers);
            }
            Shape::Tuple(items) => items.iter_mut().for_each(|item| item.renumber(numbers)),
            Shape::Container(place) => *place = numbers[*place],
        }
    }
}
