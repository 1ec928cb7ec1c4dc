//! The dataplane on a real kernel. Needs root; each test has network namespaces of its own.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub)] // all of it is test code
#![allow(clippy::disallowed_types, reason = "tests run the tools that others would")]

mod attach;
mod connections;
mod counts;
mod faults;
mod foreign;
mod hooks;
mod netns;
mod nftables;
mod packets;
mod protocols;
mod refused;
mod rules;
mod sets;
mod side_by_side;
mod speed;
mod tiers;
mod two_tags;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

use policy_engine::cidr::Family;
use portcullis_controller::dataplane::IptablesVariant;

use netns::Netns;

const VARIANTS: [IptablesVariant; 2] = [IptablesVariant::Legacy, IptablesVariant::Nft];

/// Held by tests that count lost packets, and by those that load the machine: side by side, a packet is
/// lost in a queue of the kernel now and then.
fn alone() -> MutexGuard<'static, ()> {
    static LOAD: Mutex<()> = Mutex::new(());
    LOAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `check` for both variants of iptables and both families, one after the other.
fn each_variant(mut check: impl FnMut(IptablesVariant, Family)) {
    for variant in VARIANTS {
        for family in Family::BOTH {
            println!("{variant:?} {family:?}");
            check(variant, family);
        }
    }
}

fn command(variant: IptablesVariant, family: Family) -> &'static str {
    match (variant, family) {
        (IptablesVariant::Legacy, Family::V4) => "iptables-legacy",
        (IptablesVariant::Legacy, Family::V6) => "ip6tables-legacy",
        (_, Family::V4) => "iptables-nft",
        (_, Family::V6) => "ip6tables-nft",
    }
}

/// All tables of both families with counters, without comments (they hold the time).
fn save(node: &Netns, variant: IptablesVariant) -> String {
    let save =
        |family| node.sh(&format!("{}-save -c | grep -v ^# || true", command(variant, family)));
    Family::BOTH.map(save).concat()
}
