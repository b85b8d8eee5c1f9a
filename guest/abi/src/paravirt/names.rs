//! Names: short text in a fixed field.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a name's field.
pub const NAME_BYTES: usize = 32;

/// A name as it lies in a field: its bytes, then zeros. It may hold anything; [`Name::text`] says whether it is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Name(pub [u8; NAME_BYTES]);

impl Name {
    /// No name.
    pub const NONE: Name = Name([0; NAME_BYTES]);

    /// The field for a name; `None` if it is none: 1 to [`NAME_BYTES`] bytes, of ASCII letters, digits and `. _ - / :`.
    pub fn new(text: &str) -> Option<Self> {
        let mut field = Name::NONE;
        field.0.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        field.text().map(|_| field)
    }

    /// The name in the field, if it holds one.
    pub fn text(&self) -> Option<&str> {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        let (name, rest) = self.0.split_at(length);
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(byte);
        let is_name = !name.is_empty() && name.iter().all(allowed) && rest.iter().all(|byte| *byte == 0);
        if is_name {
            core::str::from_utf8(name).ok()
        } else {
            None
        }
    }

    /// Whether the field is all zeros.
    pub fn is_none(&self) -> bool {
        *self == Name::NONE
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => fmt::Debug::fmt(text, f),
            None => fmt::Debug::fmt(&self.0, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_and_padded_with_zeros() {
        let longest = "abcdefghijklmnopqrstuvwxyz.-_/:0";
        for text in ["a", "ring-0", "job:7/heap", longest] {
            assert_eq!(Name::new(text).as_ref().and_then(Name::text), Some(text));
        }
        assert_eq!(longest.len(), NAME_BYTES);
        for text in ["", "with space", "ä", "a\0b", "quote\"", "abcdefghijklmnopqrstuvwxyz.-_/:01"] {
            assert_eq!(Name::new(text), None, "{text:?}");
        }
        let mut field = Name::new("a").expect("a name");
        field.0[5] = b'b';
        assert_eq!(field.text(), None, "something behind the end");
        assert_eq!(Name::NONE.text(), None);
        assert!(Name::NONE.is_none() && !field.is_none());
    }
}
