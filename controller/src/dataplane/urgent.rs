//! Which part of a plan is urgent, and which can wait. Pure.
//!
//! `nf_tables` adds rules within 1 ms, but the transaction after one that removed rules waits 7 to
//! 17 ms, until no packet can be in these any more, also if it is for the second family. So the
//! urgent part removes no rule: a chain gets its new rules in front of the old ones.
//!
//! ```text
//! PORTCULLIS-INGRESS   ! -s 10.0.0.1/32 -d 10.0.0.1/32 -g R…new
//!                      -j RETURN
//!                      ! -s 10.0.0.1/32 -d 10.0.0.1/32 -g R…old    unreferenced
//! ```
//!
//! Rules that cannot be reached, and chains and sets that are unreferenced, are removed later, when
//! nothing is urgent: the plan for that is the ordinary difference between applied and desired.

use std::collections::BTreeMap;
use std::{iter, mem};

use policy_engine::direction::Direction;

use super::applied::{Applied, Table};
use super::denial::Denial;
use super::name;
use super::plan::{Plan, TableChange};
use super::rule::{Chains, Rule, Verdict};

/// A chain with more rules than this, reachable or not, is written again immediately.
const RULES_MAX: usize = 256;

/// Takes out of `plan` what can wait. Returns whether anything does. `after` is the state after it.
pub(super) fn postpone(plan: &mut Plan, applied: &Applied, after: &mut Applied) -> bool {
    let in_order =
        plan.evict.is_empty() && plan.tables.values().all(|table| table.hooks.is_empty());
    if !in_order {
        return false;
    }
    let mut tables = BTreeMap::new();
    for (family, change) in &plan.tables {
        let empty = Table::default();
        let now = applied.tables.get(family).unwrap_or(&empty);
        match split(change, now) {
            Some(split) => tables.insert(*family, split),
            None => return false,
        };
    }
    let mut postponed = !mem::take(&mut plan.destroy).is_empty();
    plan.tables.clear();
    for (family, Split { now, later }) in tables {
        postponed |= !later.is_empty();
        if let Some(table) = after.tables.get_mut(&family) {
            table.chains.extend(later);
        }
        if now != TableChange::default() {
            plan.tables.insert(family, now);
        }
    }
    postponed
}

/// Postpones the deletion of chains of denials. Returns whether there are any. Packets may enter
/// them until all other chains have changed: only then their counters are complete.
pub(super) fn keep_denials(plan: &mut Plan, applied: &Applied, after: &mut Applied) -> bool {
    let mut kept = false;
    for (family, change) in &mut plan.tables {
        for chain in Denial::all().map(Denial::chain) {
            if change.delete.remove(&chain) {
                kept = true;
                let now = applied.tables.get(family).and_then(|table| table.chains.get(&chain));
                if let (Some(rules), Some(table)) = (now, after.tables.get_mut(family)) {
                    table.chains.insert(chain, rules.clone());
                }
            }
        }
    }
    plan.tables.retain(|_, change| *change != TableChange::default());
    kept
}

struct Split {
    now: TableChange,
    /// Chains that differ from the desired ones afterwards, with their rules.
    later: Chains,
}

