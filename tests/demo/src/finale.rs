//! The end of the demo: a denial with the policies behind it, and the size of a node's rules.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason};
use policy_engine::explain::{NearMiss, PeerMiss, explain};
use policy_engine::flow::Traffic;
use policy_engine::port::Protocol;
use portcullis_whatif::output::words;

use super::Backend;
use super::ink::Ink;
use super::picture::wrap;
use super::scene::Scene;
use super::stage::{Stage, probe};
use super::table::{Cell, family_name};
use portcullis_lab::DEFAULT_TIMEOUT;
use portcullis_tests::cases::Port;

/// How often the packet is sent until an agent must have logged it.
const LOGGED_AFTER: usize = 10;

/// The prefix of every chain and set of an agent.
const OURS: &str = "PORTCULLIS-";

/// Both, as text.
///
/// # Errors
/// When the denial of the example is none.
pub(super) fn text(scene: &Scene, stage: &Stage, ink: Ink) -> Result<String> {
    let cell = Cell {
        family: Family::V4,
        source: scene.index("jobs/cleanup")?,
        destination: scene.index("shop/db-1")?,
        port: Port::Number(Protocol::Tcp, 5432),
    };
    let outcome = stage.cluster.lab.probe(&probe(scene, cell)?, DEFAULT_TIMEOUT)?;
    let explanation = explain(&scene.world, &scene.flow(cell)?);
    ensure!(
        !outcome.is_open() && !explanation.verdict.is_allowed(),
        "{}: {outcome}, and the engine says {:?}",
        scene.name(cell),
        explanation.verdict
    );
    let mut text = format!("\n{}\n", ink.bold("── why not?"));
    let _ = writeln!(text, "  {}: denied; a packet sent now: {outcome}", scene.name(cell));
    for (direction, misses) in
        [(Direction::Egress, &explanation.egress), (Direction::Ingress, &explanation.ingress)]
    {
        let decision = explanation.verdict.decision(direction);
        let line = format!("  {}: {}", direction.as_str().to_lowercase(), reason(decision));
        text.push_str(&wrap(&line, 4));
        if let Some(closest) = misses.first() {
            text.push_str(&wrap(
                &format!("    closest: {}", near_miss(closest, scene.flow(cell)?.traffic)),
                6,
            ));
        }
    }
    text.push_str(&wrap(&format!("  {}", logged(stage, scene, cell)?), 4));
    let _ = writeln!(text, "\n{}", rules(stage)?);
    Ok(text)
}

/// What an agent logged of the denial, as an operator finds it.
fn logged(stage: &Stage, scene: &Scene, cell: Cell) -> Result<String> {
    let flow = scene.flow(cell)?;
    let Traffic::Port(_, port) = flow.traffic else { bail!("the example has a port") };
    let is_it = |line: &serde_json::Value| {
        let is = |name: &str, wanted: String| line.get(name).is_some_and(|has| *has == wanted);
        is("message", "denied".to_owned())
            && is("source", flow.source.to_string())
            && is("destination", flow.destination.to_string())
            && line.get("port").is_some_and(|has| *has == port)
    };
    for _ in 0..LOGGED_AFTER {
        for agent in stage.cluster.agents() {
            let found = RefCell::new(None);
            let _ = agent.find_after(0, Duration::ZERO, |line| {
                let line = serde_json::from_str(line).ok().filter(is_it);
                line.inspect(|line: &serde_json::Value| drop(found.replace(Some(line.clone()))))
                    .is_some()
            });
            if let Some(line) = found.into_inner() {
                let text = |name: &str| line.get(name).and_then(|has| has.as_str());
                let why = text("why").context("a denial says why")?;
                let direction = text("direction").unwrap_or_default().to_lowercase();
                return Ok(format!("first logged on {}: denied, {direction}: {why}", agent.node()));
            }
        }
        // Only a part is logged of what a sender is denied at once, and the table was just that.
        stage.cluster.lab.probe(&probe(scene, cell)?, DEFAULT_TIMEOUT)?;
    }
    bail!("no agent logged that {} is denied", scene.name(cell))
}

