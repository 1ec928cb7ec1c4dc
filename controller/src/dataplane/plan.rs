//! The changes of one apply as values; [`super::diff`] computes them.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;

use super::denial::Denial;
use super::name::{self, ChainName, SetName};
use super::rule::{Chains, Hook};
use super::set::{Element, Kind};

/// All changes of one apply, in the order in which they happen.
///
/// What denies comes before what allows: elements leave sets before chains change, and join them
/// after.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// Sets of ours that have the wrong type, and our chains that refer to them.
    pub evict: Vec<Eviction>,
    /// Sets that a crash left under a temporary name that is needed now.
    pub clear: BTreeSet<SetName>,
    /// 1. New sets with all their elements.
    pub create: Vec<NewSet>,
    /// 2. Elements that leave existing sets.
    pub remove: BTreeMap<SetName, BTreeSet<Element>>,
    /// 3. Chains and hooks.
    pub tables: BTreeMap<Family, TableChange>,
    /// 4. Elements that join existing sets.
    pub add: BTreeMap<SetName, BTreeSet<Element>>,
    /// 5. Sets that none of our chains refers to any more.
    pub destroy: BTreeSet<SetName>,
}

impl Plan {
    /// Removes the changes of a family whose chains cannot change. Members still leave its sets of
    /// policies, since that denies only.
    pub fn leave_out(&mut self, family: Family) {
        let is_other = |set: &SetName| name::family(*set) != family;
        self.evict.retain(|eviction| is_other(&eviction.set));
        self.clear.retain(is_other);
        self.create.retain(|set| set.family != family);
        self.remove.retain(|set, _| is_other(set) || !name::is_local(*set));
        self.tables.remove(&family);
        self.add.retain(|set, _| is_other(set));
        self.destroy.retain(is_other);
    }
}

/// A set of ours with the wrong type or family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eviction {
    /// The set.
    pub set: SetName,
    /// Our chains that match it, without the rules that do. A ruleset then allows less.
    pub chains: BTreeMap<Family, Chains>,
}

/// A set to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewSet {
    /// Its final name.
    pub name: SetName,
    /// When it replaces a set of that name.
    pub swap: Swap,
    /// Its type.
    pub kind: Kind,
    /// Its family.
    pub family: Family,
    /// The most elements that it can have (`maxelem`).
    pub maxelem: u32,
    /// Its elements.
    pub elements: BTreeSet<Element>,
}

/// When a new set replaces another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swap {
    /// No set is replaced.
    Never,
    /// Before chains refer to it: the elements of the replaced set are unknown.
    BeforeChains,
    /// When members join: the replaced set is full.
    WithAdditions,
}

/// The changes of the table of one family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableChange {
    /// Chains that are new or differ, with all their rules.
    pub write: Chains,
    /// New rules in front of those that a chain has. No packet passes the last new rule.
    pub prepend: Chains,
    /// Chains to delete.
    pub delete: BTreeSet<ChainName>,
    /// Hooks that are missing, doubled or not in the first place.
    pub hooks: BTreeMap<Hook, HookChange>,
}

impl TableChange {
    /// How many chains change.
    #[must_use]
    pub fn chains(&self) -> usize {
        self.write.len() + self.prepend.len() + self.delete.len()
    }

    /// The kinds of denial whose chains change: their counters start from zero.
    pub fn denials(&self) -> impl Iterator<Item = Denial> {
        Denial::all().filter(|kind| {
            let chain = kind.chain();
            self.write.contains_key(&chain)
                || self.prepend.contains_key(&chain)
                || self.delete.contains(&chain)
        })
    }
}

/// The change of a hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookChange {
    /// How many copies of the rule are removed.
    pub remove: usize,
    /// Whether the rule is inserted at the first place.
    pub insert: bool,
}
