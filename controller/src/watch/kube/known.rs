//! The known objects of one kind: a pure value that turns the events of a watch into changes.
//!
//! ```text
//! begin, applied …, end    a list: its new and its missing objects are one batch
//! applied, deleted         events after the list
//!        └────────────► flush ─► Batch
//! ```
//!
//! Only the name and the version of an object are kept. An object that is listed again in the known
//! version is not converted: the cost of a list after an outage depends on the changes meanwhile.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::num::NonZeroU64;

use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use portcullis_apiserver::watch::Event;
use portcullis_crds::convert::{self, Converted, Object};
use portcullis_crds::intern::Interner;
use portcullis_crds::lean::{Lean, LeanKind};

use crate::watch::Batch;

/// The objects of one kind that the server is known to have.
#[derive(Debug)]
pub struct Known<K> {
    /// The objects by namespace (empty for cluster-scoped kinds) and name.
    objects: BTreeMap<Str, BTreeMap<Str, Entry>>,
    interner: Interner,
    list: List,
    /// Counts lists: an object whose entry has another number was not in the last one.
    round: u32,
    /// The list that had an object without a name, while that is reported.
    nameless: Option<u32>,
    pending: Batch,
    kind: PhantomData<fn() -> K>,
}

/// The progress of the current list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    /// No list was complete yet. Nothing is enforced before that, so parts of it may be sent.
    First,
    /// A list is being read, or has failed, after an earlier one was complete. No state between its
    /// parts may be enforced: they are sent when it is complete.
    Repeated,
    /// The last list is complete.
    Complete,
}

#[derive(Debug)]
struct Entry {
    /// The version that was converted; `None` if it is not a number, which equals no version.
    version: Option<NonZeroU64>,
    round: u32,
    /// Whether diagnostics of the object were reported.
    has_diagnostics: bool,
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
    /// Takes the events of a watch, in order. Returns whether the first list is complete with them.
    pub fn take(&mut self, events: Vec<Event<Lean<K>>>) -> bool {
        let mut is_first_view = false;
        for event in events {
            match event {
                Event::Init => self.begin(),
                Event::InitApply(object) | Event::Apply(object) => self.applied(&object),
                Event::Delete(object) => self.deleted(&object),
                Event::InitDone => is_first_view |= self.end(),
            }
        }
        is_first_view
    }

    /// Begins a list, even if the list before was not complete.
    pub fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.list = match self.list {
            List::First => List::First,
            List::Repeated | List::Complete => List::Repeated,
        };
    }

    /// Removes all versions after the server was restored: the next list converts all objects.
    pub fn forget_versions(&mut self) {
        for entry in self.objects.values_mut().flat_map(BTreeMap::values_mut) {
            entry.version = None;
        }
    }

    /// Completes the list: removes objects that it did not contain. Returns whether it is the first
    /// complete list.
    pub fn end(&mut self) -> bool {
        let round = self.round;
        for (namespace, names) in &mut self.objects {
            names.retain(|name, entry| {
                let stays = entry.round == round;
                if !stays {
                    let object = ObjectRef::new(K::KIND, namespace.clone(), name.clone());
                    push_removal(&mut self.pending, object, entry.has_diagnostics);
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

    /// Stores an object of the list, or one that was created or changed.
    pub fn applied(&mut self, object: &Lean<K>) {
        let version = object.resource_version().and_then(|text| text.parse().ok());
        let names = object.names();
        let (round, mut reported_before) = (self.round, false);
        if let Some(entry) = names.and_then(|(namespace, name)| self.entry(namespace, name)) {
            if version.is_some() && entry.version == version {
                entry.round = round;
                return;
            }
            reported_before = entry.has_diagnostics;
        }
        let (converted, diagnostics) = convert::lean(object);
        let has_diagnostics = !diagnostics.is_empty();
        let Some((namespace, name)) = names else {
            self.nameless = Some(round);
            return self.pending.diagnostics.push((K::KIND.as_str().into(), diagnostics));
        };
        if has_diagnostics || reported_before {
            let origin = ObjectRef::new(K::KIND, namespace, name).titled();
            self.pending.diagnostics.push((origin.into(), diagnostics));
        }
        let Converted::Object(mut change) = converted else { return };
        self.interner.share(&mut change);
        let entry = Entry { version, round, has_diagnostics };
        if let Some(known) = self.entry(namespace, name) {
            *known = entry;
        } else {
            // The names share the storage of the change.
            let ObjectRef { namespace, name, .. } = change.object();
            self.objects.entry(namespace).or_default().insert(name, entry);
        }
        self.pending.changes.push(Object { change, meta: convert::meta(object) });
    }

    /// Removes an object that was deleted.
    pub fn deleted(&mut self, object: &Lean<K>) {
        let Some((namespace, name)) = object.names() else { return };
        let Some(names) = self.objects.get_mut(namespace) else { return };
        let Some((name, entry)) = names.remove_entry(name) else { return };
        if names.is_empty() {
            self.objects.remove(namespace);
        }
        push_removal(
            &mut self.pending,
            ObjectRef::new(K::KIND, namespace, name),
            entry.has_diagnostics,
        );
    }

    /// The changes to send now; empty while a list after the first one is not complete.
    pub fn flush(&mut self) -> Batch {
        match self.list {
            List::First | List::Complete => std::mem::take(&mut self.pending),
            List::Repeated => Batch::default(),
        }
    }

    fn entry(&mut self, namespace: &str, name: &str) -> Option<&mut Entry> {
        self.objects.get_mut(namespace)?.get_mut(name)
    }
}

fn push_removal(batch: &mut Batch, object: ObjectRef, has_diagnostics: bool) {
    if has_diagnostics {
        batch.diagnostics.push((object.titled().into(), Vec::new()));
    }
    batch.changes.extend(Change::removal(object).map(Object::from));
}

#[cfg(test)]
mod tests;
