//! Which policies are about a pod, and the stages that they make for it.
//!
//! ```text
//! per direction   Admin ─► NetworkPolicy ─► Baseline ─► Default ─► allowed
//! stages          ordered  isolating, last  ordered     isolating, last
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::atoms::{Atoms, Interned};
use super::rules::{Matches, Reading, Rules, RulesId, Stage, StageId};
use crate::labels::{Labels, Str};
use crate::model::{Direction, NamedPort, Pod};
use crate::policy::{NetworkPolicy, PolicyKey, PortMatch, Ports, Rule};
use crate::selector::Selector;
use crate::tier::{
    Action, ClusterDefaultNetworkPolicy, ClusterNetworkPolicy, ClusterTier, Selected, Tier, View,
};
use crate::world::World;

/// Policies by their place in [`Subjects`], and how surely they are about a pod.
type Selection = Vec<(usize, Selected)>;

/// All policies of a view, and the stages that they have made so far.
pub(super) struct Subjects<'w> {
    world: &'w World,
    view: View,
    /// In the order in which they are asked, whatever their tier.
    cluster: Vec<&'w ClusterNetworkPolicy>,
    defaults: Vec<&'w ClusterDefaultNetworkPolicy>,
    /// The label keys that subjects mention: labels are cut down to these.
    keys: BTreeSet<&'w Str>,
    /// The names of ports that ingress rules mention: ports are cut down to these.
    names: BTreeSet<&'w Str>,
    pub(super) atoms: Atoms,
    pub(super) stages: Interned<Stage>,
    pub(super) rules: Interned<Rules>,
    made: BTreeMap<Origin<'w>, Option<StageId>>,
    of_pods: BTreeMap<(Str, Labels, Vec<NamedPort>), [RulesId; 2]>,
}

/// Everything that a stage is made from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Origin<'w> {
    policies: Policies<'w>,
    direction: Direction,
    /// The ports of the subject; none for egress.
    ports: Vec<NamedPort>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Policies<'w> {
    Cluster(Selection),
    Namespaced(Vec<&'w PolicyKey>),
    /// In one namespace: a rule may be about peers in the same.
    Default(Selection, Str),
}

impl<'w> Subjects<'w> {
    pub(super) fn new(world: &'w World, view: View) -> Self {
        let cluster = world.cluster_policies().values().map(AsRef::as_ref);
        let mut cluster: Vec<&ClusterNetworkPolicy> =
            cluster.filter(|policy| view.counts(policy.mode)).collect();
        cluster.sort_by_key(|policy| policy.order());
        let defaults = world.default_policies().values().map(AsRef::as_ref);
        let defaults = defaults.filter(|policy| view.counts(policy.mode)).collect();
        let mut subjects = Self {
            world,
            view,
            cluster,
            defaults,
            keys: BTreeSet::new(),
            names: BTreeSet::new(),
            atoms: Atoms::default(),
            stages: Interned::default(),
            rules: Interned::default(),
            made: BTreeMap::new(),
            of_pods: BTreeMap::new(),
        };
        subjects.learn();
        subjects
    }

    /// Learns which keys and names can make a difference.
    fn learn(&mut self) {
        let world = self.world;
        let policies = world.policies().values().map(AsRef::as_ref);
        let namespaced: Vec<&NetworkPolicy> =
            policies.filter(|policy| self.view.counts(policy.mode)).collect();
        let subjects = namespaced.iter().map(|policy| &policy.subject);
        let of_cluster = self.cluster.iter().map(|policy| &policy.subject);
        let of_defaults = self.defaults.iter().map(|policy| &policy.subject);
        let of_tiers = of_cluster.chain(of_defaults).filter_map(|subject| subject.pods.as_ref());
        let requirements = subjects.chain(of_tiers).flat_map(Selector::requirements);
        self.keys = requirements.map(|requirement| &requirement.key).collect();

        let rules = namespaced.iter().filter_map(|policy| policy.ingress.as_ref()).flatten();
        let of_cluster = self.cluster.iter().flat_map(|policy| &policy.ingress).map(|r| &r.rule);
        let of_defaults = self.defaults.iter().filter_map(|policy| policy.ingress.as_ref());
        let rules = rules.chain(of_cluster).chain(of_defaults.flatten());
        self.names = rules.flat_map(names).collect();
    }

    /// The rules of a pod for ingress and egress. Pods that policies cannot tell apart as subjects
    /// share the work.
    pub(super) fn rules(&mut self, pod: &Pod) -> [RulesId; 2] {
        let labels = pod.labels.filtered(|key| self.keys.contains(key));
        let asked = |port: &&NamedPort| self.names.contains(&port.name);
        let ports: Vec<NamedPort> = pod.ports.iter().filter(asked).cloned().collect();
        let key = (pod.key.namespace.clone(), labels, ports);
        if let Some(rules) = self.of_pods.get(&key) {
            return *rules;
        }
        let policies = self.selecting(pod);
        let rules = Direction::BOTH.map(|direction| {
            let ports = match direction {
                Direction::Ingress => key.2.clone(),
                Direction::Egress => Vec::new(),
            };
            let mut rules = Rules::new();
            for policies in &policies {
                let (policies, ports) = (policies.clone(), ports.clone());
                let Some(stage) = self.stage(Origin { policies, direction, ports }) else {
                    continue;
                };
                rules.push(stage);
                // Nothing is left for the stages below.
                if self.stages.values.get(stage).is_some_and(|s| s.isolating().is_some()) {
                    break;
                }
            }
            self.rules.number(&rules)
        });
        self.of_pods.insert(key, rules);
        rules
    }

