//! Sets of labels: small and sorted, with shared storage.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A text that many objects share: names, label keys and label values.
pub type Str = Arc<str>;

/// The labels of one object, sorted by key. Cloning shares the storage.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Labels(Arc<[(Str, Str)]>);

impl Labels {
    /// The value under `key`, if the key is present.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Str> {
        let index = self.0.binary_search_by(|(candidate, _)| candidate.as_ref().cmp(key)).ok()?;
        self.0.get(index).map(|(_, value)| value)
    }

    /// All labels in ascending order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Str, &Str)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Whether there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether another value shares its storage with this one.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// These labels with `key` set to `value`.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Self {
        let mut labels: BTreeMap<Str, Str> = self.0.iter().cloned().collect();
        labels.insert(key.into(), value.into());
        Self(labels.into_iter().collect())
    }

    /// The labels whose keys `keep` accepts.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&Str) -> bool) -> Self {
        if self.0.iter().all(|(key, _)| keep(key)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|(key, _)| keep(key)).cloned().collect())
    }
}

impl<K: Into<Str>, V: Into<Str>> FromIterator<(K, V)> for Labels {
    /// Collects labels; of two equal keys the later one wins.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let sorted: BTreeMap<Str, Str> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self(sorted.into_iter().collect())
    }
}