/// `None` when a chain would get too long.
fn split(change: &TableChange, table: &Table) -> Option<Split> {
    let mut split = Split { now: TableChange::default(), later: Chains::new() };
    for (name, rules) in &change.write {
        let old = table.chains.get(name).cloned().unwrap_or_default();
        if old.is_empty() {
            split.now.write.insert(*name, rules.clone());
            continue;
        }
        // No packet passes the last of these rules.
        let end = Rule::all(Verdict::Return);
        let in_front: Vec<Rule> = rules.iter().cloned().chain([end]).collect();
        if old.starts_with(&in_front) {
            split.later.insert(*name, old);
            continue;
        }
        let all = [in_front.as_slice(), &old].concat();
        if all.len() > RULES_MAX {
            return None;
        }
        split.now.prepend.insert(*name, in_front.into());
        split.later.insert(*name, all.into());
    }
    for name in &change.delete {
        let old = table.chains.get(name).cloned().unwrap_or_default();
        // Frames enter the chain while it exists: no rule before it sends them to another chain.
        let is_entered = Direction::BOTH.into_iter().any(|it| *name == name::bridge(it));
        let end = Rule::all(Verdict::Return);
        if !is_entered || old.is_empty() || old.first() == Some(&end) {
            split.later.insert(*name, old);
            continue;
        }
        split.later.insert(*name, iter::once(&end).chain(old.iter()).cloned().collect());
        split.now.prepend.insert(*name, [end].into());
    }
    Some(split)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use policy_engine::cidr::Family;

    use super::*;
    use crate::dataplane::name::{ChainName, SetName};
    use crate::dataplane::plan::HookChange;
    use crate::dataplane::rule::Hook;

    const CHAIN: ChainName = ChainName::short("C");

    fn jump(target: &str) -> Rule {
        Rule::all(Verdict::Jump(ChainName::short(target)))
    }

    fn end() -> Rule {
        Rule::all(Verdict::Return)
    }

    fn chain(rules: &[Rule]) -> Chains {
        Chains::from([(CHAIN, rules.into())])
    }

    fn applied(chains: Chains) -> Applied {
        let table = Table { chains, ..Table::default() };
        Applied { tables: BTreeMap::from([(Family::V4, table)]), ..Applied::default() }
    }

    fn plan(change: TableChange) -> Plan {
        Plan { tables: BTreeMap::from([(Family::V4, change)]), ..Plan::default() }
    }

    /// Writes `rules` into the chain with the rules `old`. Returns the change, and the rules after
    /// it.
    fn write(old: &[Rule], rules: &[Rule]) -> (Option<TableChange>, Vec<Rule>) {
        let change = TableChange { write: chain(rules), ..TableChange::default() };
        let (mut plan, mut after) = (plan(change), applied(chain(rules)));
        postpone(&mut plan, &applied(chain(old)), &mut after);
        let after = after.tables[&Family::V4].chains[&CHAIN].to_vec();
        (plan.tables.remove(&Family::V4), after)
    }

    #[test]
    fn new_rules_go_in_front_of_old_ones() {
        let (change, after) = write(&[jump("OLD")], &[jump("NEW")]);
        let change = change.unwrap();
        assert_eq!(change.prepend, chain(&[jump("NEW"), end()]));
        assert!(change.write.is_empty());
        assert_eq!(after, [jump("NEW"), end(), jump("OLD")]);
    }

    #[test]
    fn a_chain_that_does_what_it_should_is_not_written_again() {
        let held = [jump("NEW"), end(), jump("OLD")];
        let (change, after) = write(&held, &[jump("NEW")]);
        assert_eq!(change, None);
        assert_eq!(after, held);
    }

    #[test]
    fn an_empty_chain_is_filled_and_a_long_one_written_again() {
        for old in [vec![], vec![jump("OLD"); RULES_MAX]] {
            let (change, after) = write(&old, &[jump("NEW")]);
            let expected = (chain(&[jump("NEW")]), vec![jump("NEW")]);
            assert_eq!((change.unwrap().write, after), expected);
        }
    }

    #[test]
    fn chains_and_sets_stay_until_later() {
        let change = TableChange { delete: BTreeSet::from([CHAIN]), ..TableChange::default() };
        let (mut plan, mut after) = (plan(change), applied(Chains::new()));
        plan.destroy.insert(SetName::short("SET"));
        let held = applied(chain(&[Rule::all(Verdict::Drop)]));
        assert!(postpone(&mut plan, &held, &mut after));
        assert_eq!((plan, after), (Plan::default(), held));
    }

    /// Otherwise the chain would keep addresses that no pod has any more.
    #[test]
    fn a_chain_that_frames_enter_ends_before_it_is_removed() {
        let entry = name::bridge(Direction::Egress);
        let chains = |rules: &[Rule]| Chains::from([(entry, rules.into())]);
        let change = TableChange { delete: BTreeSet::from([entry]), ..TableChange::default() };
        let (mut plan, mut after) = (plan(change.clone()), applied(Chains::new()));
        let held = applied(chains(&[jump("OLD")]));
        assert!(postpone(&mut plan, &held, &mut after));
        assert_eq!(plan.tables[&Family::V4].prepend, chains(&[end()]));
        assert_eq!(after, applied(chains(&[end(), jump("OLD")])));
        let (mut again, held) = (super::tests::plan(change), after.clone());
        assert!(postpone(&mut again, &held, &mut after));
        assert_eq!((again, after), (Plan::default(), held), "once");
    }

    #[test]
    fn hooks_are_never_moved_by_halves() {
        let hooks = BTreeMap::from([(Hook::Forward, HookChange { remove: 1, insert: true })]);
        let write = chain(&[jump("NEW")]);
        let mut moving = plan(TableChange { write, hooks, ..TableChange::default() });
        let before = moving.clone();
        let held = applied(chain(&[jump("OLD")]));
        assert!(!postpone(&mut moving, &held, &mut Applied::default()));
        assert_eq!(moving, before);
    }
}
