//! Neighbours that remove our hooks, or put rules in front of them.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_lab::{Family, IptablesVariant, Node};
use portcullis_tests::cluster::{AgentSetup, Cluster};
use portcullis_tests::tool::wrap;

use crate::probes::{self, METRICS, ask, flags};
use crate::shop::{ADMIN, ECHO, PATIENCE, WEB, allow, check, lab, shop};
use crate::traffic::Traffic;

const OPEN: &[(&str, &str, u16)] = &[("web", "api", WEB), ("near", "api", WEB)];
const CLOSED: &[(&str, &str, u16)] = &[("stranger", "api", WEB), ("web", "api", ADMIN)];
const TRAFFIC: Traffic = Traffic { held: &[("web", "api")], allowed: OPEN, forbidden: CLOSED };

/// Between two attempts of a neighbour to be first.
const PUSH_PERIOD: Duration = Duration::from_millis(50);

fn guarded(variant: IptablesVariant) -> Result<Cluster> {
    guarded_with(variant, None)
}

/// As [`guarded`]; the agent looks for tools in this directory first.
fn guarded_with(variant: IptablesVariant, tools: Option<PathBuf>) -> Result<Cluster> {
    // No comparison of everything gets in the way.
    let mut cluster = shop(lab(variant), &["--verify-period=3600"])?;
    cluster.write("api.yaml", &allow("api", &["web", "near"], &[WEB, ECHO]))?;
    let setup = AgentSetup { flags: flags(&[]), tools, ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    cluster.put_agent(agent);
    probes::wait_for(&cluster, "/readyz", 200)?;
    Ok(cluster)
}

/// Whether the first rule of FORWARD jumps to our chain.
fn is_first(node: &Node, iptables: &str) -> Result<bool> {
    let rules = node.shell(&format!("{iptables} -S FORWARD"))?;
    Ok(rules.lines().find(|line| line.starts_with("-A"))
        == Some("-A FORWARD -j PORTCULLIS-FORWARD"))
}

fn until_first(node: &Node, iptables: &str) -> Result<Duration> {
    let start = Instant::now();
    while !is_first(node, iptables)? {
        ensure!(start.elapsed() < PATIENCE, "the hook did not come back");
    }
    Ok(start.elapsed())
}

/// Flushes FORWARD again and again; prints how long packets went unjudged.
fn flushes(variant: IptablesVariant, tries: usize) -> Result<()> {
    let _alone = crate::alone();
    let cluster = guarded(variant)?;
    let node = cluster.lab.node("n2")?;
    for family in Family::BOTH {
        let iptables = format!("{} -w -t mangle", variant.program(family));
        let mut gaps = Vec::new();
        for _ in 0..tries {
            node.shell(&format!("{iptables} -F FORWARD"))?;
            gaps.push(until_first(node, &iptables)?);
        }
        gaps.sort();
        println!("{variant:?} {family:?}: {tries} flushes, repaired after {gaps:?}");
    }
    probes::wait_for(&cluster, "/readyz", 200)?;
    let metrics = ask(&cluster, METRICS, "/metrics")?.1;
    let repairs = probes::value(&metrics, "portcullis_hook_repairs_total")?;
    ensure!(repairs >= 2.0 * f64::from(u32::try_from(tries)?), "{repairs} repairs");
    let contested = "another program displaces the jumps to Portcullis again and again";
    cluster.agent("n2")?.wait_for(contested, PATIENCE)?;
    check(&cluster.lab, "after the flushes", OPEN, CLOSED)
}

#[test]
fn a_flush_is_repaired_at_once_nft() -> Result<()> {
    flushes(IptablesVariant::Nft, 20)
}

#[test]
fn a_flush_is_repaired_at_the_next_look_legacy() -> Result<()> {
    flushes(IptablesVariant::Legacy, 5)
}

#[test]
fn a_flush_of_everything_is_repaired_at_once() -> Result<()> {
    let cluster = guarded(IptablesVariant::Nft)?;
    let node = cluster.lab.node("n2")?;
    for _ in 0..5 {
        node.shell("nft flush ruleset")?;
        let took = until_first(node, "iptables-nft -t mangle")?;
        println!("repaired after {took:?}");
    }
    check(&cluster.lab, "after the flushes", OPEN, CLOSED)
}

#[test]
fn flushed_chains_are_repaired_before_any_set_is_read() -> Result<()> {
    let _alone = crate::alone();
    let tools = tempfile::tempdir()?;
    wrap(tools.path(), "ipset", "sleep 20")?;
    let cluster = guarded_with(IptablesVariant::Nft, Some(tools.path().to_owned()))?;
    let broken = tools.path().join("ipset.broken");
    fs::write(&broken, "")?;
    let node = cluster.lab.node("n2")?;
    let start = Instant::now();
    node.shell("iptables-nft -w -t mangle -F PORTCULLIS-JUDGE")?;
    while !node.shell("iptables-nft -t mangle -S PORTCULLIS-JUDGE")?.contains("-A ") {
        ensure!(start.elapsed() < Duration::from_secs(10), "the chain is empty still");
    }
    println!("repaired after {:?}", start.elapsed());
    fs::remove_file(&broken)?;
    check(&cluster.lab, "after the flush", OPEN, CLOSED)
}

/// Puts an ACCEPT in front of FORWARD again and again, as a program that wants to be first.
fn push(node: &Node, iptables: &str, time: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        node.shell(&format!("{iptables} -I FORWARD 1 -j ACCEPT"))?;
        thread::sleep(PUSH_PERIOD);
    }
    Ok(())
}

