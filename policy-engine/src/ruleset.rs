//! The rules of one tier, and the definitions of the address sets that they refer to.
//!
//! Consecutive rules with the same target are merged into one allow-set, because their order does
//! not matter: they are a run. A run that matches everything ends the tier. A last run with the
//! same target as the rest of the traffic is left out. A tier without rules is replaced by the next
//! tier. Many port ranges are written in groups: see `ruleset/build.rs`.
//!
//! A set is named by its definition (which pods, which ports). Its name stays the same when pods
//! are added and removed, and rulesets with the same peers share the set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::build::Builder;
use crate::allow_set::AllowSet;
use crate::budget::{Budget, Budgets, Exceeded};
use crate::cidr::CidrSet;
use crate::compiled::{Ruleset, SetKind, Target};
use crate::direction::Direction;
use crate::id::{RulesetId, SetId};
use crate::labels::Str;
use crate::policy::PodPeer;
use crate::port::Protocol;
use crate::selector::Selector;
use crate::tier::Tier;

mod build;
mod hash;

/// The definition of a set: the pods and nodes that its members belong to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SetDefinition {
    /// The addresses of the pods and nodes that match one of the items.
    Peers {
        /// Pods by labels.
        pods: BTreeSet<Arc<PodPeer>>,
        /// Nodes by labels.
        nodes: BTreeSet<Arc<Selector>>,
    },
    /// Addresses of pods, with ports.
    PodPorts(BTreeSet<PodPort>),
}

/// A port of the pods that a peer matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PodPort {
    /// The pods.
    pub pods: PodMatch,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: PortRef,
}

/// The pods for which a [`PodPort`] counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PodMatch {
    /// Pods by labels.
    Labels(Arc<PodPeer>),
    /// Pods by address: an `ipBlock` with a port by name matches the pods that have the port.
    Addresses(CidrSet),
}

/// A port by number, or by the name that each pod resolves for itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortRef {
    /// A port by number.
    Number(u16),
    /// A port by name.
    Named(Str),
}

/// How many rulesets a packet may meet one after another, of all tiers. The dataplane has no room for
/// more: `nf_tables` accepts only so many chains that lead from one to the next.
pub const DEPTH_MAX: usize = 6;

/// How many of these each tier can use, whatever the rules of the other tiers are.
pub const DEPTH_OF_A_TIER: usize = 2;

/// A ruleset with the definitions of the sets that it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DefinedRuleset {
    /// The name of the ruleset.
    pub id: RulesetId,
    /// The rules.
    pub ruleset: Arc<Ruleset>,
    /// The definition of each set that a rule refers to.
    pub sets: BTreeMap<SetId, Arc<SetDefinition>>,
    /// The rulesets that targets of this ruleset lead to: of the same tier, and of the tiers below.
    pub children: Vec<Arc<DefinedRuleset>>,
    /// How many rulesets a packet can meet one after another, this one included.
    pub depth: usize,
}

/// The result of writing the rules of a tier.
#[derive(Clone, Default, Debug)]
pub struct Written {
    /// The first ruleset; `None` when all traffic is allowed.
    pub top: Option<Arc<DefinedRuleset>>,
    /// The sets of addresses and ports by number that were wanted: it depends on their sizes whether
    /// they are used.
    pub candidates: BTreeMap<SetId, Arc<SetDefinition>>,
}

/// The bounds within which rules are written.
#[derive(Clone, Copy)]
pub struct Bounds<'b> {
    /// The limits.
    pub budgets: &'b Budgets,
    /// Whether a set of addresses and ports by number is small enough to be used.
    pub may_fold: &'b dyn Fn(SetId) -> bool,
    /// How many rulesets a packet may meet one after another, those of the tiers below included.
    pub depth: usize,
}

/// Consecutive rules of one tier with the same target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The traffic that they match.
    pub matches: AllowSet,
    /// The target of this traffic.
    pub target: Target,
}

