//! The difference between what is applied and what is desired. Pure.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Update};

use super::applied::{Applied, AppliedSet, Elements, HookPlaces, Table};
use super::desired::Desired;
use super::name::{self, SetName};
use super::plan::{Eviction, HookChange, NewSet, Plan, Swap, TableChange};
use super::rule::{Chains, Hook};
use super::set::{DesiredSet, Kind, Source};

/// What a diff depends on, beside what is applied and what is desired.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// What changed since the last apply. Only sets whose elements were not read back need it.
    pub update: &'a Update,
    /// The capacity of a small new set.
    pub initial_maxelem: u32,
}

/// The changes that lead from `applied` to `desired`, and what will be applied after them.
///
/// Sets in `destroy` are still in the returned state, with unknown elements: they may be in use.
#[must_use]
pub fn diff(applied: &Applied, desired: Desired<'_>, terms: &Terms<'_>) -> (Plan, Applied) {
    let mut plan = Plan::default();
    let mut after = Applied::default();
    for (name, set) in &desired.sets {
        let now = applied.sets.get(name);
        let state = diff_set(&mut plan, *name, now, set, terms);
        after.sets.insert(*name, state);
    }
    for (name, state) in &applied.sets {
        let right_type = state.shape == desired.sets.get(name).map(|set| (set.kind, set.family));
        if !desired.sets.contains_key(name) {
            after.sets.insert(*name, AppliedSet { elements: Elements::Unknown, ..state.clone() });
            plan.destroy.insert(*name);
        } else if !right_type {
            plan.evict.push(evict(*name, applied));
        }
    }
    temporaries(&mut plan, &applied.sets, &mut after.sets);
    let none = Table::default();
    for (family, chains) in desired.tables {
        let now = applied.tables.get(&family).unwrap_or(&none);
        let (change, table) = diff_table(now, chains, &desired.hooks);
        after.tables.insert(family, table);
        if change != TableChange::default() {
            plan.tables.insert(family, change);
        }
    }
    write_evicted(&mut plan, &after);
    (plan, after)
}

/// The changes when only members of sets changed, and what becomes of these sets.
///
/// Costs what the change costs: sets that `terms.update` does not name are not looked at.
#[must_use]
pub fn diff_members(
    applied: &Applied,
    compiled: &Compiled,
    terms: &Terms<'_>,
) -> (Plan, BTreeMap<SetName, AppliedSet>) {
    let (mut plan, mut after) = (Plan::default(), BTreeMap::new());
    for id in terms.update.sets_changed.keys() {
        let Some(set) = compiled.sets.get(id) else { continue };
        let kind = Kind::from(set.kind);
        for family in Family::BOTH {
            let name = name::set(family, kind, id);
            // Sets that no chain refers to are not in the kernel, or are about to be destroyed.
            let now = applied.sets.get(&name);
            if let Some(now) = now.filter(|set| set.elements != Elements::Unknown) {
                let desired = DesiredSet { kind, family, source: Source::Engine(*id, set) };
                let state = diff_set(&mut plan, name, Some(now), &desired, terms);
                after.insert(name, state);
            }
        }
    }
    temporaries(&mut plan, &applied.sets, &mut after);
    (plan, after)
}

/// Plans what becomes of the names that sets are built under before a swap.
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