    /// The policies that are, or may be, about a pod, by tier.
    fn selecting(&self, pod: &Pod) -> [Policies<'w>; 4] {
        let cluster = |tier| {
            let numbered = self.cluster.iter().enumerate().filter(|(_, p)| p.tier == tier);
            let selected = numbered.map(|(at, p)| (at, self.world.selected(&p.subject, pod)));
            Policies::Cluster(selected.filter(|(_, s)| *s != Selected::No).collect())
        };
        let namespaced = self.world.policies_in(&pod.key.namespace);
        let selecting = namespaced
            .filter(|policy| self.view.counts(policy.mode) && policy.subject.matches(&pod.labels));
        let namespaced = selecting.map(|policy| &policy.key).collect();
        let defaults = self.defaults.iter().enumerate();
        let selected = defaults.map(|(at, p)| (at, self.world.selected_by_default(p, pod)));
        let defaults = selected.filter(|(_, s)| *s != Selected::No).collect();
        [
            cluster(ClusterTier::Admin),
            Policies::Namespaced(namespaced),
            cluster(ClusterTier::Baseline),
            Policies::Default(defaults, pod.key.namespace.clone()),
        ]
    }

    /// The stage of some policies; `None` when they say nothing in this direction.
    fn stage(&mut self, origin: Origin<'w>) -> Option<StageId> {
        if let Some(known) = self.made.get(&origin) {
            return *known;
        }
        let Origin { policies, direction, ports } = &origin;
        let names_for_pods_only = matches!(policies, Policies::Cluster(_));
        let reading = Reading { direction: *direction, ports, names_for_pods_only };
        let stage = match policies {
            Policies::Cluster(selection) => self.ordered(selection, &reading),
            Policies::Namespaced(keys) => self.namespaced(keys, &reading),
            Policies::Default(selection, namespace) => self.default(selection, namespace, &reading),
        };
        let stage = stage.map(|stage| self.stages.number(&stage));
        self.made.insert(origin, stage);
        stage
    }

    fn ordered(&mut self, selection: &Selection, reading: &Reading<'_>) -> Option<Stage> {
        let mut steps: Vec<(Action, Matches)> = Vec::new();
        for (at, selected) in selection {
            let Some(policy) = self.cluster.get(*at) else { continue };
            for rule in policy.rules(reading.direction) {
                let action = match (selected, rule.action) {
                    // Whether it is about this pod is not known: it opens nothing.
                    (Selected::Unsure, Action::Accept) => continue,
                    (Selected::Unsure, Action::Pass) => Action::Deny,
                    (_, action) => action,
                };
                let mut matches = Matches::default();
                matches.add(&rule.rule, reading, &mut self.atoms);
                match steps.last_mut() {
                    _ if matches.is_empty() => {}
                    Some((last, known)) if *last == action => known.extend(matches),
                    _ => steps.push((action, matches)),
                }
            }
        }
        (!steps.is_empty()).then_some(Stage::Ordered(steps))
    }

    fn namespaced(&mut self, keys: &[&PolicyKey], reading: &Reading<'_>) -> Option<Stage> {
        let policies = keys.iter().filter_map(|key| self.world.policies().get(key));
        let isolating: Vec<&[Rule]> =
            policies.filter_map(|policy| policy.rules(reading.direction)).collect();
        let mut matches = Matches::default();
        for rule in isolating.iter().copied().flatten() {
            matches.add(rule, reading, &mut self.atoms);
        }
        (!isolating.is_empty()).then_some(Stage::Isolating(Tier::NetworkPolicy, matches))
    }

    fn default(
        &mut self,
        selection: &Selection,
        namespace: &Str,
        reading: &Reading<'_>,
    ) -> Option<Stage> {
        let mut matches = None;
        for (at, selected) in selection {
            let policy = self.defaults.get(*at);
            let Some(rules) = policy.and_then(|p| p.rules(reading.direction, namespace)) else {
                continue;
            };
            let matches = matches.get_or_insert_with(Matches::default);
            // Whether it is about this pod is not known: it isolates, and admits nothing.
            for (_, rule) in rules.iter().filter(|_| *selected == Selected::Yes) {
                matches.add(rule, reading, &mut self.atoms);
            }
        }
        matches.map(|matches| Stage::Isolating(Tier::Default, matches))
    }
}

/// The names of ports that a rule mentions.
fn names(rule: &Rule) -> impl Iterator<Item = &Str> {
    let items = match &rule.ports {
        Ports::Any => &[],
        Ports::Listed(items) => items.as_slice(),
    };
    items.iter().filter_map(|item| match item {
        PortMatch::Named(_, name) => Some(name),
        PortMatch::Numbers(..) | PortMatch::Invalid => None,
    })
}
