//! The difference between what is applied and what is desired. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::Family;
use policy_engine::compiled::{AddressSet, Update};
use policy_engine::id::SetId;

use super::applied::{Applied, AppliedSet, Elements, HookPlaces, Table};
use super::desired::{Desired, Touched};
use super::name::{self, ChainName, SetName};
use super::plan::{Eviction, HookChange, NewSet, Plan, Swap, TableChange};
use super::rule::{Chains, Hook, Rule};
use super::set::{DesiredSet, Kind, Source};

/// The input of a diff beside what is applied and what is desired.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The changes since the last apply, for sets whose elements were not read back.
    pub update: &'a Update,
    /// The sets of the engine.
    pub sets: &'a BTreeMap<SetId, AddressSet>,
    /// The capacity of a small new set.
    pub initial_maxelem: u32,
}

/// The changes that lead from `applied` to `desired`, and the chains, hooks and sets as they will be
/// after them. Chains that are deleted are not among these.
///
/// Sets in `destroy` are still in the returned state, with unknown elements: they may be in use.
///
/// Compares only what is in `touched`, the hooks, and members of sets that `terms.update` names:
/// the cost is in proportion to these.
#[must_use]
pub fn diff(
    applied: &Applied,
    desired: &Desired,
    touched: &Touched,
    terms: &Terms<'_>,
) -> (Plan, Applied) {
    let mut plan = Plan::default();
    let mut after = Applied::default();
    let changed = changed_sets(terms).map(|(name, _)| name);
    let changed = changed.filter(|name| desired.sets.contains_key(name));
    let names: BTreeSet<SetName> = touched.sets.iter().copied().chain(changed).collect();
    for name in &names {
        let now = applied.sets.get(name);
        match (desired.sets.get(name), now) {
            (Some(set), _) => {
                if now.is_some_and(|now| now.shape != Some((set.kind, set.family))) {
                    plan.evict.push(evict(*name, applied));
                }
                let state = diff_set(&mut plan, *name, now, set, terms);
                after.sets.insert(*name, state);
            }
            (None, Some(now)) => {
                let unused = AppliedSet { elements: Elements::Unknown, ..now.clone() };
                after.sets.insert(*name, unused);
                plan.destroy.insert(*name);
            }
            (None, None) => {}
        }
    }
    temporaries(&mut plan, &applied.sets, &mut after.sets);
    let none = Table::default();
    for (family, chains) in &desired.tables {
        let now = applied.tables.get(family).unwrap_or(&none);
        let first = (*family, ChainName::short(""));
        let names = touched.chains.range(first..).take_while(|(of, _)| of == family);
        let names = names.map(|(_, name)| *name);
        let (change, table) = diff_table(now, chains, &desired.hooks, names);
        after.tables.insert(*family, table);
        if change != TableChange::default() {
            plan.tables.insert(*family, change);
        }
    }
    write_evicted(&mut plan, desired);
    (plan, after)
}

/// The changes when only members of sets changed, and these sets after them.
///
/// The cost is in proportion to the change: only sets that `terms.update` names are read.
#[must_use]
pub fn diff_members(applied: &Applied, terms: &Terms<'_>) -> (Plan, BTreeMap<SetName, AppliedSet>) {
    let (mut plan, mut after) = (Plan::default(), BTreeMap::new());
    for (name, desired) in changed_sets(terms) {
        // Sets that no chain refers to are not in the kernel, or are about to be destroyed.
        let now = applied.sets.get(&name);
        if let Some(now) = now.filter(|set| set.elements != Elements::Unknown) {
            let state = diff_set(&mut plan, name, Some(now), &desired, terms);
            after.insert(name, state);
        }
    }
    temporaries(&mut plan, &applied.sets, &mut after);
    (plan, after)
}

