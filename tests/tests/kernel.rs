//! Every policy case on real packets: three nodes, one real agent each, every pair and port probed.
//!
//! Topologies, underlays and iptables variants go together so that each pair of choices occurs;
//! every world is dual-stack, and single-stack ones play the cases that tell families apart.

use anyhow::{Result, bail};
use portcullis_tests::cases::{Case, Families, Port, World};
use portcullis_tests::lab::{IptablesVariant, Lab, LabBuilder, Topology, Underlay};
use portcullis_tests::play::Player;

/// What pods and nodes of the cases' world serve, and what single cases ask for besides.
fn ports() -> Vec<Port> {
    ["80/tcp", "81/tcp", "80/udp", "81/udp", "80/sctp"]
        .iter()
        .map(|text| text.parse().expect("a port"))
        .collect()
}

fn lab(topology: Topology, underlay: Underlay, variant: IptablesVariant) -> LabBuilder {
    Lab::builder().topology(topology).underlay(underlay).iptables(variant)
}

/// Plays all cases that `wanted` picks, and lists every one that fails.
fn play(lab: LabBuilder, families: Families, wanted: impl Fn(&Case) -> bool) -> Result<()> {
    let base = World::load(families)?;
    let mut player = Player::start(lab, base.clone(), &ports(), &[])?;
    let only = std::env::var("PORTCULLIS_CASE").ok();
    let (mut cases, mut probes, mut failed) = (0, 0, Vec::new());
    for case in Case::load_all()?.iter().filter(|case| case.is_about(families) && wanted(case)) {
        if only.as_ref().is_some_and(|only| *only != case.name) {
            continue;
        }
        match player.play(case, &base) {
            Ok(checked) => probes += checked,
            Err(failure) => {
                failed.push(format!("{failure:#}"));
                player.reset(&base)?;
            }
        }
        cases += 1;
    }
    println!("{cases} cases, {probes} connections tried on real packets");
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

#[test]
fn bridge_host_gw_nft() -> Result<()> {
    let lab = lab(Topology::Bridge, Underlay::HostGw, IptablesVariant::Nft);
    play(lab, Families::Dual, |_| true)
}

#[test]
fn bridge_vxlan_legacy() -> Result<()> {
    let lab = lab(Topology::Bridge, Underlay::Vxlan, IptablesVariant::Legacy);
    play(lab, Families::Dual, |_| true)
}

#[test]
fn routed_vxlan_nft() -> Result<()> {
    let lab = lab(Topology::Routed, Underlay::Vxlan, IptablesVariant::Nft);
    play(lab, Families::Dual, |_| true)
}

#[test]
fn routed_host_gw_legacy() -> Result<()> {
    let lab = lab(Topology::Routed, Underlay::HostGw, IptablesVariant::Legacy);
    play(lab, Families::Dual, |_| true)
}

#[test]
fn ipv4_only_nft() -> Result<()> {
    let lab = lab(Topology::Bridge, Underlay::HostGw, IptablesVariant::Nft);
    play(lab, Families::V4, tells_families_apart)
}

#[test]
fn ipv6_only_legacy() -> Result<()> {
    let lab = lab(Topology::Routed, Underlay::HostGw, IptablesVariant::Legacy);
    play(lab, Families::V6, tells_families_apart)
}

fn tells_families_apart(case: &Case) -> bool {
    ["block", "deny", "named", "service", "node"].iter().any(|word| case.name.contains(word))
}
