//! Members that are to join sets, and wait until it is their turn. Pure.
//!
//! A namespace with many pods can join many sets at once. So one apply adds a limited number of
//! members, and the next change of any tenant follows. What closes never waits: members leave sets, and
//! chains change, in the first apply after a change.
//!
//! A new set that rules only allow with gets its members in the same way: while some are missing, less is
//! allowed. Every other new set is complete before a rule refers to it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use policy_engine::cidr::Family;

use super::name::{self, SetName};
use super::plan::{NewSet, Plan, Swap, TableChange};
use super::rule::{Match, Verdict};
use super::set::Element;

/// How many members join sets in one apply, of all sets. `ipset` takes some 30 ms for them.
pub(super) const MEMBERS_AT_ONCE: usize = 10_000;

/// Members that are desired, and are not in the kernel yet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Waiting {
    sets: BTreeMap<SetName, BTreeSet<Element>>,
}

impl Waiting {
    /// How many members wait.
    pub(super) fn len(&self) -> usize {
        self.sets.values().map(BTreeSet::len).sum()
    }

    /// Forgets the members of sets that are not wanted.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(SetName) -> bool) {
        self.sets.retain(|set, _| is_wanted(*set));
    }

    /// Leaves so many of the members that are to join sets in `plan`, those that waited before included,
    /// and lets all others wait. Sets that few members join come first: a large one delays no small one.
    pub(super) fn take_in(&mut self, plan: &mut Plan, limit: usize) {
        let Plan { create, remove, tables, add, .. } = plan;
        // What waited for them was for what they replace.
        create.iter().for_each(|set| drop(self.sets.remove(&set.name)));
        let (mut new, mut room) = patient_sets(create, tables, limit);
        for (set, elements) in &mut new {
            self.sets.insert(*set, mem::take(*elements));
        }
        for (set, leaving) in &mut *remove {
            if let Some(waiting) = self.sets.get_mut(set) {
                leaving.retain(|element| !waiting.remove(element));
            }
        }
        remove.retain(|_, leaving| !leaving.is_empty());
        // The addresses of the node's own pods are few, and what is not known of them may pass.
        let (own, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            mem::take(add).into_iter().partition(|(set, _)| name::is_local(*set));
        *add = own;
        for (set, joining) in others {
            self.sets.entry(set).or_default().extend(joining);
        }
        let mut order: Vec<(usize, SetName)> =
            self.sets.iter().map(|(set, waiting)| (waiting.len(), *set)).collect();
        order.sort_unstable();
        for (_, set) in order {
            let Some(waiting) = self.sets.get_mut(&set) else { continue };
            let rest = match waiting.iter().nth(room).cloned() {
                Some(first_left) => waiting.split_off(&first_left),
                None => BTreeSet::new(),
            };
            let joining = mem::replace(waiting, rest);
            room -= joining.len();
            match new.remove(&set) {
                Some(elements) => *elements = joining,
                None if joining.is_empty() => {}
                None => drop(add.insert(set, joining)),
            }
        }
        self.sets.retain(|_, waiting| !waiting.is_empty());
    }
}

/// The members of the new sets in `create` that need not be complete, if all new sets together have more than
/// `limit`; and how many members may join these sets and others.
fn patient_sets<'a>(
    create: &'a mut [NewSet],
    tables: &BTreeMap<Family, TableChange>,
    limit: usize,
) -> (BTreeMap<SetName, &'a mut BTreeSet<Element>>, usize) {
    let all: usize = create.iter().map(|set| set.elements.len()).sum();
    if all <= limit {
        return (BTreeMap::new(), limit - all);
    }
    let complete = sets_that_must_be_complete(tables);
    let can_wait = |set: &&mut NewSet| set.swap == Swap::Never && !complete.contains(&set.name);
    let (patient, others): (Vec<_>, Vec<_>) = create.iter_mut().partition(can_wait);
    let others: usize = others.iter().map(|set| set.elements.len()).sum();
    let patient = patient.into_iter().map(|set| (set.name, &mut set.elements));
    (patient.collect(), limit.saturating_sub(others))
}

