//! Finds the pod or node that has an address.
//!
//! An address has two meanings. As a *subject* it stands for a pod whose policies a node enforces
//! for the address. As a *peer* it stands for the pod that selectors match. The two differ when
//! several pods claim the address: a Pod object of another node must neither take the isolation of
//! a local pod away nor be matched instead of it.
//!
//! ```text
//! claims to an address ─► subject: pods of this node, then not terminating, then the younger one
//!                      └► peer:    no pod, if live pods of two nodes claim the address;
//!                                  otherwise not terminating, then the younger one
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::slice;
use std::sync::Arc;

use ipnet::IpNet;

use super::World;
use crate::direction::Direction;
use crate::flow::{Endpoint, Flow, Traffic};
use crate::labels::Str;
use crate::model::{Life, Pod, PodKey};

/// The claims to all addresses.
#[derive(Clone, Default, Debug)]
pub(super) struct Claims {
    /// The claims to each address.
    by_address: BTreeMap<IpAddr, Claimed>,
    /// The addresses that live pods of two nodes claim: see [`World::is_contested`].
    contested: BTreeSet<IpAddr>,
}

/// The claims to one address, sorted. Nearly always there is one, which needs no memory of its own.
#[derive(Clone, Debug)]
enum Claimed {
    One(Claim),
    Several(Vec<Claim>),
}

impl Deref for Claimed {
    type Target = [Claim];

    fn deref(&self) -> &[Claim] {
        match self {
            Self::One(claim) => slice::from_ref(claim),
            Self::Several(claims) => claims,
        }
    }
}

/// An object that has an address in its status. When several objects have one address, the order of
/// the variants decides: pods of a deleted node may remain while a new node has its address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Claim {
    /// A pod with an address of its own.
    Pod(PodKey),
    /// A node. Boxed, so that a claim of a pod is not larger than it has to be.
    Node(Box<Str>),
    /// A hostNetwork pod: the address is its node's.
    HostPod(PodKey),
}

/// An address that live pods of two nodes claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contest {
    /// The address.
    pub address: IpAddr,
    /// Two of the pods with their nodes, sorted by the name of the pod. A pod that is not scheduled
    /// has no node.
    pub pods: [(PodKey, Option<Str>); 2],
    /// How many other live pods claim the address.
    pub others: usize,
}

/// `address 10.0.0.5 is claimed by pods a/x on node n1 and b/y on node n2; …`
impl fmt::Display for Contest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |(pod, node): &(PodKey, Option<Str>)| match node {
            Some(node) => format!("{pod} on node {node}"),
            None => format!("{pod} without a node"),
        };
        let [first, second] = &self.pods;
        write!(formatter, "address {} is claimed by pods {}", self.address, place(first))?;
        let second = place(second);
        let nobody = "as a peer it belongs to";
        match self.others {
            0 => write!(formatter, " and {second}; {nobody} neither until one of them is gone"),
            others => write!(
                formatter,
                ", {second} and {others} more; {nobody} none of them until those of one node are left"
            ),
        }
    }
}

impl World {
    /// The pod whose policies apply to an address.
    ///
    /// Several pods can claim one address: an address is assigned again before the object of the
    /// first pod was deleted, or a Pod object is wrong. In a world that is seen from a node, the
    /// pods of that node come first, because other nodes can write the others. Among them, and in
    /// a world of all nodes, it is the pod that is not terminating, then the younger one, then the
    /// one whose name sorts last.
    #[must_use]
    pub fn subject(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        let is_local = |pod: &Pod| self.node.is_some() && pod.node == self.node;
        self.claimants(address).max_by_key(|pod| (is_local(pod), rank(pod)))
    }

