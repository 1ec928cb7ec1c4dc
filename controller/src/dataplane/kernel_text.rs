//! What the kernel holds of ours, as texts: read by programs beside the agent, which change nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policy_engine::cidr::Family;
use policy_engine::id::digest;

use super::applied::{AppliedSet, Elements, HookPlaces};
use super::backend::Error;
use super::backend::iptables::{Kernel, Place, counted_rules, hooks_of, sets};
use super::name::SetName;
use super::rule::Hook;

/// Reads the tables and sets of one place.
pub struct KernelText(Kernel);

/// Our chains in the table of one family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableText {
    /// By name, with their rules in order.
    pub chains: BTreeMap<String, Vec<CountedRule>>,
    /// Where the rules are that send packets to our chains.
    pub hooks: BTreeMap<Hook, HookPlaces>,
}

/// A rule as `iptables-save -c` prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountedRule {
    /// What follows `-A CHAIN`.
    pub rule: String,
    /// How many packets it has matched.
    pub packets: u64,
}

/// The members of a set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelSet {
    /// How many there are.
    pub members: usize,
    /// A hash of all, as [`digest`] makes it.
    pub digest: String,
}

impl KernelText {
    /// A reader of this place.
    #[must_use]
    pub fn new(place: Place, lock_wait_seconds: u32) -> Self {
        Self(Kernel::new(place, lock_wait_seconds))
    }

    /// Reads our chains and hooks of a family.
    ///
    /// # Errors
    /// When the tool fails, or what it prints is cut off.
    pub fn table(&self, family: Family) -> Result<TableText, Error> {
        let Place { variant, table } = self.0.place;
        let save = format!("{}-save", variant.command(family));
        let dump = self.0.run(&save, &["-c", "-t", table.name()], "")?;
        Ok(TableText { chains: counted_rules(&dump)?, hooks: hooks_of(&dump) })
    }

    /// Reads all our sets, by name.
    ///
    /// # Errors
    /// When the tool fails, or what it prints is cut off.
    pub fn sets(&self) -> Result<BTreeMap<String, KernelSet>, Error> {
        let sets = self.0.read_sets()?;
        Ok(sets.iter().map(|(name, set)| (name.to_string(), KernelSet::new(set))).collect())
    }

    /// What `ipset save` prints for one of our sets.
    ///
    /// # Errors
    /// When there is no such set, or the tool fails.
    pub fn save_set(&self, name: &str) -> Result<String, Error> {
        let known = SetName::parse(name).map_or_else(String::new, |name| name.to_string());
        self.0.run("ipset", &["save", &known], "")
    }
}

impl KernelSet {
    fn new(set: &AppliedSet) -> Self {
        let elements: Vec<String> = match &set.elements {
            Elements::Read(elements) => elements.iter().map(sets::element).collect(),
            Elements::AsDesired(_) | Elements::Unknown => Vec::new(),
        };
        Self { members: elements.len(), digest: digest(elements).to_string() }
    }
}

impl TableText {
    /// Where the hooks are that lead to chains which exist, or should exist: to the one of forwarded
    /// packets always.
    pub fn hooks_of_own_chains(&self) -> impl Iterator<Item = (Hook, HookPlaces)> {
        let is_used = |hook: &Hook| {
            *hook == Hook::Forward || self.chains.contains_key(&hook.target().to_string())
        };
        let hooks = Hook::ALL.into_iter().filter(is_used);
        hooks.map(|hook| (hook, self.hooks.get(&hook).cloned().unwrap_or_default()))
    }

    /// Our chains as `iptables-save` prints a table of this name, without counters and without chains
    /// of others.
    #[must_use]
    pub fn save(&self, table: &str) -> String {
        let mut text = format!("*{table}\n");
        for name in self.chains.keys() {
            // Writing to memory cannot fail.
            let _ = writeln!(text, ":{name} - [0:0]");
        }
        for (name, rules) in &self.chains {
            for rule in rules {
                let _ = writeln!(text, "-A {name} {}", rule.rule);
            }
        }
        text.push_str("COMMIT\n");
        text
    }
}
