//! The policies of all tiers that are about one pod, as one chain of rulesets per direction.
//!
//! ```text
//! Admin rules ─► NetworkPolicy, where the pod is isolated: the end
//!            └─► Baseline rules ─► Default, where the pod is isolated: the end ─► allowed
//! ```

use std::sync::Arc;

use crate::allow_set::{AllowSet, NamedPeers};
use crate::compiled::Target;
use crate::labels::Str;
use crate::model::{Direction, NamedPort, Pod};
use crate::policy::{NetworkPolicy, Rule};
use crate::ruleset::{DefinedRuleset, Run};
use crate::tier::{
    Action, ClusterDefaultNetworkPolicy, ClusterNetworkPolicy, ClusterTier, Mode, PolicyRef,
    Selected, Tier, View,
};
use crate::world::World;

/// The policies of all tiers and modes that are about one pod.
pub(super) struct Selecting<'w> {
    policies: Vec<&'w Arc<NetworkPolicy>>,
    /// In the order that decides.
    cluster: Vec<(&'w ClusterNetworkPolicy, Selected)>,
    defaults: Vec<(&'w ClusterDefaultNetworkPolicy, Selected)>,
    namespace: &'w Str,
    ports: &'w [NamedPort],
}

/// What the compiled rules are a function of: pods with equal keys share them.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    policies: Vec<(PolicyRef, Selected)>,
    /// Where a rule is another in each namespace.
    namespace: Option<Str>,
    ports: Vec<NamedPort>,
}

/// A policy that is about a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelectedPolicy {
    /// Its name.
    pub policy: PolicyRef,
    /// Whether it decides.
    pub mode: Mode,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Whether it isolates, for each of [`Direction::BOTH`]; a ClusterNetworkPolicy for neither.
    isolates: [bool; 2],
}

impl SelectedPolicy {
    /// Whether it isolates the subject in a direction.
    pub(super) fn isolates(&self, direction: Direction) -> bool {
        let [ingress, egress] = self.isolates;
        match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        }
    }
}

impl<'w> Selecting<'w> {
    pub(super) fn new(world: &'w World, pod: &'w Pod) -> Self {
        let namespace = &pod.key.namespace;
        let policies = world.policies_in(namespace);
        let policies = policies.filter(|policy| policy.subject.matches(&pod.labels)).collect();
        let cluster = world.cluster_policies().values().map(AsRef::as_ref);
        let mut cluster: Vec<(&ClusterNetworkPolicy, Selected)> = cluster
            .map(|policy| (policy, world.selected(&policy.subject, pod)))
            .filter(|(_, selected)| *selected != Selected::No)
            .collect();
        cluster.sort_by_key(|(policy, _)| policy.order());
        let defaults = world.default_policies().values().map(AsRef::as_ref);
        let defaults = defaults
            .map(|policy| (policy, world.selected_by_default(policy, pod)))
            .filter(|(_, selected)| *selected != Selected::No)
            .collect();
        Self { policies, cluster, defaults, namespace, ports: &pod.ports }
    }

    pub(super) fn key(&self) -> Key {
        let policies = self
            .policies
            .iter()
            .map(|policy| (PolicyRef::NetworkPolicy(policy.key.clone()), Selected::Yes));
        let cluster = self.cluster.iter().map(|(policy, selected)| {
            (PolicyRef::ClusterNetworkPolicy(policy.name.clone()), *selected)
        });
        let defaults = self.defaults.iter().map(|(policy, selected)| {
            (PolicyRef::ClusterDefaultNetworkPolicy(policy.name.clone()), *selected)
        });
        let by_namespace = self.defaults.iter().any(|(policy, _)| policy.depends_on_namespace());
        Key {
            policies: policies.chain(cluster).chain(defaults).collect(),
            namespace: by_namespace.then(|| self.namespace.clone()),
            ports: self.ports.to_vec(),
        }
    }