    /// The pod that selectors match at an address: none if the address is contested, otherwise the
    /// pod that is not terminating, then the younger one, then the one whose name sorts last.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        if self.is_contested(address) {
            return None;
        }
        self.claimants(address).max_by_key(|pod| rank(pod))
    }

    /// Whether live pods of two nodes claim an address. A pod that terminates does not count: its
    /// address may have been assigned again.
    #[must_use]
    pub fn is_contested(&self, address: IpAddr) -> bool {
        self.claims.contested.contains(&address)
    }

    /// All contested addresses with their pods, by address.
    pub fn contests(&self) -> impl Iterator<Item = Contest> {
        self.claims.contested.iter().filter_map(|address| self.contest(*address))
    }

    /// How many addresses are contested.
    #[must_use]
    pub fn contested(&self) -> usize {
        self.claims.contested.len()
    }

    /// The pods that claim an address, if it is contested.
    #[must_use]
    pub fn contest(&self, address: IpAddr) -> Option<Contest> {
        if !self.is_contested(address) {
            return None;
        }
        let live: Vec<&Arc<Pod>> = self.live_claimants(address).collect();
        let first = live.first()?;
        let second = live.iter().find(|pod| pod.node != first.node)?;
        let named = |pod: &Pod| (pod.key.clone(), pod.node.clone());
        let pods = [named(first), named(second)];
        Some(Contest { address, pods, others: live.len().saturating_sub(2) })
    }

    /// The addresses with which a pod takes part in flows.
    ///
    /// In a world of all nodes, each node enforces the policies of its own pod for a contested
    /// address: so the address belongs to one pod of each node.
    pub fn owned_addresses(&self, pod: &Pod) -> impl Iterator<Item = IpAddr> {
        let owned = |address: &IpAddr| {
            let owner = if self.node.is_none() && self.is_contested(*address) {
                let live = self.live_claimants(*address);
                live.filter(|other| other.node == pod.node).max_by_key(|pod| rank(pod))
            } else {
                self.subject(*address)
            };
            owner.is_some_and(|owner| owner.key == pod.key)
        };
        pod.addresses.iter().copied().filter(owned)
    }

    /// All pods that claim an address.
    pub fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        let claims = self.claims.by_address.get(&address);
        claims.into_iter().flat_map(|claims| &**claims).filter_map(|claim| match claim {
            Claim::Pod(key) => self.pods.get(key),
            Claim::HostPod(_) | Claim::Node(_) => None,
        })
    }

    /// The addresses in a network that pods, or nodes, claim, ascending. Costs what they are.
    pub fn claimed_within(&self, network: IpNet) -> impl Iterator<Item = IpAddr> {
        let (first, last) = (network.network(), network.broadcast());
        self.claims.by_address.range(first..=last).map(|(address, _)| *address)
    }

    fn live_claimants(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        self.claimants(address).filter(|pod| pod.life == Life::Active)
    }

    /// The endpoint with an address: the pod that is its subject, else its node, else an external
    /// address.
    #[must_use]
    pub fn endpoint(&self, address: IpAddr) -> Endpoint {
        if let Some(pod) = self.subject(address) {
            return Endpoint::Pod(pod.key.clone(), Some(address));
        }
        let claims = self.claims.by_address.get(&address).into_iter().flat_map(|claims| &**claims);
        let mut nodes = claims.filter_map(|claim| match claim {
            Claim::Pod(_) => None,
            Claim::HostPod(key) => self.pods.get(key).and_then(|pod| pod.node.clone()),
            Claim::Node(name) => Some(Str::clone(name)),
        });
        match nodes.next() {
            Some(name) => Endpoint::Node(name, Some(address)),
            None => Endpoint::External(address),
        }
    }

    /// What rules match in place of an endpoint when it is the peer: the pod that has its address
    /// as a peer, and an external address if the address is contested.
    #[must_use]
    pub fn as_peer<'e>(&self, endpoint: &'e Endpoint) -> Cow<'e, Endpoint> {
        let Endpoint::Pod(key, Some(address)) = endpoint else { return Cow::Borrowed(endpoint) };
        if self.is_contested(*address) {
            return Cow::Owned(Endpoint::External(*address));
        }
        match self.peer(*address) {
            Some(pod) if pod.key != *key => {
                Cow::Owned(Endpoint::Pod(pod.key.clone(), Some(*address)))
            }
            // No pod claims the address: the endpoint is a hypothesis.
            Some(_) | None => Cow::Borrowed(endpoint),
        }
    }

    /// A flow as the rules of one direction see it: with [`World::as_peer`] in place of its peer.
    #[must_use]
    pub fn judged<'f>(&self, flow: &'f Flow, direction: Direction) -> Cow<'f, Flow> {
        let (_, peer) = flow.sides(direction);
        match self.as_peer(peer) {
            Cow::Borrowed(_) => Cow::Borrowed(flow),
            Cow::Owned(peer) => {
                let mut flow = flow.clone();
                match direction {
                    Direction::Ingress => flow.source = peer,
                    Direction::Egress => flow.destination = peer,
                }
                Cow::Owned(flow)
            }
        }
    }

    /// The flow between two addresses, each standing for the pod, node or external host that has
    /// it.
    #[must_use]
    pub fn flow(&self, source: IpAddr, destination: IpAddr, traffic: Traffic) -> Flow {
        Flow { source: self.endpoint(source), destination: self.endpoint(destination), traffic }
    }

    pub(super) fn set_claims(&mut self, key: &PodKey, present: bool) {
        let Some(pod) = self.pods.get(key).cloned() else { return };
        if pod.life == Life::Finished {
            return;
        }
        for address in &pod.addresses {
            let claim = if pod.host_network {
                Claim::HostPod(key.clone())
            } else {
                Claim::Pod(key.clone())
            };
            self.set_claim(*address, claim, present);
        }
    }

    pub(super) fn set_node_claims(&mut self, name: &Str, present: bool) {
        let addresses = self.nodes.get(name).map(|node| node.addresses.clone());
        for address in addresses.into_iter().flatten() {
            self.set_claim(address, Claim::Node(name.clone().into()), present);
        }
    }

    fn set_claim(&mut self, address: IpAddr, claim: Claim, present: bool) {
        let claimed = self.claims.by_address.remove(&address);
        let mut claims = claimed.map(|claims| claims.to_vec()).unwrap_or_default();
        match (claims.binary_search(&claim), present) {
            (Err(at), true) => claims.insert(at, claim),
            (Ok(at), false) => drop(claims.remove(at)),
            (Ok(_), true) | (Err(_), false) => {}
        }
        let several = claims.len() > 1;
        let claimed =
            if several { Some(Claimed::Several(claims)) } else { claims.pop().map(Claimed::One) };
        self.claims.by_address.extend(claimed.map(|claimed| (address, claimed)));
        if several && self.has_live_claims_of_two_nodes(address) {
            self.claims.contested.insert(address);
        } else {
            self.claims.contested.remove(&address);
        }
    }

    fn has_live_claims_of_two_nodes(&self, address: IpAddr) -> bool {
        let mut nodes = self.live_claimants(address).map(|pod| &pod.node);
        nodes.next().is_some_and(|first| nodes.any(|node| node != first))
    }
}

