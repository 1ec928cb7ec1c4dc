//! Our chains, hooks and sets in the kernel, as values.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;

use super::name::{ChainName, SetName};
use super::rule::{Chains, Hook, Rule};
use super::set::{Element, Kind};

/// Our chains, hooks and sets in the kernel.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Applied {
    /// Our chains and hooks, by family.
    pub tables: BTreeMap<Family, Table>,
    /// Our sets, by name.
    pub sets: BTreeMap<SetName, AppliedSet>,
}

impl Applied {
    /// Whether a chain of ours is there, and was not flushed.
    #[must_use]
    pub fn has_rules(&self, family: Family, chain: ChainName) -> bool {
        self.tables.get(&family).is_some_and(|table| table.has_rules(chain))
    }

    /// Sets that no chain of ours refers to, to be destroyed.
    #[must_use]
    pub fn unreferenced_sets(&self) -> BTreeSet<SetName> {
        let unknown = |(_, set): &(&SetName, &AppliedSet)| set.elements == Elements::Unknown;
        self.sets.iter().filter(unknown).map(|(name, _)| *name).collect()
    }
}

/// Our chains and hooks in the table of one family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    /// Our chains.
    pub chains: Chains,
    /// The positions of our rules in the kernel's own chains.
    pub hooks: BTreeMap<Hook, HookPlaces>,
    /// Chains of ours to which rules of other programs, or in chains of other programs, jump.
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

/// The position of our rule in one of the kernel's own chains.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HookPlaces {
    /// How many copies of the rule the chain has.
    pub count: usize,
    /// How many rules of other programs precede the first copy; all rules when there is none.
    pub in_front: Vec<String>,
}

impl HookPlaces {
    /// The places of a hook that is as desired.
    #[must_use]
    pub fn first() -> Self {
        Self { count: 1, in_front: Vec::new() }
    }

    /// Whether the rule is the first of the chain, and has no second copy.
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::first()
    }
}

/// A set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppliedSet {
    /// Its type and family; `None` if we create no sets of this shape.
    pub shape: Option<(Kind, Family)>,
    /// The most elements that it can have (`maxelem`).
    pub maxelem: u32,
    /// The known elements of the set.
    pub elements: Elements,
}

/// The known elements of a set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Elements {
    /// All elements, as they were read.
    Read(BTreeSet<Element>),
    /// The elements that were desired at the last apply, which deltas keep current: their number.
    AsDesired(u32),
    /// The elements are not known: no rule referred to the set when it was last read.
    Unknown,
}
