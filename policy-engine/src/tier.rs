//! Tiers, the order in which policies are evaluated; and the modes and views of policies.
//!
//! ```text
//! per direction   Admin ─► NetworkPolicy ─► Baseline ─► Default ─► allowed
//!                 rules    isolates: then   rules       isolates: then
//!                 in order it is the last   in order    it is the last
//! ```

use std::fmt;

/// The group of policies that are evaluated together. Tiers are evaluated in the order of the
/// variants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// ClusterNetworkPolicy of tier Admin.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ClusterNetworkPolicy of tier Baseline.
    Baseline,
    /// ClusterDefaultNetworkPolicy.
    Default,
}

impl Tier {
    /// All tiers, in the order in which they are evaluated.
    pub const ALL: [Self; 4] = [Self::Admin, Self::NetworkPolicy, Self::Baseline, Self::Default];

    /// The name of the tier in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
            Self::Default => "Default",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Whether a policy is enforced or only audited.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Mode {
    /// The policy decides about traffic.
    #[default]
    Enforce,
    /// The policy does not decide about traffic; what it would deny is reported.
    Audit,
}

/// The policies that count for a question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum View {
    /// The policies in mode Enforce.
    Enforced,
    /// All policies, as if those in mode Audit were enforced too.
    Audited,
}

impl View {
    /// Whether a policy of this mode counts.
    #[must_use]
    pub fn counts(self, mode: Mode) -> bool {
        self == Self::Audited || mode == Mode::Enforce
    }
}

/// What an ordered rule decides about the traffic that it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// The traffic is allowed in this direction; the tiers below are not evaluated.
    Accept,
    /// The traffic is denied.
    Deny,
    /// The other rules of the tier are skipped; the next tier decides.
    Pass,
}

impl Action {
    /// The name that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}
