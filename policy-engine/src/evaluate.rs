//! The naive reading of the specification: one flow against every policy and every rule.
//!
//! This code is independent of the compiler, so that tests can compare the two. They share
//! [`Policy::effective`], the rules of one policy as they apply to a pod. It is not fast.

use std::borrow::Cow;
use std::fmt;

use crate::direction::Direction;
use crate::flow::{Endpoint, Flow, Traffic};
use crate::model::Pod;
use crate::object::ObjectRef;
use crate::policy::{
    EffectiveRule, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule, Selected,
    adding_field,
};
use crate::tier::{Action, Tier, View};
use crate::world::World;

/// Whether a flow is allowed: both directions must allow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The decision at the source.
    pub egress: Decision,
    /// The decision at the destination.
    pub ingress: Decision,
}

impl Verdict {
    /// Whether the connection can be opened.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }

    /// The decision for one direction.
    #[must_use]
    pub fn decision(&self, direction: Direction) -> &Decision {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The decision of one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The reason why the flow is allowed or denied.
    pub reason: Reason,
    /// The tier that decided; `None` when no tier decided and the flow is allowed.
    pub tier: Option<Tier>,
    /// The policies of that tier that isolate the subject in this direction, sorted by name.
    pub isolated_by: Vec<ObjectRef>,
    /// The rules that decided: all rules of isolating policies that allow the flow, in the order of
    /// the policies, or the one rule of a ClusterNetworkPolicy that accepts or denies it.
    pub decided_by: Vec<RuleRef>,
    /// The rules that passed the flow on to the next tier, in order.
    pub passed_by: Vec<RuleRef>,
}

impl Decision {
    /// Whether this direction allows the flow.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        !matches!(self.reason, Reason::NoRuleAllows | Reason::RuleDenies)
    }

    fn exempt(reason: Reason) -> Self {
        let (isolated_by, decided_by, passed_by) = (Vec::new(), Vec::new(), Vec::new());
        Self { reason, tier: None, isolated_by, decided_by, passed_by }
    }
}

/// The reason why a direction allows or denies a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Allowed: policies do not apply to this endpoint (node, external address or hostNetwork pod).
    NoSubject,
    /// Allowed: no policy isolates the pod in this direction, and no rule denies the flow.
    NotIsolated,
    /// Allowed: a rule of an isolating policy allows the flow.
    RuleAllows,
    /// Allowed: a rule of a ClusterNetworkPolicy accepts the flow.
    RuleAccepts,
    /// Allowed: a pod can always connect to itself.
    SamePod,
    /// Allowed: a node can always connect to its own pods.
    OwnNode,
    /// Allowed: the peer is the pod's own node, and `allow_egress_to_own_node` is set.
    EgressToOwnNode,
    /// Denied: the pod is isolated, and no rule allows the flow.
    NoRuleAllows,
    /// Denied: a rule of a ClusterNetworkPolicy denies the flow.
    RuleDenies,
}

/// The name of one rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleRef {
    /// The policy.
    pub policy: ObjectRef,
    /// The position of the rule in `ingress` or `egress`, from 1; for a rule that a field adds, see
    /// [`adding_field`].
    pub rule: usize,
}

/// `shop/db rule 1`, or `ClusterDefaultNetworkPolicy/base allowDNS`.
impl fmt::Display for RuleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match adding_field(self.rule) {
            Some(field) => write!(formatter, "{} {field}", self.policy.short()),
            None => write!(formatter, "{} rule {}", self.policy.short(), self.rule),
        }
    }
}

/// Evaluates one flow with the policies that are enforced.
#[must_use]
pub fn evaluate(world: &World, flow: &Flow) -> Verdict {
    evaluate_as(world, flow, View::Enforced)
}

/// Evaluates one flow with the policies of a view.
#[must_use]
pub fn evaluate_as(world: &World, flow: &Flow, view: View) -> Verdict {
    Verdict {
        egress: decide(world, flow, Direction::Egress, view),
        ingress: decide(world, flow, Direction::Ingress, view),
    }
}

/// The policies of one tier for one pod and one direction.
pub(crate) struct Reading<'w> {
    /// The policies that isolate the pod, sorted by name.
    pub(crate) isolated_by: Vec<ObjectRef>,
    /// All rules in the order in which they are evaluated, each with its action.
    pub(crate) rules: Vec<(RuleRef, Action, Cow<'w, Rule>)>,
}

/// Collects the policies of a tier that apply, or may apply, to `pod`.
pub(crate) fn reading<'w>(
    world: &'w World,
    pod: &Pod,
    direction: Direction,
    tier: Tier,
    view: View,
) -> Reading<'w> {
    let mut reading = Reading { isolated_by: Vec::new(), rules: Vec::new() };
    let policies = world.policies_in("").chain(world.policies_in(&pod.key.namespace));
    let mut policies: Vec<&Policy> = policies
        .map(AsRef::as_ref)
        .filter(|policy| policy.tier == tier && view.counts(world.mode(policy, &pod.key.namespace)))
        .collect();
    policies.sort_by_key(|policy| policy.order());
    for policy in policies {
        let selected = world.selected(policy, pod);
        if selected == Selected::No {
            continue;
        }
        if policy.isolates(direction) {
            reading.isolated_by.push(policy.name.clone());
        }
        for EffectiveRule { number, action, rule } in policy.effective(direction, selected) {
            let name = RuleRef { policy: policy.name.clone(), rule: number };
            reading.rules.push((name, action, rule.in_namespace(&pod.key.namespace)));
        }
    }
    reading
}

