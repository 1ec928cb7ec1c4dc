//! Removes all our hooks, chains and sets from the kernel, and no others.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use policy_engine::cidr::Family;
use policy_engine::compiled::Update;

use super::kernel::Kernel;
use super::variant::{Place, Variant};
use crate::dataplane::applied::Applied;
use crate::dataplane::backend::error::Error;
use crate::dataplane::backend::nftables;
use crate::dataplane::desired::Desired;
use crate::dataplane::diff::{self, Terms};
use crate::dataplane::options::{Options, TableName};
use crate::dataplane::plan::Plan;
use crate::dataplane::rule::Chains;

/// How long a cleanup waits for the kernel to release sets after their last rule was removed.
const SET_RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// How long it waits between two attempts.
const SET_RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// The result of a cleanup.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cleaned {
    /// Chains deleted, of both variants, tables and families.
    pub chains_deleted: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Chains and sets of ours that rules of other programs use. The chains are empty.
    pub kept: Vec<String>,
}

/// Removes all our hooks, chains and sets, in both variants, tables and families.
///
/// # Errors
/// When a table or the sets cannot be read or written; the rest is removed all the same.
pub fn cleanup(options: &Options) -> Result<Cleaned, Error> {
    let mut report = Cleaned::default();
    let mut failed = None;
    let lock_wait_seconds = options.lock_wait_seconds;
    for place in Place::all() {
        match clean_tables(Kernel::new(place, lock_wait_seconds)) {
            Ok((deleted, kept)) => {
                report.chains_deleted += deleted;
                report.kept.extend(kept);
            }
            Err(error) => failed = Some(error),
        }
    }
    let (destroyed, kept) = clean_sets(lock_wait_seconds)?;
    report.sets_destroyed = destroyed;
    report.kept.extend(kept);
    failed.map_or(Ok(report), Err)
}

/// Destroys our sets. Returns how many were destroyed, and which are in use.
pub(in crate::dataplane) fn clean_sets(
    lock_wait_seconds: u32,
) -> Result<(usize, Vec<String>), Error> {
    // The sets do not depend on the variant.
    let anywhere = Place { variant: Variant::Nft, table: TableName::Mangle };
    let mut kernel = Kernel::new(anywhere, lock_wait_seconds);
    let sets = match kernel.read_sets() {
        // Only nftables is used here.
        Err(Error::Start { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok((0, Vec::new()));
        }
        sets => sets?,
    };
    let mut applied = Applied { sets, ..Applied::default() };
    let count = applied.sets.len();
    let end = Instant::now() + SET_RELEASE_LIMIT;
    loop {
        let (plan, mut after) = plan_nothing(&applied);
        let in_use = kernel.execute(&plan).in_use()?;
        after.sets.retain(|set, _| in_use.contains(set));
        applied = after;
        if in_use.is_empty() || Instant::now() > end {
            break;
        }
        thread::sleep(SET_RELEASE_PAUSE);
    }
    let kept = applied.sets.keys().map(ToString::to_string);
    Ok((count - applied.sets.len(), kept.collect()))
}

/// Whether a table has no chain of ours. A table of iptables-legacy whose tools are not installed is taken for
/// one that has none.
pub(in crate::dataplane) fn holds_nothing(kernel: &Kernel, family: Family) -> Result<bool, Error> {
    let Place { variant, table } = kernel.place;
    if variant == Variant::Nft {
        return Ok(!nftables::Kernel::has_chains_of_iptables(family, table)?);
    }
    if !kernel.may_have_rules(family) || !kernel.installed(family) {
        return Ok(true);
    }
    Ok(kernel.read_table(family, &Chains::new())?.chains.is_empty())
}

/// Removes our hooks and chains of one table. Returns how many chains were removed, and which are
/// in use.
pub(in crate::dataplane) fn clean_tables(
    mut kernel: Kernel,
) -> Result<(usize, Vec<String>), Error> {
    let (mut deleted, mut kept) = (0, Vec::new());
    for family in Family::BOTH {
        if !kernel.may_have_rules(family) {
            continue;
        }
        if !kernel.installed(family) {
            let Place { variant, table } = kernel.place;
            if variant == Variant::Nft && nftables::Kernel::has_chains_of_iptables(family, table)? {
                let command = variant.command(family);
                return Err(Error::NotRemoved { family, table, command });
            }
            continue;
        }
        let tables = BTreeMap::from([(family, kernel.read_table(family, &Chains::new())?)]);
        let applied = Applied { tables, ..Applied::default() };
        let (plan, after) = plan_nothing(&applied);
        kernel.execute(&plan).in_use()?;
        deleted += plan.tables.values().map(|change| change.delete.len()).sum::<usize>();
        let chains = after.tables.values().flat_map(|table| table.chains.keys());
        kept.extend(chains.map(ToString::to_string));
    }
    Ok((deleted, kept))
}

/// The plan that removes all of `applied`.
fn plan_nothing(applied: &Applied) -> (Plan, Applied) {
    let desired = Desired::nothing(applied.tables.keys().copied());
    let (update, sets) = (Update::default(), BTreeMap::new());
    let terms = Terms { update: &update, sets: &sets, initial_maxelem: 0 };
    diff::diff(applied, &desired, &desired.all_touched(applied), &terms)
}
