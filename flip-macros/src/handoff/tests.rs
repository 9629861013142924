//! What comes out, as a reader would write it. To see a new expansion, run the test and copy what it prints.

use proc_macro2::TokenStream;
use quote::quote;

fn expansion(item: TokenStream) -> String {
    prettyplease::unparse(&syn::parse2(super::derive(item)).expect("an expansion is a list of items"))
}

/// Compares with `tests/expand/handoff_<name>.rs`, which is not compiled there.
macro_rules! expands {
    ($name:literal, $($item:tt)*) => {{
        let (expected, found) = (include_str!(concat!("../../tests/expand/handoff_", $name, ".rs")), expansion(quote!($($item)*)));
        assert!(expected == found, "{} now expands to:\n\n{found}", $name);
    }};
}

#[test]
fn a_struct() {
    expands! { "struct",
        #[handoff(calls(Hit))]
        struct Visits {
            total: u64,
            by_page: HashMap<String, Page>,
            #[handoff(skip)]
            cache: Vec<u8>,
            #[handoff(default = 7, rename = "limit")]
            max: u32,
            #[handoff(serde)]
            config: Config,
        }
    }
}

#[test]
fn an_enum() {
    expands! { "enum",
        #[handoff(rename = "State", crate = crate::flip)]
        enum Mode<'a, T: Iterator, const N: usize> {
            Idle,
            #[handoff(rename = "Running")]
            Busy(T::Item, [(T, Cow<'a, str>); N]),
            Named { r#type: Option<Box<Self>>, tag: PhantomData<T> },
        }
    }
}

#[test]
fn a_mistake_leaves_an_implementation() {
    expands! { "mistake",
        struct Visits<T> {
            name: &'static T,
        }
    }
}
