//! Pods that may open connections, but not look up the DNS names of their destinations.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Reason, RuleRef, evaluate};
use policy_engine::flow::{Flow, Traffic};
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::{Namespaces, Peer, Peers, Policy, PortMatch, Ports, Rule, Selected};
use policy_engine::port::Protocol;
use policy_engine::tier::{Action, Mode, Tier};
use policy_engine::world::World;
use portcullis_crds::path::FieldPath;

use crate::implies::{Ask, allows};
use crate::pods::{DNS_LABEL, Group};
use crate::{Code, Context, Finding, Severity, few, finding, sides, spec};

const NAMES: [&str; 2] = ["kube-dns", "coredns"];

/// The port for DNS queries; pods behind a Service may listen on another one.
const PORT: u16 = 53;

/// The DNS servers of the source, with their ports by protocol.
struct Servers<'c>(Vec<(&'c Group, Listening)>);

type Listening = BTreeSet<(Protocol, u16)>;

/// The policies that decide which DNS servers pods can connect to.
struct Deciding<'c> {
    /// NetworkPolicies, or defaults where no NetworkPolicy isolates.
    isolating: Vec<(&'c Policy, &'c [Rule])>,
    /// Policies that are evaluated before those, some of whose rules may accept.
    accepting: Vec<&'c Policy>,
    /// The namespace of the pods, which `sameNamespace` stands for.
    namespace: &'c Str,
}

/// One finding for each policy whose pods lack UDP, TCP or both; and for each rule that denies DNS.
pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let servers = Servers::new(context);
    let mut answers: BTreeMap<_, Lack> = BTreeMap::new();
    let mut lacking: BTreeMap<(ObjectRef, Vec<Protocol>), BTreeSet<String>> = BTreeMap::new();
    let mut denied: BTreeMap<(RuleRef, Vec<Protocol>), BTreeSet<String>> = BTreeMap::new();
    for (id, class) in context.reach.classes().iter().enumerate() {
        let pod = class.pods.first().and_then(|key| context.world.pods().get(key));
        let Some(pod) = pod.filter(|pod| !servers.has(&pod.key)) else { continue };
        let pods = class.pods.iter().filter_map(|key| context.world.pods().get(key));
        let names = || pods.clone().map(|pod| context.name(pod));
        let tier = class.isolated_by(Direction::Egress);
        let deciding = Deciding::new(context, pod, tier);
        let lack =
            answers.entry(deciding.key()).or_insert_with(|| deciding.lack(context, &servers));
        if let Some(lack) = lack {
            lacking.entry(lack.clone()).or_default().extend(names());
        }
        let opens = || {
            let outside = context.reach.outside(id, Direction::Egress);
            deciding.opens() || !outside.parts.is_empty()
        };
        if let Some(denial) = servers.denied(context, pod).filter(|_| opens()) {
            denied.entry(denial).or_default().extend(names());
        }
    }
    let lacking = lacking.into_iter().map(|((policy, protocols), names)| {
        let (field, how) = how_to_fix(context, &policy);
        lacks((&policy, spec(field)), &protocols, &names, how)
    });
    let denied = denied.into_iter().map(|((rule, protocols), names)| {
        let field = FieldPath::of_rule(Direction::Egress, rule.rule);
        let how = "accept them in a rule before this one, which denies them";
        lacks((&rule.policy, field), &protocols, &names, how)
    });
    lacking.chain(denied).collect()
}

/// The field of a policy that allows too little, and the fix.
fn how_to_fix(context: &Context<'_>, policy: &ObjectRef) -> (&'static str, &'static str) {
    const RULE: &str = "add a rule to the DNS pods for port 53 over UDP and TCP";
    if policy.kind != Kind::ClusterDefaultNetworkPolicy {
        return ("egress", RULE);
    }
    match context.world.policy(policy) {
        Some(policy) if policy.allows_dns(Direction::Egress) => (
            "egress",
            "`allowDNS` is for pods of kube-system with k8s-app=kube-dns; add a rule to the DNS \
             pods for port 53 over UDP and TCP",
        ),
        _ => ("allowDNS", "leave `allowDNS` true, or add a rule to the DNS pods for port 53"),
    }
}

fn lacks(
    (policy, field): (&ObjectRef, FieldPath),
    protocols: &[Protocol],
    names: &BTreeSet<String>,
    how: &str,
) -> Finding {
    let listed: Vec<&str> = protocols.iter().map(|protocol| protocol.as_str()).collect();
    let why = match protocols {
        [Protocol::Tcp] => "long answers come over TCP",
        _ => "they cannot look up the names of whom they connect to",
    };
    let message = format!(
        "{} may open connections, and none to DNS over {}; {why}; {how}",
        few(names),
        listed.join(" and ")
    );
    let mut found = finding(Code::EgressWithoutDns, policy, field, message);
    if protocols == [Protocol::Tcp] {
        found.severity = Severity::Note;
    }
    found
}

