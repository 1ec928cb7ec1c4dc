//! Removes our rules and sets: all of them, or those in places that are not used any more.

use super::Dataplane;
use super::backend::iptables::cleanup::{self, clean_sets, clean_tables};
use super::backend::iptables::{self, cleanup::Cleaned};
use super::backend::nftables::{boot, two_tags};
use super::backend::{Error, Kernel, Place, nftables};
use super::options::Options;
use super::rule::Chains;
use policy_engine::cidr::Family;

/// The result of a cleanup.
pub type CleanupReport = Cleaned;

/// Removes all our rules and sets: of both backends, in all tables and families.
///
/// # Errors
/// When a table or a set cannot be read or written; the rest is removed all the same.
pub fn cleanup(options: &Options) -> Result<CleanupReport, Error> {
    let tables = nftables::Kernel::default().remove_tables();
    let others = [two_tags::remove(), boot::remove(Family::V4), boot::remove(Family::V6)];
    let mut report = cleanup::cleanup(options)?;
    report.chains_deleted += tables?;
    for removed in others {
        report.chains_deleted += usize::from(removed?);
    }
    Ok(report)
}

impl Dataplane {
    /// Ends what drops packets of pods of a family since the boot of the node, if a service of the
    /// node loaded it (`deploy/boot/portcullis-boot.nft`).
    ///
    /// # Errors
    /// When the table cannot be removed.
    pub fn end_boot(family: Family) -> Result<(), Error> {
        if boot::remove(family)? {
            tracing::info!(
                ?family,
                table = boot::TABLE,
                "policies are enforced; removed the table that dropped packets of pods since the boot"
            );
        }
        Ok(())
    }

    /// Whether the tables and variants that are not used are known to have no chain of ours.
    pub(super) fn holds_nothing_elsewhere(&self) -> bool {
        let (used, wait) = (self.kernel.place(), self.options.lock_wait_seconds);
        let nothing_of_iptables = |place| {
            let kernel = iptables::Kernel::new(place, wait);
            let mut families = self.families.iter();
            families.all(|family| cleanup::holds_nothing(&kernel, *family).unwrap_or(false))
        };
        let nothing_of_nftables = |family: &Family| {
            let table = nftables::Kernel::read_table(*family, &Chains::new());
            table.is_ok_and(|table| table.chains.is_empty())
        };
        let mut others = iptables::Place::all().filter(|place| Place::Iptables(*place) != used);
        others.all(nothing_of_iptables)
            && (used == Place::Nftables || self.families.iter().all(nothing_of_nftables))
    }

    /// Removes our rules from the tables and variants that are not used, once they are applied in
    /// the one that is. Returns whether such rules may still be there.
    pub(super) fn clean_elsewhere(&mut self) -> bool {
        if self.elsewhere_clean {
            return false;
        }
        let used = self.kernel.place();
        let wait = self.options.lock_wait_seconds;
        let (mut clean, mut chains_deleted) = (true, 0);
        for place in iptables::Place::all().filter(|place| Place::Iptables(*place) != used) {
            match clean_tables(iptables::Kernel::new(place, wait)) {
                Ok((deleted, _)) => chains_deleted += deleted,
                Err(error) => {
                    let iptables::Place { variant, table } = place;
                    tracing::warn!(
                        ?variant, %table, %error, "failed to remove rules that are not used"
                    );
                    clean = false;
                }
            }
        }
        let others = match self.kernel {
            Kernel::Iptables(_) => nftables::Kernel::default().remove_tables().map(drop),
            // Without chains of ours there are no sets of ours: ipset is not needed.
            Kernel::Nftables(_) if chains_deleted == 0 => Ok(()),
            Kernel::Nftables(_) => clean_sets(wait).map(drop),
        };
        if let Err(error) = others {
            tracing::warn!(%error, "failed to remove tables or sets that are not used");
            clean = false;
        }
        self.elsewhere_clean = clean;
        !clean
    }
}
