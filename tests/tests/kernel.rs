//! Every policy case on real packets: three nodes, one real agent each, every pair and port probed.
//!
//! Topologies, underlays and iptables variants go together so that each pair of choices occurs;
//! every world is dual-stack, and single-stack ones play the cases that tell families apart.

use anyhow::{Result, bail};
use portcullis_lab::{IptablesVariant, Lab, LabBuilder, Topology, Underlay};
use portcullis_tests::cases::{self, Case, Expectation, Families, Via};
use portcullis_tests::play::{Player, served};

fn lab(topology: Topology, variant: IptablesVariant) -> LabBuilder {
    Lab::builder().topology(topology).iptables(variant)
}

/// Plays all cases that `wanted` picks, and lists every one that fails.
fn play(
    lab: &LabBuilder,
    underlay: Underlay,
    families: Families,
    wanted: impl Fn(&Case) -> bool,
) -> Result<()> {
    play_with(lab, underlay, families, &[], wanted)
}

fn play_with(
    lab: &LabBuilder,
    underlay: Underlay,
    families: Families,
    flags: &[&str],
    wanted: impl Fn(&Case) -> bool,
) -> Result<()> {
    let base = cases::world(families)?;
    let all = cases::all()?;
    let picked = all
        .iter()
        .filter(|case| case.is_about(families) && cases::is_asked_for(case) && wanted(case));
    // Agents have one set of flags; the cases that need another get agents of their own.
    let (plain, special): (Vec<&Case>, Vec<&Case>) =
        picked.partition(|case| !case.options.allow_egress_to_own_node);
    let (mut probes, mut failed) = (0, Vec::new());
    for (cases, more) in [(&plain, None), (&special, Some("--allow-egress-to-own-node"))] {
        let flags: Vec<&str> = flags.iter().copied().chain(more).collect();
        if cases.is_empty() {
            continue;
        }
        let lab = lab.clone().underlay(underlay).direct_internet(true);
        let mut player = Player::start(lab, base.clone(), &served(cases, &base)?, &flags)?;
        for case in cases {
            match player.play(case, &base, |expectation| can_tell(underlay, expectation)) {
                Ok(checked) => probes += checked,
                Err(failure) => {
                    failed.push(format!("{failure:#}"));
                    player.reset(&base)?;
                }
            }
        }
    }
    println!("{} cases, {probes} connections tried on real packets", plain.len() + special.len());
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

/// With vxlan, what a node sends to pods elsewhere comes from its tunnel's address, as with
/// flannel, and not from the one that the cases state: the host-gw labs play those.
fn can_tell(underlay: Underlay, expectation: &Expectation) -> bool {
    let probe = &expectation.probe;
    let same_node = probe.source.node == probe.destination.node;
    let from_node = probe.source.on_host && !same_node && !probe.destination.on_host;
    let masqueraded = matches!(&probe.via, Some(Via::NodePort { node, .. })
        if probe.destination.node.as_ref() != Some(node));
    underlay == Underlay::HostGw || !(from_node || masqueraded)
}

#[test]
fn bridge_host_gw_nft() -> Result<()> {
    let lab = lab(Topology::Bridge, IptablesVariant::Nft);
    play(&lab, Underlay::HostGw, Families::Dual, |_| true)
}

/// `make test-nftables` plays all of them so.
#[test]
fn bridge_nftables() -> Result<()> {
    let lab = lab(Topology::Bridge, IptablesVariant::Nft);
    play_with(&lab, Underlay::HostGw, Families::Dual, &["--backend=nftables"], tells_families_apart)
}

#[test]
fn bridge_vxlan_legacy() -> Result<()> {
    let lab = lab(Topology::Bridge, IptablesVariant::Legacy);
    play(&lab, Underlay::Vxlan, Families::Dual, |_| true)
}

#[test]
fn routed_vxlan_nft() -> Result<()> {
    let lab = lab(Topology::Routed, IptablesVariant::Nft);
    play(&lab, Underlay::Vxlan, Families::Dual, |_| true)
}

#[test]
fn routed_host_gw_legacy() -> Result<()> {
    let lab = lab(Topology::Routed, IptablesVariant::Legacy);
    play(&lab, Underlay::HostGw, Families::Dual, |_| true)
}

#[test]
fn ipv4_only_nft() -> Result<()> {
    let lab = lab(Topology::Bridge, IptablesVariant::Nft);
    play(&lab, Underlay::HostGw, Families::V4, tells_families_apart)
}

#[test]
fn ipv6_only_legacy() -> Result<()> {
    let lab = lab(Topology::Routed, IptablesVariant::Legacy);
    play(&lab, Underlay::HostGw, Families::V6, tells_families_apart)
}

fn tells_families_apart(case: &Case) -> bool {
    ["block", "deny", "named", "service", "node"].iter().any(|word| case.name.contains(word))
}