/// Plans the changes to one desired set. Gives the set as it will be.
fn diff_set(
    plan: &mut Plan,
    name: SetName,
    now: Option<&AppliedSet>,
    desired: &DesiredSet<'_>,
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
            let ought = desired.elements();
            let added: BTreeSet<_> = ought.difference(is).cloned().collect();
            (added, is.difference(&ought).cloned().collect(), number(ought.len()))
        }
        (Elements::AsDesired(count), Source::Engine(id, _)) => {
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
fn known(desired: &DesiredSet<'_>, count: u32) -> Elements {
    match desired.source {
        Source::Local(_) => Elements::Read(desired.elements()),
        Source::Engine(..) | Source::Networks(_) => Elements::AsDesired(count),
    }
}

fn create(
    plan: &mut Plan,
    name: SetName,
    swap: Swap,
    desired: &DesiredSet<'_>,
    terms: &Terms<'_>,
) -> AppliedSet {
    let elements = desired.elements();
    let count = number(elements.len());
    let maxelem = terms.initial_maxelem.max(count.checked_next_power_of_two().unwrap_or(u32::MAX));
    let (kind, family) = (desired.kind, desired.family);
    plan.create.push(NewSet { name, swap, kind, family, maxelem, elements });
    AppliedSet { shape: Some((kind, family)), maxelem, elements: known(desired, count) }
}

fn evict(set: SetName, applied: &Applied) -> Eviction {
    let mut chains: BTreeMap<Family, Chains> = BTreeMap::new();
    for (family, table) in &applied.tables {
        for (name, rules) in &table.chains {
            let others: Vec<_> =
                rules.iter().filter(|rule| !rule.refers_to(set)).cloned().collect();
            if others.len() < rules.len() {
                chains.entry(*family).or_default().insert(*name, others);
            }
        }
    }
    Eviction { set, chains }
}

/// Plans that chains get the rules back without which they are while a set is evicted.
fn write_evicted(plan: &mut Plan, after: &Applied) {
    for (family, chains) in plan.evict.iter().flat_map(|eviction| &eviction.chains) {
        let desired = after.tables.get(family).map(|table| &table.chains);
        for name in chains.keys() {
            if let Some(rules) = desired.and_then(|chains| chains.get(name)) {
                let change = plan.tables.entry(*family).or_default();
                change.write.insert(*name, rules.clone());
            }
        }
    }
}

fn diff_table(now: &Table, desired: Chains, hooks: &BTreeSet<Hook>) -> (TableChange, Table) {
    let mut change = TableChange::default();
    let mut after = Table { wanted_by_others: now.wanted_by_others.clone(), ..Table::default() };
    for (name, rules) in &desired {
        if now.chains.get(name) != Some(rules) {
            change.write.insert(*name, rules.clone());
        }
    }
    after.chains = desired;
    for (name, rules) in &now.chains {
        if after.chains.contains_key(name) {
            continue;
        }
        if now.wanted_by_others.contains(name) {
            // It cannot be deleted, and must not refer to other chains and sets.
            if !rules.is_empty() {
                change.write.insert(*name, Vec::new());
            }
            after.chains.insert(*name, Vec::new());
        } else {
            change.delete.insert(*name);
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
        AddressSet, Endpoint, Match, Member, Rule, Ruleset, SetDelta, SetKind, Target, TrafficMatch,
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
        }
    }

    fn change(added: &[&str], removed: &[&str]) -> Update {
        let members = |texts: &[&str]| {
            texts.iter().map(|text| Member::Address(text.parse().unwrap())).collect()
        };
        let delta = SetDelta { added: members(added), removed: members(removed) };
        Update { sets_changed: BTreeMap::from([(id(), delta)]), ..Update::default() }
    }

    fn desired(compiled: &Compiled) -> Desired<'_> {
        static OPTIONS: LazyLock<Options> = LazyLock::new(Options::default);
        static NOWHERE: LazyLock<Attachments> = LazyLock::new(Attachments::default);
        static NOTHING: LazyLock<Refusals> = LazyLock::new(Refusals::default);
        let (attachments, options, refusals) = (&NOWHERE, &OPTIONS, &NOTHING);
        Desired::new(Wanted { compiled, attachments, options, refusals }, &[Family::V4])
    }

    fn check(applied: &Applied, compiled: &Compiled, update: &Update) -> (String, Applied) {
        let desired = desired(compiled);
        let terms = Terms { update, initial_maxelem: 2 };
        let (plan, after) = diff(applied, desired, &terms);
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
             COMMIT\nadd SET 10.0.0.3\n"
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
        let counts: Vec<_> = after.sets.values().map(|set| set.elements.clone()).collect();
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
        for set in applied.sets.values_mut() {
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
        let terms = Terms { update: &update, initial_maxelem: 2 };
        let compiled = world(&["10.0.0.2", "10.0.0.3"]);
        let (plan, after) = diff_members(&applied, &compiled, &terms);
        let (same, all) = diff(&applied, desired(&compiled), &terms);
        assert_eq!((plan, after), (same, all.sets));
    }
}
