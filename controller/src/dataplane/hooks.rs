//! Repairs what other programs have just changed: the hooks alone, or all chains. It reads no set,
//! so it takes less time than a comparison of everything.

use std::collections::BTreeMap;

use policy_engine::cidr::Family;
use policy_engine::compiled::Compiled;

use super::Dataplane;
use super::applied::HookPlaces;
use super::backend::Error;
use super::desired::Touched;
use super::drift::{DisplacedHook, Drift};
use super::hook_watch::HookWatch;
use super::name::ChainName;
use super::rule::Hook;

impl Dataplane {
    /// The hooks that are missing, doubled, or behind rules of other programs.
    ///
    /// # Errors
    /// When a chain cannot be read.
    pub fn displaced_hooks(&self) -> Result<Vec<DisplacedHook>, Error> {
        let (mut displaced, table) = (Vec::new(), self.table());
        for family in &self.families {
            let found = self.kernel.displaced_hooks(*family, &self.options.hooks())?;
            displaced.extend(found.into_iter().map(|(hook, places)| DisplacedHook {
                family: *family,
                table,
                hook,
                places,
            }));
        }
        Ok(displaced)
    }

    /// Puts these hooks in the first place.
    ///
    /// # Errors
    /// When the kernel refuses them: our chains may be missing as well, which
    /// [`Dataplane::verify`] repairs.
    pub fn restore_hooks(&mut self, displaced: &[DisplacedHook]) -> Result<(), Error> {
        let mut families: BTreeMap<Family, BTreeMap<Hook, HookPlaces>> = BTreeMap::new();
        for DisplacedHook { family, hook, places, .. } in displaced {
            families.entry(*family).or_default().insert(*hook, places.clone());
        }
        families.iter().try_for_each(|(family, hooks)| self.kernel.restore_hooks(*family, hooks))
    }

    /// Reads chains and hooks, and repairs those that other programs have changed. Returns what had
    /// changed.
    ///
    /// # Errors
    /// When a chain or hook cannot be read or repaired.
    pub fn repair_chains(&mut self, compiled: &Compiled) -> Result<Vec<Drift>, Error> {
        let (tables, mut unread) = self.kernel.read_tables(&self.desired.tables)?;
        if let Some(failed) = unread.pop_first() {
            return Err(Error::of_family(failed));
        }
        // If the applied state is not known, the next apply reads it.
        let Some(mut applied) = self.applied.take() else { return Ok(Vec::new()) };
        let mut touched = Touched::default();
        for (family, table) in &tables {
            let before = applied.tables.get(family).map(|table| &table.chains);
            let names = before.into_iter().flatten().chain(&table.chains).map(|(name, _)| name);
            let differs = |name: &ChainName| {
                before.and_then(|chains| chains.get(name)) != table.chains.get(name)
            };
            let changed = names.copied().filter(differs);
            touched.chains.extend(changed.map(|name| (*family, name)));
        }
        applied.tables = tables;
        let changed = touched.chains.clone();
        self.touched = self.touched.take().map(|before| before.and(touched));
        let mut drifts = self.repair(compiled, Some(applied))?;
        // A postponed part of a change of policies is not a change of other programs.
        drifts.retain(|drift| match drift {
            Drift::Chain { family, chain, .. } => changed.contains(&(*family, *chain)),
            Drift::Hook(_) => true,
            Drift::Set { .. } | Drift::Members { .. } => false,
        });
        Ok(drifts)
    }

    /// Whether this dataplane changes rules by a netlink port.
    #[must_use]
    pub fn is_own(&self, port: u32) -> bool {
        self.kernel.is_own(port)
    }

    /// A watch for changes of the hooks and chains by other programs.
    #[must_use]
    pub fn hook_watch(&self) -> HookWatch {
        let (place, wait) = (self.kernel.place(), self.options.lock_wait_seconds);
        HookWatch::new(place, wait, &self.families, self.options.hooks())
    }
}
