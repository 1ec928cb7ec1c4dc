//! Pods that may open connections, and cannot look up the names of whom they connect to.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use policy_engine::labels::Str;
use policy_engine::model::{Direction, PodKey};
use policy_engine::policy::{NetworkPolicy, Peer, Peers, PolicyKey, PortMatch, Ports, Rule};
use policy_engine::port::Protocol;
use policy_engine::tier::{Action, ClusterNetworkPolicy, ClusterTier, Mode, Selected};

use super::groups::Group;
use super::implies::{Ask, admits};
use super::{Code, Context, Finding, Severity, words};

/// The label by which clusters mark their DNS pods.
pub(super) const LABEL: &str = "k8s-app";

const NAMES: [&str; 2] = ["kube-dns", "coredns"];

/// The port at which names are asked for; pods behind a Service may listen elsewhere.
const PORT: u16 = 53;

/// The pods that answer for names, as far as the source has them: on which ports by protocol.
struct Servers<'c>(Vec<(Rc<Group<'c>>, Listening)>);

/// The policies that decide about egress: those that isolate, and those asked before.
type Deciding<'c> = (Vec<&'c PolicyKey>, Vec<&'c Str>);

type Listening = BTreeSet<(Protocol, u16)>;

/// One finding for each policy whose pods lack UDP, or TCP, or both.
pub(super) fn findings<'c>(context: &Context<'c>) -> Vec<Finding> {
    let servers = Servers::new(context);
    let mut answers: BTreeMap<Deciding<'_>, Lack<'c>> = BTreeMap::new();
    let mut found: BTreeMap<(&PolicyKey, Vec<Protocol>), BTreeSet<String>> = BTreeMap::new();
    for class in context.reach.classes() {
        let Some(pod) = class.pods.first().filter(|_| class.is_isolated(Direction::Egress)) else {
            continue;
        };
        if servers.has(pod) {
            continue;
        }
        let (isolating, accepting) = (isolating(context, pod), accepting(context, pod));
        let key = (
            isolating.iter().map(|policy| &policy.key).collect(),
            accepting.iter().map(|policy| &policy.name).collect(),
        );
        let lack =
            answers.entry(key).or_insert_with(|| lack(context, &servers, &isolating, &accepting));
        if let Some((policy, protocols)) = lack {
            let pods = class.pods.iter().filter_map(|key| context.cluster.world.pods().get(key));
            let names = pods.map(|pod| context.name(pod));
            found.entry((&policy.key, protocols.clone())).or_default().extend(names);
        }
    }
    let finding = |((key, lacks), names): ((&PolicyKey, Vec<Protocol>), BTreeSet<String>)| {
        let policy = context.cluster.world.policies().get(key)?;
        let listed: Vec<&str> = lacks.iter().map(|protocol| protocol.as_str()).collect();
        let listed = listed.join(" and ");
        let why = match lacks.as_slice() {
            [Protocol::Tcp] => "long answers come over TCP",
            _ => "they cannot look up the names of whom they connect to",
        };
        let message = format!(
            "{names} may open connections, and none to DNS over {listed}; {why}; add a rule to the \
             DNS pods for port {PORT} over UDP and TCP",
            names = words::few(&names)
        );
        let mut finding = context.finding(Code::EgressWithoutDns, policy, "/spec/egress", message);
        if lacks == [Protocol::Tcp] {
            finding.severity = Severity::Note;
        }
        Some(finding)
    };
    found.into_iter().filter_map(finding).collect()
}

/// The policy to mend, and the protocols that are missing.
type Lack<'c> = Option<(&'c NetworkPolicy, Vec<Protocol>)>;

fn lack<'c>(
    context: &Context<'c>,
    servers: &Servers<'c>,
    isolating: &[&'c NetworkPolicy],
    accepting: &[&'c ClusterNetworkPolicy],
) -> Lack<'c> {
    let accepted = || {
        let rules = accepting.iter().flat_map(|policy| &policy.egress);
        rules.filter(|rule| rule.action == Action::Accept).map(|rule| &rule.rule)
    };
    let rules = || {
        let admitted = isolating.iter().flat_map(|policy| policy.egress.iter().flatten());
        admitted.chain(accepted())
    };
    // Without any rule nothing is opened, so no name is needed.
    let mend = isolating.iter().find(|policy| policy.egress.iter().flatten().any(opens))?;
    let lacks: Vec<Protocol> = [Protocol::Udp, Protocol::Tcp]
        .into_iter()
        .filter(|protocol| !rules().any(|rule| servers.reached(context, rule, *protocol)))
        .collect();
    (!lacks.is_empty()).then_some((*mend, lacks))
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

fn isolating<'c>(context: &Context<'c>, pod: &PodKey) -> Vec<&'c NetworkPolicy> {
    let world = &context.cluster.world;
    let Some(pod) = world.pods().get(pod) else { return Vec::new() };
    world
        .policies_in(&pod.key.namespace)
        .map(AsRef::as_ref)
        .filter(|policy| policy.mode == Mode::Enforce && policy.egress.is_some())
        .filter(|policy| policy.subject.matches(&pod.labels))
        .collect()
}

