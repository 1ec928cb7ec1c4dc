//! Which ports the table against frames with two VLAN tags has, and when it is written.

use std::collections::BTreeSet;

use super::Dataplane;
use super::attachment::InterfaceName;
use super::backend::Error;
use super::backend::nftables::two_tags;
use super::feature::Feature;

impl Dataplane {
    /// Makes the kernel drop frames with two VLAN tags that pods send to bridges. Ports that no longer
    /// lead to pods stay until the next [`Dataplane::verify_two_tags`], because the kernel delays the
    /// change after one that removes rules.
    pub(super) fn drop_two_tags(&mut self) -> Result<(), Error> {
        let ports = self.two_tags_of();
        // Taken, so that everything is compared after a failure.
        let written = match self.two_tags.take() {
            Some(written) if ports.is_subset(&written) => written,
            Some(written) if !written.is_empty() => {
                let new: BTreeSet<InterfaceName> = ports.difference(&written).copied().collect();
                two_tags::add(&new)?;
                written.union(&new).copied().collect()
            }
            _ => {
                if !two_tags::is_written(&ports)? {
                    two_tags::write(&ports)?;
                }
                ports
            }
        };
        self.two_tags = Some(written);
        Ok(())
    }

    /// Compares the table with what it should be, and repairs it.
    pub(super) fn verify_two_tags(&mut self) -> Result<(), Error> {
        let ports = self.two_tags_of();
        let written = self.two_tags.take();
        if let Some(written) = &written
            && !two_tags::is_written(written)?
        {
            tracing::warn!(
                "another program changed the table that drops frames with two VLAN tags; restored"
            );
        } else if written.as_ref() == Some(&ports) {
            self.two_tags = written;
            return Ok(());
        }
        two_tags::write(&ports)?;
        self.two_tags = Some(ports);
        Ok(())
    }

    /// The ports of bridges whose frames with two tags are dropped.
    fn two_tags_of(&self) -> BTreeSet<InterfaceName> {
        if self.options.checks_interfaces() && self.options.has(Feature::TwoTags) {
            self.attachments.bridge_ports.clone()
        } else {
            BTreeSet::new()
        }
    }
}
