//! Sets of ports by number, so that each union and intersection of two of them is computed once.

use std::collections::BTreeMap;

use super::atoms::Interned;
use super::ports::PortSet;

/// The number of a [`PortSet`] in the table that returned the number.
pub type PortsId = usize;

pub(super) const NOTHING: PortsId = 0;
pub(super) const EVERYTHING: PortsId = 1;

/// All sets that have been numbered, and the results of operations on them.
pub(super) struct PortSets {
    sets: Interned<PortSet>,
    intersections: BTreeMap<(PortsId, PortsId), PortsId>,
    unions: BTreeMap<(PortsId, PortsId), PortsId>,
}

impl PortSets {
    pub(super) fn new() -> Self {
        let mut sets = Interned::<PortSet>::default();
        sets.number(&PortSet::default());
        sets.number(&PortSet::everything());
        Self { sets, intersections: BTreeMap::new(), unions: BTreeMap::new() }
    }

    pub(super) fn number(&mut self, set: &PortSet) -> PortsId {
        self.sets.number(set)
    }

    pub(super) fn intersection(&mut self, left: PortsId, right: PortsId) -> PortsId {
        match (left, right) {
            (NOTHING, _) | (_, NOTHING) => NOTHING,
            (EVERYTHING, other) | (other, EVERYTHING) => other,
            _ if left == right => left,
            pair => once(&mut self.sets, &mut self.intersections, pair, PortSet::intersection),
        }
    }

    pub(super) fn union(&mut self, left: PortsId, right: PortsId) -> PortsId {
        match (left, right) {
            (EVERYTHING, _) | (_, EVERYTHING) => EVERYTHING,
            (NOTHING, other) | (other, NOTHING) => other,
            _ if left == right => left,
            pair => {
                let join = |left: &PortSet, right: &PortSet| left.clone().union(right);
                once(&mut self.sets, &mut self.unions, pair, join)
            }
        }
    }

    /// The set of a number that this table returned.
    pub(super) fn get(&self, id: PortsId) -> &PortSet {
        self.sets.get(id)
    }
}

/// The result of `join`, from `known` if it is there. The order of the arguments does not matter.
fn once(
    sets: &mut Interned<PortSet>,
    known: &mut BTreeMap<(PortsId, PortsId), PortsId>,
    (left, right): (PortsId, PortsId),
    join: impl Fn(&PortSet, &PortSet) -> PortSet,
) -> PortsId {
    *known.entry((left.min(right), left.max(right))).or_insert_with(|| {
        let set = join(sets.get(left), sets.get(right));
        sets.number(&set)
    })
}
