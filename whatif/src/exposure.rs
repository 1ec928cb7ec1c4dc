//! Exposure: what policies allow to and from pods that do not exist yet.
//!
//! ```text
//! peers of the policies of a pod ──► a new pod for each, that the peer matches ──► World with these
//!                                                                              ──► Reach::between
//! ```
//!
//! A selector that matches no pod today matches any pod that a user creates with these labels
//! tomorrow. Each answer is for one pod that could be created, in a world that contains it. So it
//! takes into account the policies that would select the new pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::flow::Endpoint;
use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::policy::{Namespaces, Peer, PodPeer};
use policy_engine::reach::{ClassId, PortSet, Reach};
use policy_engine::selector::{Operator, Requirement, Selector};
use policy_engine::tier::View;
use policy_engine::world::World;
use portcullis_crds::convert::assumed_namespace;
use portcullis_crds::convert::labels::NAMESPACE_NAME_LABEL;
use portcullis_lint::pods::Pods;

use crate::args::By;
use crate::model::{Cluster, Units};

/// Pods that are treated alike, and what new pods could connect to or be connected from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exposed {
    /// The workloads, or pods.
    pub names: Vec<Arc<str>>,
    /// What is allowed from new pods, and what is allowed to them.
    pub allowed: PerDirection<Vec<Allowed>>,
}

/// What is allowed between a pod and new pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Allowed {
    /// The new pods.
    pub pods: NewPods,
    /// One of the new pods, as it was tried.
    pub example: Example,
    /// The number of such pods at present.
    pub at_present: usize,
    /// The ports.
    pub ports: PortSet,
}

/// A kind of new pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NewPods {
    /// Pods without labels, in a namespace without labels.
    Anywhere,
    /// Pods without labels, in the namespace of the pod that is asked about.
    Beside(Str),
    /// Pods that a peer of a rule matches.
    Matched(PodPeer),
}

/// A pod that could be created.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Example {
    /// The namespace; `None` for a new one.
    pub namespace: Option<Str>,
    /// The labels of a new namespace.
    pub namespace_labels: Labels,
    /// The labels of the pod.
    pub labels: Labels,
    /// Addresses that no other pod has, because an `ipBlock` may contain them.
    pub addresses: Vec<IpAddr>,
}

impl Example {
    /// A pod that is created in a new namespace.
    fn new(namespace_labels: Labels, labels: Labels) -> Self {
        Self { namespace: None, namespace_labels, labels, addresses: Vec::new() }
    }

    /// A pod that is created in this namespace.
    fn within(namespace: &Str, labels: Labels) -> Self {
        Self { namespace: Some(namespace.clone()), ..Self::new(Labels::default(), labels) }
    }

    fn of(pods: &NewPods, world: &World) -> Option<Self> {
        match pods {
            NewPods::Anywhere => Some(Self::new(Labels::default(), Labels::default())),
            NewPods::Beside(namespace) => Some(Self::within(namespace, Labels::default())),
            NewPods::Matched(peer) => {
                let labels = matched(&peer.pods)?;
                match &peer.namespaces {
                    Namespaces::Named(name) => Some(Self::within(name, labels)),
                    Namespaces::Selected(selector) => match named(selector, world) {
                        Some(name) => Some(Self::within(&name, labels)),
                        None => Some(Self::new(matched(selector)?, labels)),
                    },
                    Namespaces::Own => None,
                }
            }
        }
    }
}

