//! What the page shows, each name and each set of ports once.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::reach::{GroupId, Outside, Reach};
use serde::Serialize;

use super::About;
use crate::judge::groups::to_node;
use crate::output::plan::{because, cause, headline, risk_lines};
use crate::output::words;
use crate::plan::{Causes, Effect, Isolation, Plan};

/// The data block of the page.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    about: &'a About,
    headline: String,
    /// The text of each risk, the pods, and the objects that cause it.
    risks: Vec<(String, String, String)>,
    objects: Vec<String>,
    /// Name, namespace, number of pods, group. The units of pods are first, then the unit for
    /// external addresses, then the nodes to which something changes.
    units: Vec<(Arc<str>, Str, usize, GroupId)>,
    /// The policies that isolate each group.
    groups: Vec<Policies>,
    /// The group for external addresses; those of nodes follow it.
    outside: GroupId,
    /// Sets of ports; the first is the empty set.
    ports: Vec<String>,
    causes: Vec<Causes>,
    /// Per pair of groups: source, destination, ports before and after, kind, cause or -1.
    cells: Vec<i64>,
}

#[derive(Serialize, Default)]
struct Policies {
    /// For ingress, for egress.
    before: [Vec<String>; 2],
    after: [Vec<String>; 2],
}

/// Texts and causes by number.
struct Tables {
    ports: Vec<String>,
    numbers: BTreeMap<String, usize>,
    causes: Vec<Causes>,
    cause_numbers: BTreeMap<Causes, usize>,
    cells: Vec<i64>,
}

impl<'a> Data<'a> {
    pub(super) fn new(plan: &Plan<'_>, about: &'a About) -> Self {
        let outside = plan.difference.groups.len();
        let mut tables = Tables::new();
        let (before, after) = (Reach::new(&plan.before.world), Reach::new(&plan.after.world));
        tables.pairs(plan, &before, &after);
        tables.outside(plan, &before, &after, outside);
        let nodes = nodes(plan);
        tables.nodes(plan, &after, &nodes, outside + 1);
        let groups = plan.isolation.iter().map(|Isolation { before, after }| Policies {
            before: before.clone(),
            after: after.clone(),
        });
        let named = plan.units.of_class.iter().enumerate().flat_map(|(group, units)| {
            let unit = move |unit: &crate::model::Unit| {
                (unit.name.clone(), unit.namespace.clone(), unit.pods, group)
            };
            units.iter().map(unit)
        });
        let mut units: Vec<_> = named.collect();
        units.sort_by(|(one, one_in, ..), (other, other_in, ..)| {
            (one_in, one).cmp(&(other_in, other))
        });
        // No namespace can have this name, because it has a space.
        units.push(("external addresses".into(), "external addresses".into(), 1, outside));
        for (at, class) in nodes.iter().enumerate() {
            let node = |name: &Str| format!("node/{name}").as_str().into();
            let unit = |name| (node(name), "the nodes".into(), 1, outside + 1 + at);
            units.extend(class.iter().map(unit));
        }
        let no_policies = iter::repeat_with(Policies::default).take(1 + nodes.len());
        let risks = risk_lines(plan, false).into_iter();
        Self {
            about,
            headline: if about.is_map { workloads(plan) } else { headline(plan) },
            risks: risks.map(|(text, who, causes)| (text, who, because(plan, &causes))).collect(),
            objects: plan.objects.iter().map(cause).collect(),
            units,
            groups: groups.chain(no_policies).collect(),
            outside,
            ports: tables.ports,
            causes: tables.causes,
            cells: tables.cells,
        }
    }
}

impl Tables {
    fn new() -> Self {
        let nothing = "nothing".to_owned();
        Self {
            ports: vec![nothing.clone()],
            numbers: [(nothing, 0)].into(),
            causes: Vec::new(),
            cause_numbers: BTreeMap::new(),
            cells: Vec::new(),
        }
    }

    fn pairs(&mut self, plan: &Plan<'_>, old: &Reach<'_>, new: &Reach<'_>) {
        let because: BTreeMap<(GroupId, GroupId), &Causes> =
            plan.changes.iter().map(|c| ((c.source, c.destination), &c.because)).collect();
        plan.difference.each_pair(old, new, |pair| {
            let (before, after) = (words::ports(pair.before), words::ports(pair.after));
            let kind = (pair.before != pair.after).then(|| Effect::of(pair.before, pair.after));
            let because = because.get(&(pair.source, pair.destination)).copied();
            self.cell((pair.source, pair.destination), [before, after], kind, because);
        });
    }

