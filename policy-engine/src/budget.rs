//! Bounds on what the policies of one pod can cost.
//!
//! The rules of one pod, direction and tier are compiled only within these bounds. Where they exceed
//! one, the pod fails closed: that tier denies all its traffic in that direction. All other pods are
//! compiled normally. So a policy can cost its own pods their traffic, but it cannot delay the others.

use std::fmt;
use std::str::FromStr;

/// A bound on the rules of one pod, direction and tier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Budget {
    /// Disjoint port ranges after overlapping ranges were cut: each is a rule.
    PortRanges,
    /// Peers of all disjoint port ranges and ports by name, where a peer counts once for each of them. A
    /// peer whose selectors list more than ten values counts once for each ten. This is the cost of
    /// merging the rules.
    Peers,
    /// Peers whose selectors require the same value of the same label, or none: each of them is
    /// compared with all pods that have it.
    SimilarPeers,
    /// Networks of all `ipBlock` peers after `except` was subtracted. They count once for every 15 ports,
    /// for which a rule is needed.
    Networks,
    /// Address sets.
    Sets,
    /// Members of all address sets: the matching pods of each peer, times their ports where a set has
    /// ports.
    Members,
}

/// The limit of each [`Budget`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budgets {
    /// [`Budget::PortRanges`]
    pub port_ranges: usize,
    /// [`Budget::Peers`]
    pub peers: usize,
    /// [`Budget::SimilarPeers`]
    pub similar_peers: usize,
    /// [`Budget::Networks`]
    pub networks: usize,
    /// [`Budget::Sets`]
    pub sets: usize,
    /// [`Budget::Members`]
    pub members: usize,
    /// A set of addresses and ports with more members than this is replaced by sets of addresses,
    /// with more rules: each change of a pod would be a change for each of its ports.
    pub members_with_ports: usize,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            port_ranges: 1_024,
            peers: 250_000,
            similar_peers: 1_024,
            networks: 100_000,
            sets: 1_024,
            members: 500_000,
            members_with_ports: 4_096,
        }
    }
}

impl Budgets {
    /// The limit of one budget.
    #[must_use]
    pub fn limit(&self, budget: Budget) -> usize {
        match budget {
            Budget::PortRanges => self.port_ranges,
            Budget::Peers => self.peers,
            Budget::SimilarPeers => self.similar_peers,
            Budget::Networks => self.networks,
            Budget::Sets => self.sets,
            Budget::Members => self.members,
        }
    }

    /// An error if `count` is above the limit.
    pub(crate) fn check(&self, budget: Budget, count: usize) -> Result<(), Exceeded> {
        let limit = self.limit(budget);
        if count > limit { Err(Exceeded { budget, limit }) } else { Ok(()) }
    }
}

impl Budgets {
    /// The names of the limits, as [`Budgets::with`] takes them.
    pub const NAMES: [&'static str; 7] = [
        "port-ranges",
        "peers",
        "similar-peers",
        "networks",
        "sets",
        "members",
        "members-with-ports",
    ];

    /// These budgets with another limit; `None` when no limit has this name.
    #[must_use]
    pub fn with(mut self, name: &str, limit: usize) -> Option<Self> {
        let field = match name {
            "port-ranges" => &mut self.port_ranges,
            "peers" => &mut self.peers,
            "similar-peers" => &mut self.similar_peers,
            "networks" => &mut self.networks,
            "sets" => &mut self.sets,
            "members" => &mut self.members,
            "members-with-ports" => &mut self.members_with_ports,
            _ => return None,
        };
        *field = limit;
        Some(self)
    }
}

impl Budget {
    /// The name of the counted items, in the plural.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PortRanges => "port ranges",
            Self::Peers => "peers of port ranges",
            Self::SimilarPeers => "peers that require the same label, or none",
            Self::Networks => "networks",
            Self::Sets => "address sets",
            Self::Members => "members of address sets",
        }
    }
}

/// Rules that exceed a budget.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Exceeded {
    /// The budget.
    pub budget: Budget,
    /// Its limit.
    pub limit: usize,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "more than {} {}", self.limit, self.budget.as_str())
    }
}

/// The text `NAME=NUMBER` for all limits, separated by commas.
impl fmt::Display for Budgets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = [
            self.port_ranges,
            self.peers,
            self.similar_peers,
            self.networks,
            self.sets,
            self.members,
            self.members_with_ports,
        ];
        let texts = Self::NAMES.iter().zip(limits).map(|(name, limit)| format!("{name}={limit}"));
        formatter.write_str(&texts.collect::<Vec<_>>().join(","))
    }
}

/// The error for a text that is not a list of limits.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ParseBudgetsError {
    #[error("a limit is NAME=NUMBER")]
    Form,
    #[error("{0:?} is not a number")]
    Number(String),
    #[error("no limit is named {0:?}; there are {names}", names = Budgets::NAMES.join(", "))]
    Name(String),
}

/// Reads `NAME=NUMBER` with commas between; limits that are not named have their defaults.
impl FromStr for Budgets {
    type Err = ParseBudgetsError;

    fn from_str(text: &str) -> Result<Self, ParseBudgetsError> {
        let limits = text.split(',').filter(|limit| !limit.is_empty());
        limits.into_iter().try_fold(Self::default(), |all, limit| {
            let (name, number) = limit.split_once('=').ok_or(ParseBudgetsError::Form)?;
            let limit = number.parse();
            let limit = limit.map_err(|_| ParseBudgetsError::Number(number.to_owned()))?;
            all.with(name, limit).ok_or_else(|| ParseBudgetsError::Name(name.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_changes_a_limit_of_its_own() {
        let all = Budgets::NAMES
            .into_iter()
            .enumerate()
            .fold(Budgets::default(), |all, (n, name)| all.with(name, n).unwrap());
        let expected = Budgets {
            port_ranges: 0,
            peers: 1,
            similar_peers: 2,
            networks: 3,
            sets: 4,
            members: 5,
            members_with_ports: 6,
        };
        assert_eq!(all, expected);
        assert_eq!(all.to_string().parse(), Ok(all));
        assert!("peers".parse::<Budgets>().is_err() && "x=1".parse::<Budgets>().is_err());
        assert_eq!(all.with("rules", 1), None);
    }
}
