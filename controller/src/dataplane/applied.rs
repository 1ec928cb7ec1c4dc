//! What the kernel holds of ours, as values.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;

use super::name::{ChainName, SetName};
use super::rule::{Chains, Hook, Rule};
use super::set::{Element, Kind};

/// What the kernel holds of ours.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Applied {
    /// By family.
    pub tables: BTreeMap<Family, Table>,
    /// By name.
    pub sets: BTreeMap<SetName, AppliedSet>,
}

impl Applied {
    /// Whether a chain of ours is there, and was not flushed.
    #[must_use]
    pub fn has_rules(&self, family: Family, chain: ChainName) -> bool {
        self.tables.get(&family).is_some_and(|table| table.has_rules(chain))
    }

    /// Sets that nothing of ours refers to, to be destroyed.
    #[must_use]
    pub fn unreferenced_sets(&self) -> BTreeSet<SetName> {
        let unknown = |(_, set): &(&SetName, &AppliedSet)| set.elements == Elements::Unknown;
        self.sets.iter().filter(unknown).map(|(name, _)| *name).collect()
    }
}

/// What the table of one family holds of ours.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    /// Our chains.
    pub chains: Chains,
    /// Where our rules in the kernel's own chains are.
    pub hooks: BTreeMap<Hook, HookPlaces>,
    /// Chains of ours that rules of others, or in chains of others, send packets to.
    pub wanted_by_others: BTreeSet<ChainName>,
}

impl Table {
    /// Whether a chain of ours is there, and was not flushed.
    #[must_use]
    pub fn has_rules(&self, chain: ChainName) -> bool {
        self.chains.get(&chain).is_some_and(|rules| !rules.is_empty())
    }

    /// Whether a rule of ours refers to a set.
    #[must_use]
    pub fn needs_sets(&self) -> bool {
        self.chains.values().flat_map(|rules| rules.iter()).any(Rule::needs_a_set)
    }
}

/// Where our rule in one of the kernel's own chains is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HookPlaces {
    /// How often it is there.
    pub count: usize,
    /// The rules of others before its first place; all rules when it is not there.
    pub in_front: Vec<String>,
}

impl HookPlaces {
    /// The places of a hook that is as desired.
    #[must_use]
    pub fn first() -> Self {
        Self { count: 1, in_front: Vec::new() }
    }

    /// Whether it is in the first place, and nowhere else.
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::first()
    }
}

/// A set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppliedSet {
    /// Its type and family; none when it is none that we make.
    pub shape: Option<(Kind, Family)>,
    /// How many elements it takes.
    pub maxelem: u32,
    /// What is known of its elements.
    pub elements: Elements,
}

/// What is known of the elements of a set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Elements {
    /// All of them, as read.
    Read(BTreeSet<Element>),
    /// They are what was desired at the last apply, so many. Kept current by deltas.
    AsDesired(u32),
    /// Nothing: no rule referred to the set when it was last looked at.
    Unknown,
}
