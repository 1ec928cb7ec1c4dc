//! Faults, rivals and mistakes: nothing that policy forbids passes, nothing it allows breaks, and
//! nothing of others changes. Real agents, real packets.

mod bpf;
mod churn;
mod claims;
mod conflicts;
mod established;
mod families;
mod hooks;
mod input;
mod neighbours;
mod nftables;
mod output;
mod probes;
mod reconnects;
mod refused;
mod restarts;
mod startup;
mod syn;
mod table;
mod tiers;
mod tools;
mod traffic;

use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_lab::IptablesVariant;
use portcullis_tests::shop;

/// Held by tests that count lost packets, and by those that load the machine: side by side, a packet is
/// lost in a queue of the kernel now and then.
fn alone() -> MutexGuard<'static, ()> {
    static LOAD: Mutex<()> = Mutex::new(());
    LOAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ways to iptables.
const VARIANTS: [IptablesVariant; 2] = [IptablesVariant::Nft, IptablesVariant::Legacy];