fn decide(world: &World, flow: &Flow, direction: Direction, view: View) -> Decision {
    let (subject, peer) = flow.sides(direction);
    let Some(pod) = world.participant(subject) else { return Decision::exempt(Reason::NoSubject) };
    if let Some(reason) = exemption(world, pod, peer, direction) {
        return Decision::exempt(reason);
    }
    let flow = &*world.judged(flow, direction);
    let (_, peer) = flow.sides(direction);
    let mut decision = Decision::exempt(Reason::NotIsolated);
    for tier in Tier::ALL {
        let Reading { isolated_by, rules } = reading(world, pod, direction, tier, view);
        let isolates = !isolated_by.is_empty();
        let matches = if isolates { rule_matches } else { ordered_rule_matches };
        let mut matching = rules.into_iter().filter(|(.., rule)| matches(world, rule, peer, flow));
        if isolates {
            // One matching rule of one of the policies is enough.
            decision.decided_by = matching.map(|(name, ..)| name).collect();
            let allowed = !decision.decided_by.is_empty();
            decision.reason = if allowed { Reason::RuleAllows } else { Reason::NoRuleAllows };
            decision.isolated_by = isolated_by;
            decision.tier = Some(tier);
            return decision;
        }
        // The first rule decides.
        match matching.next() {
            None => {}
            Some((name, Action::Pass, _)) => decision.passed_by.push(name),
            Some((name, action @ (Action::Accept | Action::Deny), _)) => {
                let accepts = action == Action::Accept;
                decision.reason = if accepts { Reason::RuleAccepts } else { Reason::RuleDenies };
                decision.decided_by.push(name);
                decision.tier = Some(tier);
                return decision;
            }
        }
    }
    decision
}

/// Whether an ordered rule matches: its ports by name count only for peers matched by pod labels.
pub(crate) fn ordered_rule_matches(
    world: &World,
    rule: &Rule,
    peer: &Endpoint,
    flow: &Flow,
) -> bool {
    let items = match &rule.peers {
        Peers::Any => return rule_matches(world, rule, peer, flow),
        Peers::Listed(items) => items.iter().filter(|item| peer_matches(world, item, peer)),
    };
    let mut matching = items.map(|item| match &rule.ports {
        Ports::Any => true,
        Ports::Listed(ports) => ports.iter().any(|port| {
            let is_name = matches!(port, PortMatch::Named(..));
            (!is_name || matches!(item, Peer::Pods(_))) && port_matches(world, port, flow)
        }),
    });
    matching.any(|matches| matches)
}

fn exemption(
    world: &World,
    subject: &Pod,
    peer: &Endpoint,
    direction: Direction,
) -> Option<Reason> {
    match (peer, direction) {
        (Endpoint::Pod(key, _), _) if *key == subject.key => Some(Reason::SamePod),
        (Endpoint::Node(name, _), Direction::Ingress) if subject.node.as_ref() == Some(name) => {
            Some(Reason::OwnNode)
        }
        (Endpoint::Node(name, _), Direction::Egress)
            if world.options.allow_egress_to_own_node && subject.node.as_ref() == Some(name) =>
        {
            Some(Reason::EgressToOwnNode)
        }
        _ => None,
    }
}

fn rule_matches(world: &World, rule: &Rule, peer: &Endpoint, flow: &Flow) -> bool {
    let some_peer = match &rule.peers {
        Peers::Any => true,
        Peers::Listed(peers) => peers.iter().any(|item| peer_matches(world, item, peer)),
    };
    let some_port = match &rule.ports {
        Ports::Any => true,
        Ports::Listed(ports) => ports.iter().any(|item| port_matches(world, item, flow)),
    };
    some_peer && some_port
}

pub(crate) fn peer_matches(world: &World, item: &Peer, peer: &Endpoint) -> bool {
    match item {
        Peer::Invalid => false,
        Peer::Block(block) => peer.address().is_some_and(|address| block.contains(address)),
        Peer::Nodes(selector) => match peer {
            Endpoint::Node(name, _) => {
                world.nodes().get(name).is_some_and(|node| selector.matches(&node.labels))
            }
            Endpoint::Pod(..) | Endpoint::External(_) => false,
        },
        Peer::Pods(item) => {
            world.participant(peer).is_some_and(|pod| pod_peer_matches(world, item, pod))
        }
    }
}

/// Whether a peer selects a pod, which must take part in policies.
#[must_use]
pub fn pod_peer_matches(world: &World, item: &PodPeer, pod: &Pod) -> bool {
    let in_namespace = match &item.namespaces {
        Namespaces::Named(name) => *name == pod.key.namespace,
        Namespaces::Selected(selector) => {
            let known = world.namespaces().get(&pod.key.namespace);
            // `{}` selects every namespace, also one whose labels are not known yet.
            selector.is_everything()
                || known.is_some_and(|namespace| selector.matches(&namespace.labels))
        }
        // `Rule::in_namespace` has replaced it.
        Namespaces::Own => false,
    };
    in_namespace && item.pods.matches(&pod.labels)
}

pub(crate) fn port_matches(world: &World, item: &PortMatch, flow: &Flow) -> bool {
    let Traffic::Port(protocol, number) = flow.traffic else { return false };
    match item {
        PortMatch::Invalid => false,
        PortMatch::Numbers(wanted, range) => *wanted == protocol && range.contains(number),
        PortMatch::Named(wanted, name) => {
            // The destination resolves the name, for ingress and for egress rules.
            *wanted == protocol
                && world.participant(&flow.destination).is_some_and(|pod| {
                    pod.ports.iter().any(|port| {
                        port.name == *name && port.protocol == protocol && port.number == number
                    })
                })
        }
    }
}

#[cfg(test)]
mod tests;
