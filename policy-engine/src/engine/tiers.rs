//! The policies of all tiers for one pod, compiled to one chain of rulesets per direction.
//!
//! ```text
//! Admin rules ─► NetworkPolicy, if it isolates the pod: the last tier
//!            └─► Baseline rules ─► Default, if it isolates the pod: the last tier
//!                              └─► allowed
//! ```

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::weights::{Weight, Weights};
use crate::allow_set::{AllowSet, NamedPeers, Reading};
use crate::budget::{Budgets, Exceeded};
use crate::compiled::Target;
use crate::direction::Direction;
use crate::id::RulesetId;
use crate::labels::Str;
use crate::model::{NamedPort, Pod};
use crate::object::ObjectRef;
use crate::policy::{PodPeer, Policy, Rule, Selected};
use crate::ruleset::{Bounds, DEPTH_MAX, DEPTH_OF_A_TIER, DefinedRuleset, Run, Written};
use crate::tier::{Action, Mode, Tier, View};
use crate::world::World;

/// A policy that applies, or may apply, to a subject.
pub(super) type SelectedPolicy = (Arc<Policy>, Selected);

/// The policies of all tiers and modes that apply, or may apply, to one pod.
pub(super) struct Selecting<'w> {
    /// The policies in the order in which they are evaluated.
    policies: Vec<(&'w Arc<Policy>, Selected)>,
    namespace: &'w Str,
    /// Whether policies are enforced in that namespace.
    is_enforced: bool,
    /// The ports of the pod that a rule names, sorted.
    ports: Vec<&'w NamedPort>,
    known: Rc<KnownPeers>,
}

/// The rulesets of all tiers for one direction of a pod.
#[derive(Clone, Default, Debug)]
pub(super) struct Chain {
    /// The first ruleset; `None` when all traffic is allowed.
    pub(super) top: Option<Arc<DefinedRuleset>>,
    /// The sets whose weights decide about the rules, also where they are not used for it.
    pub(super) weights: Vec<Weight>,
    /// The tiers that deny everything, because their rules exceed a budget.
    pub(super) refused: Vec<(Tier, Exceeded)>,
}

/// Everything that the compiled rules depend on: pods with equal keys share them.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key<'w> {
    policies: Vec<(&'w ObjectRef, Selected)>,
    /// The namespace of the pod, when a rule differs from namespace to namespace.
    namespace: Option<&'w Str>,
    is_enforced: bool,
    ports: Vec<&'w NamedPort>,
}

impl Chain {
    /// The name of the first ruleset.
    pub(super) fn id(&self) -> Option<RulesetId> {
        self.top.as_ref().map(|top| top.id)
    }
}

/// What was read of policies. Pods that are compiled together share it.
#[derive(Default)]
pub(super) struct ReadPolicies<'w> {
    /// The names of ports in the ingress rules.
    port_names: HashMap<&'w ObjectRef, HashSet<&'w Str>>,
    peers: Rc<KnownPeers>,
}

/// The peers of rules, each once.
#[derive(Default)]
struct KnownPeers(RefCell<HashSet<Arc<PodPeer>>>);

impl KnownPeers {
    fn get(&self, peer: &PodPeer) -> Arc<PodPeer> {
        let mut known = self.0.borrow_mut();
        if let Some(same) = known.get(peer) {
            return same.clone();
        }
        let new = Arc::new(peer.clone());
        known.insert(new.clone());
        new
    }
}

impl<'w> ReadPolicies<'w> {
    fn names(&mut self, policy: &'w Policy, port: &NamedPort) -> bool {
        let read = || policy.rules(Direction::Ingress).flat_map(Rule::port_names).collect();
        self.port_names.entry(&policy.name).or_insert_with(read).contains(&port.name)
    }
}

impl<'w> Selecting<'w> {
    pub(super) fn new(world: &'w World, pod: &'w Pod, read: &mut ReadPolicies<'w>) -> Self {
        let policies = world.selecting(pod);
        let mut is_named =
            |port: &&NamedPort| policies.iter().any(|(policy, _)| read.names(policy, port));
        let mut ports: Vec<_> = pod.ports.iter().filter(|port| is_named(port)).collect();
        ports.sort_unstable();
        let namespace = &pod.key.namespace;
        let (is_enforced, known) = (world.enforces_in(namespace), read.peers.clone());
        Self { policies, namespace, is_enforced, ports, known }
    }