/// What new pods could connect to these pods, and what these pods could connect to new pods.
#[must_use]
pub fn exposed(cluster: &Cluster, pods: &BTreeSet<PodKey>) -> Vec<Exposed> {
    let asked = Asked::of_all(&cluster.world, pods);
    let mut tried = Tried::new(cluster);
    for pods in asked.of_pods.values().flat_map(|own| own.ingress.iter().chain(&own.egress)) {
        tried.add(pods);
    }
    let world = &tried.world;
    let everyone = pods.iter().chain(tried.examples.values().map(|(key, _)| key)).cloned();
    let reach = Reach::among(world, View::Enforced, &everyone.collect());
    // Two pods of one class have different answers if only one is in the namespace of a new pod.
    let mut alike: BTreeMap<(ClassId, &Str), Vec<&PodKey>> = BTreeMap::new();
    for key in pods {
        if let Some(class) = reach.class_of(key) {
            alike.entry((class, &key.namespace)).or_default().push(key);
        }
    }
    let classes: Vec<&[&PodKey]> = alike.values().map(Vec::as_slice).collect();
    let units = Units::of_classes(cluster, &classes, By::Workload);
    let mut found: BTreeMap<PerDirection<Vec<Allowed>>, Vec<Arc<str>>> = BTreeMap::new();
    for (number, pods) in classes.iter().enumerate() {
        let first = pods.first().and_then(|key| cluster.world.pods().get(*key));
        let Some((first, own)) = first.and_then(|pod| Some((pod, asked.of(pod)?))) else {
            continue;
        };
        let allowed = PerDirection::new(|direction| {
            let asked = own.get(direction).iter();
            let all = asked.filter_map(|pods| tried.allowed(&reach, &first.key, pods, direction));
            without_special(&all.collect::<Vec<_>>())
        });
        let names = units.of(number).iter().map(|unit| unit.name.clone());
        found.entry(allowed).or_default().extend(names);
    }
    let exposed = |(allowed, mut names): (_, Vec<_>)| {
        names.sort_unstable();
        Exposed { names, allowed }
    };
    let mut found: Vec<Exposed> = found.into_iter().map(exposed).collect();
    found.sort_by(|a, b| a.names.cmp(&b.names));
    found
}

/// The new pods that are tried for pods.
struct Asked<'w> {
    /// By the fields that policies select pods by: the namespace and the labels.
    of_pods: BTreeMap<(&'w Str, &'w Labels), PerDirection<Vec<NewPods>>>,
}

impl<'w> Asked<'w> {
    fn of_all(world: &'w World, pods: &BTreeSet<PodKey>) -> Self {
        let mut of_pods = BTreeMap::new();
        for pod in pods.iter().filter_map(|key| world.pods().get(key)) {
            let own = || PerDirection::new(|direction| asked(world, pod, direction));
            of_pods.entry((&pod.key.namespace, &pod.labels)).or_insert_with(own);
        }
        Self { of_pods }
    }

    fn of(&self, pod: &'w Pod) -> Option<&PerDirection<Vec<NewPods>>> {
        self.of_pods.get(&(&pod.key.namespace, &pod.labels))
    }
}

/// The new pods that are tried for a pod: those that its policies match, and pods without labels.
fn asked(world: &World, pod: &Pod, direction: Direction) -> Vec<NewPods> {
    let mut all = BTreeSet::from([NewPods::Anywhere, NewPods::Beside(pod.key.namespace.clone())]);
    for (policy, _) in world.selecting(pod) {
        for rule in policy.rules(direction) {
            let rule = rule.in_namespace(&pod.key.namespace);
            let peers = rule.peers.listed().iter();
            all.extend(peers.filter_map(|peer| match peer {
                Peer::Pods(peer) => Some(NewPods::Matched(peer.clone())),
                Peer::Block(_) | Peer::Nodes(_) | Peer::Invalid => None,
            }));
        }
    }
    all.into_iter().collect()
}

/// The entries that differ from the entries for pods without labels.
fn without_special(all: &[Allowed]) -> Vec<Allowed> {
    let general = |pods: &NewPods| {
        all.iter().find(|entry| entry.pods == *pods).map(|entry| entry.ports.clone())
    };
    let anywhere = general(&NewPods::Anywhere).unwrap_or_default();
    let differs = |entry: &Allowed| match &entry.pods {
        NewPods::Anywhere => true,
        NewPods::Beside(_) => entry.ports != anywhere,
        NewPods::Matched(peer) => {
            let beside = match &peer.namespaces {
                Namespaces::Named(name) => general(&NewPods::Beside(name.clone())),
                Namespaces::Selected(_) | Namespaces::Own => None,
            };
            entry.ports != beside.unwrap_or_else(|| anywhere.clone())
        }
    };
    all.iter().filter(|entry| !entry.ports.is_empty() && differs(entry)).cloned().collect()
}

/// A world with new pods.
struct Tried {
    world: World,
    /// The pods at present.
    pods: Pods,
    examples: BTreeMap<NewPods, (PodKey, Allowed)>,
    /// The next addresses that no pod has, one of each family that pods have.
    free: Vec<IpAddr>,
}

