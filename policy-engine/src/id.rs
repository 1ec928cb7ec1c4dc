//! Names made from content: equal content has an equal name. A name is 80 bits of SHA-256, written
//! as 16 letters and digits.
//!
//! The hash has the length of each field before the field, so that two different lists of fields
//! never have the same hash input: ("prod", "1deny") is not ("prod1", "deny").

use std::fmt;

use sha2::{Digest, Sha256};

/// The name of a set: a hash of its definition, not of its members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(ContentId);

/// The name of a ruleset: a hash of its rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulesetId(ContentId);

impl SetId {
    /// The set whose definition hashes to `content`.
    #[must_use]
    pub fn new(content: ContentId) -> Self {
        Self(content)
    }
}

impl RulesetId {
    /// The ruleset whose rules hash to `content`.
    #[must_use]
    pub fn new(content: ContentId) -> Self {
        Self(content)
    }
}

/// 80 bits of a SHA-256, shown as 16 characters of `a-z2-7` (base 32 of RFC 4648, lower case).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId([u8; 10]);

impl From<SetId> for ContentId {
    fn from(id: SetId) -> Self {
        id.0
    }
}

impl From<RulesetId> for ContentId {
    fn from(id: RulesetId) -> Self {
        id.0
    }
}

/// The hash of a collection without order, which is kept up to date while items come and go: the
/// exclusive or of the hashes of its items. Its order of items and of changes does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tally([u8; 10]);

impl Tally {
    /// Adds an item, or removes one that is in the collection.
    pub fn toggle(&mut self, item: ContentId) {
        self.0.iter_mut().zip(item.0).for_each(|(byte, other)| *byte ^= other);
    }

    /// Adds the items of another collection, or removes them.
    pub fn toggle_all(&mut self, items: Self) {
        self.toggle(ContentId(items.0));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        ContentId(self.0).fmt(formatter)
    }
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl fmt::Display for ContentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.iter().fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
        for index in (0..16).rev() {
            let digit = ((bits >> (index * 5)) & 31) as usize;
            write!(formatter, "{}", char::from(ALPHABET[digit]))?;
        }
        Ok(())
    }
}

macro_rules! show_as_content {
    ($($name:ty),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )+};
}
show_as_content!(SetId, RulesetId);

impl fmt::Debug for ContentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Collects fields and hashes them.
#[derive(Default)]
pub struct ContentHasher(Sha256);

impl ContentHasher {
    /// A hasher for one kind of content: equal fields of different kinds get different names.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        let mut hasher = Self::default();
        hasher.text(kind);
        hasher
    }

    /// Adds a field.
    pub fn bytes(&mut self, field: &[u8]) {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
    }

    /// Adds a text.
    pub fn text(&mut self, field: &str) {
        self.bytes(field.as_bytes());
    }

    /// Adds the name of other content.
    pub fn id(&mut self, field: impl Into<ContentId>) {
        self.bytes(&field.into().0);
    }

    /// Adds a number, such as the length of a list that follows.
    pub fn number(&mut self, field: usize) {
        self.bytes(&(field as u64).to_be_bytes());
    }

    /// The name of the fields that were added.
    #[must_use]
    pub fn finish(self) -> ContentId {
        let digest = self.0.finalize();
        let mut id = [0; 10];
        id.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
        ContentId(id)
    }
}

/// The hash of a list of texts, such as the members of a set in their order.
#[must_use]
pub fn digest(texts: impl IntoIterator<Item = impl AsRef<str>>) -> ContentId {
    let mut hasher = ContentHasher::new("list");
    texts.into_iter().for_each(|text| hasher.text(text.as_ref()));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(fields: &[&str]) -> ContentId {
        let mut hasher = ContentHasher::new("test");
        for field in fields {
            hasher.text(field);
        }
        hasher.finish()
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        assert_ne!(id(&["prod", "1deny"]), id(&["prod1", "deny"]));
        assert_ne!(id(&["a"]), id(&["a", ""]));
    }

    #[test]
    fn a_name_has_sixteen_characters_that_kernels_and_shells_take() {
        let name = id(&["x"]).to_string();
        assert_eq!(name.len(), 16);
        assert!(name.bytes().all(|byte| ALPHABET.contains(&byte)), "{name}");
    }
}
