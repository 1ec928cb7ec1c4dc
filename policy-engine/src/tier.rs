//! Tiers: the order in which policies are asked; and in which modes and views they count.
//!
//! ```text
//! per direction   Admin ─► NetworkPolicy ─► Baseline ─► Default ─► allowed
//!                 rules    isolates, then   rules       isolates, then
//!                 in order final            in order    final
//! ```

use std::fmt;

/// Where in the order a policy is asked. The order of the variants is that order.
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
    /// All, in the order in which they are asked.
    pub const ALL: [Self; 4] = [Self::Admin, Self::NetworkPolicy, Self::Baseline, Self::Default];

    /// The name that users see.
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

/// Whether a policy is in force or only watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// It decides nothing; what it would deny is reported.
    Audit,
}

/// Which policies a question is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum View {
    /// Those that are in force.
    Enforced,
    /// Those in force and those in audit, as if all were in force.
    Audited,
}

impl View {
    /// Whether a policy of this mode counts.
    #[must_use]
    pub fn counts(self, mode: Mode) -> bool {
        self == Self::Audited || mode == Mode::Enforce
    }
}

/// What an ordered rule does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// This direction allows it; no tier below is asked.
    Accept,
    /// This direction denies it.
    Deny,
    /// The tier says nothing more; the next one is asked.
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
