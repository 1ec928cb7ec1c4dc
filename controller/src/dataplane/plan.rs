//! What changes: the difference between what the kernel holds and what it ought to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;
use policy_engine::compiled::Update;

use super::applied::{Applied, AppliedSet, Elements, HookPlaces, Table};
use super::desired::{Chains, Desired, Hook};
use super::name;
use super::set::{DesiredSet, Element, Kind, Source};

/// All changes of one apply, in the order in which they happen.
///
/// Isolation comes before what opens: elements leave sets before chains change, and join them
/// after.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// Sets of ours that have the wrong type, and what has to let go of them.
    pub evict: Vec<Eviction>,
    /// Sets that a crash left under a temporary name that is needed now.
    pub clear: BTreeSet<String>,
    /// 1. New sets with all their elements.
    pub create: Vec<NewSet>,
    /// 2. Elements that leave existing sets.
    pub remove: BTreeMap<String, MemberChange>,
    /// 3. Chains and hooks.
    pub tables: BTreeMap<Family, TableChange>,
    /// 4. Elements that join existing sets.
    pub add: BTreeMap<String, MemberChange>,
    /// 5. Sets that nothing of ours refers to any more.
    pub destroy: BTreeSet<String>,
}

/// A set of ours with the wrong type or family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eviction {
    /// The set.
    pub set: String,
    /// Our chains that match it, without the rules that do. A ruleset then allows less.
    pub chains: BTreeMap<Family, Chains>,
}

/// A set to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewSet {
    /// Its name in the end.
    pub name: String,
    /// When it takes the place of a set of that name.
    pub swap: Swap,
    /// Its type.
    pub kind: Kind,
    /// Its family.
    pub family: Family,
    /// How many elements it takes.
    pub maxelem: u32,
    /// Its elements.
    pub elements: BTreeSet<Element>,
}

/// When a new set takes the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swap {
    /// There is no other.
    Never,
    /// Before chains refer to it: what it held is unknown.
    BeforeChains,
    /// With the additions: it is full.
    WithAdditions,
}

/// Elements that leave or join a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberChange {
    /// The type of the set.
    pub kind: Kind,
    /// Which ones.
    pub elements: BTreeSet<Element>,
}

/// What changes in a filter table.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableChange {
    /// Chains that are new or differ, with all their rules.
    pub write: Chains,
    /// Chains that go.
    pub delete: BTreeSet<String>,
    /// Hooks that are not where they ought to be.
    pub hooks: BTreeMap<Hook, HookChange>,
}

/// What happens to a hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookChange {
    /// How often it is there, and goes.
    pub remove: usize,
    /// Whether it goes in at the first place.
    pub insert: bool,
}

/// Whether a hook goes back to the first place when others put rules in front of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MovedHooks {
    /// Yes.
    Repair,
    /// No: somebody else wants to be first as well, and it would never end.
    Leave,
}

/// What a diff is made with, beside what is and what ought to be.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// What changed since the last apply. Only sets whose elements were not read back need it.
    pub update: &'a Update,
    /// The capacity of a small new set.
    pub initial_maxelem: u32,
    /// What to do about moved hooks.
    pub moved_hooks: MovedHooks,
}

impl Plan {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
        let state = diff_set(&mut plan, name, now, set, terms);
        after.sets.insert(name.clone(), state);
    }
    for (name, state) in &applied.sets {
        let right_type = state.shape == desired.sets.get(name).map(|set| (set.kind, set.family));
        if !desired.sets.contains_key(name) {
            after.sets.insert(name.clone(), left_over(state));
            plan.destroy.insert(name.clone());
        } else if !right_type {
            plan.evict.push(evict(name, applied));
        }
    }
    for set in plan.create.iter().filter(|set| set.swap != Swap::Never) {
        let temporary = name::temporary(&set.name);
        if applied.sets.contains_key(&temporary) {
            plan.clear.insert(temporary.clone());
        }
        let shape = Some((set.kind, set.family));
        let state = AppliedSet { shape, maxelem: set.maxelem, elements: Elements::Unknown };
        after.sets.insert(temporary.clone(), state);
        plan.destroy.insert(temporary);
    }
    let none = Table::default();
    for (family, chains) in desired.tables {
        let now = applied.tables.get(&family).unwrap_or(&none);
        let (change, table) = diff_table(now, chains, &desired.hooks, terms.moved_hooks);
        after.tables.insert(family, table);
        if change != TableChange::default() {
            plan.tables.insert(family, change);
        }
    }
    (plan, after)
}

