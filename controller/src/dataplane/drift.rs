//! Where the kernel is not what it ought to be, as a list for people. Pure.

use std::collections::BTreeMap;
use std::fmt;

use policy_engine::cidr::Family;

use super::applied::Applied;
use super::name::{ChainName, SetName};
use super::plan::{Plan, Swap};
use super::rule::Hook;

/// One difference that a read-back found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Drift {
    /// A chain is missing, has other rules, or should not be there.
    Chain {
        /// In which table.
        family: Family,
        /// Its name.
        chain: ChainName,
        /// In what way.
        how: How,
    },
    /// The rule that sends packets to us is missing, doubled, or behind rules of others.
    Hook {
        /// In which table.
        family: Family,
        /// Which one.
        hook: Hook,
        /// How often it is there.
        count: usize,
        /// The rules in front of it.
        in_front: Vec<String>,
        /// Whether it was put back. Not so when others moved in front again and again.
        repaired: bool,
    },
    /// A set is missing, is of another type, or should not be there.
    Set {
        /// Its name.
        set: SetName,
        /// In what way.
        how: How,
    },
    /// Members of a set are missing, or should not be there.
    Members {
        /// The set.
        set: SetName,
        /// How many are missing.
        missing: usize,
        /// How many should not be there.
        unexpected: usize,
    },
}

/// How a chain or set differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is not there.
    Missing,
    /// It is not as it ought to be.
    Changed,
    /// It is there without a use.
    Unexpected,
}

impl fmt::Display for How {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "was missing",
            Self::Changed => "was changed",
            Self::Unexpected => "had no use",
        })
    }
}

impl Drift {
    /// Whether it is put right. A hook that others overtake time and again is left where it is.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        !matches!(self, Self::Hook { repaired: false, .. })
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { family, chain, how } => {
                write!(formatter, "chain {chain} ({family:?}) {how}")
            }
            Self::Hook { family, hook, count, in_front, repaired } => {
                let chain = hook.chain();
                write!(formatter, "hook in {chain} ({family:?}): {count} times, ")?;
                write!(formatter, "{} rules of others in front", in_front.len())?;
                if *repaired { Ok(()) } else { write!(formatter, "; left there") }
            }
            Self::Set { set, how } => write!(formatter, "set {set} {how}"),
            Self::Members { set, missing, unexpected } => {
                write!(formatter, "set {set}: {missing} members missing, {unexpected} too many")
            }
        }
    }
}

/// What `plan` is going to repair in `applied`, and the hooks that it leaves behind others.
#[must_use]
pub fn list(applied: &Applied, plan: &Plan) -> Vec<Drift> {
    let mut drifts = Vec::new();
    for (family, table) in &applied.tables {
        let change = plan.tables.get(family);
        for hook in Hook::ALL {
            let places = table.hooks.get(&hook).cloned().unwrap_or_default();
            let repaired = change.is_some_and(|change| change.hooks.contains_key(&hook));
            if repaired || (places.count > 0 && !places.in_front.is_empty()) {
                let (family, count, in_front) = (*family, places.count, places.in_front);
                drifts.push(Drift::Hook { family, hook, count, in_front, repaired });
            }
        }
        let Some(change) = change else { continue };
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
    let mut members: BTreeMap<&SetName, (usize, usize)> = BTreeMap::new();
    for (set, change) in &plan.add {
        members.entry(set).or_default().0 = change.len();
    }
    for (set, change) in &plan.remove {
        members.entry(set).or_default().1 = change.len();
    }
    drifts.extend(members.into_iter().map(|(set, (missing, unexpected))| Drift::Members {
        set: *set,
        missing,
        unexpected,
    }));
    drifts
}
