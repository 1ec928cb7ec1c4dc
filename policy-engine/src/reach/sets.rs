//! Sets of ports by number, so that what two of them have in common is found once.

use std::collections::BTreeMap;

use super::atoms::Interned;
use super::ports::PortSet;

/// The number of a [`PortSet`].
pub(super) type PortsId = usize;

pub(super) const NOTHING: PortsId = 0;
pub(super) const EVERYTHING: PortsId = 1;

/// All sets that have come up.
pub(super) struct PortSets {
    sets: Interned<PortSet>,
    common: BTreeMap<(PortsId, PortsId), PortsId>,
    united: BTreeMap<(PortsId, PortsId), PortsId>,
}

impl PortSets {
    pub(super) fn new() -> Self {
        let mut sets = Interned::<PortSet>::default();
        sets.number(&PortSet::default());
        sets.number(&PortSet::everything());
        Self { sets, common: BTreeMap::new(), united: BTreeMap::new() }
    }

    pub(super) fn number(&mut self, set: &PortSet) -> PortsId {
        self.sets.number(set)
    }

    /// What is in both.
    pub(super) fn both(&mut self, left: PortsId, right: PortsId) -> PortsId {
        match (left, right) {
            (NOTHING, _) | (_, NOTHING) => return NOTHING,
            (EVERYTHING, other) | (other, EVERYTHING) => return other,
            _ if left == right => return left,
            _ => {}
        }
        let pair = (left.min(right), left.max(right));
        if let Some(known) = self.common.get(&pair) {
            return *known;
        }
        let number = self.found(pair, PortSet::intersection);
        self.common.insert(pair, number);
        number
    }

    /// What is in either.
    pub(super) fn either(&mut self, left: PortsId, right: PortsId) -> PortsId {
        match (left, right) {
            (EVERYTHING, _) | (_, EVERYTHING) => return EVERYTHING,
            (NOTHING, other) | (other, NOTHING) => return other,
            _ if left == right => return left,
            _ => {}
        }
        let pair = (left.min(right), left.max(right));
        if let Some(known) = self.united.get(&pair) {
            return *known;
        }
        let number = self.found(pair, |left, right| left.clone().union(right));
        self.united.insert(pair, number);
        number
    }

    fn found(
        &mut self,
        (left, right): (PortsId, PortsId),
        join: impl Fn(&PortSet, &PortSet) -> PortSet,
    ) -> PortsId {
        let sets = self.sets.values.get(left).zip(self.sets.values.get(right));
        let set = sets.map(|(left, right)| join(left, right)).unwrap_or_default();
        self.sets.number(&set)
    }

    /// All sets by number.
    pub(super) fn into_values(self) -> Vec<PortSet> {
        self.sets.values
    }
}