fn reason(decision: &Decision) -> String {
    let why = match decision.reason {
        Reason::NoSubject => "no pod, so no policy is about it".to_owned(),
        Reason::NotIsolated => "no policy isolates the pod".to_owned(),
        Reason::SamePod => "a pod reaches itself".to_owned(),
        Reason::OwnNode => "a node reaches its pods".to_owned(),
        Reason::EgressToOwnNode => "a pod reaches its node".to_owned(),
        Reason::RuleAllows => {
            format!("{}; {}", words::isolated(decision), words::decided(decision))
        }
        Reason::RuleAccepts | Reason::RuleDenies => words::decided(decision),
        Reason::NoRuleAllows => format!("{}; no rule allows it", words::isolated(decision)),
    };
    format!("{}{why}", words::passed(decision))
}

/// The rule, and of each list that failed the item that failed least.
fn near_miss(miss: &NearMiss, asked: Traffic) -> String {
    let peer = miss.peers.iter().min_by_key(|peer| match peer {
        PeerMiss::PodLabels { .. } | PeerMiss::NodeLabels { .. } => 0,
        PeerMiss::NamespaceLabels { .. } | PeerMiss::OtherNamespace { .. } => 1,
        PeerMiss::OutsideBlock(_) | PeerMiss::InExcept(_) | PeerMiss::NoAddress => 2,
        PeerMiss::NotAPod | PeerMiss::NotANode | PeerMiss::Contested(_) | PeerMiss::Invalid => 3,
    });
    let peer = peer.map(|peer| format!("its peer {}", words::peer_miss(peer)));
    let port = miss.ports.first();
    let port = port.map(|port| format!("its port {}", words::port_miss(port, asked)));
    let parts = peer.into_iter().chain(port);
    format!("{}; {}", miss.rule, parts.collect::<Vec<_>>().join("; "))
}

/// How much of the first node's tables and sets is ours.
fn rules(stage: &Stage) -> Result<String> {
    if stage.backend == Backend::Nftables {
        return nftables(stage);
    }
    let lab = &stage.cluster.lab;
    let node = lab.nodes().next().context("a lab has nodes")?;
    let mut parts = Vec::new();
    for family in Family::BOTH {
        let saved = node.netns().shell(&format!("{}-save", lab.iptables().program(family)))?;
        let chains = saved.lines().filter(|line| line.starts_with(&format!(":{OURS}"))).count();
        // With the jumps to ours from the built-in chains.
        let ours = saved.lines().filter(|line| line.starts_with("-A") && line.contains(OURS));
        let rules = ours.count();
        parts.push(format!("{} {rules} rules in {chains} chains", family_name(family)));
    }
    let saved = node.netns().shell("ipset save")?;
    let begin = |start: String| saved.lines().filter(|line| line.starts_with(&start)).count();
    let (sets, members) = (begin(format!("create {OURS}")), begin(format!("add {OURS}")));
    let rules = parts.join(", ");
    Ok(format!("Rules of {}: {rules}; {sets} ipsets with {members} members.", node.name()))
}

/// How much our tables of nftables on the first node hold.
fn nftables(stage: &Stage) -> Result<String> {
    let node = stage.cluster.lab.nodes().next().context("a lab has nodes")?;
    let mut parts = Vec::new();
    for (family, table) in [(Family::V4, "ip portcullis"), (Family::V6, "ip6 portcullis")] {
        let listed = node.netns().shell(&format!("nft list table {table}"))?;
        let count = |begin: &str| listed.lines().filter(|line| line.starts_with(begin)).count();
        let rules = listed.lines().filter(|line| line.contains(" comment \"")).count();
        let (chains, sets) = (count("\tchain "), count(&format!("\tset {OURS}")));
        parts
            .push(format!("{} {rules} rules in {chains} chains, {sets} sets", family_name(family)));
    }
    Ok(format!("Rules of {}: {}.", node.name(), parts.join("; ")))
}
