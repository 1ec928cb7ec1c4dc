//! Differences between the kernel and the policies, as sentences. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use policy_engine::cidr::Family;

use super::applied::{Applied, HookPlaces};
use super::name::{ChainName, SetName};
use super::options::TableName;
use super::plan::{Plan, Swap};
use super::rule::Hook;
use super::set::Element;

/// One difference that a read-back found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Drift {
    /// A chain is missing, has other rules, or should not exist.
    Chain {
        /// The family of the table.
        family: Family,
        /// The name of the chain.
        chain: ChainName,
        /// How the chain differs.
        how: How,
    },
    /// The rule that jumps to our chains is missing, doubled, or behind rules of other programs.
    Hook(DisplacedHook),
    /// A set is missing, is of another type, or should not exist.
    Set {
        /// The name of the set.
        set: SetName,
        /// How the set differs.
        how: How,
    },
    /// Members of a set are missing, or should not exist.
    Members {
        /// The set.
        set: SetName,
        /// How many are missing.
        missing: usize,
        /// How many should not exist.
        unexpected: usize,
    },
}

impl Drift {
    /// Whether a change that the agent made is missing. Changed hooks do not count, since other
    /// programs move them, nor do unreferenced chains and sets, which may be in use.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        match self {
            Self::Chain { how, .. } | Self::Set { how, .. } => *how != How::Unexpected,
            Self::Members { .. } => true,
            Self::Hook(_) => false,
        }
    }
}

/// How a chain or set differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is missing.
    Missing,
    /// It exists and differs.
    Changed,
    /// It exists and is unreferenced.
    Unexpected,
}

impl fmt::Display for How {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "was missing; restored",
            Self::Changed => "was changed; restored",
            Self::Unexpected => "was not used by any rule; removed",
        })
    }
}

/// A rule that jumps to our chains, in a wrong place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DisplacedHook {
    /// The family of the table.
    pub family: Family,
    /// The name of the table.
    pub table: TableName,
    /// The hook.
    pub hook: Hook,
    /// The position of the rule.
    pub places: HookPlaces,
}

impl DisplacedHook {
    /// Whether the rule is missing.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.places.count == 0
    }

    /// A text such as `missing from IPv4 mangle FORWARD`.
    fn how(&self) -> String {
        let Self { family, table, hook, places } = self;
        let chain = format!("{} {table} {}", family.as_str(), hook.chain());
        match (places.count, places.in_front.as_slice()) {
            (0, _) => format!("missing from {chain}"),
            (times, []) => format!("in {chain} {times} times"),
            (_, [first]) => format!("behind the rule `{first}` of other software in {chain}"),
            (_, [first, rest @ ..]) => {
                let more = rest.len();
                format!("behind `{first}` and {more} more rules of other software in {chain}")
            }
        }
    }
}

impl fmt::Display for DisplacedHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the jump to {} is {}", self.hook.target(), self.how())
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { family, chain, how } => {
                write!(formatter, "{} chain {chain} {how}", family.as_str())
            }
            Self::Hook(displaced) => {
                let how = displaced.how();
                write!(formatter, "{} jump was {how}; ", displaced.hook.target())?;
                let places = &displaced.places;
                formatter.write_str(match (places.count, places.in_front.len(), displaced.hook) {
                    (0, _, Hook::Forward) => "policies were not enforced until now; restored",
                    (0, _, Hook::Input) => {
                        "egress to this node was not restricted until now; restored"
                    }
                    (_, 0, _) => "corrected",
                    _ => "moved to the front",
                })
            }
            Self::Set { set, how } => write!(formatter, "set {set} {how}"),
            Self::Members { set, missing, unexpected } => write!(
                formatter,
                "set {set} lacked {missing} members and had {unexpected} others; corrected"
            ),
        }
    }
}

/// The differences that `plan` repairs in `applied`. `name` is the table of our chains.
#[must_use]
pub fn list(applied: &Applied, plan: &Plan, name: TableName) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for (family, table) in &applied.tables {
        let Some(change) = plan.tables.get(family) else { continue };
        for hook in change.hooks.keys() {
            let places = table.hooks.get(hook).cloned().unwrap_or_default();
            let (family, hook) = (*family, *hook);
            drifts.push(Drift::Hook(DisplacedHook { family, table: name, hook, places }));
        }
        let written = change.write.keys().map(|chain| {
            let there = table.chains.contains_key(chain);
            (chain, if there { How::Changed } else { How::Missing })
        });
        let deleted = change.delete.iter().map(|chain| (chain, How::Unexpected));
        drifts.extend(written.chain(deleted).map(|(chain, how)| Drift::Chain {
            family: *family,
            chain: *chain,
            how,
        }));
    }
    drifts.extend(sets(applied, plan));
    drifts
}

fn sets(applied: &Applied, plan: &Plan) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for set in plan.create.iter().filter(|set| set.swap == Swap::Never) {
        let there = applied.sets.contains_key(&set.name);
        let how = if there { How::Changed } else { How::Missing };
        drifts.push(Drift::Set { set: set.name, how });
    }
    for set in plan.destroy.iter().filter(|set| applied.sets.contains_key(*set)) {
        drifts.push(Drift::Set { set: *set, how: How::Unexpected });
    }
    let changed: BTreeSet<&SetName> = plan.add.keys().chain(plan.remove.keys()).collect();
    let count = |changes: &BTreeMap<SetName, BTreeSet<Element>>, set| {
        changes.get(set).map_or(0, BTreeSet::len)
    };
    drifts.extend(changed.into_iter().map(|set| Drift::Members {
        set: *set,
        missing: count(&plan.add, set),
        unexpected: count(&plan.remove, set),
    }));
    drifts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::name;

    #[test]
    fn a_drift_is_a_sentence() {
        let hook = |count, in_front: &[&str]| {
            let in_front = in_front.iter().map(ToString::to_string).collect();
            let (family, table, hook) = (Family::V4, TableName::Mangle, Hook::Forward);
            let places = HookPlaces { count, in_front };
            Drift::Hook(DisplacedHook { family, table, hook, places }).to_string()
        };
        assert_eq!(
            hook(0, &["-j DOCKER"]),
            "PORTCULLIS-FORWARD jump was missing from IPv4 mangle FORWARD; policies were not \
             enforced until now; restored"
        );
        assert_eq!(
            hook(1, &["-j DOCKER"]),
            "PORTCULLIS-FORWARD jump was behind the rule `-j DOCKER` of other software in IPv4 \
             mangle FORWARD; moved to the front"
        );
        let several = hook(1, &["-j DOCKER", "-j CNI", "-j X"]);
        assert!(several.contains("behind `-j DOCKER` and 2 more rules"), "{several}");
        assert!(hook(2, &[]).ends_with("in IPv4 mangle FORWARD 2 times; corrected"));
        let (family, chain, how) = (Family::V6, name::JUDGE, How::Changed);
        let chain = Drift::Chain { family, chain, how }.to_string();
        assert_eq!(chain, "IPv6 chain PORTCULLIS-JUDGE was changed; restored");
    }
}
