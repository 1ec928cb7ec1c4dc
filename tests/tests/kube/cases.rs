//! Every policy case by a real API server: applied there, heard of by real agents on three
//! nodes with the tokens of their ServiceAccount, judged by real packets.
//!
//! Which topologies there are is proved in `kernel.rs`; here it is the road to the agents.

use anyhow::{Result, bail};
use portcullis_lab::{IptablesVariant, Lab, LabBuilder, Topology};
use portcullis_tests::cases::{self, Case, Families};
use portcullis_tests::play::{Player, served};

/// Plays what `wanted` picks, and lists every case that fails.
fn play(lab: &LabBuilder, families: Families, wanted: impl Fn(&Case) -> bool) -> Result<()> {
    let base = cases::world(families)?;
    let all = cases::all()?;
    let picked = all
        .iter()
        .filter(|case| case.is_about(families) && cases::is_asked_for(case) && wanted(case));
    let (refused, picked): (Vec<&Case>, Vec<&Case>) =
        picked.partition(|case| case.without_api_server.is_some());
    // Agents have one set of flags; the cases that need another get agents of their own.
    let (plain, special): (Vec<&Case>, Vec<&Case>) =
        picked.into_iter().partition(|case| !case.options.allow_egress_to_own_node);
    let (mut probes, mut failed) = (0, Vec::new());
    for (cases, flags) in [(&plain, vec![]), (&special, vec!["--allow-egress-to-own-node"])] {
        if cases.is_empty() {
            continue;
        }
        let lab = lab.clone().direct_internet(true);
        let ports = served(cases, &base)?;
        let mut player = Player::start_with_api_server(lab, base.clone(), &ports, &flags)?;
        for case in cases {
            match player.play(case, &base, |_| true) {
                Ok(checked) => probes += checked,
                Err(failure) => {
                    failed.push(format!("{failure:#}"));
                    player.reset(&base)?;
                }
            }
        }
    }
    println!(
        "{} cases, {probes} connections tried on real packets; {} cases left out that no API \
         server can hold",
        plain.len() + special.len(),
        refused.len()
    );
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

#[test]
fn every_case_holds_by_a_real_api_server() -> Result<()> {
    let lab = Lab::builder().topology(Topology::Bridge).iptables(IptablesVariant::Nft);
    play(&lab, Families::Dual, |_| true)
}

#[test]
fn pods_that_come_go_and_change_are_followed_on_the_other_road_too() -> Result<()> {
    let lab = Lab::builder().topology(Topology::Routed).iptables(IptablesVariant::Legacy);
    play(&lab, Families::V6, |case| {
        ["pod-", "relabelled", "changed", "service"].iter().any(|word| case.name.contains(word))
    })
}
