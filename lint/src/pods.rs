//! Pods in groups that no policy and no Service distinguishes, indexed by namespace and label.
//!
//! Labels are reduced to the keys that some policy or Service mentions, so that ten thousand pods
//! are a few hundred groups. A selector is looked up in an index of the groups and never visits
//! every pod. The index is kept when the world changes, except for the namespaces that changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Change, Life, NamedPort, Pod, PodKey};
use policy_engine::policy::{Namespaces, Peer, Peers, PodPeer};
use policy_engine::selector::Selector;
use policy_engine::world::World;

use crate::Services;

/// The label by which clusters mark their DNS pods.
pub(crate) const DNS_LABEL: &str = "k8s-app";

/// Pods of one namespace that no policy and no Service distinguishes.
#[derive(Debug)]
pub struct Group {
    /// The labels whose keys policies or Services mention.
    pub labels: Labels,
    /// Whether the pods have hostNetwork, so that NetworkPolicies do not apply to them.
    pub host_network: bool,
    /// The nodes of the pods.
    pub nodes: BTreeSet<Str>,
    /// At least one pod.
    pods: Vec<Arc<Pod>>,
}

impl Group {
    /// The pods; there is at least one.
    #[must_use]
    pub fn pods(&self) -> &[Arc<Pod>] {
        &self.pods
    }

    /// A pod that stands for all of them.
    pub(crate) fn first(&self) -> &Pod {
        self.pods.first().expect("a group has a pod")
    }

    /// The namespace of the pods.
    pub(crate) fn namespace(&self) -> &Str {
        &self.first().key.namespace
    }

    /// The named ports of the pods.
    pub(crate) fn ports(&self) -> &[NamedPort] {
        &self.first().ports
    }
}

/// Items with labels, which selectors find.
#[derive(Debug)]
pub struct Index<T> {
    items: Vec<(Labels, T)>,
    by_label: HashMap<Str, HashMap<Str, Vec<usize>>>,
}

impl<T> Index<T> {
    fn new(items: Vec<(Labels, T)>) -> Self {
        let mut by_label: HashMap<Str, HashMap<Str, Vec<usize>>> = HashMap::new();
        for (at, (labels, _)) in items.iter().enumerate() {
            for (key, value) in labels.iter() {
                let values = by_label.entry(key.clone()).or_default();
                values.entry(value.clone()).or_default().push(at);
            }
        }
        Self { items, by_label }
    }

    /// How many items there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The items that a selector matches, each with its position, ascending.
    pub fn matching<'i>(
        &'i self,
        selector: &'i Selector,
    ) -> impl Iterator<Item = (usize, &'i T)> + use<'i, T> {
        // If every match must have one label, only the items that have it are compared.
        let (few, all) = match selector.required_label() {
            Some((key, value)) => {
                let few = self.by_label.get(key).and_then(|values| values.get(value));
                (few.map_or(&[][..], Vec::as_slice), 0..0)
            }
            None => (&[][..], 0..self.items.len()),
        };
        few.iter().copied().chain(all).filter_map(|at| {
            let (labels, item) = self.items.get(at)?;
            selector.matches(labels).then_some((at, item))
        })
    }
}

/// The pods of all namespaces except finished ones, in groups.
#[derive(Default, Debug)]
pub struct Pods {
    /// The label keys that policies and Services mention.
    mentioned: BTreeSet<Str>,
    /// The groups per namespace. A namespace without an entry has to be indexed.
    groups: BTreeMap<Str, Index<Group>>,
    /// The names of the namespaces, by their labels.
    namespaces: Option<Index<Vec<Str>>>,
}