/// The policy to fix, and the protocols that are missing.
type Lack = Option<(ObjectRef, Vec<Protocol>)>;

impl<'c> Deciding<'c> {
    fn new(context: &Context<'c>, pod: &'c Pod, tier: Option<Tier>) -> Self {
        let egress = Direction::Egress;
        let (mut isolating, mut accepting) = (Vec::new(), Vec::new());
        for (policy, selected) in context.world.selecting(pod) {
            let decides = policy.mode == Mode::Enforce && selected == Selected::Yes;
            if !decides || tier.is_some_and(|last| policy.tier > last) {
                continue;
            }
            match policy.isolating(egress) {
                Some(rules) => isolating.push((policy.as_ref(), rules)),
                None if policy.applies(egress) => accepting.push(policy.as_ref()),
                None => {}
            }
        }
        Self { isolating, accepting, namespace: &pod.key.namespace }
    }

    /// The policies and the namespace that the answer depends on.
    fn key(&self) -> (Vec<&'c ObjectRef>, Vec<&'c ObjectRef>, &'c Str) {
        let isolating = self.isolating.iter().map(|(policy, _)| &policy.name).collect();
        (isolating, self.accepting.iter().map(|policy| &policy.name).collect(), self.namespace)
    }

    fn accepted(&self) -> impl Iterator<Item = &'c Rule> {
        let rules = self.accepting.iter().flat_map(|policy| policy.ordered(Direction::Egress));
        rules.filter(|rule| rule.action == Action::Accept).map(|rule| &rule.rule)
    }

    /// All rules that allow connections.
    fn rules(&self) -> impl Iterator<Item = &'c Rule> {
        let allowed = self.isolating.iter().flat_map(|(_, rules)| *rules);
        allowed.chain(self.accepted())
    }

    /// Whether some rule allows a connection.
    fn opens(&self) -> bool {
        self.rules().any(opens)
    }

    fn lack(&self, context: &Context<'c>, servers: &Servers<'c>) -> Lack {
        // Without such a rule the pod opens no connection, so it needs no DNS.
        let (opening, _) = self.isolating.iter().find(|(_, rules)| rules.iter().any(opens))?;
        let allows_dns = |(policy, _): &(&Policy, _)| policy.allows_dns(Direction::Egress);
        if servers.are_usual() && self.isolating.iter().any(allows_dns) {
            return None;
        }
        let reached = |rule, protocol| servers.reached(context, self.namespace, rule, protocol);
        let lacks: Vec<Protocol> = [Protocol::Udp, Protocol::Tcp]
            .into_iter()
            .filter(|protocol| !self.rules().any(|rule| reached(rule, *protocol)))
            .collect();
        (!lacks.is_empty()).then(|| (opening.name.clone(), lacks))
    }
}

fn opens(rule: &Rule) -> bool {
    let peers = match &rule.peers {
        Peers::Any => true,
        Peers::Listed(peers) => peers.iter().any(|peer| *peer != Peer::Invalid),
    };
    let ports = match &rule.ports {
        Ports::Any => true,
        Ports::Listed(ports) => ports.iter().any(|port| *port != PortMatch::Invalid),
    };
    peers && ports
}

impl<'c> Servers<'c> {
    fn new(context: &Context<'c>) -> Self {
        let mut found = Vec::new();
        for group in context.pods.subjects() {
            let pod = group.first();
            let named =
                group.labels.get(DNS_LABEL).is_some_and(|name| NAMES.contains(&name.as_ref()));
            let numbered = group.ports().iter().filter(|port| port.number == PORT);
            let mut ports: Listening = numbered.map(|port| (port.protocol, PORT)).collect();
            for service in context.input.services.values().filter(|one| one.selects(pod)) {
                for port in service.ports.iter().filter(|port| port.number == PORT) {
                    let targets = port.resolve(pod).into_iter();
                    ports.extend(targets.map(|target| (port.protocol, target)));
                }
            }
            if named {
                ports.extend([(Protocol::Udp, PORT), (Protocol::Tcp, PORT)]);
            }
            if ports.iter().any(|(protocol, _)| *protocol == Protocol::Udp) {
                // A server that answers over UDP also answers over TCP, declared or not.
                let also: Vec<_> = ports.iter().map(|(_, port)| (Protocol::Tcp, *port)).collect();
                ports.extend(also);
                found.push((group, ports));
            }
        }
        Self(found)
    }

