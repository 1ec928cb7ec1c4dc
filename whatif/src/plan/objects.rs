//! The objects that a hypothesis adds, removes or modifies.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy_engine::model::Change;
use policy_engine::tier::Mode;
use portcullis_crds::convert::inventory::Item;
use portcullis_crds::diagnostic::Origin;

use crate::model::{Inventory, Object, ObjectName, mode_of};
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
    /// It was in audit and is in force, and says the same.
    Enforced,
    /// It was in force and is in audit, and says the same.
    Audited,
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
            (Some(old), Some(new)) if says(&old.item) != says(&new.item) => {
                match [&old.item, &new.item].map(mode) {
                    _ if decides(&old.item) != decides(&new.item) => How::Modified,
                    [Some(Mode::Audit), _] => How::Enforced,
                    _ => How::Audited,
                }
            }
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
    if let Item::Object(change) = &mut item {
        match change {
            Change::NetworkPolicy(_, Some(policy)) => Arc::make_mut(policy).generation = None,
            Change::ClusterNetworkPolicy(_, Some(policy)) => {
                Arc::make_mut(policy).generation = None;
            }
            Change::ClusterDefaultNetworkPolicy(_, Some(policy)) => {
                Arc::make_mut(policy).generation = None;
            }
            _ => {}
        }
    }
    item
}

/// What an object says, without its mode.
fn decides(item: &Item) -> Item {
    let mut item = says(item);
    if let Item::Object(change) = &mut item
        && let Some(mode) = mode_of(change)
    {
        *mode = Mode::Enforce;
    }
    item
}

fn mode(item: &Item) -> Option<Mode> {
    match item.clone() {
        Item::Object(mut change) => mode_of(&mut change).copied(),
        _ => None,
    }
}

fn origin(object: &Object) -> Option<Origin> {
    object.document.as_ref().map(|document| document.origin())
}