impl Tried {
    fn new(cluster: &Cluster) -> Self {
        let mut pods = Pods::default();
        pods.refresh(&cluster.world, &cluster.services);
        let (world, examples) = (cluster.world.clone(), BTreeMap::new());
        let mut tried = Self { world, pods, examples, free: Vec::new() };
        let addresses = || cluster.world.pods().values().flat_map(|pod| &pod.addresses);
        let last = [
            addresses().filter(|address| address.is_ipv4()).max(),
            addresses().filter(|address| address.is_ipv6()).max(),
        ];
        tried.free =
            last.into_iter().flatten().filter_map(|address| tried.next(*address)).collect();
        tried
    }

    /// The next address, unless a node has it.
    fn next(&self, address: IpAddr) -> Option<IpAddr> {
        let mut nodes = self.world.nodes().values();
        let next = next(address)?;
        if nodes.any(|node| node.addresses.contains(&next)) { self.next(next) } else { Some(next) }
    }

    fn add(&mut self, pods: &NewPods) {
        if self.examples.contains_key(pods) {
            return;
        }
        let Some(mut example) = Example::of(pods, &self.world) else { return };
        let at_present = match pods {
            NewPods::Matched(peer) => self.pods.peer(peer).map(|group| group.pods().len()).sum(),
            NewPods::Anywhere | NewPods::Beside(_) => 0,
        };
        // The name cannot be that of an object: names have no `#`.
        let name = format!("#{}", self.examples.len());
        let namespace = example.namespace.clone().unwrap_or_else(|| name.as_str().into());
        if !self.world.namespaces().contains_key(&namespace) {
            let mut new = assumed_namespace(&namespace);
            let own =
                example.namespace_labels.iter().map(|(key, value)| (key.clone(), value.clone()));
            let name = new.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
            new.labels = name.chain(own).collect();
            self.world.apply(Change::Namespace(namespace.clone(), Some(new)));
        }
        let key = PodKey::new(&namespace, &name);
        let mut pod = Pod::new(key.clone(), example.labels.clone());
        pod.addresses = self.free.clone().into();
        example.addresses.clone_from(&self.free);
        self.free = self.free.iter().filter_map(|address| self.next(*address)).collect();
        self.world.apply(Change::Pod(key.clone(), Some(Arc::new(pod))));
        let ports = PortSet::default();
        let allowed = Allowed { pods: pods.clone(), example, at_present, ports };
        self.examples.insert(pods.clone(), (key, allowed));
    }

    /// What is allowed between a pod and one of these new pods, over any family that both have.
    fn allowed(
        &self,
        reach: &Reach<'_>,
        pod: &PodKey,
        pods: &NewPods,
        direction: Direction,
    ) -> Option<Allowed> {
        let (key, known) = self.examples.get(pods)?;
        // A pod without an address may get any address.
        let addresses = |key| -> Option<Vec<Option<IpAddr>>> {
            let owned = self.world.owned_addresses(self.world.pods().get(key)?).map(Some);
            let owned: Vec<_> = owned.collect();
            Some(if owned.is_empty() { vec![None] } else { owned })
        };
        let (own, new) = (addresses(pod)?, addresses(key)?);
        let pairs = own.iter().flat_map(|own| new.iter().map(move |new| (*own, *new)));
        let pairs = pairs.filter(|(own, new)| {
            own.zip(*new).is_none_or(|(own, new)| own.is_ipv4() == new.is_ipv4())
        });
        let mut ports = PortSet::default();
        for (own, new) in pairs {
            let own = Endpoint::Pod(pod.clone(), own);
            let new = Endpoint::Pod(key.clone(), new);
            ports.add(&match direction {
                Direction::Ingress => reach.between(&new, &own),
                Direction::Egress => reach.between(&own, &new),
            });
        }
        Some(Allowed { ports, ..known.clone() })
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            u32::from(address).checked_add(1).map(|next| IpAddr::V4(next.into()))
        }
        IpAddr::V6(address) => {
            u128::from(address).checked_add(1).map(|next| IpAddr::V6(next.into()))
        }
    }
}

/// An existing namespace that a selector names and matches.
fn named(selector: &Selector, world: &World) -> Option<Str> {
    let by_name =
        selector.requirements().find(|requirement| *requirement.key == *NAMESPACE_NAME_LABEL)?;
    let Operator::In(names) = &by_name.operator else { return None };
    let matches = |name: &&Str| {
        let known = world.namespaces().get(*name);
        known.is_some_and(|namespace| selector.matches(&namespace.labels))
    };
    names.iter().find(matches).cloned()
}

