//! The tables that a service of the node loads before pods start (`deploy/boot`). The agent only
//! removes them.

use policy_engine::cidr::Family;

use super::kernel::{Kernel, has_table};
use super::message::{kind, protocol};
use crate::dataplane::backend::Error;
use crate::dataplane::netlink::attributes::Attributes;
use crate::dataplane::netlink::nftables::Message;

/// The name of the table in each family, as `deploy/boot/portcullis-boot.nft` has it.
pub(in crate::dataplane) const TABLE: &str = "portcullis-boot";

/// Removes the table of `family`. Returns whether it existed.
pub(in crate::dataplane) fn remove(family: Family) -> Result<bool, Error> {
    let message = |kind| {
        let attributes = Attributes::default().text(1, TABLE).0;
        Message { kind, flags: 0, family: protocol(family), attributes }
    };
    let exists = has_table(&message(kind::LIST_TABLES), TABLE)?;
    if exists {
        Kernel::default().change(vec![message(kind::DELETE_TABLE)])?;
    }
    Ok(exists)
}