fn neighbour_in_filter(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    let cluster = guarded(variant)?;
    let node = cluster.lab.node("n2")?;
    TRAFFIC.during(&cluster.lab, || {
        let iptables = format!("{} -w", variant.program(Family::V4));
        push(node, &iptables, Duration::from_secs(5))
    })
}

#[test]
fn an_accept_in_filter_lets_nothing_past_our_rules_nft() -> Result<()> {
    neighbour_in_filter(IptablesVariant::Nft)
}

#[test]
fn an_accept_in_filter_lets_nothing_past_our_rules_legacy() -> Result<()> {
    neighbour_in_filter(IptablesVariant::Legacy)
}

fn neighbour_in_front(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    let cluster = guarded(variant)?;
    let node = cluster.lab.node("n2")?;
    let iptables = format!("{} -w -t mangle", variant.program(Family::V4));
    // While it goes on, the agent has to wait between its repairs, and says that it does not enforce.
    let why = thread::scope(|scope| {
        let pushing = scope.spawn(|| push(node, &iptables, Duration::from_secs(5)));
        let why = probes::wait_for(&cluster, "/readyz", 503);
        pushing.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        why
    })?;
    ensure!(
        why.starts_with("Bypassed: HookDisplaced: the jump to PORTCULLIS-FORWARD is behind"),
        "{why}"
    );
    ensure!(why.contains("`-j ACCEPT`"), "{why}");
    until_first(node, &iptables)?;
    probes::wait_for(&cluster, "/readyz", 200)?;
    let metrics = ask(&cluster, METRICS, "/metrics")?.1;
    let conflict = "portcullis_conflicts{conflict=\"HookDisplaced\",ignored=\"false\"}";
    ensure!(probes::value(&metrics, conflict)? == 0.0, "{metrics}");
    check(&cluster.lab, "at the end", OPEN, CLOSED)
}

#[test]
fn a_hook_that_others_push_back_is_first_in_the_end_nft() -> Result<()> {
    neighbour_in_front(IptablesVariant::Nft)
}

#[test]
fn a_hook_that_others_push_back_is_first_in_the_end_legacy() -> Result<()> {
    neighbour_in_front(IptablesVariant::Legacy)
}
