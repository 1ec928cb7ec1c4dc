//! A kind of denial, its number in the log, and the name of its chain.

use policy_engine::direction::Direction;
use policy_engine::tier::Tier;

use crate::dataplane::name::{ChainName, Name};

/// The beginning of each prefix of ours in the log.
const PREFIX: &str = "portcullis ";

/// Whether a packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// It was dropped.
    Denied,
    /// It passed; policies in audit would have dropped it.
    WouldDeny,
}

impl Outcome {
    /// Both outcomes.
    pub const ALL: [Self; 2] = [Self::Denied, Self::WouldDeny];

    /// The name that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "Denied",
            Self::WouldDeny => "WouldDeny",
        }
    }
}

/// Why a packet is denied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// Policies of this tier.
    Policies(Tier),
    /// Its address on the pod's side is not that of a known pod behind that interface.
    Address,
    /// It is in the middle of a TCP connection without a conntrack entry, and may be an answer to a
    /// connection that policies do not allow.
    Connection,
}

impl Cause {
    /// The name that users see: the tier, `Address` or `Connection`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policies(tier) => tier.as_str(),
            Self::Address => "Address",
            Self::Connection => "Connection",
        }
    }
}

/// A kind of denial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Denial {
    /// Whether the packet was dropped.
    pub outcome: Outcome,
    /// The direction that denies it: ingress of the destination, or egress of the source.
    pub direction: Direction,
    /// Why it is denied.
    pub cause: Cause,
}

impl Denial {
    /// All kinds, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        let by_policies = Outcome::ALL.into_iter().flat_map(|outcome| {
            Direction::BOTH.into_iter().flat_map(move |direction| {
                let causes = Tier::ALL.into_iter().map(Cause::Policies);
                causes.map(move |cause| Self { outcome, direction, cause })
            })
        });
        let others = [Self::by_address, Self::by_connection];
        by_policies.chain(others.into_iter().flat_map(|kind| Direction::BOTH.map(kind)))
    }

    /// Packets whose address on the pod's side is not that of a known pod behind that interface.
    #[must_use]
    pub fn by_address(direction: Direction) -> Self {
        Self { outcome: Outcome::Denied, direction, cause: Cause::Address }
    }

    /// Segments of TCP connections without a conntrack entry, which may be answers.
    #[must_use]
    pub fn by_connection(direction: Direction) -> Self {
        Self { outcome: Outcome::Denied, direction, cause: Cause::Connection }
    }

    /// The prefix of the kernel's log messages.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("{PREFIX}{}", self.number())
    }

    pub(super) fn number(self) -> u32 {
        let known = (0..).zip(Self::all()).find(|(_, kind)| *kind == self);
        known.expect("`all` lists every kind").0
    }

    /// The kind that a prefix names; `None` for prefixes of other programs.
    #[must_use]
    pub fn of_prefix(prefix: &str) -> Option<Self> {
        let number: usize = prefix.strip_prefix(PREFIX)?.parse().ok()?;
        // A number with leading zeros or a sign is not ours.
        Self::all().nth(number).filter(|kind| kind.prefix() == prefix)
    }

    /// The name of its chain.
    #[must_use]
    pub fn chain(self) -> ChainName {
        let outcome = match self.outcome {
            Outcome::Denied => "DENY",
            Outcome::WouldDeny => "AUDIT",
        };
        let direction = match self.direction {
            Direction::Ingress => "IN",
            Direction::Egress => "OUT",
        };
        let cause = match self.cause {
            Cause::Policies(Tier::Admin) => "ADMIN",
            Cause::Policies(Tier::NetworkPolicy) => "POLICY",
            Cause::Policies(Tier::Baseline) => "BASE",
            Cause::Policies(Tier::Default) => "DEFAULT",
            Cause::Address => "ADDRESS",
            Cause::Connection => "TCP",
        };
        Name::written(format_args!("{outcome}-{direction}-{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_prefix_and_a_chain_of_its_own() {
        let mut chains = BTreeSet::new();
        for kind in Denial::all() {
            assert_eq!(Denial::of_prefix(&kind.prefix()), Some(kind));
            chains.insert(kind.chain());
        }
        assert_eq!(chains.len(), 20);
        for other in
            ["", "portcullis ", "portcullis 20", "portcullis +1", "portcullis 01", "calico 1"]
        {
            assert_eq!(Denial::of_prefix(other), None);
        }
    }
}