/// The policies that may accept before any NetworkPolicy is asked.
fn accepting<'c>(context: &Context<'c>, pod: &PodKey) -> Vec<&'c ClusterNetworkPolicy> {
    let world = &context.cluster.world;
    let Some(pod) = world.pods().get(pod) else { return Vec::new() };
    world
        .cluster_policies()
        .values()
        .map(AsRef::as_ref)
        .filter(|policy| policy.tier == ClusterTier::Admin && policy.mode == Mode::Enforce)
        .filter(|policy| world.selected(&policy.subject, pod) == Selected::Yes)
        .collect()
}

impl<'c> Servers<'c> {
    fn new(context: &Context<'c>) -> Self {
        let mut found = Vec::new();
        for group in context.groups.all().filter(|group| !group.host_network) {
            let Some(pod) = group.pods.first() else { continue };
            let named = group.labels.get(LABEL).is_some_and(|name| NAMES.contains(&name.as_ref()));
            let numbered = group.ports.iter().filter(|port| port.number == PORT);
            let mut ports: Listening = numbered.map(|port| (port.protocol, PORT)).collect();
            for service in context.cluster.services.values().filter(|one| one.selects(pod)) {
                for port in service.ports.iter().filter(|port| port.number == PORT) {
                    let targets = port.resolve(pod).into_iter();
                    ports.extend(targets.map(|target| (port.protocol, target)));
                }
            }
            if named {
                ports.extend([(Protocol::Udp, PORT), (Protocol::Tcp, PORT)]);
            }
            if ports.iter().any(|(protocol, _)| *protocol == Protocol::Udp) {
                // Whoever answers over UDP answers over TCP, declared or not.
                let also: Vec<_> = ports.iter().map(|(_, port)| (Protocol::Tcp, *port)).collect();
                ports.extend(also);
                found.push((group.clone(), ports));
            }
        }
        Self(found)
    }

    fn has(&self, pod: &PodKey) -> bool {
        self.0.iter().any(|(group, _)| group.pods.iter().any(|known| known.key == *pod))
    }

    /// Whether a rule lets names be asked for over `protocol`.
    fn reached(&self, context: &Context<'c>, rule: &'c Rule, protocol: Protocol) -> bool {
        let named = match &rule.ports {
            Ports::Any => false,
            Ports::Listed(ports) => ports
                .iter()
                .any(|port| matches!(port, PortMatch::Named(known, name) if *known == protocol && name.contains("dns"))),
        };
        let somewhere = || named || admits(&rule.ports, &Ask::Number(protocol, PORT));
        let Peers::Listed(peers) = &rule.peers else { return somewhere() };
        peers.iter().any(|peer| match peer {
            // A cache on the node, or a resolver outside.
            Peer::Block(_) | Peer::Nodes(_) => somewhere(),
            Peer::Pods(_) if self.0.is_empty() => somewhere(),
            Peer::Pods(peer) => context.groups.peer(peer).iter().any(|group| {
                let server = self.0.iter().find(|(server, _)| Rc::ptr_eq(server, group));
                server.is_some_and(|(_, ports)| {
                    let mut ports = ports.iter().filter(|(known, _)| *known == protocol);
                    ports.any(|(_, port)| answers(&rule.ports, group, protocol, *port))
                })
            }),
            Peer::Invalid => false,
        })
    }
}

/// Whether a rule's ports admit this port of a group's pods.
fn answers(ports: &Ports, group: &Group<'_>, protocol: Protocol, number: u16) -> bool {
    let mut named = group.ports.iter();
    admits(ports, &Ask::Number(protocol, number))
        || named.any(|port| {
            (port.protocol, port.number) == (protocol, number)
                && admits(ports, &Ask::Name(protocol, port.name.clone()))
        })
}
