//! Drafts policies for denied connections: one per workload and direction, with the fewest rules.
//!
//! Selectors cannot distinguish pods with the same labels. Such pods have one *look*, and rules are
//! written for looks.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::reach::PortSet;
use policy_engine::world::World;

use crate::advice::select::{selectors, usable};
use crate::advice::yaml::{Peer, Proposal, Rule, document};
use crate::advice::{blocks, by_namespace, cut, split};
use crate::endpoint::{Resolved, Side};
use crate::model::Cluster;

/// Namespace and labels, without those that controllers generate.
type Look = (Str, Labels);

/// All pods that policies apply to, by their looks.
pub(super) struct Looks(BTreeMap<Look, BTreeSet<PodKey>>);

/// Connections that the policies of one direction have to allow.
pub(super) struct Need<'l> {
    pub(super) direction: Direction,
    pub(super) subjects: &'l Resolved,
    pub(super) peers: &'l Resolved,
    /// The addresses that an external side stands for, if one is external.
    pub(super) outside: Option<&'l CidrSet>,
    pub(super) ports: &'l PortSet,
}

/// The peers that the pods of a look need in one direction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Peers {
    pods: BTreeMap<Look, PortSet>,
    /// Disjoint addresses by their ports.
    addresses: BTreeMap<PortSet, CidrSet>,
}

impl Looks {
    pub(super) fn new(world: &World) -> Self {
        let mut looks: BTreeMap<Look, BTreeSet<PodKey>> = BTreeMap::new();
        for pod in world.pods().values().filter(|pod| pod.takes_part()) {
            looks.entry(look(pod)).or_default().insert(pod.key.clone());
        }
        Self(looks)
    }

    fn pods<'l>(&'l self, look: &Look) -> impl Iterator<Item = &'l PodKey> {
        self.0.get(look).into_iter().flatten()
    }
}

fn look(pod: &Pod) -> Look {
    (pod.key.namespace.clone(), usable(pod))
}

/// The policies, as YAML documents.
pub(super) fn drafts(cluster: &Cluster, looks: &Looks, needs: &[Need<'_>]) -> Vec<String> {
    let mut subjects: BTreeMap<(Direction, Look), Peers> = BTreeMap::new();
    for need in needs {
        need.add_to(&cluster.world, &mut subjects);
    }
    // Looks of one workload with equal needs share a policy.
    let mut groups: BTreeMap<(Str, String, Direction, Peers), BTreeSet<PodKey>> = BTreeMap::new();
    for ((direction, look), mut peers) in subjects {
        peers.leave_out_pods_in_blocks(&cluster.world, looks);
        let Some(first) = looks.pods(&look).next() else { continue };
        let workload = cluster.workload_of(first).map_or(&first.name, |workload| &workload.name);
        let key = (look.0.clone(), workload.to_string(), direction, peers);
        groups.entry(key).or_default().extend(looks.pods(&look).cloned());
    }
    let mut taken = BTreeSet::new();
    let mut documents = Vec::new();
    for ((namespace, workload, direction, peers), pods) in groups {
        let rules = peers.rules(&cluster.world, looks, &namespace);
        if rules.is_empty() {
            continue;
        }
        for subject in selectors(&cluster.world, &namespace, &pods) {
            let name = free_name(&cluster.world, &namespace, &workload, direction, &mut taken);
            let (namespace, rules) = (namespace.clone(), rules.clone());
            documents.push(document(&Proposal { namespace, name, subject, direction, rules }));
        }
    }
    documents
}

/// A name that describes the policy, and that no other policy has: `api-ingress`.
fn free_name(
    world: &World,
    namespace: &Str,
    workload: &str,
    direction: Direction,
    taken: &mut BTreeSet<ObjectRef>,
) -> String {
    const LONGEST: usize = 200;
    let wish = format!("{}-{}", cut(workload, LONGEST), direction.field());
    let mut name = wish.clone();
    let mut number = 1;
    loop {
        let policy = ObjectRef::new(Kind::NetworkPolicy, namespace.clone(), name.as_str());
        if world.policy(&policy).is_none() && taken.insert(policy) {
            return name;
        }
        number += 1;
        name = format!("{wish}-{number}");
    }
}

impl Need<'_> {
    fn add_to(&self, world: &World, subjects: &mut BTreeMap<(Direction, Look), Peers>) {
        let sides = |resolved: &Resolved| -> Vec<Side> {
            resolved.parties.iter().map(|party| party.side.clone()).collect()
        };
        let found = split(world, &sides(self.peers), self.outside);
        // Without an address there is no peer to write.
        let Some((pods, addresses)) = found else { return };
        // Only a rule for every port allows protocols without ports.
        let ports = if self.ports.has_other() { PortSet::everything() } else { self.ports.clone() };
        let of_pods = |pods: &BTreeSet<PodKey>| -> BTreeSet<Look> {
            pods.iter().filter_map(|key| world.pods().get(key)).map(|pod| look(pod)).collect()
        };
        let peers = of_pods(&pods);
        let Some((own, _)) = split(world, &sides(self.subjects), None) else { return };
        for subject in of_pods(&own) {
            let known = subjects.entry((self.direction, subject)).or_default();
            for peer in &peers {
                known.pods.entry(peer.clone()).or_default().add(&ports);
            }
            known.add_addresses(addresses.clone(), &ports);
        }
    }
}

