//! Memory for what is large, made ready before the freeze.

use bytemuck::{Pod, allocation::try_cast_vec};

macro_rules! rooms {
    ($($align:ident $item:ident)*) => {
        /// Memory of one alignment, which what it is made into must have too: a `Vec` gives it back as what it takes it for.
        pub(crate) enum Room {
            $($align(Vec<$item>)),*
        }

        impl Room {
            /// None where there is no such memory.
            pub(crate) fn new(size: usize, align: usize) -> Option<Room> {
                $(if align == align_of::<$item>() {
                    let mut items = Vec::new();
                    items.try_reserve_exact(size / size_of::<$item>()).ok()?;
                    return Some(Room::$align(items));
                })*
                None
            }

            /// Writes to all of it.
            pub(crate) fn touch(&mut self) {
                match self {
                    $(Room::$align(items) => items.resize(items.capacity(), 0)),*
                }
            }

            /// How many bytes were written to.
            pub(crate) fn size(&self) -> usize {
                match self {
                    $(Room::$align(items) => size_of_val(&**items)),*
                }
            }

            pub(crate) fn align(&self) -> usize {
                match self {
                    $(Room::$align(_) => align_of::<$item>()),*
                }
            }

            /// So many items, with whatever lies there.
            pub(crate) fn into_vec<T: Pod>(self, length: usize) -> Option<Vec<T>> {
                let mut items = match self {
                    $(Room::$align(items) => try_cast_vec(items).ok()?),*
                };
                items.truncate(length);
                (items.len() == length).then_some(items)
            }
        }
    };
}

rooms! { One u8 Two u16 Four u32 Eight u64 Sixteen u128 }

#[cfg(test)]
mod tests {
    use super::*;

    fn made<T: Pod + std::fmt::Debug + PartialEq>(zero: T) {
        let mut room = Room::new(8 * size_of::<T>(), align_of::<T>()).unwrap();
        assert_eq!((room.size(), room.align()), (0, align_of::<T>()));
        room.touch();
        assert!(room.size() >= 8 * size_of::<T>());
        assert_eq!(room.into_vec::<T>(7).unwrap(), [zero; 7]);
    }

    #[test]
    fn it_becomes_what_is_aligned_as_it_is() {
        made(0_u8);
        made(0_i16);
        made(0_f32);
        made(0_i64);
        made(0_u128);
    }

    #[test]
    fn it_becomes_nothing_else() {
        let room = || {
            let mut room = Room::new(64, 8).unwrap();
            room.touch();
            room
        };
        assert!(room().into_vec::<u8>(8).is_none() && room().into_vec::<u32>(8).is_none());
        assert!(room().into_vec::<u64>(1000).is_none());
        for (size, align) in [(64, 0), (64, 3), (64, 32), (usize::MAX, 1)] {
            assert!(Room::new(size, align).is_none());
        }
    }
}
