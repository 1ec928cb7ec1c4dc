//! Members that are to join sets in a later apply. Pure.
//!
//! A namespace with many pods can join many sets at once. So one apply adds a limited number of
//! members, and the next change of any tenant follows. What denies never waits: members leave sets,
//! and chains change, in the first apply after a change.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::id::SetId;

use super::name::{self, SetName};
use super::plan::Plan;
use super::set::Element;

/// How many members join sets in one apply, of all sets. `ipset` takes some 30 ms for them.
pub const MEMBERS_AT_ONCE: usize = 10_000;

/// Desired members that are not in the kernel yet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Waiting {
    sets: BTreeMap<SetName, BTreeSet<Element>>,
}

impl Waiting {
    /// How many members wait.
    pub(super) fn len(&self) -> usize {
        self.sets.values().map(BTreeSet::len).sum()
    }

    /// Whether no member of a set of the engine waits.
    pub(super) fn has_none_of(&self, set: SetId) -> bool {
        self.sets.is_empty() || name::sets(&set).all(|name| !self.sets.contains_key(&name))
    }

    /// Forgets the members of sets that are not desired any more.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(SetName) -> bool) {
        self.sets.retain(|set, _| is_wanted(*set));
    }

    /// Keeps at most so many joining members in `plan`, among them those that waited before. All
    /// others wait. Sets that few members join come first, so that a large set delays no small one.
    pub(super) fn take_in(&mut self, plan: &mut Plan, limit: usize) {
        // New sets are filled with all their members.
        plan.create.iter().for_each(|set| drop(self.sets.remove(&set.name)));
        for (set, leaving) in &mut plan.remove {
            if let Some(waiting) = self.sets.get_mut(set) {
                leaving.retain(|element| !waiting.remove(element));
            }
        }
        plan.remove.retain(|_, leaving| !leaving.is_empty());
        for (set, joining) in std::mem::take(&mut plan.add) {
            self.sets.entry(set).or_default().extend(joining);
        }
        let mut order: Vec<(usize, SetName)> =
            self.sets.iter().map(|(set, waiting)| (waiting.len(), *set)).collect();
        order.sort_unstable();
        let mut room = limit;
        for (_, set) in order {
            let Some(waiting) = self.sets.get_mut(&set) else { continue };
            let rest = match waiting.iter().nth(room).cloned() {
                Some(first_left) => waiting.split_off(&first_left),
                None => BTreeSet::new(),
            };
            let joining = std::mem::replace(waiting, rest);
            room -= joining.len();
            if !joining.is_empty() {
                plan.add.insert(set, joining);
            }
        }
        self.sets.retain(|_, waiting| !waiting.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use policy_engine::cidr::Family;

    use super::*;
    use crate::dataplane::plan::{NewSet, Swap};
    use crate::dataplane::set::Kind;

    fn elements(numbers: std::ops::Range<u32>) -> BTreeSet<Element> {
        numbers.map(|number| Element::Address(Ipv4Addr::from(number).into())).collect()
    }

    fn adding(sets: &[(&str, std::ops::Range<u32>)]) -> Plan {
        let add =
            sets.iter().map(|(set, numbers)| (SetName::short(set), elements(numbers.clone())));
        Plan { add: add.collect(), ..Plan::default() }
    }

    fn check(plan: &Plan, expected: &[(&str, std::ops::Range<u32>)]) {
        assert_eq!(plan.add, adding(expected).add);
    }

    #[test]
    fn a_set_that_few_members_join_does_not_wait_for_a_large_one() {
        let mut waiting = Waiting::default();
        let mut plan = adding(&[("LARGE", 0..25)]);
        waiting.take_in(&mut plan, 10);
        check(&plan, &[("LARGE", 0..10)]);
        let mut plan = adding(&[("SMALL", 100..103)]);
        waiting.take_in(&mut plan, 10);
        check(&plan, &[("LARGE", 10..17), ("SMALL", 100..103)]);
        assert_eq!(waiting.len(), 8);
        let mut plan = Plan::default();
        waiting.take_in(&mut plan, 10);
        check(&plan, &[("LARGE", 17..25)]);
        assert_eq!(waiting, Waiting::default());
    }

    #[test]
    fn a_member_that_leaves_does_not_wait_any_more() {
        let mut waiting = Waiting::default();
        waiting.take_in(&mut adding(&[("SET", 0..20)]), 10);
        let remove = BTreeMap::from([(SetName::short("SET"), elements(5..15))]);
        let mut plan = Plan { remove, ..Plan::default() };
        waiting.take_in(&mut plan, 10);
        // Of those that leave, the kernel has the first five only.
        assert_eq!(plan.remove, BTreeMap::from([(SetName::short("SET"), elements(5..10))]));
        check(&plan, &[("SET", 15..20)]);
    }

    #[test]
    fn a_new_set_has_all_its_members_and_a_removed_set_has_none() {
        let mut waiting = Waiting::default();
        waiting.take_in(&mut adding(&[("GONE", 0..20), ("MADE", 0..20)]), 0);
        let (kind, family, swap) = (Kind::Address, Family::V4, Swap::WithAdditions);
        let (name, elements) = (SetName::short("MADE"), elements(0..20));
        let new = NewSet { name, swap, kind, family, maxelem: 32, elements };
        waiting.take_in(&mut Plan { create: vec![new], ..Plan::default() }, 0);
        assert_eq!(waiting.len(), 20);
        waiting.retain(|set| set != SetName::short("GONE"));
        assert_eq!(waiting.len(), 0);
    }
}
