//! What comes out, as a reader would write it. With `UPDATE_EXPAND=1` in the environment it is written anew.

use proc_macro2::TokenStream;
use quote::quote;

fn expansion(item: TokenStream) -> String {
    prettyplease::unparse(&syn::parse2(super::derive(item)).expect("an expansion is a list of items"))
}

/// Compares with `tests/expand/handoff_<name>.rs`, which is not compiled there.
macro_rules! expands {
    ($name:literal, $($item:tt)*) => {{
        let path = format!("{}/tests/expand/handoff_{}.rs", env!("CARGO_MANIFEST_DIR"), $name);
        let found = expansion(quote!($($item)*));
        if std::env::var_os("UPDATE_EXPAND").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), found, "{} now expands to:\n\n{found}", $name);
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
            #[handoff(alias = "wait", default, from = "u64", migrate = Duration::from_millis)]
            timeout: Duration,
        }
    }
}

#[test]
fn an_enum() {
    expands! { "enum",
        #[handoff(rename = "State", crate = crate::flip, from = "OldMode", migrate = newer)]
        enum Mode<'a, T: Iterator, const N: usize> {
            Idle,
            #[handoff(rename = "Running", alias = "Active")]
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
