//! Faults, rivals and mistakes: nothing that policy forbids passes, nothing it allows breaks, and
//! nothing of others changes. Real agents, real packets.

mod bpf;
mod churn;
mod claims;
mod conflicts;
mod established;
mod hooks;
mod input;
mod neighbours;
mod probes;
mod reconnects;
mod restarts;
mod shop;
mod startup;
mod syn;
mod tiers;
mod tools;
mod traffic;

use portcullis_lab::IptablesVariant;

/// Both ways to iptables.
const VARIANTS: [IptablesVariant; 2] = [IptablesVariant::Nft, IptablesVariant::Legacy];
