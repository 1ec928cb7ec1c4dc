//! Attacks on packets: what a pod could send to get around the policies, in every topology and
//! with both variants of iptables. The table states what has to become of each.

mod attack;
mod forgotten;
mod packet;
mod run;
mod sequences;
mod table;
mod world;

use std::thread;

use anyhow::{Result, anyhow};
use portcullis_lab::{Frames, IptablesVariant, Topology};

use crate::attack::Needs;
use crate::run::{attack_by_link_local, attack_everything, keep};

#[test]
fn a_sender_that_needs_nothing_may_not_send_frames() -> Result<()> {
    let open = |needs| {
        let opened = thread::spawn(move || keep(needs).map(|()| Frames::open("lo").is_ok()));
        opened.join().map_err(|_| anyhow!("a thread panicked"))?
    };
    assert!(open(Needs::NetRaw)?, "a packet socket needs CAP_NET_RAW alone");
    assert!(!open(Needs::Nothing)?, "a packet socket needs CAP_NET_RAW");
    Ok(())
}

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
