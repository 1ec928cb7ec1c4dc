//! How rules are removed by hand: who would put them back, and what works without the image.

use std::fs;

use anyhow::{Context, Result, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::Cluster;
use portcullis_tests::shop::{PATIENCE, WEB, allow, check, lab, shop};

const OPEN: &[(&str, &str, u16)] = &[("web", "api", WEB)];
const CLOSED: &[(&str, &str, u16)] = &[("stranger", "api", WEB)];
const ALL: &[(&str, &str, u16)] = &[("web", "api", WEB), ("stranger", "api", WEB)];

fn guarded(variant: IptablesVariant) -> Result<Cluster> {
    let mut cluster = shop(lab(variant), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    cluster.start_agents()?;
    cluster.settle_on(cluster.agents(), PATIENCE)?;
    check(&cluster.lab, "with the agents", OPEN, CLOSED)?;
    Ok(cluster)
}

/// The commands of the document, as a user copies them.
fn commands() -> Result<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
    let text = fs::read_to_string(path)?;
    let (_, after) = text.split_once("```sh\n").context("no commands")?;
    let (commands, _) = after.split_once("```").context("no end")?;
    Ok(commands.to_owned())
}

#[test]
fn cleanup_names_the_agent_that_would_put_the_rules_back() -> Result<()> {
    let mut cluster = guarded(IptablesVariant::Nft)?;
    let asked = cluster.ask("n2", &["cleanup"])?;
    let process = cluster.agent("n2")?.process();
    ensure!(asked.code == Some(1), "{asked:?}");
    for word in ["an agent runs on this node", &format!("process {process}"), "delete daemonset"] {
        ensure!(asked.out.contains(word), "no {word:?}: {asked:?}");
    }
    cluster.take_agent("n2")?.terminate()?;
    let asked = cluster.ask("n2", &["cleanup"])?;
    ensure!(asked.code == Some(0), "{asked:?}");
    check(&cluster.lab, "after the cleanup", ALL, &[])
}

fn by_hand(variant: IptablesVariant) -> Result<()> {
    let mut cluster = guarded(variant)?;
    for node in ["n1", "n2"] {
        cluster.take_agent(node)?.kill()?;
        cluster.lab.node(node)?.shell(&commands()?)?;
        let left = "for tool in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do \
            $tool-save 2>/dev/null; done | grep PORTCULLIS || ipset list -name | grep PORTCULLIS || \
            nft list tables | grep portcullis || true";
        let left = cluster.lab.node(node)?.shell(left)?;
        ensure!(left.is_empty(), "{left}");
    }
    check(&cluster.lab, "after the commands", ALL, &[])
}

#[test]
fn the_documented_commands_remove_everything_with_nft() -> Result<()> {
    by_hand(IptablesVariant::Nft)
}

#[test]
fn the_documented_commands_remove_everything_with_legacy() -> Result<()> {
    by_hand(IptablesVariant::Legacy)
}