impl Peers {
    fn add_addresses(&mut self, addresses: CidrSet, ports: &PortSet) {
        let mut rest = addresses;
        let mut cut: BTreeMap<PortSet, CidrSet> = BTreeMap::new();
        for (known, set) in std::mem::take(&mut self.addresses) {
            let both = set.intersection(&rest);
            rest = rest.difference(&both);
            cut.entry(known.clone().union(ports)).or_default().add(&both);
            cut.entry(known).or_default().add(&set.difference(&both));
        }
        cut.entry(ports.clone()).or_default().add(&rest);
        cut.retain(|_, set| !set.is_empty());
        self.addresses = cut;
    }

    /// Removes pods if the `ipBlock`s contain all their addresses, with their ports.
    fn leave_out_pods_in_blocks(&mut self, world: &World, looks: &Looks) {
        let addresses = &self.addresses;
        let allows = |address, ports: &PortSet| {
            let mut all = addresses.iter();
            let found = all.find(|(_, set)| set.contains(address));
            found.is_some_and(|(allowed, _)| ports.difference(allowed).is_empty())
        };
        self.pods.retain(|look, ports| {
            let pods = looks.pods(look).filter_map(|key| world.pods().get(key));
            let mut pods = pods.map(|pod| world.owned_addresses(pod).collect::<Vec<_>>());
            !pods.all(|own| !own.is_empty() && own.iter().all(|address| allows(*address, ports)))
        });
    }

    /// One rule for all peers that have the same ports.
    fn rules(&self, world: &World, looks: &Looks, own: &Str) -> Vec<Rule> {
        let mut by_ports: BTreeMap<&PortSet, (BTreeSet<PodKey>, CidrSet)> = BTreeMap::new();
        for (look, ports) in &self.pods {
            by_ports.entry(ports).or_default().0.extend(looks.pods(look).cloned());
        }
        for (ports, addresses) in &self.addresses {
            by_ports.entry(ports).or_default().1.add(addresses);
        }
        let rule = |(ports, (pods, addresses)): (&PortSet, (BTreeSet<PodKey>, CidrSet))| {
            let mut peers = Vec::new();
            for (namespace, pods) in by_namespace(pods) {
                let of = (namespace != *own).then_some(&namespace);
                let selectors = selectors(world, &namespace, &pods).into_iter();
                peers.extend(selectors.map(|pods| Peer::Pods(of.cloned(), pods)));
            }
            let blocks = blocks(&addresses).into_iter();
            peers.extend(blocks.map(|(cidr, except)| Peer::Block(cidr, except)));
            // A rule without peers would allow all peers.
            (!peers.is_empty()).then(|| Rule { peers, ports: ports.clone() })
        };
        by_ports.into_iter().filter_map(rule).collect()
    }
}
