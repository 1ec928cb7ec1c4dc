//! Changes between groups of pods that policies treat alike: the number of edges follows the number
//! of differences, not the number of pairs of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::reach::{GroupId, PortSet};
use schemars::JsonSchema;
use serde::Serialize;

use super::json::ChangeKind;
use super::{Effect, words};
use crate::output::json::{DirectionJson, Ports, ports};
use crate::output::map::json::Group;
use crate::plan::{Causes, Plan};

/// What changes from each pod of some groups to each other pod of some groups.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ChangedEdge")]
pub struct Edge {
    /// The groups that connect, ascending.
    pub from: Arc<[usize]>,
    /// The groups that they connect to, ascending.
    pub to: Arc<[usize]>,
    /// What happens.
    #[serde(flatten)]
    pub difference: Difference,
}

/// What changes between groups and external addresses.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ChangedExternalEdge")]
pub struct ExternalEdge {
    /// The groups, ascending.
    pub groups: Vec<usize>,
    /// Ingress: from the addresses to the groups.
    pub direction: DirectionJson,
    /// The addresses. One that a pod or node owns is that pod or node.
    pub cidrs: Vec<String>,
    /// The nodes whose addresses these are, as `node/NAME`; left out for external addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What happens.
    #[serde(flatten)]
    pub difference: Difference,
}

/// What happens to connections.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// In one word.
    pub change: ChangeKind,
    /// Sorted and merged; empty when nothing was allowed.
    pub before: Vec<Ports>,
    /// Sorted and merged; empty when nothing is allowed any more.
    pub after: Vec<Ports>,
    /// The ports are the same: only protocols without ports, such as ICMP, change.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_without_ports: bool,
    /// The numbers of the objects that did it, from 0, in `objects`: undoing one of them alone brings
    /// `before` back. Where none does, the fewest that do together.
    pub because: Vec<usize>,
}

impl Difference {
    fn new(before: &PortSet, after: &PortSet, because: &Causes) -> Self {
        let change = Effect::of(before, after).into();
        let (before, after) = (ports(before), ports(after));
        let (only_without_ports, because) = (before == after, because.to_vec());
        Self { change, before, after, only_without_ports, because }
    }
}

/// The groups of a plan with changes, and the changes.
pub(super) struct Groups {
    pub(super) all: Vec<Group>,
    pub(super) edges: Vec<Edge>,
    pub(super) external: Vec<ExternalEdge>,
}

impl Groups {
    pub(super) fn new(plan: &Plan<'_>) -> Self {
        let of_pairs = plan.changes.iter().flat_map(|change| [change.source, change.destination]);
        let of_external = plan.external.iter().map(|change| change.group);
        let mentioned: BTreeSet<GroupId> = of_pairs.chain(of_external).collect();
        let ids: BTreeMap<GroupId, usize> =
            mentioned.iter().enumerate().map(|(id, group)| (*group, id)).collect();
        let group = |(id, group): (usize, &GroupId)| Group {
            id,
            members: plan.units.of(*group).iter().map(|unit| unit.name.clone()).collect(),
            groups: Vec::new(),
        };
        let all = mentioned.iter().enumerate().map(group).collect();
        Self { all, edges: edges(plan, &ids), external: external(plan, &ids) }
    }
}

fn edges(plan: &Plan<'_>, ids: &BTreeMap<GroupId, usize>) -> Vec<Edge> {
    let id = |group| ids.get(&group).copied();
    let mut rows: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for change in &plan.changes {
        let what = (&change.before, &change.after, &change.because);
        rows.entry((what, id(change.source))).or_default().extend(id(change.destination));
    }
    // Sources with the same destinations are one edge.
    let mut joined: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for ((what, source), destinations) in rows {
        joined.entry((what, destinations)).or_default().extend(source);
    }
    let edge =
        |(((before, after, because), to), from): ((_, BTreeSet<usize>), BTreeSet<usize>)| Edge {
            from: from.into_iter().collect(),
            to: to.into_iter().collect(),
            difference: Difference::new(before, after, because),
        };
    let mut edges: Vec<Edge> = joined.into_iter().map(edge).collect();
    edges.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
    edges
}

fn external(plan: &Plan<'_>, ids: &BTreeMap<GroupId, usize>) -> Vec<ExternalEdge> {
    let mut joined: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for change in &plan.external {
        let what = (&change.before, &change.after, &change.because);
        let peers = (change.direction, &change.addresses, &change.nodes);
        joined.entry((peers, what)).or_default().extend(ids.get(&change.group));
    }
    let edge = |(((direction, addresses, nodes), what), groups): ((_, _), BTreeSet<usize>)| {
        let (before, after, because) = what;
        let nodes: &BTreeSet<_> = nodes;
        let direction: policy_engine::direction::Direction = direction;
        ExternalEdge {
            groups: groups.into_iter().collect(),
            direction: direction.into(),
            cidrs: words::networks(addresses),
            nodes: nodes.iter().map(|name| format!("node/{name}")).collect(),
            difference: Difference::new(before, after, because),
        }
    };
    let mut edges: Vec<ExternalEdge> = joined.into_iter().map(edge).collect();
    edges.sort_by(|a, b| a.groups.cmp(&b.groups));
    edges
}
