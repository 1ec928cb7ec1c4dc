//! The specification of all tiers read naively: one flow, every policy, every rule.
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
    ALLOW_DNS, EffectiveRule, Namespaces, Peer, Peers, Policy, PortMatch, Ports, Rule, Selected,
};
use crate::tier::{Action, Tier, View};
use crate::world::World;

/// Whether a flow is allowed: when both directions allow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What holds at the source.
    pub egress: Decision,
    /// What holds at the destination.
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

/// What one direction says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Why it allows or denies.
    pub reason: Reason,
    /// The tier that decided; `None` when none did and the flow is allowed.
    pub tier: Option<Tier>,
    /// The policies of that tier that isolate the subject in this direction, by name.
    pub isolated_by: Vec<ObjectRef>,
    /// The rules that decide: those that admit the flow, in order of their policies, or the one
    /// rule of a ClusterNetworkPolicy that accepts or denies it.
    pub decided_by: Vec<RuleRef>,
    /// The rules that passed the flow on to the next tier, in order.
    pub passed_by: Vec<RuleRef>,
}

impl Decision {
    /// Whether this direction lets the flow pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        !matches!(self.reason, Reason::NoRuleAdmits | Reason::RuleDenies)
    }

    fn exempt(reason: Reason) -> Self {
        let (isolated_by, decided_by, passed_by) = (Vec::new(), Vec::new(), Vec::new());
        Self { reason, tier: None, isolated_by, decided_by, passed_by }
    }
}

/// Why a direction allows or denies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Allowed: this side is no pod, so no policy is about it.
    NoSubject,
    /// Allowed: no policy isolates the pod in this direction, and no rule denies the flow.
    NotIsolated,
    /// Allowed: a rule of an isolating policy admits it.
    RuleAdmits,
    /// Allowed: a rule of a ClusterNetworkPolicy accepts it.
    RuleAccepts,
    /// Allowed: a pod always reaches itself.
    SamePod,
    /// Allowed: a node always reaches its pods.
    OwnNode,
    /// Allowed: `allow_egress_to_own_node` is set.
    EgressToOwnNode,
    /// Denied: the pod is isolated, and no rule admits it.
    NoRuleAdmits,
    /// Denied: a rule of a ClusterNetworkPolicy denies it.
    RuleDenies,
}

/// One rule of a policy; rules count from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleRef {
    /// The policy.
    pub policy: ObjectRef,
    /// The position of the rule in `ingress` or `egress`, from 1; [`ALLOW_DNS`] for the rule that
    /// `allowDNS` adds.
    pub rule: usize,
}

/// `shop/db rule 1`, or `ClusterDefaultNetworkPolicy/base allowDNS`.
impl fmt::Display for RuleRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            ALLOW_DNS => write!(formatter, "{} allowDNS", self.policy.short()),
            number => write!(formatter, "{} rule {number}", self.policy.short()),
        }
    }
}

/// Judges one flow by the policies that are in force.
#[must_use]
pub fn evaluate(world: &World, flow: &Flow) -> Verdict {
    evaluate_as(world, flow, View::Enforced)
}

/// Judges one flow by the policies of a view.
#[must_use]
pub fn evaluate_as(world: &World, flow: &Flow, view: View) -> Verdict {
    Verdict {
        egress: decide(world, flow, Direction::Egress, view),
        ingress: decide(world, flow, Direction::Ingress, view),
    }
}

/// What one tier says about a pod in one direction.
pub(crate) struct Reading<'w> {
    /// The policies that isolate the pod, by name.
    pub(crate) isolated_by: Vec<ObjectRef>,
    /// All rules in the order in which they are asked, each with what it does.
    pub(crate) rules: Vec<(RuleRef, Action, Cow<'w, Rule>)>,
}

/// Reads the policies of a tier that are, or may be, about `pod`.
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
        .filter(|policy| policy.tier == tier && view.counts(policy.mode))
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
    let mut decision = Decision::exempt(Reason::NotIsolated);
    for tier in Tier::ALL {
        let Reading { isolated_by, rules } = reading(world, pod, direction, tier, view);
        let isolates = !isolated_by.is_empty();
        let matches = if isolates { rule_admits } else { ordered_rule_matches };
        let mut matching = rules.into_iter().filter(|(.., rule)| matches(world, rule, peer, flow));
        if isolates {
            // One rule of one of the policies is enough.
            decision.decided_by = matching.map(|(name, ..)| name).collect();
            let admitted = !decision.decided_by.is_empty();
            decision.reason = if admitted { Reason::RuleAdmits } else { Reason::NoRuleAdmits };
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

/// The port by name of an ordered rule matches pods that labels select, and nothing else.
pub(crate) fn ordered_rule_matches(
    world: &World,
    rule: &Rule,
    peer: &Endpoint,
    flow: &Flow,
) -> bool {
    let items = match &rule.peers {
        Peers::Any => return rule_admits(world, rule, peer, flow),
        Peers::Listed(items) => items.iter().filter(|item| peer_admits(world, item, peer)),
    };
    let mut matching = items.map(|item| match &rule.ports {
        Ports::Any => true,
        Ports::Listed(ports) => ports.iter().any(|port| {
            let is_name = matches!(port, PortMatch::Named(..));
            (!is_name || matches!(item, Peer::Pods(_))) && port_admits(world, port, flow)
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

fn rule_admits(world: &World, rule: &Rule, peer: &Endpoint, flow: &Flow) -> bool {
    let peer_matches = match &rule.peers {
        Peers::Any => true,
        Peers::Listed(peers) => peers.iter().any(|item| peer_admits(world, item, peer)),
    };
    let port_matches = match &rule.ports {
        Ports::Any => true,
        Ports::Listed(ports) => ports.iter().any(|item| port_admits(world, item, flow)),
    };
    peer_matches && port_matches
}

pub(crate) fn peer_admits(world: &World, item: &Peer, peer: &Endpoint) -> bool {
    match item {
        Peer::Invalid => false,
        Peer::Block(block) => peer.address().is_some_and(|address| block.contains(address)),
        Peer::Nodes(selector) => match peer {
            Endpoint::Node(name, _) => {
                world.nodes().get(name).is_some_and(|node| selector.matches(&node.labels))
            }
            Endpoint::Pod(..) | Endpoint::External(_) => false,
        },
        Peer::Pods(item) => world.participant(peer).is_some_and(|pod| {
            let in_namespace = match &item.namespaces {
                Namespaces::Named(name) => *name == pod.key.namespace,
                Namespaces::Selected(selector) => {
                    let known = world.namespaces().get(&pod.key.namespace);
                    // Every namespace is one of all, though its labels are not known yet.
                    selector.is_everything()
                        || known.is_some_and(|namespace| selector.matches(&namespace.labels))
                }
                // Rules are read for the namespace of a pod: there is none left.
                Namespaces::Own => false,
            };
            in_namespace && item.pods.matches(&pod.labels)
        }),
    }
}

pub(crate) fn port_admits(world: &World, item: &PortMatch, flow: &Flow) -> bool {
    let Traffic::Port(protocol, number) = flow.traffic else { return false };
    match item {
        PortMatch::Invalid => false,
        PortMatch::Numbers(wanted, range) => *wanted == protocol && range.contains(number),
        PortMatch::Named(wanted, name) => {
            // The name is looked up on the destination, whichever side the policy selects.
            *wanted == protocol
                && world.participant(&flow.destination).is_some_and(|pod| {
                    pod.ports.iter().any(|port| {
                        port.name == *name && port.protocol == protocol && port.number == number
                    })
                })
        }
    }
}