fn left_over(state: &AppliedSet) -> AppliedSet {
    AppliedSet { shape: state.shape, maxelem: state.maxelem, elements: Elements::Unknown }
}

/// Plans the changes to one desired set, and says what it will be.
fn diff_set(
    plan: &mut Plan,
    name: &str,
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
    change(&mut plan.remove, name, desired.kind, removed);
    if count > now.maxelem {
        return create(plan, name, Swap::WithAdditions, desired, terms);
    }
    change(&mut plan.add, name, desired.kind, added);
    AppliedSet { shape, maxelem: now.maxelem, elements: known(desired, count) }
}

/// Local addresses are few and have no deltas: they are compared as a whole.
fn known(desired: &DesiredSet<'_>, count: u32) -> Elements {
    match desired.source {
        Source::Local(_) => Elements::Read(desired.elements()),
        Source::Engine(..) | Source::Networks(_) => Elements::AsDesired(count),
    }
}

fn change(
    changes: &mut BTreeMap<String, MemberChange>,
    name: &str,
    kind: Kind,
    elements: BTreeSet<Element>,
) {
    if !elements.is_empty() {
        changes.insert(name.to_owned(), MemberChange { kind, elements });
    }
}

fn create(
    plan: &mut Plan,
    name: &str,
    swap: Swap,
    desired: &DesiredSet<'_>,
    terms: &Terms<'_>,
) -> AppliedSet {
    let elements = desired.elements();
    let count = number(elements.len());
    let maxelem = terms.initial_maxelem.max(count.checked_next_power_of_two().unwrap_or(u32::MAX));
    let (kind, family) = (desired.kind, desired.family);
    let name = name.to_owned();
    plan.create.push(NewSet { name, swap, kind, family, maxelem, elements });
    AppliedSet { shape: Some((kind, family)), maxelem, elements: known(desired, count) }
}

fn evict(set: &str, applied: &Applied) -> Eviction {
    let mention = format!("--match-set {set} ");
    let mut chains: BTreeMap<Family, Chains> = BTreeMap::new();
    for (family, table) in &applied.tables {
        for (name, rules) in &table.chains {
            if rules.iter().any(|rule| rule.contains(&mention)) {
                let others = rules.iter().filter(|rule| !rule.contains(&mention));
                let others = others.cloned().collect();
                chains.entry(*family).or_default().insert(name.clone(), others);
            }
        }
    }
    Eviction { set: set.to_owned(), chains }
}

fn diff_table(
    now: &Table,
    desired: Chains,
    hooks: &BTreeSet<Hook>,
    moved: MovedHooks,
) -> (TableChange, Table) {
    let mut change = TableChange::default();
    let mut after = Table { wanted_by_others: now.wanted_by_others.clone(), ..Table::default() };
    for (name, rules) in &desired {
        if now.chains.get(name) != Some(rules) {
            change.write.insert(name.clone(), rules.clone());
        }
    }
    after.chains = desired;
    for (name, rules) in &now.chains {
        if after.chains.contains_key(name) {
            continue;
        }
        if now.wanted_by_others.contains(name) {
            // It cannot go, and must not hold on to other chains and sets.
            if !rules.is_empty() {
                change.write.insert(name.clone(), Vec::new());
            }
            after.chains.insert(name.clone(), Vec::new());
        } else {
            change.delete.insert(name.clone());
        }
    }
    for hook in Hook::ALL {
        let places = now.hooks.get(&hook).cloned().unwrap_or_default();
        let wanted = hooks.contains(&hook);
        let leave = moved == MovedHooks::Leave && places.count == 1;
        let right = if wanted { places == HookPlaces::first() || leave } else { places.count == 0 };
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
