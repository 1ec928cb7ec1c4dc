//! Sets and chains that the tools or the kernel refused. What needs them denies instead. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_engine::cidr::Family;

use super::name::{ChainName, SetName};

/// What was refused, and why. It is not desired until it is tried again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Refusals {
    /// Sets. A rule that allows their members is left out, and every other rule that needs them denies.
    pub sets: BTreeMap<SetName, Arc<str>>,
    /// Chains of rulesets. They deny everything.
    pub chains: BTreeMap<(Family, ChainName), Arc<str>>,
}

impl Refusals {
    /// Whether nothing was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }
}
