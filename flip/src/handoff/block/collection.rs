//! What holds other values.
//!
//! Each is written by codecs of its parts ([`Of`], [`Pair`], tuples of codecs), so that a collection of what only serde
//! can write works as one of `Handoff` types does; those are the case in which every codec is [`ByHandoff`].

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque},
    hash::{BuildHasher, Hash},
    marker::PhantomData,
};

use super::{
    super::{
        Handoff,
        probe::{ByHandoff, Codec, Of, Pair},
        spread::{List, Spread},
    },
    RestoreError, Restorer, SaveError, Saver, Schemas, Type,
};

/// Writes elements one after the other; their number is the caller's to write.
#[inline]
pub(in super::super) fn save_items<'a, T: Send + 'a, C: Codec<T>>(
    codec: C,
    items: impl IntoIterator<Item = &'a T>,
    out: &mut Saver<'a>,
) -> Result<(), SaveError> {
    let (before, mut count) = (out.written(), 0);
    for item in items {
        if let Err(error) = codec.save_item(item, out) {
            return Err(error.at(count));
        }
        count += 1;
    }
    out.elements_since(before, count)
}

/// Reads `length` elements, and gives each to `take`, in their order. That many are claimed: who takes them makes room as they
/// come.
#[inline]
fn restore_each<T: Send>(
    input: &mut Restorer<'_>,
    length: usize,
    list: List<'_>,
    read: impl Fn(&mut Restorer<'_>) -> Result<T, RestoreError> + Sync,
    mut take: impl FnMut(&Restorer<'_>, T),
) -> Result<(), RestoreError> {
    let (mut spread, mut index) = (Spread::of(input, length), 0);
    while index < length {
        if spread.is_due(input) {
            index += spread.read(input, (index, length - index), list, &read, &mut take);
            if index == length {
                break;
            }
        }
        let before = input.consumed();
        match read(input) {
            Ok(element) => take(input, element),
            Err(error) => return Err(error.at(index)),
        }
        input.element_since(before)?;
        index += 1;
    }
    Ok(())
}

#[inline]
pub(in super::super) fn restore_items<T: Send, C: Codec<T>>(
    codec: C,
    input: &mut Restorer<'_>,
    length: usize,
) -> Result<Vec<T>, RestoreError> {
    let mut items = Vec::with_capacity(input.capacity::<T>(length));
    restore_each(
        input,
        length,
        Some(&|schemas| Type::list(codec.schema(schemas))),
        |input| codec.restore_item(input),
        |input, item| {
            input.grow(&mut items, length, 1);
            items.push(item);
        },
    )?;
    Ok(items)
}

#[inline]
fn restore_pairs<K: Send, V: Send, A: Codec<K>, B: Codec<V>>(
    Pair(key, value): Pair<A, B>,
    input: &mut Restorer<'_>,
    length: usize,
    take: impl FnMut(&Restorer<'_>, (K, V)),
) -> Result<(), RestoreError> {
    restore_each(input, length, None, |input| Ok((key.restore(input)?, value.restore(input)?)), take)
}

/// The list as one slice where it is one already; then numbers go as one piece.
macro_rules! lists {
    ($([$($life:lifetime)?] [$($bounds:tt)*] $ty:ty: $kind:ident, |$value:ident, $codec:ident, $out:ident| $save:expr, |$items:ident| $make:expr;)*) => { $(
        impl<$($life,)? T: Send + $($bounds)*, C: Codec<T>> Codec<$ty> for Of<C> {
            fn schema(self, schemas: &mut Schemas) -> Type {
                Type::$kind(self.0.schema(schemas))
            }

            #[inline]
            fn save<'a>(self, $value: &'a $ty, $out: &mut Saver<'a>) -> Result<(), SaveError> {
                let $codec = self.0;
                $out.length($value.len())?;
                $save
            }

            #[inline]
            fn restore(self, input: &mut Restorer<'_>) -> Result<$ty, RestoreError> {
                let length = input.length()?;
                let $items = self.0.restore_vec(input, length)?;
                Ok($make)
            }
        }

        by_handoff!([$($life,)? T: Handoff + $($bounds)*] $ty: Of(ByHandoff));
    )* };
}

/// `Handoff` where all parts are: the codec with nothing but [`ByHandoff`] in it.
macro_rules! by_handoff {
    ([$($params:tt)*] $ty:ty: $codec:expr) => {
        impl<$($params)*> Handoff for $ty {
            fn schema(schemas: &mut Schemas) -> Type {
                Codec::<$ty>::schema($codec, schemas)
            }

            #[inline]
            fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
                Codec::<$ty>::save($codec, self, out)
            }

            #[inline]
            fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                Codec::<$ty>::restore($codec, input)
            }
        }
    };
}