impl SetDefinition {
    /// The kind of the members.
    #[must_use]
    pub fn kind(&self) -> SetKind {
        match self {
            Self::Peers { .. } => SetKind::Addresses,
            Self::PodPorts(_) => SetKind::AddressPorts,
        }
    }

    /// The name of the set.
    #[must_use]
    pub fn id(&self) -> SetId {
        hash::set_id(self)
    }
}

impl DefinedRuleset {
    /// The ruleset of `tier` with `runs` in order, and the target `otherwise` for the traffic that
    /// no run matches. `below` is the ruleset of the tiers below, to which [`Target::Next`] refers.
    ///
    /// # Errors
    ///
    /// When the rules exceed [`Budget::Networks`] or [`Budget::Sets`].
    pub fn write(
        direction: Direction,
        tier: Tier,
        mut runs: Vec<Run>,
        mut otherwise: Target,
        below: Option<&Arc<Self>>,
        bounds: Bounds<'_>,
    ) -> Result<Written, Exceeded> {
        runs.retain(|run| !run.matches.is_nothing());
        if let Some(last) = runs.iter().position(|run| run.matches.is_everything()) {
            otherwise = runs[last].target;
            runs.truncate(last);
        }
        while runs.pop_if(|last| last.target == otherwise).is_some() {}
        if runs.is_empty() && otherwise == Target::Allow {
            return Ok(Written::default());
        }
        if let Some(below) = below.filter(|_| runs.is_empty() && otherwise != Target::Deny) {
            return Ok(Written { top: Some(below.clone()), ..Written::default() });
        }
        check(&runs, bounds.budgets)?;
        let mut builder = Builder::new(direction, tier, below, bounds);
        let top = Some(builder.build(&runs, otherwise));
        Ok(Written { top, candidates: builder.candidates() })
    }

    /// The ruleset of a tier whose rules exceed a budget: it denies everything.
    #[must_use]
    pub fn refused(direction: Direction, tier: Tier) -> Arc<Self> {
        let bounds = Bounds { budgets: &Budgets::default(), may_fold: &|_| true, depth: 1 };
        Builder::new(direction, tier, None, bounds).build(&[], Target::Deny)
    }

    /// This ruleset and all rulesets that its targets lead to, each once.
    #[must_use]
    pub fn reachable(&self) -> Vec<&Self> {
        let (mut found, mut seen) = (vec![self], BTreeSet::from([self.id]));
        let mut at = 0;
        while let Some(next) = found.get(at).copied() {
            found.extend(next.children.iter().map(AsRef::as_ref).filter(|c| seen.insert(c.id)));
            at += 1;
        }
        found
    }

    /// The sets of the rulesets of this tier.
    #[must_use]
    pub fn sets_of_tier(&self) -> BTreeMap<SetId, &Arc<SetDefinition>> {
        let tier = self.ruleset.tier;
        let of_tier = self.reachable().into_iter().filter(|found| found.ruleset.tier == tier);
        of_tier.flat_map(|found| &found.sets).map(|(id, set)| (*id, set)).collect()
    }
}

/// Compares the networks and sets of all runs with the budgets.
fn check(runs: &[Run], budgets: &Budgets) -> Result<(), Exceeded> {
    let (mut networks, mut sets) = (0, 0);
    for run in runs {
        // A rule matches a few port ranges, and has all networks of its union.
        let numbered =
            run.matches.ports.iter().map(|(union, ports)| (union, build::matches(ports)));
        let others = run.matches.named.values().chain([&run.matches.anything]);
        for (union, rules) in numbered.chain(others.map(|union| (union, 1))) {
            networks += union.cidrs.count_networks().saturating_mul(rules);
            sets += union.pods.len().min(1) + usize::from(!union.cidrs.is_empty());
            budgets.check(Budget::Networks, networks)?;
            budgets.check(Budget::Sets, sets)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
