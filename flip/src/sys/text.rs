//! Text that is looked at as it comes, while it is in the processor's cache, and not once more when all of it is there.

use std::str::Utf8Error;

use super::spare::{Spare, append};

/// Each byte's highest bit, which no ASCII has.
const BEYOND: u128 = u128::from_le_bytes([0x80; 16]);

/// The first `length` bytes as text, if there are so many and those are ASCII. What else is text is not known here.
///
/// A look at single bytes, as std has one for what is short or left over, would cost more than the text's memory does.
#[inline]
pub(crate) fn ascii(bytes: &[u8], length: usize) -> Option<String> {
    let text = bytes.get(..length)?;
    let Some(&last) = text.last_chunk() else { return short_ascii(bytes, length) };
    // Those at the end twice, where the length is not that of whole chunks.
    let chunks = text.as_chunks().0.iter();
    let seen = chunks.fold(u128::from_le_bytes(last), |seen, &chunk| seen | u128::from_le_bytes(chunk));
    // SAFETY: each of its bytes is among those seen, and none of those is beyond ASCII.
    (seen & BEYOND == 0).then(|| unsafe { String::from_utf8_unchecked(text.to_vec()) })
}

/// The same for fewer than sixteen bytes, where so many are there. A copy of a fixed length costs less than one of the right length, and
/// no allocator has memory for less than eight bytes.
#[inline(always)]
pub(crate) fn short_ascii(bytes: &[u8], length: usize) -> Option<String> {
    let bytes: &[u8; 16] = bytes.first_chunk().filter(|_| length < 16)?;
    if length == 0 {
        return Some(String::new());
    }
    // What comes after it is shifted out.
    let seen = u128::from_le_bytes(*bytes) << (128 - 8 * length);
    if seen & BEYOND != 0 {
        return None;
    }
    let mut text = if length <= 8 { bytes[..8].to_vec() } else { bytes.to_vec() };
    text.truncate(length);
    // SAFETY: each of its bytes is among those seen, and none of those is beyond ASCII.
    Some(unsafe { String::from_utf8_unchecked(text) })
}

/// Fewer than sixteen bytes behind how many they are, which is how bincode writes them, followed by zeros. A call for so few would
/// cost more than they do.
#[inline(always)]
pub(crate) fn short(bytes: &[u8]) -> Option<[u8; 16]> {
    let length = bytes.len();
    let at = |place: usize| 8 * place as u32;
    let word = match length {
        0 => 0,
        1..4 => {
            let byte = |place: usize| u128::from(bytes[place]) << at(place);
            byte(0) | byte(length / 2) | byte(length - 1)
        }
        // From the start and up to the end; what is in both is the same.
        4..8 => {
            let [first, last] = [bytes.first_chunk()?, bytes.last_chunk()?].map(|four| u32::from_le_bytes(*four));
            u128::from(first) | u128::from(last) << at(length - 4)
        }
        8..16 => {
            let [first, last] = [bytes.first_chunk()?, bytes.last_chunk()?].map(|eight| u64::from_le_bytes(*eight));
            u128::from(first) | u128::from(last) << at(length - 8)
        }
        _ => return None,
    };
    Some((word << 8 | length as u128).to_le_bytes())
}

/// Bytes that are text as far as they were looked at: to the end, or to within its last character.
pub(crate) struct Text {
    /// Longer than what came, where there was memory for more.
    bytes: Vec<u8>,
    length: usize,
    valid: usize,
}

impl Text {
    /// None yet, in this memory, over whatever lies there.
    pub(crate) fn within(bytes: Vec<u8>) -> Text {
        Text { bytes, length: 0, valid: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for so many more than there are.
    pub(crate) fn reserve_exact(&mut self, more: usize) {
        self.bytes.reserve_exact((self.length + more).saturating_sub(self.bytes.len()));
    }

    /// Lets `fill` write `count` bytes, and looks at them.
    ///
    /// # Errors
    /// Those of `fill`, and where it is no text.
    pub(crate) fn more<E: From<Utf8Error>>(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut Spare<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (from, to) = (self.length, self.length + count);
        if self.bytes.len() < to {
            self.bytes.truncate(from);
            append(&mut self.bytes, count, fill)?;
        } else {
            fill(&mut Spare::over(&mut self.bytes[from..to]))?;
        }
        self.length = to;
        let more = &self.bytes[self.valid..to];
        // Which is seen several times as fast.
        if more.is_ascii() {
            self.valid = to;
            return Ok(());
        }
        match str::from_utf8(more) {
            Ok(_) => self.valid = to,
            // A character that has not come whole.
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// All of it.
    ///
    /// # Errors
    /// Where it ends within a character.
    pub(crate) fn finish(mut self) -> Result<String, Utf8Error> {
        self.bytes.truncate(self.length);
        str::from_utf8(&self.bytes[self.valid..])?;
        // SAFETY: up to `valid` it was looked at and nobody could change it since, and the rest was looked at just now.
        Ok(unsafe { String::from_utf8_unchecked(self.bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pieces of this length.
    fn read(bytes: &[u8], piece: usize) -> Result<String, Utf8Error> {
        let mut text = Text::within(Vec::new());
        for piece in bytes.chunks(piece) {
            text.more(piece.len(), |room| {
                room.put(piece);
                Ok::<_, Utf8Error>(())
            })?;
        }
        text.finish()
    }

    #[test]
    fn ascii_is_as_long_as_it_says() {
        for length in 0..70 {
            let mut bytes = [vec![b'a'; length], vec![0xff; 20]].concat();
            assert_eq!(ascii(&bytes, length), Some("a".repeat(length)));
            for at in 0..length {
                bytes[at] = 0x80;
                assert_eq!(ascii(&bytes, length), None);
                bytes[at] = b'a';
            }
        }
        assert_eq!((ascii(b"abc", 2), ascii(&[b'a'; 20], 21)), (None, None));
    }

    #[test]
    fn what_is_short_stands_behind_its_length() {
        let bytes: Vec<u8> = (1..20).collect();
        for length in 0..16 {
            let written = short(&bytes[..length]).unwrap();
            let expected = [&[length as u8], &bytes[..length], &[0; 15]].concat();
            assert_eq!(written, expected[..16]);
        }
        assert_eq!(short(&bytes[..16]), None);
    }

    #[test]
    fn it_is_text_whatever_the_pieces() {
        let text = "naïve — 🦀 text ".repeat(20);
        for piece in 1..40 {
            assert_eq!(read(text.as_bytes(), piece).as_deref(), Ok(&*text));
        }
    }

    #[test]
    fn what_is_no_text_is_refused_whatever_the_pieces() {
        for broken in [
            &b"a\xff"[..],
            b"\x80",
            b"abc\xe2\x82",
            b"\xf0\x9f\xa6",
            b"\xc0\xaf",
            b"\xed\xa0\x80 surrogate",
            b"ok \xe2a",
        ] {
            for piece in 1..6 {
                assert!(read(broken, piece).is_err(), "{broken:?} in pieces of {piece}");
            }
        }
    }
}
