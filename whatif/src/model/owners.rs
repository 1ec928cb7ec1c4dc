//! The workload of a pod: ReplicaSets fold into their Deployment, Jobs into their CronJob.

use policy_engine::labels::Str;
use policy_engine::model::Pod;
use portcullis_crds::convert::inventory::Item;
use portcullis_crds::convert::workload::Owner;

use super::{Inventory, WorkloadRef};

/// The label by which a Deployment distinguishes its ReplicaSets.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The workload of a pod; the pod itself when nothing controls it, or only its node does.
pub(super) fn of_pod(inventory: &Inventory, pod: &Pod, owner: Option<&Owner>) -> WorkloadRef {
    let namespace = &pod.key.namespace;
    let Some(owner) = owner.filter(|owner| owner.kind != "Node") else {
        return WorkloadRef::new(namespace, "pod", &pod.key.name);
    };
    let own = WorkloadRef::new(namespace, &owner.kind, &owner.name);
    if let Some(Item::Workload(found)) = inventory.workload(&own).map(|object| &object.item) {
        return top(inventory, &own, found.owner.as_ref());
    }
    // Without the ReplicaSet, its name contains that of the Deployment: DEPLOYMENT-HASH.
    let hash = pod.labels.get(TEMPLATE_HASH).filter(|_| own.kind.as_ref() == "replicaset");
    let deployment = hash.and_then(|hash| own.name.strip_suffix(&format!("-{hash}")));
    match deployment {
        Some(name) => WorkloadRef::new(namespace, "deployment", &Str::from(name)),
        None => own,
    }
}

/// The topmost owner of `own`.
pub(super) fn top(inventory: &Inventory, own: &WorkloadRef, owner: Option<&Owner>) -> WorkloadRef {
    // Kubernetes has two levels of owners; a third would be a cycle.
    let Some(owner) = owner else { return own.clone() };
    let above = WorkloadRef::new(&own.namespace, &owner.kind, &owner.name);
    match inventory.workload(&above).map(|object| &object.item) {
        Some(Item::Workload(found)) => match &found.owner {
            Some(owner) => WorkloadRef::new(&own.namespace, &owner.kind, &owner.name),
            None => above,
        },
        _ => above,
    }
}
