//! A comparison with the kernel that delays no change: another thread reads, and the result is
//! compared in parts.
//!
//! ```text
//! reader ─ thread ─► Reading ─► compare_part, until all is compared ─► what differed, and is repaired
//!                                   ▲ what was changed since the reader was made is left out
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use policy_engine::cidr::Family;
use policy_engine::compiled::Compiled;

use super::Dataplane;
use super::applied::{Applied, AppliedSet, Elements, Table};
use super::backend::{Error, Kernel};
use super::desired::Touched;
use super::drift::Drift;
use super::name::{self, ChainName, SetName};
use super::plan::Plan;
use super::rule::Chains;

/// How many sets and members are compared in one part. It takes some 20 ms.
const MEMBERS_AT_ONCE: usize = 20_000;

/// Reads what is applied, on any thread.
pub struct Reader {
    kernel: Kernel,
    /// The desired chains: a rule with the same text is taken for the same rule.
    desired: BTreeMap<Family, Chains>,
}

impl Reader {
    /// Reads all our chains, hooks and sets.
    ///
    /// # Errors
    /// When the tables of a family or the sets cannot be read.
    pub fn read(self) -> Result<Reading, Error> {
        let (Applied { tables, sets }, mut failed) = self.kernel.read(&self.desired)?;
        match failed.pop_first() {
            Some(failed) => Err(Error::of_family(failed)),
            None => Ok(Reading { tables, sets, names: None }),
        }
    }
}

/// What a [`Reader`] has read, as far as it is not compared yet.
pub struct Reading {
    tables: BTreeMap<Family, Table>,
    sets: BTreeMap<SetName, AppliedSet>,
    /// The sets that are still to be compared; `None` before the first part.
    names: Option<BTreeSet<SetName>>,
}

impl Reading {
    /// Whether everything is compared.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.names.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

impl Dataplane {
    /// Begins a comparison: a reader of what is applied, for [`Dataplane::compare_part`].
    pub fn reader(&mut self) -> Reader {
        self.changed_since_read = Some(Touched::default());
        let kernel = Kernel::new(self.kernel.place(), self.options.lock_wait_seconds);
        Reader { kernel, desired: self.desired.tables.clone() }
    }

    /// Compares a part of what the last [`Dataplane::reader`] has read, and repairs what differs
    /// from `compiled`. Returns what differed.
    ///
    /// # Errors
    /// When a repair fails.
    pub fn compare_part(
        &mut self,
        compiled: &Compiled,
        reading: &mut Reading,
    ) -> Result<Vec<Drift>, Error> {
        if self.postponed {
            self.remove_unreferenced(compiled)?;
        }
        let hooks = self.displaced_hooks()?;
        let (Some(applied), Some(changed)) = (&mut self.applied, &self.changed_since_read) else {
            // Everything was read back and repaired in the meantime.
            reading.names = Some(BTreeSet::new());
            return Ok(Vec::new());
        };
        // Sets that could not be destroyed yet are no drift.
        let known = applied.unreferenced_sets();
        let mut touched = Touched::default();
        for displaced in hooks {
            let table = applied.tables.entry(displaced.family).or_default();
            table.hooks.insert(displaced.hook, displaced.places);
        }
        for (family, read) in mem::take(&mut reading.tables) {
            let now = applied.tables.entry(family).or_default();
            let names = now.chains.keys().chain(read.chains.keys()).map(|name| (family, *name));
            let names: BTreeSet<(Family, ChainName)> = names.collect();
            for (_, name) in names.difference(&changed.chains) {
                match read.chains.get(name) {
                    Some(rules) => drop(now.chains.insert(*name, rules.clone())),
                    None => drop(now.chains.remove(name)),
                }
                touched.chains.insert((family, *name));
            }
            now.wanted_by_others = read.wanted_by_others;
        }
        let all = || applied.sets.keys().chain(reading.sets.keys()).copied().collect();
        let names = reading.names.get_or_insert_with(all);
        let mut members = 0;
        while members < MEMBERS_AT_ONCE
            && let Some(name) = names.pop_first()
        {
            members += 1;
            if changed.sets.contains(&name) {
                continue;
            }
            match reading.sets.remove(&name) {
                Some(set) => {
                    if let Elements::Read(elements) = &set.elements {
                        members += elements.len();
                    }
                    applied.sets.insert(name, set);
                }
                None => drop(applied.sets.remove(&name)),
            }
            touched.sets.insert(name);
        }
        self.touched = self.touched.take().map(|before| before.and(touched));
        let applied = self.applied.take();
        let mut drifts = self.repair(compiled, applied)?;
        if drifts.iter().any(Drift::is_wrong) {
            self.confirm(compiled)?;
        }
        drifts.retain(|drift| !matches!(drift, Drift::Set { set, .. } if known.contains(set)));
        if reading.is_compared() {
            self.changed_since_read = None;
            self.verify_two_tags()?;
        }
        Ok(drifts)
    }

    /// Records what `plan` changes: the reader may read an older state.
    pub(super) fn note_changes(&mut self, plan: &Plan) {
        let Some(changed) = &mut self.changed_since_read else { return };
        for (family, change) in &plan.tables {
            let written = change.write.keys().chain(change.prepend.keys()).chain(&change.delete);
            changed.chains.extend(written.map(|name| (*family, *name)));
        }
        for eviction in &plan.evict {
            changed.sets.insert(eviction.set);
            let chains = eviction.chains.iter();
            let chains = chains.flat_map(|(of, chains)| chains.keys().map(|name| (*of, *name)));
            changed.chains.extend(chains);
        }
        let made = plan.create.iter().flat_map(|set| [set.name, name::temporary(set.name)]);
        changed.sets.extend(made.chain(plan.clear.iter().chain(&plan.destroy).copied()));
        changed.sets.extend(plan.remove.keys().chain(plan.add.keys()).copied());
    }
}
