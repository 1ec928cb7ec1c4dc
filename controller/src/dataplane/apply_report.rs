//! The changes of an apply, as a value.

use std::collections::BTreeSet;
use std::time::Duration;

use super::plan::{Plan, TableChange};

/// The changes of an apply.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ApplyReport {
    /// Chains written or deleted, both families.
    pub chains_changed: usize,
    /// Hooks inserted or removed, both families.
    pub hooks_changed: usize,
    /// Sets created or replaced.
    pub sets_created: usize,
    /// Members that joined or left existing sets.
    pub members_changed: usize,
    /// Members that wait to join sets in the next applies.
    pub members_waiting: usize,
    /// Unreferenced sets that the kernel still uses. Each apply tries again to destroy them.
    pub sets_in_use: usize,
    /// Whether [`remove_unreferenced`](super::Dataplane::remove_unreferenced) has unreferenced rules, chains or sets to remove.
    pub postponed: bool,
    /// Whether our rules may still be in another table, or in the other variant of iptables.
    /// Each apply that may change chains tries again.
    pub elsewhere_unclean: bool,
    /// Whether everything that was refused has been tried again.
    pub retried_all: bool,
    /// How long the apply took.
    pub total: Duration,
}

impl ApplyReport {
    /// Whether the kernel was as desired already.
    #[must_use]
    pub fn wrote_nothing(&self) -> bool {
        let Self { chains_changed, hooks_changed, sets_created, members_changed, .. } = self;
        [chains_changed, hooks_changed, sets_created, members_changed].into_iter().all(|n| *n == 0)
    }

    /// The report of an apply that executes `plan`.
    pub(super) fn of(plan: &Plan) -> Self {
        let tables = || plan.tables.values();
        let members = plan.remove.values().chain(plan.add.values());
        Self {
            chains_changed: tables().map(TableChange::chains).sum(),
            hooks_changed: tables().map(|table| table.hooks.len()).sum(),
            sets_created: plan.create.len(),
            members_changed: members.map(BTreeSet::len).sum(),
            ..Self::default()
        }
    }
}
