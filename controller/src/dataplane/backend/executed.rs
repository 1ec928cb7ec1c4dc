//! The result of the execution of a plan, as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::Family;

use super::Error;
use crate::dataplane::name::SetName;

/// How far a plan was executed.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Executed {
    /// How many of the three stages were begun: what denies, chains, what allows.
    pub stages: usize,
    /// Sets that were refused, and why.
    pub refused: BTreeMap<SetName, Arc<str>>,
    /// Families whose chains could not be changed.
    pub failed: BTreeMap<Family, Error>,
    /// Sets that could not be destroyed because they are in use.
    pub in_use: BTreeSet<SetName>,
    /// Whether the kernel has to be read: a part failed, and whether it was done is not known.
    pub is_undone: bool,
}

impl Executed {
    /// How many stages a plan has.
    pub(in crate::dataplane) const STAGES: usize = 3;

    /// Whether nothing was refused.
    pub(in crate::dataplane) fn is_clean(&self) -> bool {
        self.refused.is_empty() && self.failed.is_empty()
    }

    /// The sets that are still in use.
    ///
    /// # Errors
    /// When the chains of a family could not be changed.
    pub(in crate::dataplane) fn in_use(mut self) -> Result<BTreeSet<SetName>, Error> {
        self.failed.pop_first().map_or(Ok(self.in_use), |(_, error)| Err(error))
    }
}
