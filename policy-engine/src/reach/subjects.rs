//! Which policies select a pod, and the stages that they make for it.
//!
//! ```text
//! per direction   Admin ─► NetworkPolicy ─► Baseline ─► Default ─► allowed
//! stages          ordered  isolating, last  ordered     isolating, last
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::atoms::{Atoms, Interned};
use super::rules::{Matches, Reading, Rules, RulesId, Stage, StageId};
use crate::allow_set::NamedPeers;
use crate::direction::{Direction, PerDirection};
use crate::labels::{Labels, Str};
use crate::model::{NamedPort, Pod};
use crate::object::ObjectRef;
use crate::policy::{Policy, Rule, Selected};
use crate::selector::Selector;
use crate::tier::{Action, View};
use crate::world::World;

/// All policies of a view, and the stages made from them so far.
pub(super) struct Subjects<'w> {
    world: &'w World,
    view: View,
    /// The label keys that subjects mention; only labels with these keys are compared.
    keys: BTreeSet<&'w Str>,
    /// The port names that ingress rules mention; only ports with these names are compared.
    names: BTreeSet<&'w Str>,
    pub(super) atoms: Atoms,
    pub(super) stages: Interned<Stage>,
    pub(super) rules: Interned<Rules>,
    made: BTreeMap<Origin<'w>, Option<StageId>>,
    of_pods: BTreeMap<(Str, Labels, Vec<NamedPort>), PerDirection<RulesId>>,
}

/// Everything that a stage is made from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Origin<'w> {
    policies: Vec<(&'w ObjectRef, Selected)>,
    /// The pod's namespace, when a rule differs from namespace to namespace.
    namespace: Option<Str>,
    direction: Direction,
    /// The named ports of the subject; empty for egress.
    ports: Vec<NamedPort>,
}

impl<'w> Subjects<'w> {
    pub(super) fn new(world: &'w World, view: View) -> Self {
        let counting = || world.policies().filter(|policy| view.counts(policy.mode));
        let selectors = counting().filter_map(|policy| policy.subject.pods.as_ref());
        let requirements = selectors.flat_map(Selector::requirements);
        let ingress = counting().flat_map(|policy| policy.rules(Direction::Ingress));
        Self {
            world,
            view,
            keys: requirements.map(|requirement| &requirement.key).collect(),
            names: ingress.flat_map(Rule::port_names).collect(),
            atoms: Atoms::default(),
            stages: Interned::default(),
            rules: Interned::default(),
            made: BTreeMap::new(),
            of_pods: BTreeMap::new(),
        }
    }

    /// The rules of a pod for ingress and egress. Pods that policies cannot distinguish as subjects
    /// share the work.
    pub(super) fn rules(&mut self, pod: &Pod) -> PerDirection<RulesId> {
        let labels = pod.labels.filtered(|key| self.keys.contains(key));
        let mentioned = |port: &&NamedPort| self.names.contains(&port.name);
        let ports: Vec<NamedPort> = pod.ports.iter().filter(mentioned).cloned().collect();
        let key = (pod.key.namespace.clone(), labels, ports);
        if let Some(rules) = self.of_pods.get(&key) {
            return *rules;
        }
        let mut policies = self.world.selecting(pod);
        policies
            .retain(|(policy, _)| self.view.counts(self.world.mode(policy, &pod.key.namespace)));
        let rules = PerDirection::new(|direction| {
            let ports = match direction {
                Direction::Ingress => key.2.as_slice(),
                Direction::Egress => &[],
            };
            let mut rules = Rules::new();
            for tier in policies.chunk_by(|(one, _), (next, _)| one.tier == next.tier) {
                let stage = self.stage(tier, direction, &key.0, ports);
                rules.extend(stage);
                if stage.is_some_and(|id| self.stages.get(id).isolating().is_some()) {
                    // The tier decides about all ports that the stages above left undecided.
                    break;
                }
            }
            self.rules.number(&rules)
        });
        self.of_pods.insert(key, rules);
        rules
    }

    /// The stage of the policies of one tier; `None` when they decide nothing in this direction.
    fn stage(
        &mut self,
        policies: &[(&'w Arc<Policy>, Selected)],
        direction: Direction,
        namespace: &Str,
        ports: &[NamedPort],
    ) -> Option<StageId> {
        let depends = policies.iter().any(|(policy, _)| policy.depends_on_namespace());
        let origin = Origin {
            policies: policies.iter().map(|(policy, found)| (&policy.name, *found)).collect(),
            namespace: depends.then(|| namespace.clone()),
            direction,
            ports: ports.to_vec(),
        };
        if let Some(known) = self.made.get(&origin) {
            return *known;
        }
        let mut steps: Vec<(Action, Matches)> = Vec::new();
        for (policy, selected) in policies {
            let reading = Reading { direction, ports, named: NamedPeers::of(policy) };
            for found in policy.effective(direction, *selected) {
                let mut matches = Matches::default();
                matches.add(&found.rule.in_namespace(namespace), &reading, &mut self.atoms);
                match steps.last_mut() {
                    _ if matches.is_empty() => {}
                    Some((last, known)) if *last == found.action => known.extend(matches),
                    _ => steps.push((found.action, matches)),
                }
            }
        }
        let isolating = policies.iter().find(|(policy, _)| policy.isolates(direction));
        let stage = match isolating {
            // All rules of an isolating tier accept: there is one step, or none without rules.
            Some((policy, _)) => {
                let matches = steps.pop().map_or_else(Matches::default, |(_, matches)| matches);
                Some(Stage::Isolating(policy.tier, matches))
            }
            None => (!steps.is_empty()).then_some(Stage::Ordered(steps)),
        };
        let stage = stage.map(|stage| self.stages.number(&stage));
        self.made.insert(origin, stage);
        stage
    }
}
