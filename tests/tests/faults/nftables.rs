//! Nodes that enforce by nftables: without the tools of iptables, and when others flush all rules.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::AgentSetup;

use crate::shop::{ECHO, PATIENCE, WEB, allow, check, lab, shop};
use crate::traffic::{Route, Traffic};

const ALLOWED: &[Route] = &[("web", "api", WEB)];
const DENIED: &[Route] = &[("stranger", "api", WEB)];

/// An agent whose PATH has this directory only.
fn only_tools_of(directory: &Path) -> AgentSetup {
    AgentSetup { tools: Some(directory.into()), only_these_tools: true, ..AgentSetup::default() }
}

/// What the agent's PATH has: nothing. So nothing calls iptables or ipset by accident.
#[test]
fn a_node_without_iptables_and_ipset_enforces_by_nftables() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let nothing = tempfile::tempdir()?;
    let agent = cluster.spawn_agent_as("n2", &only_tools_of(nothing.path()))?;
    agent.wait_for("\"backend\":\"nftables\"", PATIENCE)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    check(&cluster.lab, "without tools", ALLOWED, DENIED)?;
    ensure!(fs::read_dir(nothing.path())?.next().is_none());
    agent.terminate()
}

/// An agent without the tools of iptables cannot remove what an agent with these tools left. It reports this, and the
/// next agent that has the tools removes it.
#[test]
fn rules_of_iptables_that_cannot_be_removed_are_reported() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let with_flag =
        |flag: &str| AgentSetup { flags: vec![flag.to_owned()], ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &with_flag("--backend=iptables"))?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    agent.terminate()?;
    let nothing = tempfile::tempdir()?;
    let agent = cluster.spawn_agent_as("n2", &only_tools_of(nothing.path()))?;
    let named = "the table mangle of iptables-nft has IPv4 chains of Portcullis";
    agent.wait_for(named, PATIENCE)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    check(&cluster.lab, "with the rules of both", ALLOWED, DENIED)?;
    agent.terminate()?;
    let agent = cluster.spawn_agent_as("n2", &with_flag("--backend=nftables"))?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let left = cluster.lab.node("n2")?.shell("iptables-nft-save | grep PORTCULLIS || true")?;
    ensure!(left.is_empty(), "{left}");
    check(&cluster.lab, "with nftables alone", ALLOWED, DENIED)?;
    agent.terminate()
}

#[test]
fn a_flush_of_all_rules_is_repaired_at_once() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let flags = vec!["--backend=nftables".to_owned()];
    let setup = AgentSetup { flags, ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let node = cluster.lab.node("n2")?;
    for what in ["flush ruleset", "delete table ip portcullis", "flush chain ip portcullis forward"]
    {
        // A program that changes rules again and again is answered less often.
        std::thread::sleep(Duration::from_secs(2));
        node.shell(&format!("nft {what}"))?;
        let begin = Instant::now();
        let hook = "nft list chain ip portcullis forward 2>/dev/null | grep -q jump && \
                    nft list chain ip portcullis PORTCULLIS-JUDGE 2>/dev/null | grep -q goto";
        while node.shell(hook).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "{what}: not repaired");
        }
        println!("{what}: repaired after {:?}", begin.elapsed());
        check(&cluster.lab, what, ALLOWED, DENIED)?;
    }
    agent.terminate()
}

/// The rules of the new backend are complete before those of the old one go: no packet that is denied passes, and none
/// that is allowed is lost. The new agent knows that policies were enforced here, and that this is no reboot.
#[test]
fn a_change_of_the_backend_keeps_policies_enforced() -> Result<()> {
    let _alone = super::alone();
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB, ECHO]))?;
    let state = tempfile::tempdir()?;
    let start = |backend: &str| {
        let state = state.path().display();
        let flags = vec![format!("--backend={backend}"), format!("--state-dir={state}")];
        let setup = AgentSetup { flags, ..AgentSetup::default() };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        // Both backends have the table against frames with two VLAN tags.
        let tables = "nft list tables | grep -q 'ip6* portcullis$'";
        let is_nftables = cluster.lab.node("n2")?.shell(tables).is_ok();
        ensure!(is_nftables == (backend == "nftables"), "{backend}");
        Ok(agent)
    };
    start("iptables")?.terminate()?;
    let traffic = Traffic { held: &[("web", "api")], allowed: ALLOWED, forbidden: DENIED };
    traffic.during(&cluster.lab, || {
        ["nftables", "iptables"].into_iter().try_for_each(|backend| start(backend)?.terminate())
    })
}
