//! Our chains and sets in the kernel as texts, for programs beside the agent. They change nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policy_engine::cidr::Family;
use policy_engine::id::digest;

use super::applied::{AppliedSet, Elements, HookPlaces};
use super::backend::Error;
use super::backend::iptables::{Kernel, Place, counted_rules, hooks_of, run_tool, sets};
use super::backend::nftables;
use super::name::{self, SetName};
use super::rule::Hook;

/// How long `nft` may take: it prints a table of a full node in less than a second.
const NFT_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Reads the chains and sets of one backend.
pub struct KernelText(Source);

enum Source {
    /// The tables and sets of one place, by the tools of iptables and ipset.
    Iptables(Kernel),
    /// Our tables of nftables: rules by `nft`, hooks and sets by netlink.
    Nftables,
}

/// Our chains in the tables of one family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableText {
    /// The rules of each chain in order, by its name. The chains in `listings` are not among them.
    pub chains: BTreeMap<String, Vec<CountedRule>>,
    /// The positions of the rules that jump to our chains.
    pub hooks: BTreeMap<Hook, HookPlaces>,
    /// Our tables of nftables, as `nft -j` lists them without the elements of sets.
    pub listings: Vec<String>,
}

/// A rule in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountedRule {
    /// The text behind `-A CHAIN` in the output of `iptables-save`, or that `nft list` prints.
    pub rule: String,
    /// Its number in its chain, from 1; with nftables, its handle.
    pub number: usize,
    /// How many packets the rule has matched; `None` if they are not counted.
    pub packets: Option<u64>,
}

/// The members of a set in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelSet {
    /// How many members the set has.
    pub members: usize,
    /// A hash of all members, made by [`digest`].
    pub digest: String,
}

impl KernelText {
    /// A reader of this place of iptables.
    #[must_use]
    pub fn new(place: Place, lock_wait_seconds: u32) -> Self {
        Self(Source::Iptables(Kernel::new(place, lock_wait_seconds)))
    }

    /// A reader of our tables of nftables.
    #[must_use]
    pub fn nftables() -> Self {
        Self(Source::Nftables)
    }

    /// Whether this reader reads nftables.
    #[must_use]
    pub fn is_nftables(&self) -> bool {
        matches!(self.0, Source::Nftables)
    }

    /// Reads our chains and hooks of a family.
    ///
    /// # Errors
    /// When the tool fails, or what it prints is cut off.
    pub fn table(&self, family: Family) -> Result<TableText, Error> {
        match &self.0 {
            Source::Iptables(kernel) => {
                let Place { variant, table } = kernel.place;
                let save = format!("{}-save", variant.command(family));
                let dump = kernel.run(&save, &["-c", "-t", table.name()], "")?;
                let (chains, hooks) = (counted_rules(&dump)?, hooks_of(&dump));
                Ok(TableText { chains, hooks, listings: Vec::new() })
            }
            Source::Nftables => {
                let displaced = nftables::Kernel::displaced_hooks(family, &Hook::ALL)?;
                let place = |hook| displaced.get(&hook).cloned().unwrap_or_else(HookPlaces::first);
                let hooks = Hook::ALL.map(|hook| (hook, place(hook))).into();
                let known = nft(&["list", "tables"])?;
                let listings = nftables::tables(family)
                    .filter(|of| {
                        known.lines().any(|line| line == format!("table {}", of.join(" ")))
                    })
                    .map(|[family, table]| nft(&["-j", "-t", "list", "table", family, table]));
                let listings = listings.collect::<Result<_, _>>()?;
                Ok(TableText { chains: BTreeMap::new(), hooks, listings })
            }
        }
    }

    /// Reads all our sets, by name.
    ///
    /// # Errors
    /// When the tool fails, or what it prints is cut off.
    pub fn sets(&self) -> Result<BTreeMap<String, KernelSet>, Error> {
        let sets = match &self.0 {
            Source::Iptables(kernel) => kernel.read_sets()?,
            Source::Nftables => nftables::Kernel::read_sets()?,
        };
        Ok(sets.iter().map(|(name, set)| (name.to_string(), KernelSet::new(set))).collect())
    }

    /// The output of `ipset save` or `nft -j list set` for one of our sets.
    ///
    /// # Errors
    /// When the set does not exist, or the tool fails.
    pub fn save_set(&self, name: &str) -> Result<String, Error> {
        let set = SetName::parse(name);
        let known = set.map_or_else(String::new, |name| name.to_string());
        match &self.0 {
            Source::Iptables(kernel) => kernel.run("ipset", &["save", &known], ""),
            Source::Nftables => {
                let [family, table] = nftables::table(set.map_or(Family::V4, name::family));
                nft(&["-j", "list", "set", family, table, &known])
            }
        }
    }
}

fn nft(arguments: &[&str]) -> Result<String, Error> {
    run_tool("nft", arguments, "", NFT_LIMIT)
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
    /// The positions of the hooks whose chains exist or should exist; that of forwarded packets
    /// always should.
    pub fn hooks_of_own_chains(&self) -> impl Iterator<Item = (Hook, HookPlaces)> {
        let is_used = |hook: &Hook| {
            *hook == Hook::Forward || self.chains.contains_key(&hook.target().to_string())
        };
        let hooks = Hook::ALL.into_iter().filter(is_used);
        hooks.map(|hook| (hook, self.hooks.get(&hook).cloned().unwrap_or_default()))
    }

    /// Our chains as `iptables-save` prints a table of this name, without counters and without
    /// chains of other programs.
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
