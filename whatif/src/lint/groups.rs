//! Pods in groups of equal labels, named ports and network: what selectors are asked about.
//!
//! Labels are cut down to the keys that some policy or Service mentions, so that ten thousand pods
//! are a few hundred groups, and a peer that many rules name is looked up once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Life, NamedPort, Pod};
use policy_engine::policy::{Namespaces, Peer, Peers, PodPeer};
use policy_engine::reach::{ClassId, Reach};
use policy_engine::selector::Selector;

use crate::model::Cluster;

/// Pods that no policy and no Service tells apart.
pub(super) struct Group<'c> {
    pub(super) namespace: &'c Str,
    /// Those that somebody mentions.
    pub(super) labels: Labels,
    pub(super) ports: &'c [NamedPort],
    /// No policy is about them.
    pub(super) host_network: bool,
    /// Never empty.
    pub(super) pods: Vec<&'c Pod>,
    /// The classes of the pods in each view: addresses may tell them apart. None with hostNetwork.
    pub(super) classes: Vec<BTreeSet<ClassId>>,
}

type Matches<'c> = Rc<[Rc<Group<'c>>]>;

/// All groups by namespace; finished pods are in none.
pub(super) struct Groups<'c> {
    cluster: &'c Cluster,
    by_namespace: BTreeMap<&'c Str, Vec<Rc<Group<'c>>>>,
    peers: RefCell<BTreeMap<&'c PodPeer, Matches<'c>>>,
}

impl<'c> Groups<'c> {
    pub(super) fn new(cluster: &'c Cluster, views: &[&Reach<'_>]) -> Self {
        let keys = mentioned(cluster);
        let mut found = BTreeMap::new();
        for pod in cluster.world.pods().values().filter(|pod| pod.life != Life::Finished) {
            let labels = pod.labels.filtered(|key| keys.contains(key));
            let cut: Vec<(Str, Str)> =
                labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            let key = (&pod.key.namespace, cut, pod.ports.as_slice(), pod.host_network);
            let entry = found.entry(key).or_insert_with(|| (labels, Vec::new()));
            entry.1.push(pod.as_ref());
        }
        let mut by_namespace: BTreeMap<&Str, Vec<Rc<Group<'_>>>> = BTreeMap::new();
        for ((namespace, _, ports, host_network), (labels, pods)) in found {
            let classes = views.iter().map(|reach| {
                let classes = pods.iter().filter_map(|pod| reach.class_of(&pod.key));
                classes.collect()
            });
            let classes = classes.collect();
            let group = Group { namespace, labels, ports, host_network, pods, classes };
            by_namespace.entry(namespace).or_default().push(Rc::new(group));
        }
        Self { cluster, by_namespace, peers: RefCell::default() }
    }

    /// All groups of a namespace, hostNetwork pods included.
    pub(super) fn of(&self, namespace: &Str) -> &[Rc<Group<'c>>] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// All groups.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Group<'c>>> {
        self.by_namespace.values().flatten()
    }

    /// The groups that a selector matches in a namespace, those with hostNetwork apart or not.
    pub(super) fn matching(
        &self,
        namespace: &Str,
        selector: &Selector,
        host_network: bool,
    ) -> Vec<Rc<Group<'c>>> {
        let groups = self.of(namespace).iter();
        let groups = groups.filter(|group| group.host_network == host_network);
        groups.filter(|group| selector.matches(&group.labels)).cloned().collect()
    }

    /// The groups that a peer matches; never hostNetwork pods.
    pub(super) fn peer(&self, peer: &'c PodPeer) -> Matches<'c> {
        if let Some(known) = self.peers.borrow().get(peer) {
            return known.clone();
        }
        let of = |namespace| self.matching(namespace, &peer.pods, false);
        let found: Vec<_> = match &peer.namespaces {
            Namespaces::Named(name) => of(name),
            Namespaces::Own => Vec::new(),
            Namespaces::Selected(selector) => {
                self.namespaces(selector).into_iter().flat_map(of).collect()
            }
        };
        let found: Matches<'c> = found.into();
        self.peers.borrow_mut().insert(peer, found.clone());
        found
    }

    /// The namespaces that a selector matches.
    pub(super) fn namespaces(&self, selector: &Selector) -> Vec<&'c Str> {
        let all = self.cluster.world.namespaces().iter();
        all.filter(|(_, found)| selector.matches(&found.labels)).map(|(name, _)| name).collect()
    }
}

/// The label keys of pods that policies and Services ask for.
fn mentioned(cluster: &Cluster) -> BTreeSet<Str> {
    let mut keys = BTreeSet::new();
    let mut selector = |selector: &Selector| {
        keys.extend(selector.requirements().map(|requirement| requirement.key.clone()));
    };
    let world = &cluster.world;
    for policy in world.policies() {
        policy.subject.pods.iter().for_each(&mut selector);
    }
    for rule in world.policies().flat_map(|policy| policy.all_rules()) {
        let Peers::Listed(peers) = &rule.peers else { continue };
        for peer in peers {
            match peer {
                Peer::Pods(peer) => selector(&peer.pods),
                Peer::Block(_) | Peer::Nodes(_) | Peer::Invalid => {}
            }
        }
    }
    let selectors = cluster.services.values().filter_map(|service| service.selector.as_ref());
    keys.extend(selectors.flat_map(|labels| labels.iter().map(|(key, _)| key.clone())));
    keys.insert(super::dns::LABEL.into());
    keys
}
