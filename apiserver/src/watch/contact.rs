//! When the API server last sent something about each kind: how old the objects may be that a
//! process has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When the API server last sent something to the watches of a process. Clones share their values.
#[derive(Clone, Default, Debug)]
pub struct Contacts(Arc<Mutex<Known>>);

#[derive(Default, Debug)]
struct Known {
    /// By kind, and by a number of the watch.
    last: BTreeMap<(&'static str, u64), Instant>,
    watches: u64,
}

impl Contacts {
    /// How long ago the API server last sent something about each kind: an object, a bookmark, which
    /// comes about once a minute, or the beginning of an answer. Of several watches of a kind, the
    /// longest time counts. A watch counts from its beginning until it is dropped.
    #[must_use]
    pub fn ages(&self) -> BTreeMap<&'static str, Duration> {
        let mut ages = BTreeMap::<_, Duration>::new();
        for ((kind, _), last) in &self.known().last {
            let age = ages.entry(*kind).or_default();
            *age = last.elapsed().max(*age);
        }
        ages
    }

    pub(super) fn of(&self, kind: &'static str) -> Contact {
        let mut known = self.known();
        known.watches += 1;
        let key = (kind, known.watches);
        known.last.insert(key, Instant::now());
        Contact { contacts: self.clone(), key }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The contact of one watch.
#[derive(Debug)]
pub(super) struct Contact {
    contacts: Contacts,
    key: (&'static str, u64),
}

impl Contact {
    /// Records that the API server has just sent something.
    pub(super) fn heard(&self) {
        self.contacts.known().last.insert(self.key, Instant::now());
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        self.contacts.known().last.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_of_a_kind_that_heard_nothing_for_longest_counts_until_it_ends() {
        let contacts = Contacts::default();
        let (own, others, policies) =
            (contacts.of("Pod"), contacts.of("Pod"), contacts.of("Policy"));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(90)).unwrap();
        contacts.known().last.insert(others.key, long_ago);
        own.heard();
        let ages = contacts.ages();
        assert_eq!(ages.keys().copied().collect::<Vec<_>>(), ["Pod", "Policy"]);
        assert!(ages["Pod"] >= Duration::from_secs(90) && ages["Policy"] < Duration::from_secs(90));
        others.heard();
        assert!(contacts.ages()["Pod"] < Duration::from_secs(90));
        contacts.known().last.insert(others.key, long_ago);
        drop((others, policies));
        let ages = contacts.ages();
        assert_eq!(ages.keys().copied().collect::<Vec<_>>(), ["Pod"]);
        assert!(ages["Pod"] < Duration::from_secs(90));
    }
}
