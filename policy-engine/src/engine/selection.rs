//! The policies that select subjects, for reports about what is enforced.

use std::collections::{BTreeMap, HashMap};

use super::Engine;
use super::tiers::SelectedPolicy;
use crate::direction::PerDirection;
use crate::labels::Str;
use crate::object::ObjectRef;
use crate::policy::Revision;
use crate::tier::Mode;

/// The isolated subjects and the policies that select subjects, after a flush.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Selection {
    /// How many subjects there are.
    pub pods: usize,
    /// How many subjects have rules for ingress, egress or both.
    pub isolated: usize,
    /// How many subjects have rules for ingress.
    pub isolated_ingress: usize,
    /// How many subjects have rules for egress.
    pub isolated_egress: usize,
    /// Every policy that selects a subject, as it was compiled.
    pub policies: BTreeMap<ObjectRef, Applied>,
}

/// A policy that selects subjects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Whether the policy is enforced, for some subjects at least, or only audited.
    pub mode: Mode,
    /// The object and version that was compiled.
    pub revision: Revision,
    /// How many subjects it selects.
    pub pods: usize,
}

impl Engine {
    /// The selection after the last flush; `None` when no flush since the last call can have
    /// changed it. The cost follows the number of subjects, not the number of peers.
    pub fn take_selection(&mut self) -> Option<Selection> {
        if !std::mem::take(&mut self.selection_changed) {
            return None;
        }
        let mut selection = Selection { pods: self.subjects.len(), ..Selection::default() };
        // Pods that were compiled together share one list of policies.
        let mut lists: HashMap<*const SelectedPolicy, (&[SelectedPolicy], &Str, usize)> =
            HashMap::new();
        for (key, subject) in &self.subjects {
            let PerDirection { ingress, egress } = subject.enforced.map(|found| found.is_some());
            selection.isolated += usize::from(ingress || egress);
            selection.isolated_ingress += usize::from(ingress);
            selection.isolated_egress += usize::from(egress);
            let list = subject.policies.as_ref();
            lists.entry(list.as_ptr()).or_insert((list, &key.namespace, 0)).2 += 1;
        }
        for (list, namespace, pods) in lists.into_values() {
            for (policy, _) in list {
                let mode = self.world.mode(policy, namespace);
                let of = || Applied { mode, revision: policy.revision.clone(), pods: 0 };
                let applied = selection.policies.entry(policy.name.clone()).or_insert_with(of);
                applied.pods += pods;
                if mode == Mode::Enforce {
                    applied.mode = mode;
                }
            }
        }
        Some(selection)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::*;
    use crate::labels::Labels;
    use crate::model::{Change, Pod, PodKey};
    use crate::object::Kind;
    use crate::policy::Policy;
    use crate::selector::Selector;
    use crate::world::Options;

    fn pod(name: &str, node: &str) -> Change {
        let pod = Pod::new(PodKey::new("shop", name), Labels::default());
        Pod { node: Some(node.into()), ..pod }.into()
    }

    fn deny(namespace: &str, name: &str) -> Change {
        let rules = PerDirection { ingress: Some(Vec::new()), egress: None };
        Policy::network_policy(namespace, name, Selector::everything(), rules).into()
    }

    #[test]
    fn a_selection_names_the_policies_of_local_pods_and_counts_the_pods_that_they_isolate() {
        let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
        let changes = [
            pod("a", "n1"),
            pod("b", "n1"),
            pod("c", "n2"),
            deny("shop", "deny"),
            deny("other", "deny"),
        ];
        changes.into_iter().for_each(|change| engine.apply(change));
        engine.flush();
        let found = engine.take_selection().expect("pods were added");
        assert_eq!((found.pods, found.isolated), (2, 2));
        assert_eq!((found.isolated_ingress, found.isolated_egress), (2, 0));
        let names: Vec<String> = found.policies.keys().map(ObjectRef::short).collect();
        assert_eq!(names, ["shop/deny"]);

        engine.flush();
        assert_eq!(engine.take_selection(), None, "nothing changed");
        engine.apply(pod("d", "n2"));
        engine.flush();
        assert_eq!(engine.take_selection(), None, "a pod of another node");

        engine.apply(Change::Policy(ObjectRef::new(Kind::NetworkPolicy, "shop", "deny"), None));
        engine.flush();
        let found = engine.take_selection().expect("the policy was removed");
        assert_eq!(found, Selection { pods: 2, ..Selection::default() });
    }

    #[test]
    fn a_policy_that_is_created_again_is_another_object_although_nothing_else_changes() {
        let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
        let created = |uid: &str| {
            let Change::Policy(name, Some(policy)) = deny("shop", "deny") else { unreachable!() };
            let revision = Revision { uid: Some(uid.into()), generation: Some(1) };
            let policy = Policy { revision, ..policy.as_ref().clone() };
            Change::Policy(name, Some(policy.into()))
        };
        [pod("a", "n1"), created("one")].into_iter().for_each(|change| engine.apply(change));
        engine.flush();
        engine.take_selection();
        engine.apply(created("two"));
        assert!(engine.flush().is_empty(), "the rules are the same");
        let found = engine.take_selection().expect("another object is enforced");
        let applied = found.policies.values().next().expect("one policy");
        assert_eq!(applied.revision.uid.as_deref(), Some("two"));
    }
}
