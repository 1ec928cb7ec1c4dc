//! The pods of the agent's node and those of other nodes, which two watches deliver: a pure value
//! that makes one view of them.
//!
//! ```text
//! spec.nodeName=NODE ─────────────────► all pods of the node ─┐
//!                                                             ├─► Pods ─► agent
//! spec.nodeName!=NODE,status.podIP!= ─► pods with an address ─┘
//! ```
//!
//! A pod of another node without an address is of no use to the agent; one of its own node is, since
//! the container runtime may know its address already. A pod can be deleted and created again with
//! the same name on another node, and the two watches are not synchronised. So the deletion of the
//! former pod must not remove the new one, and of two pods of one name the agent gets the younger
//! one, or the one of its node.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_engine::model::{Change, Pod, PodKey};
use portcullis_crds::convert::Object;

/// Which of the two watches sent a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The pods of the agent's node.
    Own,
    /// The pods of other nodes.
    Elsewhere,
}

/// The pods of both watches. Each costs two pointers: the agent has the same values.
#[derive(Default, Debug)]
pub(super) struct Pods {
    own: BTreeMap<PodKey, Arc<Pod>>,
    elsewhere: BTreeMap<PodKey, Arc<Pod>>,
}

impl Pods {
    /// Takes changes of pods. Returns the changes for the agent.
    pub(super) fn pass(&mut self, place: Place, changes: Vec<Object>) -> Vec<Object> {
        let pass = |object: Object| match object.change {
            Change::Pod(key, pod) => self.put(place, key, pod).map(Object::from),
            Change::Namespace(..)
            | Change::Node(..)
            | Change::Policy(..)
            | Change::ApiServer(..) => Some(object),
        };
        changes.into_iter().filter_map(pass).collect()
    }

    fn put(&mut self, place: Place, key: PodKey, pod: Option<Arc<Pod>>) -> Option<Change> {
        let before = self.seen(&key).cloned();
        let pods = match place {
            Place::Own => &mut self.own,
            Place::Elsewhere => &mut self.elsewhere,
        };
        match pod {
            Some(pod) => pods.insert(key.clone(), pod),
            None => pods.remove(&key),
        };
        let after = self.seen(&key).cloned();
        let is_same = match (&before, &after) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        (!is_same).then_some(Change::Pod(key, after))
    }

    /// The pod of this name for the agent.
    fn seen(&self, key: &PodKey) -> Option<&Arc<Pod>> {
        match (self.own.get(key), self.elsewhere.get(key)) {
            (Some(own), Some(other)) if other.created > own.created => Some(other),
            (own, other) => own.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_engine::labels::Labels;

    /// The pod `shop/a` on a node, created at this time; `None`: it is deleted there.
    type Step = (&'static str, Option<i64>);

    fn change((node, created): Step) -> Object {
        let key = PodKey::new("shop", "a");
        let pod = created.map(|created| {
            let pod = Pod::new(key.clone(), Labels::default());
            Pod { node: Some(node.into()), created, ..pod }.into()
        });
        Change::Pod(key, pod).into()
    }

    /// All orders of the steps in which those of one watch keep their order.
    fn interleavings(own: &[Step], elsewhere: &[Step]) -> Vec<Vec<Step>> {
        let mut all = Vec::new();
        for steps in [own, elsewhere] {
            let Some((first, rest)) = steps.split_first() else { continue };
            let is_own = std::ptr::eq(steps, own);
            let (own, elsewhere) = if is_own { (rest, elsewhere) } else { (own, rest) };
            for mut order in interleavings(own, elsewhere) {
                order.insert(0, *first);
                all.push(order);
            }
        }
        if all.is_empty() { vec![Vec::new()] } else { all }
    }

    /// The history of `shop/a`: the node and the time of each pod that had this name.
    #[test]
    fn whichever_watch_is_late_the_last_pod_of_a_name_is_seen_at_the_end() {
        let mut orders = 0;
        for history in [
            vec![("n2", Some(1)), ("n2", None), ("n1", Some(2))],
            vec![("n1", Some(1)), ("n1", None), ("n2", Some(2))],
            vec![("n2", Some(1)), ("n2", None), ("n1", Some(2)), ("n1", None)],
            vec![("n1", Some(1)), ("n1", None), ("n2", Some(2)), ("n2", None)],
            vec![("n1", Some(1)), ("n1", None), ("n2", Some(2)), ("n2", None), ("n1", Some(3))],
            vec![("n2", Some(1)), ("n2", None), ("n1", Some(2)), ("n1", None), ("n2", Some(3))],
        ] {
            let of = |own: bool| -> Vec<Step> {
                history.iter().filter(|(node, _)| (*node == "n1") == own).copied().collect()
            };
            for order in interleavings(&of(true), &of(false)) {
                let (mut pods, mut seen) = (Pods::default(), None);
                for step in &order {
                    let place = if step.0 == "n1" { Place::Own } else { Place::Elsewhere };
                    for object in pods.pass(place, vec![change(*step)]) {
                        if let Change::Pod(_, pod) = object.change {
                            seen = pod.map(|pod| (pod.node.clone(), pod.created));
                        }
                    }
                }
                let last = history.last().and_then(|(node, created)| {
                    created.map(|created| (Some((*node).into()), created))
                });
                assert_eq!(seen, last, "{order:?}");
                orders += 1;
            }
        }
        assert!(orders > 30, "{orders}");
    }
}