impl Pods {
    /// Records that an object changes: [`Pods::refresh`] indexes its namespace again.
    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Pod(key, _) => drop(self.groups.remove(&key.namespace)),
            Change::Namespace(..) => self.namespaces = None,
            Change::Node(..) | Change::Policy(..) | Change::ApiServer(..) => {}
        }
    }

    /// Indexes what changed, or everything when policies or Services mention another label.
    ///
    /// Assumption: [`Pods::note`] was called for every change of `world` since the last call.
    pub fn refresh(&mut self, world: &World, services: &Services) {
        let mentioned = mentioned(world, services);
        if self.mentioned != mentioned {
            *self = Self { mentioned, ..Self::default() };
        }
        if self.namespaces.is_none() {
            let mut names: BTreeMap<Labels, Vec<Str>> = BTreeMap::new();
            for (name, found) in world.namespaces() {
                names.entry(self.cut(&found.labels)).or_default().push(name.clone());
            }
            self.namespaces = Some(Index::new(names.into_iter().collect()));
        }
        let mut next = world.pods().first_key_value().map(|(key, _)| key.namespace.clone());
        while let Some(namespace) = next {
            if !self.groups.contains_key(&namespace) {
                self.groups.insert(namespace.clone(), self.index(world, &namespace));
            }
            // No name is sorted between a namespace and the same name with a zero byte behind it.
            let behind = PodKey::new(&format!("{namespace}\0"), "");
            next = world.pods().range(behind..).next().map(|(key, _)| key.namespace.clone());
        }
    }

    /// Each namespace that has pods, and the groups there, hostNetwork pods among them.
    pub fn by_namespace(&self) -> impl Iterator<Item = (&Str, &Index<Group>)> {
        self.groups.iter()
    }

    /// All groups.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().flat_map(|index| index.items.iter().map(|(_, group)| group))
    }

    /// All groups to which NetworkPolicies apply.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = &Group> {
        self.all().filter(|group| !group.host_network)
    }

    /// All groups of a namespace, hostNetwork pods included.
    pub(crate) fn of(&self, namespace: &str) -> impl Iterator<Item = &Group> {
        let index = self.groups.get(namespace).into_iter();
        index.flat_map(|index| index.items.iter().map(|(_, group)| group))
    }

    /// The groups that a selector matches in a namespace, without hostNetwork pods.
    pub(crate) fn matching<'p>(
        &'p self,
        namespace: &str,
        selector: &'p Selector,
    ) -> impl Iterator<Item = &'p Group> + use<'p> {
        self.selected(namespace, selector).filter(|group| !group.host_network)
    }

    /// The groups of hostNetwork pods that a selector matches in a namespace.
    pub(crate) fn on_host<'p>(
        &'p self,
        namespace: &str,
        selector: &'p Selector,
    ) -> impl Iterator<Item = &'p Group> + use<'p> {
        self.selected(namespace, selector).filter(|group| group.host_network)
    }

    fn selected<'p>(
        &'p self,
        namespace: &str,
        selector: &'p Selector,
    ) -> impl Iterator<Item = &'p Group> + use<'p> {
        let index = self.groups.get(namespace).into_iter();
        index.flat_map(|index| index.matching(selector)).map(|(_, group)| group)
    }

    /// The names of the namespaces that a selector matches.
    pub(crate) fn namespaces<'p>(
        &'p self,
        selector: &'p Selector,
    ) -> impl Iterator<Item = &'p Str> + use<'p> {
        let index = self.namespaces.iter();
        index.flat_map(|index| index.matching(selector)).flat_map(|(_, names)| names)
    }

    /// The groups that a peer matches, without hostNetwork pods. `sameNamespace` matches none here.
    #[must_use]
    pub fn peer<'p>(&'p self, peer: &'p PodPeer) -> Box<dyn Iterator<Item = &'p Group> + 'p> {
        match &peer.namespaces {
            Namespaces::Own => Box::new(std::iter::empty()),
            Namespaces::Named(name) => Box::new(self.matching(name, &peer.pods)),
            Namespaces::Selected(selector) => {
                let names = self.namespaces(selector);
                Box::new(names.flat_map(|name| self.matching(name, &peer.pods)))
            }
        }
    }

    fn cut(&self, labels: &Labels) -> Labels {
        labels.filtered(|key| self.mentioned.contains(key))
    }

    fn index(&self, world: &World, namespace: &Str) -> Index<Group> {
        let first = PodKey::new(namespace, "");
        let pods = world.pods().range(first..).map(|(_, pod)| pod);
        let pods = pods.take_while(|pod| pod.key.namespace == *namespace);
        let pods = pods.filter(|pod| pod.life != Life::Finished);
        let mut pods: Vec<(Labels, &Arc<Pod>)> =
            pods.map(|pod| (self.cut(&pod.labels), pod)).collect();
        pods.sort_by(|one, other| properties(one).cmp(&properties(other)));
        let groups = pods.chunk_by(|one, other| properties(one) == properties(other));
        let groups = groups.filter_map(|members| {
            let (labels, first) = members.first()?;
            let (labels, host_network) = (labels.clone(), first.host_network);
            let nodes = members.iter().filter_map(|(_, pod)| pod.node.clone()).collect();
            let pods = members.iter().map(|(_, pod)| Arc::clone(pod)).collect();
            Some((labels.clone(), Group { labels, host_network, nodes, pods }))
        });
        Index::new(groups.collect())
    }
}

/// The properties that all pods of a group share.
fn properties<'p>((labels, pod): &'p (Labels, &Arc<Pod>)) -> (&'p Labels, &'p [NamedPort], bool) {
    (labels, &pod.ports, pod.host_network)
}

/// The label keys that policies and Services mention.
fn mentioned(world: &World, services: &Services) -> BTreeSet<Str> {
    let mut keys = BTreeSet::new();
    let mut selector = |selector: &Selector| {
        for requirement in selector.requirements() {
            if !keys.contains(&requirement.key) {
                keys.insert(requirement.key.clone());
            }
        }
    };
    for policy in world.policies() {
        policy.subject.pods.iter().chain(&policy.subject.namespaces).for_each(&mut selector);
        for rule in policy.all_rules() {
            let Peers::Listed(peers) = &rule.peers else { continue };
            for peer in peers {
                match peer {
                    Peer::Pods(PodPeer { namespaces, pods }) => {
                        selector(pods);
                        match namespaces {
                            Namespaces::Selected(namespaces) => selector(namespaces),
                            Namespaces::Named(_) | Namespaces::Own => {}
                        }
                    }
                    Peer::Block(_) | Peer::Nodes(_) | Peer::Invalid => {}
                }
            }
        }
    }
    let services = services.values().filter_map(|service| service.selector.as_ref());
    keys.extend(services.flat_map(|labels| labels.iter().map(|(key, _)| key.clone())));
    keys.insert(DNS_LABEL.into());
    keys
}