/// The sets of both families whose members changed.
fn changed_sets(terms: &Terms<'_>) -> impl Iterator<Item = (SetName, DesiredSet)> {
    let sets = terms.sets;
    let changed = terms.update.sets_changed.keys().filter_map(|id| Some((id, sets.get(id)?.kind)));
    changed.flat_map(|(id, kind)| {
        let (kind, source) = (Kind::from(kind), Source::Engine(*id));
        Family::BOTH.map(|family| {
            (name::set(family, kind, id), DesiredSet { kind, family, source: source.clone() })
        })
    })
}

/// Plans the removal of sets under the temporary names that sets are built under before a swap.
fn temporaries(
    plan: &mut Plan,
    applied: &BTreeMap<SetName, AppliedSet>,
    after: &mut BTreeMap<SetName, AppliedSet>,
) {
    for set in plan.create.iter().filter(|set| set.swap != Swap::Never) {
        let temporary = name::temporary(set.name);
        if applied.contains_key(&temporary) {
            plan.clear.insert(temporary);
        }
        let shape = Some((set.kind, set.family));
        let state = AppliedSet { shape, maxelem: set.maxelem, elements: Elements::Unknown };
        after.insert(temporary, state);
        plan.destroy.insert(temporary);
    }
}

/// Plans the changes to one desired set. Returns the set as it will be.
fn diff_set(
    plan: &mut Plan,
    name: SetName,
    now: Option<&AppliedSet>,
    desired: &DesiredSet,
    terms: &Terms<'_>,
) -> AppliedSet {
    let shape = Some((desired.kind, desired.family));
    let Some(now) = now.filter(|now| now.shape == shape) else {
        return create(plan, name, Swap::Never, desired, terms);
    };
    let (added, removed, count) = match (&now.elements, &desired.source) {
        (Elements::Unknown, _) => {
            return create(plan, name, Swap::BeforeChains, desired, terms);
        }
        (Elements::Read(is), _) => {
            let ought = desired.elements(terms.sets);
            let added: BTreeSet<_> = ought.difference(is).cloned().collect();
            (added, is.difference(&ought).cloned().collect(), number(ought.len()))
        }
        (Elements::AsDesired(count), Source::Engine(id)) => {
            let Some(delta) = terms.update.sets_changed.get(id) else { return now.clone() };
            let (added, removed): (BTreeSet<_>, BTreeSet<_>) = desired.delta(delta);
            let count = count.saturating_add(number(added.len()));
            let count = count.saturating_sub(number(removed.len()));
            (added, removed, count)
        }
        (Elements::AsDesired(_), Source::Networks(_) | Source::Local(_)) => return now.clone(),
    };
    if !removed.is_empty() {
        plan.remove.insert(name, removed);
    }
    if count > now.maxelem {
        return create(plan, name, Swap::WithAdditions, desired, terms);
    }
    if !added.is_empty() {
        plan.add.insert(name, added);
    }
    AppliedSet { shape, maxelem: now.maxelem, elements: known(desired, count) }
}

/// Local addresses are few and have no deltas: they are compared as a whole.
fn known(desired: &DesiredSet, count: u32) -> Elements {
    match &desired.source {
        Source::Local(elements) => Elements::Read(elements.clone()),
        Source::Engine(..) | Source::Networks(_) => Elements::AsDesired(count),
    }
}

fn create(
    plan: &mut Plan,
    name: SetName,
    swap: Swap,
    desired: &DesiredSet,
    terms: &Terms<'_>,
) -> AppliedSet {
    let elements = desired.elements(terms.sets);
    let count = number(elements.len());
    let maxelem = terms.initial_maxelem.max(count.checked_next_power_of_two().unwrap_or(u32::MAX));
    let (kind, family) = (desired.kind, desired.family);
    plan.create.push(NewSet { name, swap, kind, family, maxelem, elements });
    AppliedSet { shape: Some((kind, family)), maxelem, elements: known(desired, count) }
}

