//! Answers about one state of the world that several checks need. Each is computed once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use policy_engine::policy::{IpBlock, Peer, Peers, PodPeer, Policy};
use policy_engine::port::Protocol;
use policy_engine::world::World;

use crate::pods::{Group, Pods};
use crate::{Called, Place};

/// A port that a policy gives by name.
pub(crate) type PortName = (Protocol, Str);

/// The names of pods in messages. A pod without an entry has its own name.
pub type Names<'c> = BTreeMap<&'c PodKey, Called>;

/// The world, its groups of pods, and the answers that were computed so far.
pub(crate) struct Answers<'w> {
    pub(crate) world: &'w World,
    pub(crate) pods: &'w Pods,
    /// `None` for messages that must not change unless their policy changes.
    pub(crate) names: Option<&'w Names<'w>>,
    /// Whether a peer matches a pod, and a pod with a port of that name.
    peers: RefCell<HashMap<(&'w PodPeer, Option<PortName>), bool>>,
    named: RefCell<HashMap<PortName, Named>>,
    /// The hint for each peer that matches nothing, because many policies can have the same peer.
    hints: RefCell<BTreeMap<&'w PodPeer, String>>,
}

/// The pods that have a port of one name.
#[derive(Default)]
struct Named {
    anywhere: bool,
    /// Whether some of the pods have no address yet.
    unknown: bool,
    /// Sorted in ascending order.
    addresses: Vec<IpAddr>,
}

impl<'w> Answers<'w> {
    /// A table without answers; `pods` are those of `world`.
    pub(crate) fn new(world: &'w World, pods: &'w Pods, names: Option<&'w Names<'w>>) -> Self {
        Self {
            world,
            pods,
            names,
            peers: RefCell::default(),
            named: RefCell::default(),
            hints: RefCell::default(),
        }
    }

    /// A hint for the correction of a selector of pods: the nearest labels, or how to look them up.
    pub(crate) fn hint(&self, nearest: impl FnOnce(&Names<'w>) -> String, place: &str) -> String {
        match self.names {
            Some(names) => nearest(names),
            None => format!(
                "compare it with `kubectl get pods {place} --show-labels`, where pods that are \
                 finished or have hostNetwork do not count"
            ),
        }
    }

    /// As [`Self::hint`] for the pods of a peer.
    pub(crate) fn hint_for(
        &self,
        peer: &'w PodPeer,
        nearest: impl FnOnce(&Names<'w>) -> String,
        place: &str,
    ) -> String {
        let mut hints = self.hints.borrow_mut();
        hints.entry(peer).or_insert_with(|| self.hint(nearest, place)).clone()
    }

    /// Whether a policy selects a pod to which it applies.
    pub(crate) fn selects(&self, policy: &'w Policy) -> bool {
        self.subjects(policy).next().is_some()
    }

    fn subjects(&self, policy: &'w Policy) -> impl Iterator<Item = &'w Group> + use<'w> {
        self.pods.matching(&policy.name.namespace, policy.subject.any_pods())
    }

    /// Whether a rule applies to any pod as the destination, which has the ports.
    pub(crate) fn has_destinations(&self, place: Place<'w>) -> bool {
        let any_pod = || self.pods.subjects().next().is_some();
        match (place.direction, &place.rule.peers) {
            (Direction::Ingress, _) => self.selects(place.policy),
            (Direction::Egress, Peers::Any) => any_pod(),
            (Direction::Egress, Peers::Listed(peers)) => peers.iter().any(|peer| match peer {
                Peer::Pods(peer) => self.peer(peer, None),
                Peer::Block(_) => any_pod(),
                Peer::Nodes(_) | Peer::Invalid => false,
            }),
        }
    }

    /// Whether at least one pod that the rule allows as the destination has a port of this name.
    pub(crate) fn resolves(&self, place: Place<'w>, wanted: &PortName) -> bool {
        match (place.direction, &place.rule.peers) {
            (Direction::Ingress, _) => self.subjects(place.policy).any(|group| has(group, wanted)),
            (Direction::Egress, Peers::Any) => self.named(wanted, |named| named.anywhere),
            (Direction::Egress, Peers::Listed(peers)) => peers.iter().any(|peer| match peer {
                Peer::Pods(peer) => self.peer(peer, Some(wanted)),
                // Manifests also apply to later pods, whose addresses are not known.
                Peer::Block(block) => self.named(wanted, |named| {
                    named.anywhere && (self.names.is_some() || named.may_be_in(block))
                }),
                Peer::Nodes(_) | Peer::Invalid => false,
            }),
        }
    }

    /// Whether a peer matches a pod; with `wanted`, only pods that have this port count.
    pub(crate) fn peer(&self, peer: &'w PodPeer, wanted: Option<&PortName>) -> bool {
        let key = (peer, wanted.cloned());
        *self.peers.borrow_mut().entry(key).or_insert_with(|| {
            let mut groups = self.pods.peer(peer);
            groups.any(|group| wanted.is_none_or(|wanted| has(group, wanted)))
        })
    }

    fn named(&self, wanted: &PortName, ask: impl FnOnce(&Named) -> bool) -> bool {
        let mut known = self.named.borrow_mut();
        ask(known.entry(wanted.clone()).or_insert_with(|| {
            let groups = self.pods.subjects().filter(|group| has(group, wanted));
            Named::of(groups.flat_map(Group::pods).map(AsRef::as_ref))
        }))
    }
}

impl Named {
    fn of<'p>(pods: impl Iterator<Item = &'p Pod>) -> Self {
        let mut named = Self::default();
        for pod in pods {
            named.anywhere = true;
            named.unknown |= pod.addresses.is_empty();
            named.addresses.extend(&pod.addresses);
        }
        named.addresses.sort_unstable();
        named
    }

    fn may_be_in(&self, block: &IpBlock) -> bool {
        let first = block.cidr.network();
        let from = self.addresses.partition_point(|address| *address < first);
        let inside = self.addresses.iter().skip(from);
        let mut inside = inside.take_while(|address| block.cidr.contains(*address));
        self.unknown || inside.any(|address| block.contains(*address))
    }
}

fn has(group: &Group, (protocol, name): &PortName) -> bool {
    group.ports().iter().any(|port| port.protocol == *protocol && port.name == *name)
}
