//! Pods that keep their rulesets until the dataplane has the members of new sets.
//!
//! ```text
//! flush: new rulesets ─┬─ few members ──► the pods get the rulesets at once
//!                      └─ many members ─► the sets are filled in slices, one in each flush
//!                                          ─► Engine::applied ─► the pods get the rulesets
//! ```
//!
//! A new set can have some 100,000 members, which take more than a second to compile and apply. No
//! other change has to wait for them, and no packet is denied because a member is missing. A pod that
//! is new or has other addresses does not wait: it gets rulesets whose sets are not complete, which
//! allow less.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::tiers::Chain;
use super::verdicts::Verdicts;
use super::weights::WeightId;
use crate::direction::PerDirection;
use crate::id::{RulesetId, SetId};
use crate::model::{Pod, PodKey};
use crate::tier::View;

/// The sets that are not complete, and the pods that wait for them.
#[derive(Default, Debug)]
pub(super) struct Staging {
    /// New sets that may have more members than this together are filled in slices; `None`: all sets
    /// are filled at once.
    pub(super) limit: Option<usize>,
    /// New sets of which the dataplane does not have all members.
    sets: BTreeSet<SetId>,
    waiting: BTreeMap<PodKey, Held>,
    /// Pods that do not wait.
    fresh: BTreeSet<PodKey>,
}

/// What is kept for a pod that waits, so that its new rulesets stay compiled.
#[derive(Debug)]
struct Held {
    /// The first rulesets of its chains.
    top: Vec<(View, RulesetId)>,
    uses: Vec<RulesetId>,
    weights: Vec<WeightId>,
}

impl Engine {
    /// From now on, new sets that may have more than `limit` members together are filled in slices
    /// of about as many members. Pods keep their rulesets until [`Engine::applied`] says that the
    /// dataplane has all members of the new ones.
    pub fn fill_in_slices(&mut self, limit: usize) {
        self.staging.limit = Some(limit);
    }

    /// Fills all sets with the next flush, and all new ones at once from now on. No pod waits.
    pub fn fill_at_once(&mut self) {
        self.staging.limit = None;
        self.staging.sets.clear();
        self.dirty.extend(self.staging.waiting.keys().cloned());
    }

    /// Whether sets are being filled, so that a flush may have something to do although nothing was
    /// changed.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        !self.staging.sets.is_empty()
    }

    /// How many pods wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.staging.waiting.len()
    }

    /// Notes of which sets the dataplane has all members that the last flush knew of. Pods that
    /// waited for them get their rulesets with the next flush.
    pub fn applied(&mut self, has_all: impl Fn(SetId) -> bool) {
        let before = self.staging.sets.len();
        let members = &self.members;
        self.staging.sets.retain(|set| members.is_filling(set) || !has_all(*set));
        if self.staging.sets.len() == before {
            return;
        }
        let is_complete = |id: &RulesetId| {
            self.rulesets.get(id).is_none_or(|(_, sets)| self.staging.has_all(sets))
        };
        let waiting = self.staging.waiting.iter();
        let done = waiting.filter(|(_, held)| held.uses.iter().all(is_complete));
        self.dirty.extend(done.map(|(key, _)| key.clone()));
    }

    /// Whether a pod keeps the rulesets that it has.
    pub(super) fn waits(&self, key: &PodKey, verdicts: &Verdicts) -> bool {
        let Some(subject) = self.subjects.get(key) else { return false };
        let id = |of: &PerDirection<Chain>| PerDirection::new(|direction| of.get(direction).id());
        let has_same =
            (id(&verdicts.enforced), id(&verdicts.audited)) == (subject.enforced, subject.audited);
        // Addresses must never keep rules of another pod.
        let has_other_addresses = || {
            let owned = self.subject(key).map(|pod| self.enforced_addresses(pod));
            !subject.uses.is_empty() && owned.as_ref() != Some(&subject.endpoints)
        };
        !has_same
            && !self.staging.fresh.contains(key)
            && !verdicts.uses().all(|defined| self.staging.has_all(defined.sets.keys()))
            && !has_other_addresses()
    }
}

impl Staging {
    fn has_all<'s>(&self, sets: impl IntoIterator<Item = &'s SetId>) -> bool {
        self.sets.is_empty() || !sets.into_iter().any(|set| self.sets.contains(set))
    }

    /// Notes a change of a pod that is a subject; a pod that is none yet never waits.
    pub(super) fn note(&mut self, key: &PodKey, old: Option<&Pod>, new: Option<&Pod>) {
        let is_same = |(old, new): (&Pod, &Pod)| {
            (old.created, &old.addresses) == (new.created, &new.addresses)
        };
        if !old.zip(new).is_some_and(is_same) {
            self.fresh.insert(key.clone());
        }
    }

    /// New sets are filled in slices.
    pub(super) fn begin(&mut self, sets: impl IntoIterator<Item = SetId>) {
        self.sets.extend(sets);
    }

    /// Keeps the new rulesets of a pod compiled while it waits.
    pub(super) fn hold(&mut self, key: PodKey, verdicts: &Verdicts) {
        let uses = verdicts.uses().map(|defined| defined.id).collect();
        let weights = verdicts.weights().map(|weight| weight.id).collect();
        let of = |view, chains: &PerDirection<Chain>| {
            chains.iter().filter_map(Chain::id).map(|id| (view, id)).collect::<Vec<_>>()
        };
        let (enforced, audited) = (&verdicts.enforced, &verdicts.audited);
        let top = [of(View::Enforced, enforced), of(View::Audited, audited)].concat();
        self.waiting.insert(key, Held { top, uses, weights });
    }

    /// The pod was compiled again. Returns what was kept for it.
    pub(super) fn take(&mut self, key: &PodKey) -> (Vec<RulesetId>, Vec<WeightId>) {
        let held = self.waiting.remove(key);
        held.map(|held| (held.uses, held.weights)).unwrap_or_default()
    }

    /// The first rulesets of the chains that pods wait for.
    pub(super) fn top(&self) -> BTreeSet<(View, RulesetId)> {
        self.waiting.values().flat_map(|held| held.top.iter().copied()).collect()
    }

    /// The waiting pods whose new rules have one of these weights.
    pub(super) fn with_weights<'s>(
        &'s self,
        weights: &'s BTreeSet<WeightId>,
    ) -> impl Iterator<Item = &'s PodKey> {
        let of = |held: &Held| held.weights.iter().any(|id| weights.contains(id));
        self.waiting.iter().filter(move |(_, held)| of(held)).map(|(key, _)| key)
    }

    /// Ends a flush. Only the sets that `is_used` stay.
    pub(super) fn end(&mut self, is_used: impl Fn(&SetId) -> bool) {
        self.fresh.clear();
        self.sets.retain(is_used);
    }
}

#[cfg(test)]
mod tests;
