//! What one policy cannot mean.

use std::collections::HashMap;
use std::net::IpAddr;

use policy_engine::direction::Direction;
use policy_engine::policy::{
    IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule,
};
use policy_engine::port::Protocol;
use policy_engine::world::World;

use super::pods::{Group, Pods, PortName, addresses_with};
use super::{Finding, Reason};

/// Answers about one state of the world, each worked out once.
pub(super) struct Answers<'w> {
    world: &'w World,
    pods: &'w Pods,
    /// Whether a peer matches a pod, and a pod with a port of that name.
    peers: HashMap<(&'w PodPeer, Option<PortName>), bool>,
    anywhere: HashMap<PortName, bool>,
    addresses: HashMap<PortName, Vec<IpAddr>>,
}

/// A rule and where it stands.
#[derive(Clone, Copy)]
struct Place<'w> {
    policy: &'w Policy,
    direction: Direction,
    rule: &'w Rule,
    at: usize,
}

impl Place<'_> {
    fn path(&self) -> String {
        format!("spec.{}[{}]", self.direction.field(), self.at)
    }
}

impl<'w> Answers<'w> {
    /// No answers yet; `pods` are those of `world`.
    pub(super) fn new(world: &'w World, pods: &'w Pods) -> Self {
        Self {
            world,
            pods,
            peers: HashMap::new(),
            anywhere: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// What `policy` cannot mean.
    pub(super) fn findings(&mut self, policy: &'w Policy) -> Vec<Finding> {
        let mut found = Vec::new();
        found.extend(self.subject(policy));
        for direction in Direction::BOTH {
            for (at, rule) in policy.rules(direction).enumerate() {
                let place = Place { policy, direction, rule, at };
                self.peers(place, &mut found);
                self.ports(place, &mut found);
            }
        }
        found
    }

    fn subject(&self, policy: &Policy) -> Option<Finding> {
        // `{}` means every pod there will ever be: right in a namespace that is empty today.
        if policy.subject.any_pods().is_everything() || self.selects(policy) {
            return None;
        }
        let namespace = &policy.name.namespace;
        Some(Finding {
            reason: Reason::SelectsNothing,
            field: "spec.podSelector".to_owned(),
            message: format!(
                "selects no pod (hostNetwork and finished pods do not count), so the policy protects \
                 nothing; compare it with `kubectl get pods -n {namespace} --show-labels`"
            ),
        })
    }

    fn peers(&mut self, place: Place<'w>, found: &mut Vec<Finding>) {
        let Peers::Listed(peers) = &place.rule.peers else { return };
        for (at, peer) in peers.iter().enumerate() {
            let Peer::Pods(peer) = peer else { continue };
            let Some((field, what, see)) = self.nobody(peer) else { continue };
            found.push(Finding {
                reason: Reason::PeerMatchesNothing,
                field: format!("{}.{}[{at}].{field}", place.path(), place.direction.peers_field()),
                message: format!(
                    "matches no {what}, so this peer admits nothing; compare it with `{see}`"
                ),
            });
        }
    }

    /// Why a peer matches nothing, unless it matches something or may do so by growth alone.
    fn nobody(&mut self, peer: &'w PodPeer) -> Option<(&'static str, &'static str, String)> {
        let see_pods = |place: &str| format!("kubectl get pods {place} --show-labels");
        let (what, see) = match &peer.namespaces {
            Namespaces::Selected(selector) if self.pods.namespaces(selector).next().is_none() => {
                let see = "kubectl get namespaces --show-labels".to_owned();
                // Without any requirement it is the cluster that has no namespaces.
                let typed = !selector.is_everything();
                return typed.then_some(("namespaceSelector", "namespace", see));
            }
            Namespaces::Selected(_) => ("pod of the namespaces it selects", see_pods("-A")),
            Namespaces::Own => return None,
            Namespaces::Named(name) => ("pod", see_pods(&format!("-n {name}"))),
        };
        let nothing = !peer.pods.is_everything() && !self.peer(peer, None);
        nothing.then_some(("podSelector", what, see))
    }

    fn ports(&mut self, place: Place<'w>, found: &mut Vec<Finding>) {
        let Ports::Listed(ports) = &place.rule.ports else { return };
        let named = ports.iter().enumerate().filter_map(|(at, port)| match port {
            PortMatch::Named(protocol, name) => Some((at, (*protocol, name.clone()))),
            PortMatch::Numbers(..) | PortMatch::Invalid => None,
        });
        let mut named = named.peekable();
        // Where there is no pod at all, another finding says so.
        if named.peek().is_none() || !self.has_destinations(place) {
            return;
        }
        let whose = match place.direction {
            Direction::Ingress => "that the policy selects",
            Direction::Egress => "that this rule's `to` matches",
        };
        for (at, wanted) in named {
            if self.resolves(place, &wanted) {
                continue;
            }
            let (protocol, name) = &wanted;
            let mut message = format!(
                "no pod {whose} has a {protocol} container port named `{name}`, so this port admits \
                 nothing; "
            );
            let others = Protocol::ALL.into_iter().filter(|other| other != protocol);
            let mut others = others.filter(|other| self.resolves(place, &(*other, name.clone())));
            let advice = others.next().map_or_else(
                || "name it in `ports` of a container, or give the port's number".to_owned(),
                |other| format!("there is one for {other}: set `protocol`"),
            );
            message.push_str(&advice);
            let field = format!("{}.ports[{at}].port", place.path());
            found.push(Finding { reason: Reason::NamedPortUnresolved, field, message });
        }
    }

    fn has_destinations(&mut self, place: Place<'w>) -> bool {
        match (place.direction, &place.rule.peers) {
            (Direction::Ingress, _) => self.selects(place.policy),
            (Direction::Egress, Peers::Any) => !self.world.pods().is_empty(),
            (Direction::Egress, Peers::Listed(peers)) => peers.iter().any(|peer| match peer {
                Peer::Pods(peer) => self.peer(peer, None),
                Peer::Block(_) => true,
                Peer::Nodes(_) | Peer::Invalid => false,
            }),
        }
    }

    /// Whether the name stands for a port of at least one pod that the rule lets be reached.
    fn resolves(&mut self, place: Place<'w>, wanted: &PortName) -> bool {
        match (place.direction, &place.rule.peers) {
            (Direction::Ingress, _) => {
                let policy = place.policy;
                let mut groups =
                    self.pods.matching(&policy.name.namespace, policy.subject.any_pods());
                groups.any(|group| group.ports.contains(wanted))
            }
            (Direction::Egress, Peers::Any) => self.anywhere(wanted),
            (Direction::Egress, Peers::Listed(peers)) => peers.iter().any(|peer| match peer {
                Peer::Pods(peer) => self.peer(peer, Some(wanted)),
                Peer::Block(block) => reaches(block, self.addresses(wanted)),
                Peer::Nodes(_) | Peer::Invalid => false,
            }),
        }
    }

    fn selects(&self, policy: &Policy) -> bool {
        self.pods.matching(&policy.name.namespace, policy.subject.any_pods()).next().is_some()
    }

    /// Whether a peer matches a pod; of those with the port `wanted`, when one is given.
    fn peer(&mut self, peer: &'w PodPeer, wanted: Option<&PortName>) -> bool {
        let pods = self.pods;
        let has = |group: &Group| wanted.is_none_or(|wanted| group.ports.contains(wanted));
        *self.peers.entry((peer, wanted.cloned())).or_insert_with(|| match &peer.namespaces {
            Namespaces::Own => false,
            Namespaces::Named(name) => pods.matching(name, &peer.pods).any(has),
            Namespaces::Selected(selector) => {
                pods.namespaces(selector).any(|name| pods.matching(name, &peer.pods).any(has))
            }
        })
    }

    fn anywhere(&mut self, wanted: &PortName) -> bool {
        let pods = self.pods;
        *self.anywhere.entry(wanted.clone()).or_insert_with(|| pods.anywhere(wanted))
    }

    fn addresses(&mut self, wanted: &PortName) -> &[IpAddr] {
        let world = self.world;
        self.addresses.entry(wanted.clone()).or_insert_with(|| addresses_with(world, wanted))
    }
}

/// Whether a block holds one of the ascending `addresses`.
fn reaches(block: &IpBlock, addresses: &[IpAddr]) -> bool {
    let first = block.cidr.network();
    let from = addresses.partition_point(|address| *address < first);
    let inside = addresses.iter().skip(from).take_while(|address| block.cidr.contains(*address));
    inside.into_iter().any(|address| block.contains(*address))
}
