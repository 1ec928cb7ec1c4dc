//! Texts that many objects repeat are stored once.
//!
//! The pods of a large cluster repeat few namespaces, nodes, label keys and values, and the
//! replicas of a workload their whole label sets. Sharing them is most of what makes a Pod cost
//! some hundred bytes (docs/performance.md has the figures).

use std::collections::HashSet;
use std::sync::Arc;

use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Change, NamedPort, PodKey};

/// Entries are removed only in tables with at least so many entries.
const SWEEP_FLOOR: usize = 1024;

/// The shared values. Entries without other references are removed when the table has doubled.
#[derive(Debug)]
pub struct Interner {
    texts: HashSet<Str>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[NamedPort]>>,
    sweep_at: usize,
}

impl Default for Interner {
    fn default() -> Self {
        let (texts, labels, ports) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { texts, labels, ports, sweep_at: SWEEP_FLOOR }
    }
}

impl Interner {
    /// Replaces values of `change`, which conversion has just created, by equal shared ones.
    pub fn share(&mut self, change: &mut Change) {
        match change {
            Change::Pod(key, pod) => {
                let mut namespace = key.namespace.clone();
                self.text(&mut namespace);
                *key = PodKey::of(namespace, key.name.clone());
                // The pod has no other reference yet. If it had one, it would not be changed.
                if let Some(pod) = pod.as_mut().and_then(Arc::get_mut) {
                    pod.key = key.clone();
                    self.labels(&mut pod.labels);
                    pod.node.iter_mut().for_each(|node| self.text(node));
                    self.ports(&mut pod.ports);
                }
            }
            Change::Policy(name, policy) => {
                self.text(&mut name.namespace);
                if let Some(policy) = policy.as_mut().and_then(Arc::get_mut) {
                    policy.name = name.clone();
                }
            }
            Change::Namespace(name, namespace) => {
                self.text(name);
                if let Some(namespace) = namespace {
                    self.labels(&mut namespace.labels);
                }
            }
            Change::Node(name, node) => {
                self.text(name);
                if let Some(node) = node {
                    self.labels(&mut node.labels);
                }
            }
            Change::ApiServer(..) => {}
        }
        if self.len() > self.sweep_at {
            self.sweep();
        }
    }

    fn text(&mut self, text: &mut Str) {
        if let Some(known) = self.texts.get(text) {
            *text = known.clone();
        } else {
            self.texts.insert(text.clone());
        }
    }

    fn labels(&mut self, labels: &mut Labels) {
        if let Some(known) = self.labels.get(labels) {
            *labels = known.clone();
            return;
        }
        let mut pairs: Vec<(Str, Str)> =
            labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        for (key, value) in &mut pairs {
            self.text(key);
            self.text(value);
        }
        *labels = pairs.into_iter().collect();
        self.labels.insert(labels.clone());
    }

    fn ports(&mut self, ports: &mut Arc<[NamedPort]>) {
        if let Some(known) = self.ports.get(ports) {
            *ports = known.clone();
            return;
        }
        let mut own = ports.to_vec();
        own.iter_mut().for_each(|port| self.text(&mut port.name));
        *ports = own.into();
        self.ports.insert(ports.clone());
    }

    fn sweep(&mut self) {
        self.labels.retain(Labels::is_shared);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.sweep_at = SWEEP_FLOOR.max(2 * self.len());
    }

    fn len(&self) -> usize {
        self.texts.len() + self.labels.len() + self.ports.len()
    }
}

#[cfg(test)]
mod tests {
    use policy_engine::addresses::Addresses;
    use policy_engine::model::{Life, Pod};

    use super::*;

    fn pod(number: usize, version: &str) -> Change {
        let key = PodKey::new("shop", &format!("web-{number}"));
        let pod = Pod {
            key: key.clone(),
            labels: Labels::from_iter([("app", "web"), ("version", version)]),
            node: Some("node-1".into()),
            addresses: Addresses::default(),
            ports: Arc::default(),
            host_network: false,
            life: Life::Active,
            created: 0,
            extra_source_ranges: Box::default(),
        };
        Change::Pod(key, Some(Arc::new(pod)))
    }

    #[test]
    fn objects_share_what_they_repeat_and_mean_the_same() {
        let mut interner = Interner::default();
        let mut shared: Vec<Change> = (0..2).map(|number| pod(number, "1")).collect();
        shared.iter_mut().for_each(|change| interner.share(change));
        assert_eq!(shared, [pod(0, "1"), pod(1, "1")]);
        let pods: Vec<&Pod> = shared
            .iter()
            .filter_map(|change| match change {
                Change::Pod(_, pod) => pod.as_deref(),
                _ => None,
            })
            .collect();
        let [one, other] = pods[..] else { panic!("{pods:?}") };
        assert!(Arc::ptr_eq(&one.key.namespace, &other.key.namespace));
        assert!(one.node.as_ref().zip(other.node.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b)));
        let app = |pod: &Pod| pod.labels.get("app").cloned().unwrap_or_default();
        assert!(Arc::ptr_eq(&app(one), &app(other)));
    }

    #[test]
    fn entries_without_other_references_are_removed() {
        let mut interner = Interner::default();
        let mut held = pod(0, "held");
        interner.share(&mut held);
        for number in 0..10 * SWEEP_FLOOR {
            interner.share(&mut pod(number, &format!("version-{number}")));
        }
        let entries = interner.len();
        assert!(entries <= 2 * SWEEP_FLOOR, "{entries} entries");
        assert!(interner.texts.contains("held"));
    }
}
