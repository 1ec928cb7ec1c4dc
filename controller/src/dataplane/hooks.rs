//! The hooks alone: where they are, and how they get back to the first place. Reads and writes
//! nothing else, so it takes a tenth of the time that a comparison of everything takes.

use std::collections::BTreeMap;

use policy_engine::cidr::Family;

use super::Dataplane;
use super::applied::HookPlaces;
use super::backend::Error;
use super::drift::DisplacedHook;
use super::hook_watch::HookWatch;
use super::rule::Hook;

impl Dataplane {
    /// The hooks that are missing, doubled, or behind rules of others.
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
    /// When it cannot be done: the chains of ours may be gone as well, which
    /// [`Dataplane::verify`] repairs.
    pub fn restore_hooks(&mut self, displaced: &[DisplacedHook]) -> Result<(), Error> {
        let mut families: BTreeMap<Family, BTreeMap<Hook, HookPlaces>> = BTreeMap::new();
        for DisplacedHook { family, hook, places, .. } in displaced {
            families.entry(*family).or_default().insert(*hook, places.clone());
        }
        families.iter().try_for_each(|(family, hooks)| self.kernel.restore_hooks(*family, hooks))
    }

    /// Whether a netlink port is one that this dataplane changes rules by.
    #[must_use]
    pub fn is_own(&self, port: u32) -> bool {
        self.kernel.is_own(port)
    }

    /// Something that waits for changes of the hooks and chains by others.
    #[must_use]
    pub fn hook_watch(&self) -> HookWatch {
        let (place, wait) = (self.kernel.place(), self.options.lock_wait_seconds);
        HookWatch::new(place, wait, &self.families, self.options.hooks())
    }
}
