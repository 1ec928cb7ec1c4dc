//! The tables that a service of the node loads before pods start (`deploy/boot`). The agent only
//! removes them.

use policy_engine::cidr::Family;

use super::kernel::{Kernel, failed, is_absent, refused};
use super::message::{kind, protocol};
use super::transaction::Transaction;
use crate::dataplane::backend::Error;
use crate::dataplane::netlink::attributes::{Attributes, find, text};
use crate::dataplane::netlink::nftables::{Connection, Message};

/// The name of the table in each family, as `deploy/boot/portcullis-boot.nft` has it.
pub(in crate::dataplane) const TABLE: &str = "portcullis-boot";

/// Removes the table of `family`. Returns whether it existed.
pub(in crate::dataplane) fn remove(family: Family) -> Result<bool, Error> {
    let message = |kind| {
        let attributes = Attributes::default().text(1, TABLE).0;
        Message { kind, flags: 0, family: protocol(family), attributes }
    };
    let listed = Connection::open().and_then(|mut it| it.list(&message(kind::LIST_TABLES)));
    let exists = match listed {
        Ok(tables) => tables.iter().any(|table| find(table, 1).and_then(text) == Some(TABLE)),
        Err(error) if is_absent(&error) => false,
        Err(error) => return Err(failed("list nftables")(error)),
    };
    if !exists {
        return Ok(false);
    }
    let transaction = Transaction::of_table(vec![message(kind::DELETE_TABLE)]);
    match Kernel::default().commit(&transaction)?.first() {
        None => Ok(true),
        Some(refusal) => Err(refused(&transaction, *refusal)),
    }
}