    /// One cell for each group and class of nodes, the first of which is the group `first`.
    fn nodes(
        &mut self,
        plan: &Plan<'_>,
        reach: &Reach<'_>,
        classes: &[BTreeSet<Str>],
        first: GroupId,
    ) {
        let world = &plan.after.world;
        for (at, class) in classes.iter().enumerate() {
            let Some(node) = class.first() else { continue };
            for (group, pods) in plan.difference.groups.iter().enumerate() {
                let mut changes = plan.external.iter().filter(|change| change.group == group);
                let change = changes.find(|change| change.nodes.contains(node));
                let pod = pods.pods.first().filter(|_| pods.after.is_some());
                let is = pod.map(|pod| to_node(reach, world, pod, node)).unwrap_or_default();
                // The plan has no connections to nodes of pods that are added or removed.
                let (before, after) = match change {
                    Some(change) => (&change.before, &change.after),
                    None => (&is, &is),
                };
                let ports = [words::ports(before), words::ports(after)];
                let kind = change.map(|change| Effect::of(&change.before, &change.after));
                self.cell((group, first + at), ports, kind, change.map(|change| &change.because));
            }
        }
    }

    /// One cell for each group and direction, for all addresses together.
    fn outside(&mut self, plan: &Plan<'_>, old: &Reach<'_>, new: &Reach<'_>, outside: GroupId) {
        for (id, group) in plan.difference.groups.iter().enumerate() {
            for direction in Direction::BOTH {
                let (before, after) =
                    (group.outside_before(old, direction), group.outside_after(new, direction));
                if before.parts.is_empty() && after.parts.is_empty() {
                    continue;
                }
                let changes = plan.external.iter();
                let mut changes = changes
                    .filter(|c| c.group == id && c.direction == direction && c.nodes.is_empty());
                let causes: BTreeSet<usize> =
                    changes.clone().flat_map(|c| c.because.iter().copied()).collect();
                let causes: Causes = causes.into_iter().collect();
                let kind = match (before.parts.is_empty(), after.parts.is_empty()) {
                    _ if before == after => None,
                    (true, _) => Some(Effect::Opened),
                    (_, true) => Some(Effect::Closed),
                    _ => {
                        let kinds = changes.clone().map(|c| Effect::of(&c.before, &c.after));
                        let (mut gains, mut loses) = (false, false);
                        for kind in kinds {
                            gains |= kind.gains();
                            loses |= kind.loses();
                        }
                        Some(match (gains, loses) {
                            (true, false) => Effect::Widened,
                            (false, true) => Effect::Narrowed,
                            _ => Effect::Changed,
                        })
                    }
                };
                let because = changes.next().map(|_| &causes);
                let pair = match direction {
                    Direction::Ingress => (outside, id),
                    Direction::Egress => (id, outside),
                };
                self.cell(pair, [all(&before), all(&after)], kind, because);
            }
        }
    }

    fn cell(
        &mut self,
        (source, destination): (GroupId, GroupId),
        ports: [String; 2],
        kind: Option<Effect>,
        because: Option<&Causes>,
    ) {
        let cause = because.map_or(-1, |causes| {
            let next = self.causes.len();
            let number = *self.cause_numbers.entry(causes.clone()).or_insert(next);
            if number == next {
                self.causes.push(causes.clone());
            }
            signed(number)
        });
        let [before, after] = ports.map(|text| self.number(text));
        let kind = match kind {
            None => 0,
            Some(Effect::Opened) => 1,
            Some(Effect::Widened) => 2,
            Some(Effect::Changed) => 3,
            Some(Effect::Narrowed) => 4,
            Some(Effect::Closed) => 5,
        };
        self.cells.extend([signed(source), signed(destination), before, after, kind, cause]);
    }

    fn number(&mut self, text: String) -> i64 {
        let next = self.ports.len();
        let number = *self.numbers.entry(text.clone()).or_insert(next);
        if number == next {
            self.ports.push(text);
        }
        signed(number)
    }
}

/// How many workloads and namespaces there are.
fn workloads(plan: &Plan<'_>) -> String {
    let units = || plan.units.of_class.iter().flatten();
    let spaces: BTreeSet<&Str> = units().map(|unit| &unit.namespace).collect();
    let many = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    };
    format!("{} in {}", many(units().count(), "workload"), many(spaces.len(), "namespace"))
}

/// The nodes to which something changes, in sets with the same changes.
fn nodes(plan: &Plan<'_>) -> Vec<BTreeSet<Str>> {
    let named: BTreeSet<&BTreeSet<Str>> = plan.external.iter().map(|c| &c.nodes).collect();
    let mut classes: BTreeMap<Vec<bool>, BTreeSet<Str>> = BTreeMap::new();
    for node in named.iter().copied().flatten() {
        let changed_with = named.iter().map(|nodes| nodes.contains(node)).collect();
        classes.entry(changed_with).or_default().insert(node.clone());
    }
    classes.into_values().collect()
}

/// All connections with external addresses: `every port`, or `443/TCP with 10.0.0.0/8; …`.
fn all(outside: &Outside) -> String {
    let part = |(addresses, ports): &(_, _)| {
        let ports = words::ports(ports);
        match words::addresses(addresses) {
            anywhere if anywhere == "anywhere" => ports,
            addresses => format!("{ports} with {addresses}"),
        }
    };
    let parts: Vec<String> = outside.parts.iter().map(part).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