lists! {
    [] [Sized] Vec<T>: list, |value, codec, out| codec.save_slice(value, out), |items| items;
    [] [Sized] Box<[T]>: list, |value, codec, out| codec.save_slice(value, out), |items| items.into();
    ['c] [Clone + Sync] Cow<'c, [T]>: list, |value, codec, out| codec.save_slice(value, out), |items| Cow::Owned(items);
    [] [Sized] VecDeque<T>: list, |value, codec, out| match value.as_slices() {
        (items, []) => codec.save_slice(items, out),
        _ => save_items(codec, value, out),
    }, |items| items.into();
    [] [Ord] BinaryHeap<T>: list, |value, codec, out| codec.save_slice(value.as_slice(), out), |items| items.into();
    [] [Sized] LinkedList<T>: list, |value, codec, out| save_items(codec, value, out), |items| items.into_iter().collect();
    [] [Ord] BTreeSet<T>: set, |value, codec, out| save_items(codec, value, out), |items| items.into_iter().collect();
}

impl<T: Eq + Hash + Send, S: BuildHasher + Default + Send, C: Codec<T>> Codec<HashSet<T, S>> for Of<C> {
    fn schema(self, schemas: &mut Schemas) -> Type {
        Type::set(self.0.schema(schemas))
    }

    fn save<'a>(self, value: &'a HashSet<T, S>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        out.length(value.len())?;
        save_items(self.0, value, out)
    }

    fn restore(self, input: &mut Restorer<'_>) -> Result<HashSet<T, S>, RestoreError> {
        let length = input.length()?;
        Ok(self.0.restore_vec(input, length)?.into_iter().collect())
    }
}

by_handoff!([T: Handoff + Eq + Hash, S: BuildHasher + Default + Send] HashSet<T, S>: Of(ByHandoff));

impl<K, V, S, A, B> Codec<HashMap<K, V, S>> for Pair<A, B>
where
    K: Eq + Hash + Send,
    V: Send,
    S: BuildHasher + Default + Send,
    A: Codec<K>,
    B: Codec<V>,
{
    fn schema(self, schemas: &mut Schemas) -> Type {
        Type::map(self.0.schema(schemas), self.1.schema(schemas))
    }

    fn save<'a>(self, value: &'a HashMap<K, V, S>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        save_pairs(self, value.len(), value, out)
    }

    fn restore(self, input: &mut Restorer<'_>) -> Result<HashMap<K, V, S>, RestoreError> {
        let length = input.length()?;
        // A table that grows takes up each key again. So it waits until what came bears out all of it.
        let (mut early, mut map) = (Vec::new(), HashMap::with_hasher(S::default()));
        let is_borne_out = |input: &Restorer<'_>| input.capacity::<(K, V)>(length) == length;
        if is_borne_out(input) {
            map.reserve(length);
        }
        restore_pairs(self, input, length, |input, (key, value)| {
            if map.capacity() >= length {
                map.insert(key, value);
                return;
            }
            early.push((key, value));
            if is_borne_out(input) {
                map.reserve(length);
                map.extend(early.drain(..));
            }
        })?;
        map.extend(early);
        Ok(map)
    }
}

by_handoff!([K: Handoff + Eq + Hash, V: Handoff, S: BuildHasher + Default + Send] HashMap<K, V, S>: Pair(ByHandoff, ByHandoff));

impl<K: Ord + Send, V: Send, A: Codec<K>, B: Codec<V>> Codec<BTreeMap<K, V>> for Pair<A, B> {
    fn schema(self, schemas: &mut Schemas) -> Type {
        Type::map(self.0.schema(schemas), self.1.schema(schemas))
    }

    fn save<'a>(self, value: &'a BTreeMap<K, V>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        save_pairs(self, value.len(), value, out)
    }

    fn restore(self, input: &mut Restorer<'_>) -> Result<BTreeMap<K, V>, RestoreError> {
        let length = input.length()?;
        let mut pairs = Vec::with_capacity(input.capacity::<(K, V)>(length));
        restore_pairs(self, input, length, |_, pair| pairs.push(pair))?;
        // Built from a sorted list at once, which they came as.
        Ok(pairs.into_iter().collect())
    }
}

