//! Which policies select the subjects, for those who report what is in force.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Engine;
use crate::policy::{NetworkPolicy, PolicyKey};

/// Who is isolated, and by what, as of a flush.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Selection {
    /// How many subjects there are.
    pub pods: usize,
    /// How many are isolated for ingress, egress or both.
    pub isolated: usize,
    /// How many are isolated for ingress.
    pub isolated_ingress: usize,
    /// How many are isolated for egress.
    pub isolated_egress: usize,
    /// Every policy that selects a subject, as it was compiled.
    pub policies: BTreeMap<PolicyKey, Arc<NetworkPolicy>>,
}

impl Engine {
    /// Who is isolated, and by what, as of the last flush; `None` when no flush since the last
    /// call can have changed it. Costs as much as there are subjects: peers do not matter.
    pub fn take_selection(&mut self) -> Option<Selection> {
        if !std::mem::take(&mut self.selection_changed) {
            return None;
        }
        let mut selection = Selection { pods: self.subjects.len(), ..Selection::default() };
        let mut seen = HashSet::new();
        for subject in self.subjects.values() {
            let (ingress, egress) = (subject.ingress.is_some(), subject.egress.is_some());
            selection.isolated += usize::from(ingress || egress);
            selection.isolated_ingress += usize::from(ingress);
            selection.isolated_egress += usize::from(egress);
            // Pods that were compiled together share the list.
            if seen.insert(Arc::as_ptr(&subject.policies)) {
                let listed = subject.policies.iter();
                selection.policies.extend(listed.map(|found| (found.key.clone(), found.clone())));
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
    use crate::model::{Change, Life, Pod, PodKey};
    use crate::selector::Selector;
    use crate::world::Options;

    fn pod(name: &str, node: &str) -> Change {
        let key = PodKey { namespace: "shop".into(), name: name.into() };
        let pod = Pod {
            key: key.clone(),
            labels: Labels::default(),
            addresses: Vec::new(),
            node: Some(node.into()),
            ports: Vec::new(),
            host_network: false,
            life: Life::Active,
            created: 0,
        };
        Change::Pod(key, Some(Arc::new(pod)))
    }

    fn deny(namespace: &str, name: &str) -> Change {
        let key = PolicyKey::new(namespace, name);
        let policy = NetworkPolicy {
            key: key.clone(),
            subject: Selector::default(),
            ingress: Some(Vec::new()),
            egress: None,
            generation: None,
        };
        Change::NetworkPolicy(key, Some(Arc::new(policy)))
    }

    #[test]
    fn a_selection_names_the_policies_of_local_pods_and_counts_whom_they_isolate() {
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
        let found = engine.take_selection().expect("pods came");
        assert_eq!((found.pods, found.isolated), (2, 2));
        assert_eq!((found.isolated_ingress, found.isolated_egress), (2, 0));
        let names: Vec<String> = found.policies.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["shop/deny"]);

        engine.flush();
        assert_eq!(engine.take_selection(), None, "nothing changed");
        engine.apply(pod("d", "n2"));
        engine.flush();
        assert_eq!(engine.take_selection(), None, "a pod of another node");

        engine.apply(Change::NetworkPolicy(PolicyKey::new("shop", "deny"), None));
        engine.flush();
        let found = engine.take_selection().expect("the policy went");
        assert_eq!(found, Selection { pods: 2, ..Selection::default() });
    }
}