/// The order that decides which pod has an address, where no other rule decides: the greater value.
fn rank(pod: &Pod) -> (Life, i64, &PodKey) {
    (pod.life, pod.created, &pod.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;
    use crate::model::{Change, Node};
    use crate::world::Options;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));

    /// A pod that claims [`ADDRESS`].
    fn pod(name: &str, node: Option<&str>, life: Life, created: i64) -> Pod {
        let pod = Pod::new(PodKey::new("shop", name), Labels::default());
        Pod { node: node.map(Str::from), addresses: vec![ADDRESS].into(), life, created, ..pod }
    }

    fn name(pod: Option<&Arc<Pod>>) -> &str {
        pod.map_or("nobody", |pod| &pod.key.name)
    }

    /// The subject as node n1 sees it, the subject in a world of all nodes, and the peer. The
    /// order in which pods arrive must not matter.
    #[track_caller]
    fn check(pods: &[Pod], expected: [&str; 3]) {
        for reverse in [false, true] {
            let options = Options::default();
            let mut worlds = [World::of_node("n1".into(), options.clone()), World::new(options)];
            for world in &mut worlds {
                let mut pods = pods.to_vec();
                if reverse {
                    pods.reverse();
                }
                pods.into_iter().for_each(|pod| world.apply(pod.into()));
            }
            let [local, all] = &worlds;
            let found = [local.subject(ADDRESS), all.subject(ADDRESS), all.peer(ADDRESS)].map(name);
            assert_eq!(found, expected);
            assert_eq!(name(local.peer(ADDRESS)), expected[2], "every node sees the same peer");
        }
    }

    use Life::{Active, Terminating};

    #[test]
    fn an_address_of_one_pod_is_its_own() {
        check(&[pod("a", Some("n1"), Active, 1)], ["a"; 3]);
        check(&[pod("a", Some("n2"), Terminating, 1)], ["a"; 3]);
        check(&[pod("a", None, Active, 1)], ["a"; 3]);
        check(&[pod("a", Some("n1"), Life::Finished, 1)], ["nobody"; 3]);
    }

    #[test]
    fn among_pods_of_one_node_the_active_one_has_an_address_then_the_younger_one() {
        let pods =
            |life, created| [pod("a", Some("n1"), Active, 1), pod("b", Some("n1"), life, created)];
        check(&pods(Active, 2), ["b"; 3]);
        check(&pods(Active, 1), ["b"; 3]);
        check(&pods(Active, 0), ["a"; 3]);
        check(&pods(Terminating, 2), ["a"; 3]);
    }

    #[test]
    fn a_younger_pod_of_another_node_does_not_take_an_address_from_a_local_pod() {
        let local = pod("local", Some("n1"), Active, 1);
        for thief in [pod("thief", Some("n2"), Active, 9), pod("thief", None, Active, 9)] {
            check(&[local.clone(), thief], ["local", "thief", "nobody"]);
        }
        // A pod that is terminating still runs.
        let local = Pod { life: Terminating, ..local };
        check(&[local, pod("thief", Some("n2"), Active, 9)], ["local", "thief", "thief"]);
    }

    #[test]
    fn an_address_that_was_assigned_again_on_another_node_belongs_to_the_new_pod() {
        let old = pod("old", Some("n2"), Terminating, 9);
        check(&[old.clone(), pod("new", Some("n1"), Active, 1)], ["new"; 3]);
        check(&[old, pod("new", Some("n3"), Active, 1)], ["new"; 3]);
    }

    #[test]
    fn a_contested_address_is_an_external_address_as_a_peer_until_one_pod_is_left() {
        let mut world = World::of_node("n1".into(), Options::default());
        world.apply(pod("a", Some("n1"), Active, 1).into());
        world.apply(pod("b", Some("n2"), Active, 2).into());
        let endpoint = world.endpoint(ADDRESS);
        assert_eq!(endpoint, Endpoint::Pod(PodKey::new("shop", "a"), Some(ADDRESS)));
        assert_eq!(*world.as_peer(&endpoint), Endpoint::External(ADDRESS));
        let [contest] = world.contests().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(
            contest.to_string(),
            "address 10.0.0.5 is claimed by pods shop/a on node n1 and shop/b on node n2; as a \
             peer it belongs to neither until one of them is gone"
        );
        world.apply(pod("c", None, Active, 2).into());
        let contest = world.contest(ADDRESS).unwrap().to_string();
        assert!(contest.contains("shop/b on node n2 and 1 more; as a peer"), "{contest}");
        for (gone, contested) in [("b", 1), ("c", 0)] {
            world.apply(Change::Pod(PodKey::new("shop", gone), None));
            assert_eq!(world.contested(), contested);
        }
        assert_eq!(*world.as_peer(&endpoint), endpoint);
    }

    #[test]
    fn in_a_world_of_all_nodes_a_contested_address_is_that_of_one_pod_of_each_node() {
        let mut world = World::new(Options::default());
        let pods = [
            pod("a", Some("n1"), Active, 1),
            pod("b", Some("n1"), Active, 2),
            pod("c", Some("n2"), Active, 3),
            pod("d", Some("n2"), Terminating, 4),
        ];
        pods.iter().for_each(|pod| world.apply(pod.clone().into()));
        let owners = pods.iter().filter(|pod| world.owned_addresses(pod).next().is_some());
        let owners: Vec<&str> = owners.map(|pod| &*pod.key.name).collect();
        assert_eq!(owners, ["b", "c"]);
    }

    #[test]
    fn an_address_that_a_node_has_is_not_that_of_a_pod_left_from_another_node() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut world = World::new(Options::default());
        let pod = Pod::new(PodKey::new("kube-system", "proxy"), Labels::default());
        let (node, addresses) = (Some("gone".into()), vec![address].into());
        world.apply(Pod { node, addresses, host_network: true, ..pod }.into());
        assert_eq!(world.endpoint(address), Endpoint::Node("gone".into(), Some(address)));
        let node = Node { addresses: vec![address], ..Node::default() };
        world.apply(Change::Node("new".into(), Some(node)));
        assert_eq!(world.endpoint(address), Endpoint::Node("new".into(), Some(address)));
        world.apply(Change::Node("new".into(), None));
        assert_eq!(world.endpoint(address), Endpoint::Node("gone".into(), Some(address)));
    }
}
