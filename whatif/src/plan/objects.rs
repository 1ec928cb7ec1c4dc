//! The objects that a hypothesis adds, removes or modifies.

use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Revision;
use policy_engine::tier::Mode;
use portcullis_crds::convert::inventory::Item;
use portcullis_crds::diagnostic::Origin;
use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{Object, policy_mut};
use crate::source::Sources;

/// One object that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The name of the object.
    pub name: ObjectRef,
    /// How it changes.
    pub how: How,
    /// Where it is written; for an object that is removed, where it was written.
    pub origin: Option<Origin>,
}

/// What happened to an object.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[schemars(rename = "CauseKind")]
pub enum How {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else.
    Modified,
    /// It was in audit and is enforced, and says the same; with `plan --audit` every policy in
    /// audit.
    Enforced,
    /// It was enforced and is in audit, and says the same.
    Audited,
}

/// Every object that may change connections, in the order of the names. Services may not: policies
/// know pods only. Bindings of roles may not, either.
pub(super) fn changed(sources: &Sources) -> Vec<Changed> {
    let (before, after) = (&sources.before, &sources.after);
    let mut names: Vec<&ObjectRef> =
        before.objects().chain(after.objects()).map(|(name, _)| name).collect();
    names.sort_unstable_by_key(|name| name.alphabetical());
    names.dedup();
    let mut changed = Vec::new();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        let how = match (old, new) {
            (Some(old), Some(new)) if content(&old.item) != content(&new.item) => {
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
        if !matches!(object.item, Item::Service(_) | Item::Binding(_)) {
            changed.push(Changed { name: name.clone(), how, origin: origin(object) });
        }
    }
    changed
}

/// The content of an object, without its identity and the number of the edit that changed it.
fn content(item: &Item) -> Item {
    let mut item = item.clone();
    if let Some(policy) = policy_mut(&mut item) {
        policy.revision = Revision::default();
    }
    item
}

/// The content of an object, without its mode.
fn decides(item: &Item) -> Item {
    let mut item = content(item);
    if let Some(policy) = policy_mut(&mut item) {
        policy.mode = Mode::Enforce;
    }
    item
}

fn mode(item: &Item) -> Option<Mode> {
    match item {
        Item::Object(Change::Policy(_, Some(policy))) => Some(policy.mode),
        _ => None,
    }
}

fn origin(object: &Object) -> Option<Origin> {
    object.document.as_ref().map(|document| document.origin())
}
