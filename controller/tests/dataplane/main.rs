//! The dataplane on a real kernel. Needs root; each test has network namespaces of its own.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub)] // all of it is test code

mod netns;
mod packets;
mod world;

use policy_engine::cidr::Family;
use portcullis_controller::dataplane::IptablesVariant;

/// Runs `check` for both variants of iptables and both families, one after the other.
fn each_variant(mut check: impl FnMut(IptablesVariant, Family)) {
    for variant in [IptablesVariant::Legacy, IptablesVariant::Nft] {
        for family in Family::BOTH {
            println!("{variant:?} {family:?}");
            check(variant, family);
        }
    }
}