/// The sets that rules which are written refer to for more than to allow something. A rule refers to a
/// new set only if it is written with it.
fn sets_that_must_be_complete(tables: &BTreeMap<Family, TableChange>) -> BTreeSet<SetName> {
    let chains = tables.values().flat_map(|change| change.write.iter().chain(&change.prepend));
    let rules = chains.flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)));
    let others = rules.filter(|(chain, rule)| {
        // What is missing in audit would be logged as a denial, and what is missing in a set that rules
        // match when it is not there would be judged by them.
        rule.verdict != Verdict::Return
            || !name::is_enforced_ruleset(**chain)
            || rule.matches.iter().any(|part| matches!(part, Match::NotInSet(..)))
    });
    others.flat_map(|(_, rule)| rule.sets()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use policy_engine::id::{ContentHasher, RulesetId};
    use policy_engine::tier::View;

    use super::*;
    use crate::dataplane::name::ChainName;
    use crate::dataplane::rule::{Rule, Side};
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

    /// Two new sets and a chain with a rule for each of them.
    fn making(chain: ChainName, verdict: &Verdict) -> Plan {
        let new = |name: &str, elements| {
            let (kind, family, swap) = (Kind::Address, Family::V4, Swap::Never);
            NewSet { name: SetName::short(name), swap, kind, family, maxelem: 32, elements }
        };
        let rule = |name: &str, verdict: &Verdict| {
            Rule::new([Match::Set(SetName::short(name), Side::Source)], verdict.clone())
        };
        let rules = [rule("LARGE", verdict), rule("SMALL", &Verdict::Return)];
        let write = BTreeMap::from([(chain, Arc::from(rules))]);
        let tables = BTreeMap::from([(Family::V4, TableChange { write, ..Default::default() })]);
        let create = vec![new("LARGE", elements(0..25)), new("SMALL", elements(50..53))];
        Plan { create, tables, ..Plan::default() }
    }

    fn made(plan: &Plan) -> Vec<usize> {
        plan.create.iter().map(|set| set.elements.len()).collect()
    }

    #[test]
    fn a_new_set_that_rules_allow_with_gets_its_members_in_slices() {
        let enforced = name::ruleset(View::Enforced, &ruleset());
        let (mut waiting, mut plan) = (Waiting::default(), making(enforced, &Verdict::Return));
        waiting.take_in(&mut plan, 10);
        assert_eq!((made(&plan), waiting.len()), (vec![7, 3], 18));
        check(&plan, &[]);
        let mut plan = adding(&[("OTHER", 70..72)]);
        waiting.take_in(&mut plan, 10);
        check(&plan, &[("LARGE", 7..15), ("OTHER", 70..72)]);
        let mut plan = Plan::default();
        waiting.take_in(&mut plan, 10);
        check(&plan, &[("LARGE", 15..25)]);
        assert_eq!(waiting, Waiting::default());
    }

    #[test]
    fn a_new_set_is_complete_before_a_rule_that_denies_or_that_is_in_audit() {
        let [enforced, audited] =
            [View::Enforced, View::Audited].map(|view| name::ruleset(view, &ruleset()));
        let next = Verdict::Goto(enforced);
        for (chain, verdict) in
            [(enforced, Verdict::Drop), (enforced, next), (audited, Verdict::Return)]
        {
            let (mut waiting, mut plan) = (Waiting::default(), making(chain, &verdict));
            waiting.take_in(&mut plan, 10);
            let small = if chain == audited { 3 } else { 0 };
            assert_eq!((made(&plan), waiting.len()), (vec![25, small], 3 - small), "{verdict:?}");
        }
    }

    #[test]
    fn new_sets_for_which_there_is_room_do_not_wait() {
        let enforced = name::ruleset(View::Enforced, &ruleset());
        let (mut waiting, mut plan) = (Waiting::default(), making(enforced, &Verdict::Return));
        waiting.take_in(&mut plan, 28);
        assert_eq!((made(&plan), waiting.len()), (vec![25, 3], 0));
    }

    fn ruleset() -> RulesetId {
        RulesetId::new(ContentHasher::new("ruleset").finish())
    }

    #[test]
    fn a_set_that_is_made_has_all_its_members_and_one_that_is_gone_has_none() {
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
