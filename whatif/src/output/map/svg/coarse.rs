//! Fewer arrows, where all of them could not be told apart.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::reach::PortSet;

use super::bundle::{Arrow, Bundle, End};

/// With more arrows, those between two namespaces are one.
const ARROWS_SHOWN: usize = 400;

/// What is left out of a picture with many arrows.
#[derive(Default, Debug)]
pub(super) struct Coarse {
    /// Namespaces of which some workload can connect to some workload of every other namespace.
    pub(super) to_all: BTreeSet<usize>,
    /// Namespaces of which some workload can be reached from some workload of every other namespace.
    pub(super) from_all: BTreeSet<usize>,
}

impl Bundle {
    /// Joins the arrows between two namespaces, and those between a namespace and external addresses,
    /// if there are many arrows. A namespace that is connected to all others has no arrows for it.
    pub(super) fn coarsen(&mut self) {
        if self.arrows.len() <= ARROWS_SHOWN {
            return;
        }
        let mut joined: BTreeMap<(End, End), PortSet> = BTreeMap::new();
        for arrow in std::mem::take(&mut self.arrows) {
            let ends = [arrow.from, arrow.to];
            let [from, to] = ends.map(|end| self.space(end));
            let leads =
                ends.iter().any(|end| matches!(end, End::Leaf(leaf) if self.is_frontend(*leaf)));
            if from == to || leads {
                self.arrows.insert(arrow);
                continue;
            }
            let [from, to] = ends.map(|end| match self.space(end) {
                space if self.spaces[space].is_namespace => End::Space(space),
                _ => end,
            });
            joined.entry((from, to)).or_default().add(self.ports.get(arrow.ports));
        }
        let namespaces: Vec<End> = (0..self.spaces.len())
            .filter(|space| self.spaces[*space].is_namespace)
            .map(End::Space)
            .collect();
        let mut coarse = Coarse::default();
        for one in &namespaces {
            let others = || namespaces.iter().filter(|other| *other != one);
            let number = self.space(*one);
            if others().all(|other| joined.contains_key(&(*one, *other))) {
                coarse.to_all.insert(number);
            }
            if others().all(|other| joined.contains_key(&(*other, *one))) {
                coarse.from_all.insert(number);
            }
        }
        joined.retain(|(from, to), _| {
            !matches!((from, to), (End::Space(from), End::Space(to))
                if coarse.to_all.contains(from) || coarse.from_all.contains(to))
        });
        for ((from, to), ports) in joined {
            let ports = self.ports.number(&ports);
            self.arrows.insert(Arrow { from, to, ports });
        }
        self.coarse = Some(coarse);
    }

    /// Whether an arrow stands for those of some workloads to some others.
    pub(super) fn is_joined(&self, arrow: &Arrow) -> bool {
        self.coarse.is_some() && self.space(arrow.from) != self.space(arrow.to)
    }

    /// The name of a namespace, with what it is connected to.
    pub(super) fn heading(&self, space: usize) -> String {
        let name = &self.spaces[space].name;
        let has = |all: fn(&Coarse) -> &BTreeSet<usize>| {
            self.coarse.as_ref().is_some_and(|coarse| all(coarse).contains(&space))
        };
        match (has(|coarse| &coarse.to_all), has(|coarse| &coarse.from_all)) {
            (true, true) => format!("{name} ⇄ all"),
            (true, false) => format!("{name} → all"),
            (false, true) => format!("{name} ← all"),
            (false, false) => name.to_string(),
        }
    }

    fn space(&self, end: End) -> usize {
        match end {
            End::Leaf(leaf) => self.leaves[leaf].space,
            End::Space(space) => space,
        }
    }
}
