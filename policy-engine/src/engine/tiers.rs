//! The policies of all tiers for one pod, compiled to one chain of rulesets per direction.
//!
//! ```text
//! Admin rules ─► NetworkPolicy, if it isolates the pod: the last tier
//!            └─► Baseline rules ─► Default, if it isolates the pod: the last tier
//!                              └─► allowed
//! ```

use std::sync::Arc;

use crate::allow_set::{AllowSet, NamedPeers};
use crate::compiled::Target;
use crate::direction::Direction;
use crate::labels::Str;
use crate::model::{NamedPort, Pod};
use crate::object::ObjectRef;
use crate::policy::{Policy, Selected};
use crate::ruleset::{DefinedRuleset, Run};
use crate::tier::{Action, Mode, View};
use crate::world::World;

/// A policy that applies, or may apply, to a subject.
pub(super) type SelectedPolicy = (Arc<Policy>, Selected);

/// The policies of all tiers and modes that apply, or may apply, to one pod.
pub(super) struct Selecting<'w> {
    /// The policies in the order in which they are evaluated.
    policies: Vec<(&'w Arc<Policy>, Selected)>,
    namespace: &'w Str,
    ports: &'w [NamedPort],
}

/// Everything that the compiled rules depend on: pods with equal keys share them.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key<'w> {
    policies: Vec<(&'w ObjectRef, Selected)>,
    /// The namespace of the pod, when a rule differs from namespace to namespace.
    namespace: Option<&'w Str>,
    ports: &'w [NamedPort],
}

impl<'w> Selecting<'w> {
    pub(super) fn new(world: &'w World, pod: &'w Pod) -> Self {
        let policies = world.selecting(pod);
        Self { policies, namespace: &pod.key.namespace, ports: &pod.ports }
    }

    pub(super) fn key(&self) -> Key<'w> {
        let policies = self.policies.iter().map(|(policy, selected)| (&policy.name, *selected));
        let mut all = self.policies.iter();
        let by_namespace = all.any(|(policy, _)| policy.depends_on_namespace());
        let namespace = by_namespace.then_some(self.namespace);
        Key { policies: policies.collect(), namespace, ports: self.ports }
    }

    /// The policies that the rules are compiled from, for reports and for the log of denials.
    pub(super) fn selected(&self) -> Arc<[SelectedPolicy]> {
        self.policies.iter().map(|(policy, selected)| (Arc::clone(policy), *selected)).collect()
    }

    /// Whether one of the policies is in audit.
    pub(super) fn has_audit(&self) -> bool {
        self.policies.iter().any(|(policy, _)| policy.mode == Mode::Audit)
    }

    /// The chain of rulesets for one direction; `None` when all traffic is allowed.
    pub(super) fn compile(&self, direction: Direction, view: View) -> Option<Arc<DefinedRuleset>> {
        let counts = |policy: &Policy| view.counts(policy.mode) && policy.applies(direction);
        let mut policies = self.policies.clone();
        policies.retain(|(policy, _)| counts(policy));
        // A tier that isolates the pod is the last one that is evaluated.
        let isolating = policies.iter().find(|(policy, _)| policy.isolates(direction));
        if let Some(last) = isolating.map(|(policy, _)| policy.tier) {
            policies.retain(|(policy, _)| policy.tier <= last);
        }
        let tiers = policies.chunk_by(|(one, _), (next, _)| one.tier == next.tier);
        tiers.rev().fold(None, |below, tier| self.tier(tier, direction, below.as_ref()))
    }

    /// The ruleset of the policies of one tier; `below` is the chain of the tiers below.
    fn tier(
        &self,
        policies: &[(&Arc<Policy>, Selected)],
        direction: Direction,
        below: Option<&Arc<DefinedRuleset>>,
    ) -> Option<Arc<DefinedRuleset>> {
        let (first, _) = policies.first()?;
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
        let named = NamedPeers::of(first);
        let runs = runs.into_iter().map(|(target, rules)| Run {
            matches: AllowSet::fold(rules.iter().map(AsRef::as_ref), named, direction, self.ports),
            target,
        });
        let isolates = first.isolates(direction);
        let otherwise = if isolates { Target::Deny } else { pass };
        DefinedRuleset::new(direction, first.tier, runs.collect(), otherwise, below)
    }
}

#[cfg(test)]
mod tests;
