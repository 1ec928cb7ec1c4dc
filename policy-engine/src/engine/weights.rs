//! The weights of sets: upper bounds on their members, and the decisions that depend on them.
//!
//! The weight of sets is the number of pods that each of their peers matches, times the ports of the
//! peer where the set has ports. It is known before a set is filled, so that sets that are too large
//! are never made. The weight of a tier's sets is compared with [`Budget::Members`]: see
//! [`Weights::exceeded`]. The weight of one set of addresses and ports decides whether it is used:
//! see [`Weights::may_fold`].
//!
//! Weights change with the pods. One change to a pod changes a weight by `step` at most: a weight that
//! is far from its limit is compared again only after as many changes as it needs to reach it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::members::Members;
use crate::budget::{Budget, Budgets, Exceeded};
use crate::id::{ContentHasher, ContentId, SetId};
use crate::ruleset::{DefinedRuleset, SetDefinition};
use crate::world::World;

/// The name of a weight: what is compared, and a hash of the names of its sets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum WeightId {
    Tier(ContentId),
    Candidate(SetId),
}

/// Sets whose weight is compared with a limit.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub(super) id: WeightId,
    sets: Arc<BTreeMap<SetId, Arc<SetDefinition>>>,
}

impl Weight {
    /// The sets that the rules of one tier refer to.
    pub(super) fn of_tier(top: &DefinedRuleset) -> Self {
        let sets = top.sets_of_tier();
        let mut hasher = ContentHasher::new("weight");
        sets.keys().for_each(|set| hasher.text(&set.to_string()));
        let sets = sets.into_iter().map(|(id, set)| (id, set.clone())).collect();
        Self { id: WeightId::Tier(hasher.finish()), sets: Arc::new(sets) }
    }

    /// A set of addresses and ports.
    pub(super) fn of_candidate((id, definition): (SetId, Arc<SetDefinition>)) -> Self {
        Self { id: WeightId::Candidate(id), sets: Arc::new([(id, definition)].into()) }
    }
}

#[derive(Debug)]
struct Weighed {
    uses: usize,
    sets: Vec<SetId>,
    /// The most that one change to a pod can add or remove.
    step: usize,
    exceeds: bool,
    /// The number of changes after which it has to be compared again.
    due: usize,
}

/// The weights of all rules of all subjects.
#[derive(Default, Debug)]
pub(super) struct Weights {
    budgets: Budgets,
    weighed: HashMap<WeightId, Weighed>,
    by_due: BTreeMap<usize, BTreeSet<WeightId>>,
}

impl Weights {
    pub(super) fn new(budgets: &Budgets) -> Self {
        Self { budgets: *budgets, ..Self::default() }
    }

    /// The budget, if the sets of a tier exceed it.
    pub(super) fn exceeded(&self, weight: &Weight) -> Option<Exceeded> {
        let limit = self.budgets.members;
        self.exceeds(weight.id).then_some(Exceeded { budget: Budget::Members, limit })
    }

    /// Whether a set of addresses and ports is small enough to be used.
    pub(super) fn may_fold(&self, set: SetId) -> bool {
        !self.exceeds(WeightId::Candidate(set))
    }

    fn exceeds(&self, id: WeightId) -> bool {
        self.weighed.get(&id).is_some_and(|weighed| weighed.exceeds)
    }

    fn limit(&self, id: WeightId) -> usize {
        match id {
            WeightId::Tier(_) => self.budgets.members,
            WeightId::Candidate(_) => self.budgets.members_with_ports,
        }
    }

    /// Counts one more use of each weight. Returns those that are new and exceed their limit.
    pub(super) fn acquire<'w>(
        &mut self,
        world: &World,
        members: &mut Members,
        weights: impl IntoIterator<Item = &'w Weight>,
    ) -> BTreeSet<WeightId> {
        let mut new = BTreeSet::new();
        for Weight { id, sets } in weights {
            if let Some(weighed) = self.weighed.get_mut(id) {
                weighed.uses += 1;
                continue;
            }
            members.define(world, sets.iter().map(|(id, definition)| (*id, &**definition)));
            let step = sets.keys().map(|set| members.step(set)).sum();
            let sets = sets.keys().copied().collect();
            let weighed = Weighed { uses: 1, sets, step, exceeds: false, due: 0 };
            self.weighed.insert(*id, weighed);
            self.by_due.entry(0).or_default().insert(*id);
            new.insert(*id);
        }
        let changed = self.compare(members);
        changed.intersection(&new).copied().collect()
    }

    /// Counts one use less of each weight.
    pub(super) fn release(
        &mut self,
        world: &World,
        members: &mut Members,
        ids: impl IntoIterator<Item = WeightId>,
    ) {
        let mut sets = Vec::new();
        for id in ids {
            let Some(weighed) = self.weighed.get_mut(&id) else { continue };
            weighed.uses -= 1;
            if weighed.uses == 0 {
                let due = weighed.due;
                sets.extend(self.weighed.remove(&id).into_iter().flat_map(|old| old.sets));
                self.forget(due, id);
            }
        }
        members.forget(world, sets);
    }

    /// Compares the weights that can have crossed the limit since they were compared. Returns those
    /// that crossed it.
    pub(super) fn compare(&mut self, members: &Members) -> BTreeSet<WeightId> {
        let mut changed = BTreeSet::new();
        let later = self.by_due.split_off(&members.changes().saturating_add(1));
        let due = std::mem::replace(&mut self.by_due, later);
        for id in due.into_values().flatten() {
            let limit = self.limit(id);
            let Some(weighed) = self.weighed.get_mut(&id) else { continue };
            let weight: usize = weighed.sets.iter().map(|set| members.weight(set)).sum();
            let exceeds = weight > limit;
            if exceeds != weighed.exceeds {
                weighed.exceeds = exceeds;
                changed.insert(id);
            }
            let away = if exceeds { weight - limit } else { (limit - weight).saturating_add(1) };
            let wait = away.div_ceil(weighed.step.max(1)).max(1);
            weighed.due = members.changes().saturating_add(wait);
            self.by_due.entry(weighed.due).or_default().insert(id);
        }
        changed
    }

    fn forget(&mut self, due: usize, id: WeightId) {
        if let Some(same) = self.by_due.get_mut(&due) {
            same.remove(&id);
            if same.is_empty() {
                self.by_due.remove(&due);
            }
        }
    }
}

#[cfg(test)]
mod tests;