    fn has(&self, pod: &PodKey) -> bool {
        self.0.iter().any(|(group, _)| group.pods().iter().any(|known| known.key == *pod))
    }

    /// Whether `allowDNS` allows some of the servers, or may do so.
    fn are_usual(&self) -> bool {
        let usual = |group: &Group| {
            let label = group.labels.get(DNS_LABEL).map(AsRef::as_ref);
            &**group.namespace() == "kube-system" && label == Some("kube-dns")
        };
        self.0.is_empty() || self.0.iter().any(|(group, _)| usual(group))
    }

    /// The rule of a ClusterNetworkPolicy that denies the pod all DNS servers, and the protocols.
    fn denied(&self, context: &Context<'c>, pod: &Pod) -> Option<(RuleRef, Vec<Protocol>)> {
        let world = context.world;
        let denies = |policy: &Policy| {
            let mut rules = policy.ordered(Direction::Egress).iter();
            policy.mode == Mode::Enforce
                && rules.any(|rule| rule.action == Action::Deny)
                && world.selected(policy, pod) != Selected::No
        };
        if !world.policies_in("").any(|policy| denies(policy)) {
            return None;
        }
        let by = [Protocol::Udp, Protocol::Tcp].map(|protocol| {
            let mut rule = None;
            for (group, ports) in &self.0 {
                let ports = ports.iter().filter(|(known, _)| *known == protocol);
                let asked =
                    ports.flat_map(|(_, port)| group.pods().iter().map(move |to| (to, *port)));
                for (to, port) in asked {
                    for flow in flows(world, pod, to, Traffic::Port(protocol, port)) {
                        let decision = evaluate(world, &flow).egress;
                        let by_rule = decision.reason == Reason::RuleDenies;
                        rule = Some(decision.decided_by.into_iter().next().filter(|_| by_rule)?);
                    }
                }
            }
            rule.map(|rule| (rule, protocol))
        });
        let rule = by.iter().flatten().next()?.0.clone();
        Some((rule, by.into_iter().flatten().map(|(_, protocol)| protocol).collect()))
    }

    /// Whether a rule for pods of `namespace` allows DNS queries over `protocol`.
    fn reached(
        &self,
        context: &Context<'c>,
        namespace: &Str,
        rule: &'c Rule,
        protocol: Protocol,
    ) -> bool {
        let named = match &rule.ports {
            Ports::Any => false,
            Ports::Listed(ports) => ports
                .iter()
                .any(|port| matches!(port, PortMatch::Named(known, name) if *known == protocol && name.contains("dns"))),
        };
        let somewhere = || named || allows(&rule.ports, &Ask::Number(protocol, PORT));
        let Peers::Listed(peers) = &rule.peers else { return somewhere() };
        peers.iter().any(|peer| match peer {
            // The peer may be a cache on the node, or an external resolver.
            Peer::Block(_) | Peer::Nodes(_) => somewhere(),
            Peer::Pods(_) if self.0.is_empty() => somewhere(),
            Peer::Pods(peer) => {
                let own = |group: &Group| {
                    peer.namespaces == Namespaces::Own
                        && group.namespace() == namespace
                        && peer.pods.matches(&group.labels)
                };
                let named = context.peer(peer);
                self.0.iter().any(|(server, ports)| {
                    let is_peer =
                        own(server) || named.iter().any(|group| std::ptr::eq(*server, *group));
                    let mut ports = ports.iter().filter(|(known, _)| *known == protocol);
                    is_peer && ports.any(|(_, port)| answers(&rule.ports, server, protocol, *port))
                })
            }
            Peer::Invalid => false,
        })
    }
}

/// The flows from a pod to another one: one for each pair of addresses of one family.
fn flows(world: &World, from: &Pod, to: &Pod, traffic: Traffic) -> Vec<Flow> {
    let mut flows = Vec::new();
    for source in sides(world, from) {
        for destination in sides(world, to) {
            let families = [&source, &destination].map(|side| side.address().map(Family::of));
            if let [Some(one), Some(other)] = families
                && one != other
            {
                continue;
            }
            flows.push(Flow { source: source.clone(), destination, traffic });
        }
    }
    flows
}

/// Whether a rule's ports allow this port of a group's pods.
fn answers(ports: &Ports, group: &Group, protocol: Protocol, number: u16) -> bool {
    let mut named = group.ports().iter();
    allows(ports, &Ask::Number(protocol, number))
        || named.any(|port| {
            (port.protocol, port.number) == (protocol, number)
                && allows(ports, &Ask::Name(protocol, port.name.clone()))
        })
}
