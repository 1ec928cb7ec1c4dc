//! Why a packet of a subject is denied, found with bounded effort: an agent has to answer this for
//! packets that any host can send.
//!
//! The answer depends on the result of the last flush: lookups find the tier that denies, and the
//! list of policies that select the subject has their names. [`explain`](crate::explain) reads
//! every policy, and returns the same unless the search here ended early.

use std::cell::Cell;

use super::Engine;
use super::tiers::SelectedPolicy;
use crate::direction::Direction;
use crate::evaluate::{RuleRef, ordered_rule_matches};
use crate::explain::{NearMiss, near_miss};
use crate::flow::{Endpoint, Flow};
use crate::model::Pod;
use crate::object::ObjectRef;
use crate::policy::{Namespaces, Peer, PortMatch, Rule};
use crate::selector::{Operator, Selector};
use crate::tier::{Action, Tier, View};

/// How many policies are listed by name.
pub const POLICIES_NAMED: usize = 4;

/// How many peers, ports, exceptions and requirements of rules are read: this takes less than a
/// millisecond.
const EFFORT_MAX: usize = 2048;

/// The reason why a packet is denied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blame {
    /// The tier that denies it.
    pub tier: Tier,
    /// The rule that denies it, in a tier of ordered rules; `None` in other tiers, and when the
    /// search ended before it.
    pub denied_by: Option<RuleRef>,
    /// The first [`POLICIES_NAMED`] policies of the tier that isolate the subject in this
    /// direction, sorted by name.
    pub isolated_by: Vec<ObjectRef>,
    /// The number of policies of the tier that isolate the subject in this direction.
    pub isolating: usize,
    /// The rule of an isolating policy that nearly matches, among those read before the search
    /// ended.
    pub closest: Option<RuleRef>,
}

impl Engine {
    /// Why a direction of a flow is denied, as of the last flush; `None` when it is allowed. In
    /// [`View::Audited`]: why policies in audit would deny traffic that is allowed.
    ///
    /// The effort is bounded, however many policies select the subject.
    #[must_use]
    pub fn blame(&self, flow: &Flow, direction: Direction, view: View) -> Option<Blame> {
        let flow = &*self.world.judged(flow, direction);
        let (subject, peer) = flow.sides(direction);
        let (address, other) = (subject.address()?, peer.address()?);
        let tier = match view {
            View::Enforced => self.compiled.denied_by(direction, address, other, flow.traffic),
            View::Audited => self.compiled.would_deny(direction, address, other, flow.traffic),
        }?;
        let key = &self.compiled.endpoints.get(&address)?.pod;
        let (pod, subject) = (self.world.pods().get(key)?, self.subjects.get(key)?);
        let left = Cell::new(EFFORT_MAX);
        let search = Search { engine: self, flow, peer, pod, direction, left };
        let policies = subject.policies.iter();
        let policies = policies.filter(|(policy, _)| {
            policy.tier == tier && view.counts(self.world.mode(policy, &key.namespace))
        });
        let isolating = policies.clone().filter(|(policy, _)| policy.isolates(direction));
        let isolated_by = isolating.clone().take(POLICIES_NAMED);
        Some(Blame {
            tier,
            denied_by: search.denying(policies),
            isolated_by: isolated_by.map(|(policy, _)| policy.name.clone()).collect(),
            isolating: isolating.clone().count(),
            closest: search.closest(isolating),
        })
    }
}

/// A search through rules, and how much of them it may still read.
struct Search<'e> {
    engine: &'e Engine,
    flow: &'e Flow,
    peer: &'e Endpoint,
    pod: &'e Pod,
    direction: Direction,
    left: Cell<usize>,
}

impl<'e> Search<'e> {
    /// The first rule that denies the flow. Accept and Pass rules need no check: the flow is denied,
    /// so none before that rule matches.
    fn denying(&self, policies: impl Iterator<Item = &'e SelectedPolicy>) -> Option<RuleRef> {
        let ordered = policies.filter(|(policy, _)| !policy.isolates(self.direction));
        let mut rules = self.rules(ordered, Action::Deny);
        let world = &self.engine.world;
        let found = rules.find(|(_, rule)| ordered_rule_matches(world, rule, self.peer, self.flow));
        found.map(|(name, _)| name)
    }

    /// The rule that is closest to matching; the first one of several.
    fn closest(&self, policies: impl Iterator<Item = &'e SelectedPolicy>) -> Option<RuleRef> {
        let miss = |(name, rule): (RuleRef, &Rule)| {
            let rule = rule.in_namespace(&self.pod.key.namespace);
            near_miss(&self.engine.world, name, &rule, self.peer, self.flow)
        };
        let misses = self.rules(policies, Action::Accept).map(miss);
        misses.min_by_key(NearMiss::distance).map(|miss| miss.rule)
    }

    /// The rules of `policies` with this action, as far as the effort allows.
    fn rules(
        &self,
        policies: impl Iterator<Item = &'e SelectedPolicy>,
        action: Action,
    ) -> impl Iterator<Item = (RuleRef, &'e Rule)> {
        let rules = policies.map_while(|(policy, selected)| {
            self.spend(1)?;
            let rules = policy.effective(self.direction, *selected);
            Some(rules.map(move |found| (&policy.name, found)))
        });
        rules.flatten().filter(move |(_, found)| found.action == action).map_while(
            |(policy, found)| {
                let destination = self.engine.world.participant(&self.flow.destination);
                let named_ports = destination.map_or(0, |pod| pod.ports.len());
                self.spend(effort(found.rule, named_ports, self.left.get()))?;
                Some((RuleRef { policy: policy.clone(), rule: found.number }, found.rule))
            },
        )
    }

    /// Counts an effort. `None` when too little is left: then the search ends.
    fn spend(&self, effort: usize) -> Option<()> {
        let left = self.left.get().checked_sub(effort);
        self.left.set(left.unwrap_or(0));
        left.map(drop)
    }
}

/// The effort of reading a rule. Above `limit` the result is not exact.
fn effort(rule: &Rule, named_ports: usize, limit: usize) -> usize {
    let (peers, ports) = (rule.peers.listed(), rule.ports.listed());
    let of_peers = peers.iter().map(|peer| match peer {
        Peer::Invalid => 1,
        Peer::Block(block) => 1 + block.except.len(),
        Peer::Nodes(selector) => of_selector(selector, limit),
        Peer::Pods(item) => {
            let namespaces = match &item.namespaces {
                Namespaces::Selected(selector) => of_selector(selector, limit),
                Namespaces::Named(_) | Namespaces::Own => 1,
            };
            namespaces.saturating_add(of_selector(&item.pods, limit))
        }
    });
    let of_ports = ports.iter().map(|port| match port {
        PortMatch::Named(..) => 1 + named_ports,
        PortMatch::Numbers(..) | PortMatch::Invalid => 1,
    });
    sum(of_peers.chain(of_ports), limit).saturating_add(1)
}

fn of_selector(selector: &Selector, limit: usize) -> usize {
    let requirements = selector.requirements().map(|requirement| match &requirement.operator {
        Operator::In(values) | Operator::NotIn(values) => 1 + values.len(),
        Operator::Exists | Operator::DoesNotExist => 1,
    });
    sum(requirements, limit).saturating_add(1)
}

/// The sum of efforts; counting stops above `limit`.
fn sum(efforts: impl Iterator<Item = usize>, limit: usize) -> usize {
    let mut all = 0_usize;
    for effort in efforts {
        all = all.saturating_add(effort);
        if all > limit {
            break;
        }
    }
    all
}

#[cfg(test)]
mod tests;