/// The fewest labels that a selector matches; `None` if it matches none.
fn matched(selector: &Selector) -> Option<Labels> {
    let all: Vec<&Requirement> = selector.requirements().collect();
    let keys: BTreeSet<&Str> = all.iter().map(|requirement| &requirement.key).collect();
    let mut labels = Labels::default();
    for key in keys {
        let own: Vec<&Operator> =
            all.iter().filter(|one| one.key == *key).map(|one| &one.operator).collect();
        if !own.iter().any(|operator| matches!(operator, Operator::In(_) | Operator::Exists)) {
            continue;
        }
        let fits = |value: &Str| {
            own.iter().all(|operator| match operator {
                Operator::In(values) => values.contains(value),
                Operator::NotIn(values) => !values.contains(value),
                Operator::Exists => true,
                Operator::DoesNotExist => false,
            })
        };
        let listed = own.iter().filter_map(|operator| operator.name_and_values().1).flatten();
        // At least one of these values is in no list of values to avoid.
        let any = (0..=listed.clone().count()).map(|number| Str::from(format!("any{number}")));
        let value = listed.cloned().chain(any).find(fits)?;
        labels = labels.with(key, &value);
    }
    selector.matches(&labels).then_some(labels)
}

#[cfg(test)]
mod tests {
    use policy_engine::sorted::SortedSet;
    use policy_engine::world::Options;
    use portcullis_crds::manifest::Manifest;

    use super::*;
    use crate::model::Inventory;

    fn requirement(key: &str, operator: Operator) -> Requirement {
        Requirement { key: key.into(), operator }
    }

    fn values(values: &[&str]) -> SortedSet<Str> {
        values.iter().map(|value| Str::from(*value)).collect()
    }

    #[test]
    fn pods_that_are_treated_alike_in_two_namespaces_have_neighbors_of_their_own() {
        let object = |name: &str| {
            let labels = format!("{{team: t, kubernetes.io/metadata.name: {name}}}");
            let peer = "{namespaceSelector: {matchLabels: {team: t}}}";
            format!(
                "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {labels}}}}}\n\
                 ---\n{{apiVersion: v1, kind: Pod, metadata: {{name: x, namespace: {name}}}}}\n\
                 ---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, \
                 namespace: {name}}}, spec: {{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}}}\n"
            )
        };
        let text = ["a", "b"].map(object).concat();
        let mut inventory = Inventory::default();
        inventory.add_path(Manifest::parse("f", &text).documents, "default");
        let cluster = Cluster::new(&inventory, Options::default());
        let found = exposed(&cluster, &cluster.world.pods().keys().cloned().collect());
        let said = found.iter().map(|one| {
            let near = one.allowed.ingress.iter().filter_map(|entry| match &entry.pods {
                NewPods::Beside(namespace) => Some(namespace.to_string()),
                NewPods::Anywhere | NewPods::Matched(_) => None,
            });
            (one.names.join(" "), near.collect::<Vec<_>>().join(" "))
        });
        let expected = [("a/pod/x", "a"), ("b/pod/x", "b")];
        let expected = expected.map(|(name, near)| (name.to_owned(), near.to_owned()));
        assert_eq!(said.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_pod_is_made_that_a_selector_matches() {
        let app = |operator| requirement("app", operator);
        let table = [
            (vec![], Some(vec![])),
            (vec![app(Operator::In(values(&["b", "a"])))], Some(vec![("app", "a")])),
            (vec![app(Operator::Exists)], Some(vec![("app", "any0")])),
            (
                vec![app(Operator::Exists), app(Operator::NotIn(values(&["any0", "any1"])))],
                Some(vec![("app", "any2")]),
            ),
            (
                vec![app(Operator::In(values(&["a", "b"]))), app(Operator::NotIn(values(&["a"])))],
                Some(vec![("app", "b")]),
            ),
            (vec![app(Operator::NotIn(values(&["a"]))), app(Operator::DoesNotExist)], Some(vec![])),
            (vec![app(Operator::Exists), app(Operator::DoesNotExist)], None),
            (vec![app(Operator::In(values(&["a"]))), app(Operator::NotIn(values(&["a"])))], None),
        ];
        for (requirements, expected) in table {
            let words = format!("{requirements:?}");
            let found = matched(&requirements.into_iter().collect());
            assert_eq!(found, expected.map(|labels| labels.into_iter().collect()), "{words}");
        }
    }
}
