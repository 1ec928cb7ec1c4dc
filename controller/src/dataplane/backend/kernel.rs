//! The backend that writes a node's rules.

use std::collections::BTreeMap;

use policy_engine::cidr::Family;

use super::{Error, Executed, iptables, nftables};
use crate::dataplane::applied::{Applied, AppliedSet, HookPlaces, Table};
use crate::dataplane::denial::Reading;
use crate::dataplane::name::SetName;
use crate::dataplane::options::TableName;
use crate::dataplane::plan::Plan;
use crate::dataplane::rule::{Chains, Hook};

/// Our chains and hooks in the table of each family.
type Tables = BTreeMap<Family, Table>;

/// The place of our rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::dataplane) enum Place {
    /// In a table of iptables, with sets of ipset.
    Iptables(iptables::Place),
    /// In tables of nftables that are ours alone.
    Nftables,
}

/// The backend that writes the rules of a place.
#[derive(Debug)]
pub(in crate::dataplane) enum Kernel {
    /// The tools of a variant of iptables, and ipset.
    Iptables(iptables::Kernel),
    /// Netlink.
    Nftables(nftables::Kernel),
}

impl Kernel {
    /// The backend of a place. No tool is started, and no socket is opened yet.
    pub(in crate::dataplane) fn new(place: Place, lock_wait_seconds: u32) -> Self {
        match place {
            Place::Iptables(place) => {
                Self::Iptables(iptables::Kernel::new(place, lock_wait_seconds))
            }
            Place::Nftables => Self::Nftables(nftables::Kernel::default()),
        }
    }

    /// The place that the backend writes to.
    pub(in crate::dataplane) fn place(&self) -> Place {
        match self {
            Self::Iptables(kernel) => Place::Iptables(kernel.place),
            Self::Nftables(_) => Place::Nftables,
        }
    }

    /// The table that holds our chains.
    pub(in crate::dataplane) fn table(&self) -> TableName {
        match self {
            Self::Iptables(kernel) => kernel.place.table,
            Self::Nftables(_) => TableName::Own,
        }
    }

    /// Whether `family` can be enforced, if the kernel has it.
    pub(in crate::dataplane) fn installed(&self, family: Family) -> bool {
        match self {
            Self::Iptables(kernel) => kernel.installed(family),
            Self::Nftables(_) => true,
        }
    }

    /// Reads our sets, and our chains and hooks of the families in `desired`. If one family cannot
    /// be read, returns the second one and the error.
    pub(in crate::dataplane) fn read<'a>(
        &self,
        desired: impl IntoIterator<Item = (&'a Family, &'a Chains)>,
    ) -> Result<(Applied, BTreeMap<Family, Error>), Error> {
        let (tables, failed) = self.read_tables(desired)?;
        let sets = self.read_sets()?;
        Ok((Applied { tables, sets }, failed))
    }

    /// Reads our chains and hooks of the families in `desired`. If one family cannot be read,
    /// returns the second one and the error.
    pub(in crate::dataplane) fn read_tables<'a>(
        &self,
        desired: impl IntoIterator<Item = (&'a Family, &'a Chains)>,
    ) -> Result<(Tables, BTreeMap<Family, Error>), Error> {
        let (mut tables, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for (family, chains) in desired {
            match self.read_table(*family, chains) {
                Ok(table) => drop(tables.insert(*family, table)),
                Err(error) => drop(failed.insert(*family, error)),
            }
        }
        if tables.is_empty()
            && let Some((_, error)) = failed.pop_first()
        {
            return Err(error);
        }
        Ok((tables, failed))
    }

    /// Reads our chains and hooks of one family. Rules that equal one of `desired` share its value.
    pub(in crate::dataplane) fn read_table(
        &self,
        family: Family,
        desired: &Chains,
    ) -> Result<Table, Error> {
        match self {
            Self::Iptables(kernel) => kernel.read_table(family, desired),
            Self::Nftables(_) => nftables::Kernel::read_table(family, desired),
        }
    }

    /// Reads our sets and no others: those of other software can have millions of members.
    pub(in crate::dataplane) fn read_sets(&self) -> Result<BTreeMap<SetName, AppliedSet>, Error> {
        match self {
            Self::Iptables(kernel) => kernel.read_sets(),
            Self::Nftables(_) => nftables::Kernel::read_sets(),
        }
    }

    /// The positions of those of `hooks` that are missing, doubled or not first.
    pub(in crate::dataplane) fn displaced_hooks(
        &self,
        family: Family,
        hooks: &[Hook],
    ) -> Result<BTreeMap<Hook, HookPlaces>, Error> {
        match self {
            Self::Iptables(kernel) => kernel.displaced_hooks(family, hooks),
            Self::Nftables(_) => nftables::Kernel::displaced_hooks(family, hooks),
        }
    }

    /// Moves hooks from these positions to where they should be.
    pub(in crate::dataplane) fn restore_hooks(
        &mut self,
        family: Family,
        hooks: &BTreeMap<Hook, HookPlaces>,
    ) -> Result<(), Error> {
        match self {
            Self::Iptables(kernel) => kernel.restore_hooks(family, hooks),
            Self::Nftables(kernel) => kernel.restore_hooks(family, hooks),
        }
    }

    /// Ends the tools that are running. The next change starts new ones.
    pub(in crate::dataplane) fn end_tools(&mut self) {
        match self {
            Self::Iptables(kernel) => kernel.end_tools(),
            Self::Nftables(_) => {}
        }
    }

    /// Whether this backend makes changes by a netlink port.
    pub(in crate::dataplane) fn is_own(&self, port: u32) -> bool {
        match self {
            Self::Iptables(kernel) => kernel.is_own(port),
            Self::Nftables(kernel) => kernel.is_own(port),
        }
    }

    /// Reads the counters of kinds of denial.
    pub(in crate::dataplane) fn read_denials(
        &self,
        families: &[Family],
        applied: Option<&Applied>,
    ) -> Result<Reading, Error> {
        match self {
            Self::Iptables(kernel) => kernel.read_denials(families, applied),
            Self::Nftables(_) => nftables::Kernel::read_denials(families),
        }
    }

    /// Whether the counters of a chain of denials are lost when its rules change.
    pub(in crate::dataplane) fn counts_with_rules(&self) -> bool {
        matches!(self, Self::Iptables(_))
    }

    /// Whether the removal of rules delays the next change.
    pub(in crate::dataplane) fn removes_slowly(&self) -> bool {
        match self {
            Self::Iptables(kernel) => kernel.removes_slowly(),
            Self::Nftables(_) => true,
        }
    }

    /// Executes `plan`. If a part of a stage fails, the stages after it are not executed.
    pub(in crate::dataplane) fn execute(&mut self, plan: &Plan) -> Executed {
        match self {
            Self::Iptables(kernel) => kernel.execute(plan),
            Self::Nftables(kernel) => kernel.execute(plan),
        }
    }
}
