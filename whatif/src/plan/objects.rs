//! The objects that a hypothesis adds, removes or modifies.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy_engine::model::Change;
use portcullis_crds::convert::inventory::Item;
use portcullis_crds::diagnostic::Origin;

use crate::model::{Inventory, Object, ObjectName};
use crate::source::Sources;

/// One object that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// What it is called.
    pub name: ObjectName,
    /// What happened to it.
    pub how: How,
    /// Where it is written now, or was written when it is gone.
    pub origin: Option<Origin>,
}

/// What happened to an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum How {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else.
    Modified,
}

/// Every object that may change connections, in the order of the names. Services may not: policies
/// know pods only.
pub(super) fn changed(sources: &Sources) -> Vec<Changed> {
    let names = |inventory: &Inventory| -> BTreeSet<ObjectName> {
        inventory.objects().map(|(name, _)| name.clone()).collect()
    };
    let all: BTreeSet<ObjectName> =
        names(&sources.before).union(&names(&sources.after)).cloned().collect();
    let mut changed = Vec::new();
    for name in all {
        let get = |inventory: &'_ Inventory| {
            inventory.get(&name.kind, &name.namespace, &name.name).cloned()
        };
        let (old, new) = (get(&sources.before), get(&sources.after));
        let how = match (&old, &new) {
            (Some(old), Some(new)) if says(&old.item) != says(&new.item) => How::Modified,
            (Some(_), None) => How::Removed,
            (None, Some(_)) => How::Added,
            (Some(_), Some(_)) | (None, None) => continue,
        };
        let Some(object) = new.or(old) else { continue };
        if !matches!(object.item, Item::Service(_)) {
            changed.push(Changed { name, how, origin: origin(&object) });
        }
    }
    changed
}

/// What an object says, without the number of the edit that made it say so.
fn says(item: &Item) -> Item {
    let mut item = item.clone();
    if let Item::Object(Change::NetworkPolicy(_, Some(policy))) = &mut item {
        Arc::make_mut(policy).generation = None;
    }
    item
}

fn origin(object: &Object) -> Option<Origin> {
    object.document.as_ref().map(|document| document.origin())
}