fn evict(set: SetName, applied: &Applied) -> Eviction {
    let mut chains: BTreeMap<Family, Chains> = BTreeMap::new();
    for (family, table) in &applied.tables {
        let referring = |rules: &[Rule]| rules.iter().any(|rule| rule.refers_to(set));
        for (name, rules) in table.chains.iter().filter(|(_, rules)| referring(rules)) {
            let others = rules.iter().filter(|rule| !rule.refers_to(set)).cloned().collect();
            chains.entry(*family).or_default().insert(*name, others);
        }
    }
    Eviction { set, chains }
}

/// Plans that chains get back the rules that they lack while a set is evicted.
fn write_evicted(plan: &mut Plan, desired: &Desired) {
    for (family, chains) in plan.evict.iter().flat_map(|eviction| &eviction.chains) {
        let desired = desired.tables.get(family);
        for name in chains.keys() {
            if let Some(rules) = desired.and_then(|chains| chains.get(name)) {
                let change = plan.tables.entry(*family).or_default();
                change.write.insert(*name, rules.clone());
            }
        }
    }
}

/// The changes to the chains in `names` and to the hooks, and what they are afterwards.
fn diff_table(
    now: &Table,
    desired: &Chains,
    hooks: &BTreeSet<Hook>,
    names: impl Iterator<Item = ChainName>,
) -> (TableChange, Table) {
    let mut change = TableChange::default();
    let mut after = Table { wanted_by_others: now.wanted_by_others.clone(), ..Table::default() };
    for name in names {
        let is = now.chains.get(&name);
        // A chain that other programs use cannot be deleted: it must refer to no chain or set.
        let empty =
            now.wanted_by_others.contains(&name).then(Arc::default).filter(|_| is.is_some());
        match (desired.get(&name).cloned().or(empty), is) {
            (Some(rules), _) => {
                if is != Some(&rules) {
                    change.write.insert(name, rules.clone());
                }
                after.chains.insert(name, rules);
            }
            (None, Some(_)) => drop(change.delete.insert(name)),
            (None, None) => {}
        }
    }
    for hook in Hook::ALL {
        let places = now.hooks.get(&hook).cloned().unwrap_or_default();
        let wanted = hooks.contains(&hook);
        let right = if wanted { places == HookPlaces::first() } else { places.count == 0 };
        if right {
            after.hooks.insert(hook, places);
            continue;
        }
        change.hooks.insert(hook, HookChange { remove: places.count, insert: wanted });
        if wanted {
            after.hooks.insert(hook, HookPlaces::first());
        }
    }
    (change, after)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use policy_engine::cidr::CidrSet;
    use policy_engine::compiled::{
        AddressSet, Compiled, Endpoint, Match, Member, Rule, Ruleset, SetDelta, SetKind, Target,
        TrafficMatch,
    };
    use policy_engine::direction::{Direction, PerDirection};
    use policy_engine::id::{ContentHasher, RulesetId, SetId};
    use policy_engine::model::PodKey;
    use policy_engine::tier::Tier;

    use super::*;
    use crate::dataplane::attachment::Attachments;
    use crate::dataplane::backend::iptables::script::render;
    use crate::dataplane::desired::Wanted;
    use crate::dataplane::options::Options;
    use crate::dataplane::options::TableName;
    use crate::dataplane::refusals::Refusals;

    fn id() -> SetId {
        SetId::new(ContentHasher::new("set").finish())
    }

    /// One pod whose ingress allows the members of one set.
    fn world(members: &[&str]) -> Compiled {
        let members = members.iter().map(|member| Member::Address(member.parse().unwrap()));
        let set = AddressSet { kind: SetKind::Addresses, members: members.collect() };
        let (traffic, labelled, cidrs) = (TrafficMatch::Any, Some(id()), CidrSet::default());
        let matches = Match::Peers { traffic, labelled, cidrs };
        let ruleset = Arc::new(Ruleset {
            direction: Direction::Ingress,
            tier: Tier::NetworkPolicy,
            rules: vec![Rule { matches, target: Target::Allow }],
            otherwise: Target::Deny,
        });
        let ruleset_id = RulesetId::new(ContentHasher::new("ruleset").finish());
        let (pod, ingress) = (PodKey::new("shop", "web"), Some(ruleset_id));
        let enforced = PerDirection { ingress, egress: None };
        let endpoint = Endpoint { pod, enforced, audited: PerDirection::default() };
        Compiled {
            endpoints: BTreeMap::from([("10.0.0.1".parse().unwrap(), endpoint)]),
            rulesets: BTreeMap::from([(ruleset_id, ruleset)]),
            sets: BTreeMap::from([(id(), set)]),
            ..Compiled::default()
        }
    }

    fn change(added: &[&str], removed: &[&str]) -> Update {
        let members = |texts: &[&str]| {
            texts.iter().map(|text| Member::Address(text.parse().unwrap())).collect()
        };
        let delta = SetDelta { added: members(added), removed: members(removed) };
        Update { sets_changed: BTreeMap::from([(id(), delta)]), ..Update::default() }
    }

    fn desired(compiled: &Compiled) -> Desired {
        static OPTIONS: LazyLock<Options> = LazyLock::new(Options::default);
        static NOWHERE: LazyLock<Attachments> = LazyLock::new(Attachments::default);
        static NOTHING: LazyLock<Refusals> = LazyLock::new(Refusals::default);
        let (attachments, options, refusals) = (&NOWHERE, &OPTIONS, &NOTHING);
        Desired::new(Wanted { compiled, attachments, options, refusals }, &[Family::V4])
    }

    fn check(applied: &Applied, compiled: &Compiled, update: &Update) -> (String, Applied) {
        let desired = desired(compiled);
        let terms = Terms { update, sets: &compiled.sets, initial_maxelem: 2 };
        let touched = desired.all_touched(applied);
        let (plan, after) = diff(applied, &desired, &touched, &terms);
        let steps: String =
            render(&plan, TableName::Filter).concat().iter().map(ToString::to_string).collect();
        let set = name::set(Family::V4, Kind::Address, &id());
        (steps.replace(&set.to_string(), "SET"), after)
    }

    fn first(compiled: &Compiled) -> Applied {
        check(&Applied::default(), compiled, &Update::default()).1
    }

    #[test]
    fn sets_are_complete_before_chains_and_chains_before_hooks() {
        let (steps, _) = check(&Applied::default(), &world(&["10.0.0.2"]), &Update::default());
        let places = [
            "create SET hash:ip family inet hashsize 64 maxelem 2\nadd SET 10.0.0.2\n",
            ":PORTCULLIS-FORWARD - [0:0]\n",
            "-A PORTCULLIS-Ryjd7pgdptsxpmijj -m set --match-set SET src -j RETURN\n",
            "-I FORWARD 1 -j PORTCULLIS-FORWARD\n-I INPUT 1 -j PORTCULLIS-INPUT\nCOMMIT\n",
        ]
        .map(|text| steps.find(&text.replace("Ryjd7pgdptsxpmijj", &ruleset_name())));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {steps}");
    }

    fn ruleset_name() -> String {
        format!("R{}", ContentHasher::new("ruleset").finish())
    }

    #[test]
    fn what_is_applied_is_not_written_again() {
        let compiled = world(&["10.0.0.2"]);
        assert_eq!(check(&first(&compiled), &compiled, &Update::default()).0, "");
    }

    #[test]
    fn members_leave_before_chains_change_and_join_after() {
        let applied = first(&world(&["10.0.0.2"]));
        let mut compiled = world(&["10.0.0.3"]);
        let endpoint = compiled.endpoints.values().next().unwrap().clone();
        compiled.endpoints.insert("10.0.0.9".parse().unwrap(), endpoint);
        let (steps, _) = check(&applied, &compiled, &change(&["10.0.0.3"], &["10.0.0.2"]));
        let chain = ruleset_name();
        let pod = |address: &str| name::pod(Direction::Ingress, address.parse().unwrap());
        let (first, second) = (pod("10.0.0.1"), pod("10.0.0.9"));
        let expected = format!(
            "del SET 10.0.0.2\niptables-restore\n*filter\n:PORTCULLIS-INGRESS - [0:0]\n\
             :{second} - [0:0]\n\
             -A PORTCULLIS-INGRESS -d 10.0.0.1/32 -g {first}\n\
             -A PORTCULLIS-INGRESS -d 10.0.0.9/32 -g {second}\n\
             -A {second} ! -s 10.0.0.9/32 -g PORTCULLIS-{chain}\n\
             -A {second} -m conntrack ! --ctstate DNAT -g PORTCULLIS-{chain}\n\
             COMMIT\nadd SET 10.0.0.3\nadd PORTCULLIS-4isolated-in 10.0.0.9\n"
        );
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_full_set_is_replaced_after_the_removals() {
        let applied = first(&world(&["10.0.0.2", "10.0.0.3"]));
        let compiled = world(&["10.0.0.3", "10.0.0.4", "10.0.0.5"]);
        let update = change(&["10.0.0.4", "10.0.0.5"], &["10.0.0.2"]);
        let (steps, after) = check(&applied, &compiled, &update);
        assert_eq!(
            steps,
            "del SET 10.0.0.2\nipset -exist restore\n\
             create SET~ hash:ip family inet hashsize 64 maxelem 4\nflush SET~\n\
             add SET~ 10.0.0.3\nadd SET~ 10.0.0.4\nadd SET~ 10.0.0.5\nswap SET~ SET\ndestroy SET~\n"
        );
        let counts: Vec<_> = after.sets.values().take(2).map(|set| set.elements.clone()).collect();
        assert_eq!(counts, [Elements::AsDesired(3), Elements::Unknown]);
    }

    #[test]
    fn a_set_with_unknown_elements_is_replaced_before_chains_refer_to_it() {
        let applied = first(&world(&["10.0.0.2"]));
        let (steps, applied) = check(&applied, &Compiled::default(), &Update::default());
        assert!(steps.ends_with("COMMIT\ndestroy SET\n"), "{steps}");
        let (steps, _) = check(&applied, &world(&["10.0.0.2"]), &Update::default());
        let swap = steps.find("add SET~ 10.0.0.2\nswap SET~ SET\niptables-restore\n");
        assert!(swap.is_some(), "{steps}");
    }

    #[test]
    fn a_set_of_the_wrong_type_is_let_go_of_first() {
        let mut applied = first(&world(&["10.0.0.2"]));
        for set in applied.sets.values_mut().take(1) {
            set.shape = Some((Kind::Network, Family::V4));
        }
        let (steps, _) = check(&applied, &world(&["10.0.0.2"]), &Update::default());
        let chain = ruleset_name();
        let expected = format!(
            "iptables-restore\n*filter\n:PORTCULLIS-{chain} - [0:0]\n\
             -A PORTCULLIS-{chain} -g PORTCULLIS-DENY-IN-POLICY\nCOMMIT\ndestroy SET\nipset -exist restore\n\
             create SET hash:ip family inet hashsize 64 maxelem 2\nadd SET 10.0.0.2\n"
        );
        assert!(steps.starts_with(&expected), "{steps}");
        let matched = format!("-A PORTCULLIS-{chain} -m set --match-set SET src -j RETURN\n");
        assert!(steps.contains(&matched), "the rule is there again at the end: {steps}");
    }

    #[test]
    fn only_the_members_that_changed_are_looked_at_when_no_rule_did() {
        let applied = first(&world(&["10.0.0.2"]));
        let update = change(&["10.0.0.3"], &[]);
        let compiled = world(&["10.0.0.2", "10.0.0.3"]);
        let terms = Terms { update: &update, sets: &compiled.sets, initial_maxelem: 2 };
        let (plan, after) = diff_members(&applied, &terms);
        let desired = desired(&compiled);
        let touched = desired.all_touched(&applied);
        let (same, mut all) = diff(&applied, &desired, &touched, &terms);
        all.sets.retain(|set, _| !name::is_local(*set));
        assert_eq!((plan, after), (same, all.sets));
    }
}