by_handoff!([K: Handoff + Ord, V: Handoff] BTreeMap<K, V>: Pair(ByHandoff, ByHandoff));

#[inline]
fn save_pairs<'a, K: Send + 'a, V: Send + 'a, A: Codec<K>, B: Codec<V>>(
    Pair(key, value): Pair<A, B>,
    length: usize,
    pairs: impl IntoIterator<Item = (&'a K, &'a V)>,
    out: &mut Saver<'a>,
) -> Result<(), SaveError> {
    out.length(length)?;
    let before = out.written();
    for (index, (k, v)) in pairs.into_iter().enumerate() {
        if let Err(error) = key.save(k, out).and_then(|()| value.save(v, out)) {
            return Err(error.at(index));
        }
    }
    out.elements_since(before, length)
}

impl<T: Send, C: Codec<T>> Codec<Option<T>> for Of<C> {
    fn schema(self, schemas: &mut Schemas) -> Type {
        Type::option(self.0.schema(schemas))
    }

    #[inline]
    fn save<'a>(self, value: &'a Option<T>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        match value {
            None => out.scalar(false),
            Some(value) => {
                out.scalar(true)?;
                self.0.save(value, out)
            }
        }
    }

    #[inline]
    fn restore(self, input: &mut Restorer<'_>) -> Result<Option<T>, RestoreError> {
        if input.scalar()? { self.0.restore(input).map(Some) } else { Ok(None) }
    }
}

by_handoff!([T: Handoff] Option<T>: Of(ByHandoff));

// A box goes as what is in it, in the schema, too.
impl<T: Send, C: Codec<T>> Codec<Box<T>> for Of<C> {
    fn schema(self, schemas: &mut Schemas) -> Type {
        self.0.schema(schemas)
    }

    #[inline]
    fn save<'a>(self, value: &'a Box<T>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        self.0.save(value, out)
    }

    #[inline]
    fn restore(self, input: &mut Restorer<'_>) -> Result<Box<T>, RestoreError> {
        self.0.restore_boxed(input)
    }

    #[inline]
    fn save_item<'a>(self, value: &'a Box<T>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        self.0.save_item(value, out)
    }

    #[inline]
    fn restore_item(self, input: &mut Restorer<'_>) -> Result<Box<T>, RestoreError> {
        self.0.restore_item(input).map(Box::new)
    }
}

impl<T: Handoff> Handoff for Box<T> {
    fn schema(schemas: &mut Schemas) -> Type {
        T::schema(schemas)
    }

    #[inline]
    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        T::save(self, out)
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        T::restore_boxed(input)
    }

    #[inline]
    fn save_item<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        T::save_item(self, out)
    }

    #[inline]
    fn restore_item(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        T::restore_item(input).map(Box::new)
    }
}

impl<T: Send, const N: usize, C: Codec<T>> Codec<[T; N]> for Of<C> {
    fn schema(self, schemas: &mut Schemas) -> Type {
        Type::array(self.0.schema(schemas), N)
    }

    #[inline]
    fn save<'a>(self, value: &'a [T; N], out: &mut Saver<'a>) -> Result<(), SaveError> {
        self.0.save_slice(value, out)
    }

    #[inline]
    fn restore(self, input: &mut Restorer<'_>) -> Result<[T; N], RestoreError> {
        if size_of::<[T; N]>() <= SMALL {
            return restore_in_place(self.0, input);
        }
        let items = self.0.restore_vec(input, N)?;
        Ok(items.try_into().unwrap_or_else(|_| unreachable!("a list is as long as it was asked for")))
    }

    fn restore_boxed(self, input: &mut Restorer<'_>) -> Result<Box<[T; N]>, RestoreError> {
        let items = self.0.restore_vec(input, N)?;
        Ok(items.try_into().unwrap_or_else(|_| unreachable!("a list is as long as it was asked for")))
    }
}

/// Up to how many bytes an array is put together where it will lie: without an allocation, but on the stack.
const SMALL: usize = 1024;

/// By itself, because its array is on the stack of whoever might call it.
fn restore_in_place<T: Send, C: Codec<T>, const N: usize>(
    codec: C,
    input: &mut Restorer<'_>,
) -> Result<[T; N], RestoreError> {
    let mut slots = [const { None::<T> }; N];
    for (index, slot) in slots.iter_mut().enumerate() {
        let before = input.consumed();
        match codec.restore_item(input) {
            Ok(item) => *slot = Some(item),
            Err(error) => return Err(error.at(index)),
        }
        input.element_since(before)?;
    }
    Ok(slots.map(|slot| slot.expect("each slot was filled by the loop above")))
}

