//! What is known of one kind: a pure value that turns what a watch says into changes.
//!
//! ```text
//! begin, listed …, end     a list: what is new, and what is missing from it, is one batch
//! applied, deleted         events after it
//!        └────────────► flush ─► Batch
//! ```
//!
//! Of an object only its name and version are kept. One that is listed again in the version that
//! is known is not even converted: a list after an outage costs what changed meanwhile.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::num::NonZeroU64;

use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use portcullis_crds::convert::{self, Converted, Object};
use portcullis_crds::intern::Interner;
use portcullis_crds::lean::{Lean, LeanKind};

use crate::watch::Batch;

/// The objects of one kind that the server is known to have.
#[derive(Debug)]
pub struct Known<K> {
    /// By namespace (empty for kinds that have none) and name.
    objects: BTreeMap<Str, BTreeMap<Str, Entry>>,
    interner: Interner,
    list: List,
    /// Counts lists: an object whose entry has another number was not in the last one.
    round: u32,
    /// The list that had an object without a name, while that is told.
    nameless: Option<u32>,
    pending: Batch,
    kind: PhantomData<fn() -> K>,
}

/// How far the list is that is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    /// None was ever complete. Nothing is enforced before one is, so parts of it may go out.
    First,
    /// One was broken off or is being read, and another one was complete before. Between its parts
    /// no state was ever meant to be enforced: they wait for its end.
    Again,
    /// The last one is complete.
    Complete,
}

#[derive(Debug)]
struct Entry {
    /// The version that was converted. `None` where it is no number: then it equals no other.
    version: Option<NonZeroU64>,
    round: u32,
    /// Whether there is something to tell of the object.
    told: bool,
}

impl<K: LeanKind> Default for Known<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            interner: Interner::default(),
            list: List::First,
            round: 0,
            nameless: None,
            pending: Batch::default(),
            kind: PhantomData,
        }
    }
}

impl<K: LeanKind> Known<K> {
    /// A list begins, whether or not an earlier one came to its end.
    pub fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.list = match self.list {
            List::First => List::First,
            List::Again | List::Complete => List::Again,
        };
    }

    /// The versions that are known mean nothing any more: what is listed next is converted again.
    pub fn forget_versions(&mut self) {
        for entry in self.objects.values_mut().flat_map(BTreeMap::values_mut) {
            entry.version = None;
        }
    }

    /// The list is complete: what was not in it is gone. Tells whether it is the first one.
    pub fn end(&mut self) -> bool {
        let round = self.round;
        for (namespace, names) in &mut self.objects {
            names.retain(|name, entry| {
                let stays = entry.round == round;
                if !stays {
                    let object = ObjectRef::new(K::KIND, namespace.clone(), name.clone());
                    gone(&mut self.pending, object, entry.told);
                }
                stays
            });
        }
        self.objects.retain(|_, names| !names.is_empty());
        if self.nameless.take_if(|seen| *seen != round).is_some() {
            self.pending.diagnostics.push((K::KIND.as_str().into(), Vec::new()));
        }
        std::mem::replace(&mut self.list, List::Complete) == List::First
    }

    /// How many objects are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.values().map(BTreeMap::len).sum()
    }

    /// Whether no object is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// An object of the list, or one that was created or changed.
    pub fn applied(&mut self, object: &Lean<K>) {
        let version = object.resource_version().and_then(|text| text.parse().ok());
        let names = object.names();
        let (round, mut was_told) = (self.round, false);
        if let Some(entry) = names.and_then(|(namespace, name)| self.entry(namespace, name)) {
            if version.is_some() && entry.version == version {
                entry.round = round;
                return;
            }
            was_told = entry.told;
        }
        let (converted, diagnostics) = convert::lean(object);
        let told = !diagnostics.is_empty();
        let Some((namespace, name)) = names else {
            self.nameless = Some(round);
            return self.pending.diagnostics.push((K::KIND.as_str().into(), diagnostics));
        };
        if told || was_told {
            let origin = ObjectRef::new(K::KIND, namespace, name).titled();
            self.pending.diagnostics.push((origin.into(), diagnostics));
        }
        let Converted::Object(mut change) = converted else { return };
        self.interner.share(&mut change);
        let entry = Entry { version, round, told };
        if let Some(known) = self.entry(namespace, name) {
            *known = entry;
        } else {
            // It shares the storage of the change.
            let ObjectRef { namespace, name, .. } = change.object();
            self.objects.entry(namespace).or_default().insert(name, entry);
        }
        self.pending.changes.push(Object { change, meta: convert::meta(object) });
    }

    /// An object that was deleted.
    pub fn deleted(&mut self, object: &Lean<K>) {
        let Some((namespace, name)) = object.names() else { return };
        let Some(names) = self.objects.get_mut(namespace) else { return };
        let Some((name, entry)) = names.remove_entry(name) else { return };
        if names.is_empty() {
            self.objects.remove(namespace);
        }
        gone(&mut self.pending, ObjectRef::new(K::KIND, namespace, name), entry.told);
    }

    /// What is to be sent now: nothing while a list is being read anew.
    pub fn flush(&mut self) -> Batch {
        match self.list {
            List::First | List::Complete => std::mem::take(&mut self.pending),
            List::Again => Batch::default(),
        }
    }

    fn entry(&mut self, namespace: &str, name: &str) -> Option<&mut Entry> {
        self.objects.get_mut(namespace)?.get_mut(name)
    }
}

fn gone(batch: &mut Batch, object: ObjectRef, told: bool) {
    if told {
        batch.diagnostics.push((object.titled().into(), Vec::new()));
    }
    batch.changes.extend(Change::removal(object).map(Object::from));
}

#[cfg(test)]
mod tests;
