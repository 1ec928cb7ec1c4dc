//! Attacks on packets: what a pod could send to get around the policies, in every topology and
//! with both variants of iptables. The table states what has to become of each.

mod attack;
mod packet;
mod run;
mod sequences;
mod table;
mod world;

use anyhow::Result;
use portcullis_lab::{IptablesVariant, Topology};

use crate::run::{attack_by_link_local, attack_everything};

#[test]
fn attacks_end_as_the_table_says_on_a_bridge_with_nft() -> Result<()> {
    attack_everything(Topology::Bridge, IptablesVariant::Nft)
}

#[test]
fn attacks_end_as_the_table_says_on_a_bridge_with_legacy() -> Result<()> {
    attack_everything(Topology::Bridge, IptablesVariant::Legacy)
}

#[test]
fn attacks_end_as_the_table_says_routed_with_nft() -> Result<()> {
    attack_everything(Topology::Routed, IptablesVariant::Nft)
}

#[test]
fn attacks_end_as_the_table_says_routed_with_legacy() -> Result<()> {
    attack_everything(Topology::Routed, IptablesVariant::Legacy)
}

#[test]
fn link_local_attacks_end_so_on_a_bridge_with_ipv4_alone() -> Result<()> {
    attack_by_link_local(Topology::Bridge)
}

#[test]
fn link_local_attacks_end_so_routed_with_ipv4_alone() -> Result<()> {
    attack_by_link_local(Topology::Routed)
}
