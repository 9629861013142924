macro_rules! state {
    ($name:ident { $($field:ident: $ty:ty = $default:expr),* }) => {
        #[derive(flip::Handoff)]
        struct $name {
            $(#[handoff(default = $default)] $field: $ty,)*
            own: Vec<u8>,
        }
    };
}

const FIRST: u64 = 1;

state!(Visits { total: u64 = FIRST, names: Vec<String> = vec![] });

fn main() {}
