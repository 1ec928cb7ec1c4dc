//! Differences between the kernel and the policies, as sentences. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use policy_engine::cidr::Family;

use super::applied::Applied;
use super::name::{self, ChainName, SetName};
use super::plan::{Plan, Swap};
use super::rule::Hook;
use super::set::Element;

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
    /// It is there and differs.
    Changed,
    /// It is there without a use.
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
                write!(formatter, "{} chain {chain} {how}", name::family(*family))
            }
            Self::Hook { family, hook, count, in_front, repaired } => {
                let place = format!("{} {}", name::family(*family), hook.chain());
                write!(formatter, "{} jump was ", hook.target())?;
                match (count, in_front.len(), hook) {
                    (0, _, Hook::Forward) => write!(
                        formatter,
                        "missing from {place}; policies were not enforced until now; restored"
                    ),
                    (0, _, Hook::Input) => write!(
                        formatter,
                        "missing from {place}; egress to this node was not restricted until now; \
                         restored"
                    ),
                    (_, 0, _) => write!(formatter, "in {place} {count} times; corrected"),
                    (_, others, _) if *repaired => write!(
                        formatter,
                        "behind {others} rules of other software in {place}; moved to the front"
                    ),
                    (_, others, _) => write!(
                        formatter,
                        "behind {others} rules of other software in {place}; left there, because \
                         it was moved back again and again"
                    ),
                }
            }
            Self::Set { set, how } => write!(formatter, "set {set} {how}"),
            Self::Members { set, missing, unexpected } => write!(
                formatter,
                "set {set} lacked {missing} members and had {unexpected} others; corrected"
            ),
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

    #[test]
    fn a_drift_is_a_sentence() {
        let hook = |count, in_front: &[&str], repaired| {
            let in_front = in_front.iter().map(ToString::to_string).collect();
            let (family, hook) = (Family::V4, Hook::Forward);
            Drift::Hook { family, hook, count, in_front, repaired }.to_string()
        };
        assert_eq!(
            hook(0, &["-j DOCKER"], true),
            "PORTCULLIS-FORWARD jump was missing from IPv4 FORWARD; policies were not enforced \
             until now; restored"
        );
        assert_eq!(
            hook(1, &["-j DOCKER"], true),
            "PORTCULLIS-FORWARD jump was behind 1 rules of other software in IPv4 FORWARD; moved \
             to the front"
        );
        assert!(hook(1, &["-j DOCKER"], false).contains("; left there, because"));
        let (family, chain, how) = (Family::V6, name::JUDGE, How::Changed);
        let chain = Drift::Chain { family, chain, how }.to_string();
        assert_eq!(chain, "IPv6 chain PORTCULLIS-JUDGE was changed; restored");
    }
}
