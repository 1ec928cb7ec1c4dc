//! The policies of all tiers that are about one pod, as one chain of rulesets per direction.
//!
//! ```text
//! Admin rules ─► NetworkPolicy, where the pod is isolated: the end
//!            └─► Baseline rules ─► Default, where the pod is isolated: the end ─► allowed
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

/// A policy that is, or may be, about a subject.
pub(super) type SelectedPolicy = (Arc<Policy>, Selected);

/// The policies of all tiers and modes that are about one pod.
pub(super) struct Selecting<'w> {
    /// In the order in which they are asked.
    policies: Vec<(&'w Arc<Policy>, Selected)>,
    namespace: &'w Str,
    ports: &'w [NamedPort],
}

/// What the compiled rules are a function of: pods with equal keys share them.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key<'w> {
    policies: Vec<(&'w ObjectRef, Selected)>,
    /// Where a rule is another in each namespace.
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

    /// What the rules are compiled from, for reports and for the log of denials.
    pub(super) fn selected(&self) -> Arc<[SelectedPolicy]> {
        self.policies.iter().map(|(policy, selected)| (Arc::clone(policy), *selected)).collect()
    }

    /// Whether a policy in audit is among them: else there is nothing that is only watched.
    pub(super) fn has_audit(&self) -> bool {
        self.policies.iter().any(|(policy, _)| policy.mode == Mode::Audit)
    }

    /// The rulesets for one direction; `None` when all may pass.
    pub(super) fn compile(&self, direction: Direction, view: View) -> Option<Arc<DefinedRuleset>> {
        let counts = |policy: &Policy| view.counts(policy.mode) && policy.applies(direction);
        let mut policies = self.policies.clone();
        policies.retain(|(policy, _)| counts(policy));
        // A tier that isolates is the last one that is asked.
        let isolating = policies.iter().find(|(policy, _)| policy.isolates(direction));
        if let Some(last) = isolating.map(|(policy, _)| policy.tier) {
            policies.retain(|(policy, _)| policy.tier <= last);
        }
        let tiers = policies.chunk_by(|(one, _), (next, _)| one.tier == next.tier);
        tiers.rev().fold(None, |below, tier| self.tier(tier, direction, below.as_ref()))
    }

    /// The policies of one tier above `below`.
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
