//! Cells: pods that neither the lines of a file nor policies distinguish, each host, and the parts
//! into which the networks of lines cut the external addresses.

use std::collections::BTreeMap;

use policy_engine::cidr::CidrSet;
use policy_engine::model::Life;
use policy_engine::reach::{ClassId, Reach};

use super::group::Group;
use super::line::Assertion;
use super::member::{Member, Place};
use crate::endpoint::Side;
use crate::model::Cluster;

/// Endpoints for which one question is enough.
pub(super) struct Cell {
    pub(super) kind: CellKind,
    /// Per line: whether a group of its source contains the members, and of its destination.
    pub(super) from: Vec<bool>,
    pub(super) to: Vec<bool>,
    pub(super) members: Vec<Member>,
}

/// The kind of the members of a cell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum CellKind {
    /// Pods of a class.
    Pods(Option<ClassId>),
    /// A node, or a hostNetwork pod; by its position.
    Host(usize),
    /// External addresses; by their position.
    Outside(usize, CidrSet),
}

impl Cell {
    /// A member as a side of a question.
    pub(super) fn side(&self, member: &Member) -> Side {
        match (&member.place, &self.kind) {
            (Place::Pod(key), _) => Side::Pod(key.clone(), None),
            (Place::Node(name), _) => Side::Node(name.as_str().into(), None),
            (Place::External, CellKind::Outside(_, set)) => Side::Outside(set.clone()),
            (Place::External, CellKind::Pods(_) | CellKind::Host(_)) => {
                Side::Outside(CidrSet::default())
            }
        }
    }
}

/// All cells; and per line and word (those of `from`, then those of `to`) whether it has a member.
pub(super) fn cells(
    cluster: &Cluster,
    reach: &Reach<'_>,
    lines: &[Assertion],
) -> (Vec<Cell>, Vec<Vec<bool>>) {
    let mut found: Vec<Vec<bool>> =
        lines.iter().map(|line| vec![false; line.from.len() + line.to.len()]).collect();
    let mut cells: BTreeMap<(CellKind, Vec<bool>, Vec<bool>), Vec<Member>> = BTreeMap::new();
    for (kind, member) in everyone(cluster, reach, lines) {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (line, found) in lines.iter().zip(&mut found) {
            let held: Vec<bool> = line
                .from
                .iter()
                .chain(&line.to)
                .map(|group| holds(group, &kind, &member))
                .collect();
            let (of_from, of_to) = held.split_at(line.from.len());
            from.push(of_from.contains(&true));
            to.push(of_to.contains(&true));
            found.iter_mut().zip(&held).for_each(|(found, held)| *found |= held);
        }
        cells.entry((kind, from, to)).or_default().push(member);
    }
    let cell = |((kind, from, to), members)| Cell { kind, from, to, members };
    (cells.into_iter().map(cell).collect(), found)
}

/// Whether the members of a group depend on the peer of the connection.
pub(super) fn is_relative(group: &Group) -> bool {
    matches!(group, Group::Itself | Group::OwnNode | Group::OtherNodes)
}

fn holds(group: &Group, kind: &CellKind, member: &Member) -> bool {
    match (group, kind) {
        (Group::Network(net), CellKind::Outside(_, set)) => {
            set.difference(&CidrSet::network(*net)).is_empty()
        }
        _ => !is_relative(group) && group.holds_member(member, member),
    }
}

fn everyone(cluster: &Cluster, reach: &Reach<'_>, lines: &[Assertion]) -> Vec<(CellKind, Member)> {
    let mut all = Vec::new();
    for (key, pod) in cluster.world.pods() {
        if pod.life == Life::Finished || (pod.host_network && pod.node.is_none()) {
            continue;
        }
        let workload = cluster.workload_of(key).filter(|own| *own.kind != *"pod");
        let namespace = cluster.world.namespaces().get(&key.namespace);
        let endpoint = Member {
            node: pod.node.as_deref().map(str::to_owned),
            on_host: pod.host_network,
            addresses: pod.addresses.to_vec(),
            labels: pod.labels.clone(),
            namespace_labels: namespace.map(|found| found.labels.clone()).unwrap_or_default(),
            workload: workload.map(|own| (own.kind.clone(), own.name.clone())),
            ..Member::nobody(Place::Pod(key.clone()))
        };
        let kind = if pod.host_network {
            CellKind::Host(all.len())
        } else {
            CellKind::Pods(reach.class_of(key))
        };
        all.push((kind, endpoint));
    }
    for (name, node) in cluster.world.nodes() {
        let endpoint = Member {
            node: Some(name.to_string()),
            on_host: true,
            addresses: node.addresses.clone(),
            ..Member::nobody(Place::Node(name.to_string()))
        };
        all.push((CellKind::Host(all.len()), endpoint));
    }
    for (index, piece) in outside(lines).into_iter().enumerate() {
        all.push((CellKind::Outside(index, piece), Member::nobody(Place::External)));
    }
    all
}

/// The external addresses, cut by every network that a line names.
fn outside(lines: &[Assertion]) -> Vec<CidrSet> {
    let mut pieces = vec![CidrSet::everything()];
    for group in lines.iter().flat_map(|line| line.from.iter().chain(&line.to)) {
        let Group::Network(net) = group else { continue };
        let net = CidrSet::network(*net);
        let cut = pieces.iter().flat_map(|p| [p.intersection(&net), p.difference(&net)]);
        pieces = cut.filter(|piece| !piece.is_empty()).collect();
    }
    pieces
}