    pub(super) fn key(&self) -> Key<'w> {
        let policies = self.policies.iter().map(|(policy, selected)| (&policy.name, *selected));
        let mut all = self.policies.iter();
        let by_namespace = all.any(|(policy, _)| policy.depends_on_namespace());
        let namespace = by_namespace.then_some(self.namespace);
        let (is_enforced, ports) = (self.is_enforced, self.ports.clone());
        Key { policies: policies.collect(), namespace, is_enforced, ports }
    }

    /// The policies that the rules are compiled from, for reports and for the log of denials.
    pub(super) fn selected(&self) -> Arc<[SelectedPolicy]> {
        self.policies.iter().map(|(policy, selected)| (Arc::clone(policy), *selected)).collect()
    }

    /// Whether one of the policies is in audit for the pod.
    pub(super) fn has_audit(&self) -> bool {
        self.policies.iter().any(|(policy, _)| self.mode(policy) == Mode::Audit)
    }

    /// The mode in which a policy applies to the pod.
    fn mode(&self, policy: &Policy) -> Mode {
        if self.is_enforced { policy.mode } else { Mode::Audit }
    }

    /// The chain of rulesets for one direction. The rules of a tier that exceed a budget, or whose
    /// sets are in `heavy`, are replaced by a ruleset that denies everything.
    pub(super) fn compile(
        &self,
        direction: Direction,
        view: View,
        budgets: &Budgets,
        heavy: &Weights,
    ) -> Chain {
        let counts = |policy: &Policy| view.counts(self.mode(policy)) && policy.applies(direction);
        let mut policies = self.policies.clone();
        policies.retain(|(policy, _)| counts(policy));
        // A tier that isolates the pod is the last one that is evaluated.
        let isolating = policies.iter().find(|(policy, _)| policy.isolates(direction));
        if let Some(last) = isolating.map(|(policy, _)| policy.tier) {
            policies.retain(|(policy, _)| policy.tier <= last);
        }
        let tiers: Vec<_> =
            policies.chunk_by(|(one, _), (next, _)| one.tier == next.tier).collect();
        let may_fold = |set| heavy.may_fold(set);
        let mut chain = Chain::default();
        for (above, policies) in tiers.into_iter().enumerate().rev() {
            let depth = DEPTH_MAX.saturating_sub(above * DEPTH_OF_A_TIER);
            let bounds = Bounds { budgets, may_fold: &may_fold, depth };
            let Some((first, _)) = policies.first() else { continue };
            let tier = first.tier;
            let refused = match self.tier(policies, direction, chain.top.as_ref(), bounds) {
                // All traffic is allowed: the tiers below are not reached.
                Ok(Written { top: None, .. }) => {
                    chain = Chain::default();
                    continue;
                }
                Ok(Written { top: Some(top), candidates }) => {
                    chain.weights.extend(candidates.into_iter().map(Weight::of_candidate));
                    // A tier that only passes leads to the tier below.
                    let weight = (top.ruleset.tier == tier).then(|| Weight::of_tier(&top));
                    let exceeded = weight.as_ref().and_then(|weight| heavy.exceeded(weight));
                    chain.weights.extend(weight);
                    chain.top = Some(top);
                    exceeded
                }
                Err(exceeded) => Some(exceeded),
            };
            if let Some(exceeded) = refused {
                chain.top = Some(DefinedRuleset::refused(direction, tier));
                chain.refused.push((tier, exceeded));
            }
        }
        if let Some(top) = chain.top.as_ref().filter(|_| !chain.refused.is_empty()) {
            let reached = top.reachable();
            chain.refused.retain(|(tier, _)| reached.iter().any(|one| one.ruleset.tier == *tier));
        }
        chain
    }

    /// The ruleset of the policies of one tier; `below` is the chain of the tiers below.
    fn tier(
        &self,
        policies: &[(&Arc<Policy>, Selected)],
        direction: Direction,
        below: Option<&Arc<DefinedRuleset>>,
        bounds: Bounds<'_>,
    ) -> Result<Written, Exceeded> {
        let Some((first, _)) = policies.first() else {
            return Ok(Written { top: below.cloned(), ..Written::default() });
        };
        let pass = below.map_or(Target::Allow, |below| Target::Next(below.id));
        let mut runs: Vec<(Target, Vec<_>)> = Vec::new();
        for (policy, selected) in policies {
            for found in policy.effective(direction, *selected) {
                let target = match found.action {
                    Action::Accept => Target::Allow,
                    Action::Pass => pass,
                    Action::Deny => Target::Deny,
                };
                let rule = found.rule.in_namespace(self.namespace);
                match runs.last_mut() {
                    Some((last, rules)) if *last == target => rules.push(rule),
                    _ => runs.push((target, vec![rule])),
                }
            }
        }
        let (named, subject_ports) = (NamedPeers::of(first), self.ports.as_slice());
        let (budgets, share) = (bounds.budgets, &|peer: &PodPeer| self.known.get(peer));
        let reading = Reading { direction, named, subject_ports, budgets, share };
        let runs = runs.into_iter().map(|(target, rules)| {
            let matches = AllowSet::fold(rules.iter().map(AsRef::as_ref), reading)?;
            Ok(Run { matches, target })
        });
        let runs = runs.collect::<Result<_, Exceeded>>()?;
        let isolates = first.isolates(direction);
        let otherwise = if isolates { Target::Deny } else { pass };
        DefinedRuleset::write(direction, first.tier, runs, otherwise, below, bounds)
    }
}

#[cfg(test)]
mod tests;