impl<T: Handoff, const N: usize> Handoff for [T; N] {
    fn schema(schemas: &mut Schemas) -> Type {
        Codec::<[T; N]>::schema(Of(ByHandoff), schemas)
    }

    #[inline]
    fn save<'a>(&'a self, out: &mut Saver<'a>) -> Result<(), SaveError> {
        T::save_slice(self, out)
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        Codec::<[T; N]>::restore(Of(ByHandoff), input)
    }

    fn restore_boxed(input: &mut Restorer<'_>) -> Result<Box<Self>, RestoreError> {
        Codec::<[T; N]>::restore_boxed(Of(ByHandoff), input)
    }
}

impl<T: Send, E: Send, A: Codec<T>, B: Codec<E>> Codec<Result<T, E>> for Pair<A, B> {
    fn schema(self, schemas: &mut Schemas) -> Type {
        Type::result(self.0.schema(schemas), self.1.schema(schemas))
    }

    fn save<'a>(self, value: &'a Result<T, E>, out: &mut Saver<'a>) -> Result<(), SaveError> {
        match value {
            Ok(value) => {
                out.scalar(true)?;
                self.0.save(value, out)
            }
            Err(error) => {
                out.scalar(false)?;
                self.1.save(error, out)
            }
        }
    }

    fn restore(self, input: &mut Restorer<'_>) -> Result<Result<T, E>, RestoreError> {
        if input.scalar()? { self.0.restore(input).map(Ok) } else { self.1.restore(input).map(Err) }
    }
}

by_handoff!([T: Handoff, E: Handoff] Result<T, E>: Pair(ByHandoff, ByHandoff));

macro_rules! tuples {
    ($(($($ty:ident $codec:ident $at:tt)*))*) => { $(
        impl<$($ty: Send, $codec: Codec<$ty>),*> Codec<($($ty,)*)> for ($($codec,)*) {
            fn schema(self, schemas: &mut Schemas) -> Type {
                Type::tuple([$(self.$at.schema(schemas)),*])
            }

            #[inline]
            fn save<'a>(self, value: &'a ($($ty,)*), out: &mut Saver<'a>) -> Result<(), SaveError> {
                $(self.$at.save(&value.$at, out).map_err(|error| error.in_field(stringify!($at)))?;)*
                Ok(())
            }

            #[inline]
            fn restore(self, input: &mut Restorer<'_>) -> Result<($($ty,)*), RestoreError> {
                Ok(($(self.$at.restore(input).map_err(|error| error.in_field(stringify!($at)))?,)*))
            }
        }

        by_handoff!([$($ty: Handoff),*] ($($ty,)*): ($(by_handoff_for!($ty),)*));
    )* };
}

macro_rules! by_handoff_for {
    ($ty:ident) => {
        ByHandoff
    };
}

tuples! {
    (A CA 0)
    (A CA 0 B CB 1)
    (A CA 0 B CB 1 D CD 2)
    (A CA 0 B CB 1 D CD 2 E CE 3)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5 H CH 6)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5 H CH 6 I CI 7)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5 H CH 6 I CI 7 J CJ 8)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5 H CH 6 I CI 7 J CJ 8 K CK 9)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5 H CH 6 I CI 7 J CJ 8 K CK 9 L CL 10)
    (A CA 0 B CB 1 D CD 2 E CE 3 F CF 4 G CG 5 H CH 6 I CI 7 J CJ 8 K CK 9 L CL 10 M CM 11)
}

macro_rules! nothing {
    ([$($params:tt)*] $ty:ty, $value:expr) => {
        impl<$($params)*> Handoff for $ty {
            fn schema(_: &mut Schemas) -> Type {
                Type::tuple([])
            }

            #[inline]
            fn save<'a>(&'a self, _: &mut Saver<'a>) -> Result<(), SaveError> {
                Ok(())
            }

            #[inline]
            fn restore(_: &mut Restorer<'_>) -> Result<Self, RestoreError> {
                Ok($value)
            }
        }
    };
}

nothing!([](), ());
nothing!([T: ?Sized + Send] PhantomData<T>, PhantomData);
