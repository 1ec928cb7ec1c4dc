//! Sets over netlink, with libipset: changes members, and destroys sets.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipset::Session;
use ipset::types::HashIp;

use super::script::Joins;
use crate::dataplane::backend::error::Error;
use crate::dataplane::name::SetName;

/// libipset keeps its list of set types in a global without a lock.
static LIBIPSET: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    LIBIPSET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds or removes `addresses`. An address that is already added or removed is no error.
///
/// # Errors
/// When the kernel refuses an address. Those before it are changed.
pub(super) fn change(set: SetName, joins: Joins, addresses: &[IpAddr]) -> Result<(), Error> {
    let _lock = lock();
    let mut session = Session::<HashIp>::new(set.to_string());
    for address in addresses {
        let outcome = match joins {
            Joins::Add => session.add(*address, &[]),
            Joins::Remove => session.del(*address),
        };
        outcome.map_err(|error| Error::Member {
            set,
            address: *address,
            message: error.to_string(),
        })?;
    }
    Ok(())
}

/// Destroys `set`. Returns false if the set is in use.
///
/// A set can be in use for a while after its last rule was removed: `nf_tables` frees rules later.
pub(super) fn destroy(set: SetName) -> bool {
    let _lock = lock();
    match Session::<HashIp>::new(set.to_string()).destroy() {
        Ok(_) => true,
        Err(error) => {
            let message = error.to_string();
            let is_missing = message.contains("does not exist");
            if !is_missing {
                tracing::debug!(%set, message, "a set is still in use and is removed later");
            }
            is_missing
        }
    }
}