    /// What is told of the policies to those who report.
    pub(super) fn selected(&self) -> Arc<[SelectedPolicy]> {
        let policies = self.policies.iter().map(|policy| SelectedPolicy {
            policy: PolicyRef::NetworkPolicy(policy.key.clone()),
            mode: policy.mode,
            generation: policy.generation,
            isolates: Direction::BOTH.map(|direction| policy.rules(direction).is_some()),
        });
        let cluster = self.cluster.iter().map(|(policy, _)| SelectedPolicy {
            policy: PolicyRef::ClusterNetworkPolicy(policy.name.clone()),
            mode: policy.mode,
            generation: policy.generation,
            isolates: [false; 2],
        });
        let defaults = self.defaults.iter().map(|(policy, _)| SelectedPolicy {
            policy: PolicyRef::ClusterDefaultNetworkPolicy(policy.name.clone()),
            mode: policy.mode,
            generation: policy.generation,
            isolates: Direction::BOTH.map(|direction| policy.written(direction).is_some()),
        });
        policies.chain(cluster).chain(defaults).collect()
    }

    /// Whether some policy is only watched.
    pub(super) fn has_audit(&self) -> bool {
        let policies = self.policies.iter().map(|policy| policy.mode);
        let cluster = self.cluster.iter().map(|(policy, _)| policy.mode);
        let defaults = self.defaults.iter().map(|(policy, _)| policy.mode);
        policies.chain(cluster).chain(defaults).any(|mode| mode == Mode::Audit)
    }

    /// The rulesets for one direction; `None` when all may pass.
    pub(super) fn compile(&self, direction: Direction, view: View) -> Option<Arc<DefinedRuleset>> {
        let policies = self.policies.iter().filter(|policy| view.counts(policy.mode));
        let isolating: Vec<&[Rule]> =
            policies.filter_map(|policy| policy.rules(direction)).collect();
        let below = if isolating.is_empty() {
            let default = self.default(direction, view);
            self.ordered(ClusterTier::Baseline, direction, view, default.as_ref())
        } else {
            let rules = isolating.into_iter().flatten();
            self.isolated(Tier::NetworkPolicy, direction, rules)
        };
        self.ordered(ClusterTier::Admin, direction, view, below.as_ref())
    }

    fn default(&self, direction: Direction, view: View) -> Option<Arc<DefinedRuleset>> {
        let mut isolating = Vec::new();
        for (policy, selected) in &self.defaults {
            let rules = policy.rules(direction, self.namespace);
            let Some(rules) = rules.filter(|_| view.counts(policy.mode)) else { continue };
            isolating.push(if *selected == Selected::Yes { rules } else { Vec::new() });
        }
        if isolating.is_empty() {
            return None;
        }
        let rules: Vec<Rule> = isolating.into_iter().flatten().map(|(_, rule)| rule).collect();
        self.isolated(Tier::Default, direction, &rules)
    }

    /// A tier that isolates: what a rule admits is allowed, the rest denied.
    fn isolated<'r>(
        &self,
        tier: Tier,
        direction: Direction,
        rules: impl IntoIterator<Item = &'r Rule>,
    ) -> Option<Arc<DefinedRuleset>> {
        let matches = AllowSet::fold(rules, NamedPeers::All, direction, self.ports);
        let runs = vec![Run { matches, target: Target::Allow }];
        DefinedRuleset::new(direction, tier, runs, Target::Deny, None)
    }

    /// A tier of ordered rules above `below`.
    fn ordered(
        &self,
        tier: ClusterTier,
        direction: Direction,
        view: View,
        below: Option<&Arc<DefinedRuleset>>,
    ) -> Option<Arc<DefinedRuleset>> {
        let pass = below.map_or(Target::Allow, |below| Target::Next(below.id));
        let mut runs: Vec<(Target, Vec<&Rule>)> = Vec::new();
        let asked = self.cluster.iter().filter(|(policy, _)| policy.tier == tier);
        for (policy, selected) in asked.filter(|(policy, _)| view.counts(policy.mode)) {
            for rule in policy.rules(direction) {
                let target = match (rule.action, selected) {
                    (Action::Accept, Selected::Yes) => Target::Allow,
                    (Action::Pass, Selected::Yes) => pass,
                    (Action::Accept, _) => continue,
                    (Action::Deny | Action::Pass, _) => Target::Deny,
                };
                match runs.last_mut() {
                    Some((last, rules)) if *last == target => rules.push(&rule.rule),
                    _ => runs.push((target, vec![&rule.rule])),
                }
            }
        }
        let runs = runs.into_iter().map(|(target, rules)| Run {
            matches: AllowSet::fold(rules, NamedPeers::ByLabels, direction, self.ports),
            target,
        });
        DefinedRuleset::new(direction, tier.into(), runs.collect(), pass, below)
    }
}

#[cfg(test)]
mod tests;
