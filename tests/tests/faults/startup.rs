//! Before an agent knows everything it touches nothing: what an earlier one left stays enforced.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use portcullis_lab::{Family, IptablesVariant};
use portcullis_tests::cluster::{AgentSetup, Cluster};

use crate::VARIANTS;
use crate::shop::{ADMIN, PATIENCE, WEB, allow, check, lab, shop, start};

/// Foreign objects that take a while to read.
const OBJECTS: usize = 60_000;

/// Our rules and sets on a node, without counters.
fn ours(cluster: &Cluster, node: &str) -> Result<String> {
    let save = |family: &Family| format!("{}-save", cluster.lab.iptables().program(*family));
    let tables: Vec<String> = Family::BOTH.iter().map(save).collect();
    cluster.lab.node(node)?.shell(&format!(
        "({}; ipset save) | grep -F PORTCULLIS- | sed 's/ \\[.*//' || true",
        tables.join("; ")
    ))
}

/// Writes a file that takes a while to read, and comes first.
fn write_much(cluster: &Cluster) -> Result<()> {
    let mut much = String::new();
    for number in 0..OBJECTS {
        let _ = writeln!(
            much,
            "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c{number}}}}}"
        );
    }
    // The first name of all.
    cluster.write("0.yaml", &much)
}

fn nothing_before_the_first_view(variant: IptablesVariant) -> Result<()> {
    let cluster = shop(lab(variant), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    write_much(&cluster)?;
    let open: &[_] = &[("web", "api", WEB), ("web", "api", ADMIN), ("stranger", "api", WEB)];
    let agent = cluster.spawn_agent("n2")?;
    agent.wait_for("watching", PATIENCE)?;
    let early = ours(&cluster, "n2")?;
    ensure!(agent.said_after(0, "enforced").is_none(), "read too fast to tell");
    ensure!(early.is_empty(), "programmed before all was known:\n{early}");
    check(&cluster.lab, "before", open, &[])?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let closed: &[_] = &[("web", "api", ADMIN), ("stranger", "api", WEB)];
    check(&cluster.lab, "after", &[("web", "api", WEB)], closed)?;

    // The next one finds other policies, and leaves what is there alone until it knows them all.
    agent.kill()?;
    let before = ours(&cluster, "n2")?;
    ensure!(before.contains("PORTCULLIS-FORWARD"), "nothing is left:\n{before}");
    cluster.write("api.yaml", &allow("api", &["stranger"], &[WEB]))?;
    let agent = cluster.spawn_agent("n2")?;
    agent.wait_for("watching", PATIENCE)?;
    check(&cluster.lab, "meanwhile", &[("web", "api", WEB)], closed)?;
    let meanwhile = ours(&cluster, "n2")?;
    ensure!(agent.said_after(0, "enforced").is_none(), "read too fast to tell");
    ensure!(meanwhile == before, "changed before all was known:\n{before}\n{meanwhile}");
    agent.wait_for("policies are enforced", PATIENCE)?;
    check(&cluster.lab, "later", &[("stranger", "api", WEB)], &[("web", "api", WEB)])
}

#[test]
fn nothing_is_programmed_before_the_first_complete_view_nft() -> Result<()> {
    nothing_before_the_first_view(IptablesVariant::Nft)
}

#[test]
fn nothing_is_programmed_before_the_first_complete_view_legacy() -> Result<()> {
    nothing_before_the_first_view(IptablesVariant::Legacy)
}

fn closed_after_a_reboot(variant: IptablesVariant) -> Result<()> {
    let mut cluster = shop(lab(variant), &[])?;
    cluster.write_cni_results()?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    write_much(&cluster)?;
    let state = tempfile::tempdir()?;
    let flags = vec![format!("--state-dir={}", state.path().display())];
    let setup = AgentSetup { flags, ..AgentSetup::default() };
    let open: &[_] = &[("web", "api", WEB), ("stranger", "api", WEB), ("near", "other", WEB)];

    // Its first start ever: pods that were open stay so until policies are known.
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("watching", PATIENCE)?;
    check(&cluster.lab, "first start", open, &[])?;
    ensure!(agent.said_after(0, "enforced").is_none(), "read too fast to tell");
    agent.wait_for("policies are enforced", PATIENCE)?;
    let closed: &[_] = &[("stranger", "api", WEB)];
    let allowed: &[_] = &[("web", "api", WEB), ("near", "other", WEB)];
    check(&cluster.lab, "enforced", allowed, closed)?;

    // The kernel forgets everything, the disk does not.
    agent.kill()?;
    cluster.portcullis("n2", &["cleanup"])?;
    check(&cluster.lab, "no agent", open, &[])?;
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("packets of pods are dropped until all objects are known", PATIENCE)?;
    agent.wait_for("watching", PATIENCE)?;
    check(&cluster.lab, "rebooted", &[], open)?;
    ensure!(agent.said_after(0, "enforced").is_none(), "read too fast to tell");
    agent.wait_for("policies are enforced", PATIENCE)?;
    check(&cluster.lab, "enforced again", allowed, closed)
}

/// A service of the node drops packets of pods before any agent runs, until one enforces policies.
fn closed_since_the_boot(variant: IptablesVariant) -> Result<()> {
    let cluster = shop(lab(variant), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let all: &[_] = &[("web", "api", WEB), ("stranger", "api", WEB), ("near", "other", WEB)];
    check(&cluster.lab, "before the boot", all, &[])?;
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/boot/portcullis-boot.nft");
    // As often as the service is started.
    for _ in 0..2 {
        cluster.lab.node("n2")?.shell(&format!("nft -f {table}"))?;
    }
    check(&cluster.lab, "booted, without an agent", &[], all)?;
    let agent = cluster.spawn_agent_as("n2", &AgentSetup::default())?;
    agent.wait_for("removed the table that dropped packets of pods since the boot", PATIENCE)?;
    let allowed: &[_] = &[("web", "api", WEB), ("near", "other", WEB)];
    check(&cluster.lab, "enforced", allowed, &[("stranger", "api", WEB)])?;
    agent.terminate()?;
    cluster.lab.node("n2")?.shell(&format!("nft -f {table}"))?;
    cluster.portcullis("n2", &["cleanup"])?;
    check(&cluster.lab, "cleaned", all, &[])
}

#[test]
fn pods_are_closed_since_the_boot_until_an_agent_enforces_policies_nft() -> Result<()> {
    closed_since_the_boot(IptablesVariant::Nft)
}

#[test]
fn pods_are_closed_since_the_boot_until_an_agent_enforces_policies_legacy() -> Result<()> {
    closed_since_the_boot(IptablesVariant::Legacy)
}

#[test]
fn after_a_reboot_pods_are_closed_until_policies_are_known_nft() -> Result<()> {
    closed_after_a_reboot(IptablesVariant::Nft)
}

#[test]
fn after_a_reboot_pods_are_closed_until_policies_are_known_legacy() -> Result<()> {
    closed_after_a_reboot(IptablesVariant::Legacy)
}

#[test]
fn an_agent_without_its_directory_ends_and_changes_nothing() -> Result<()> {
    for variant in VARIANTS {
        let cluster = shop(lab(variant), &[])?;
        cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
        let nowhere = cluster.directory().join("nowhere");
        let setup = AgentSetup { directory: Some(nowhere), ..AgentSetup::default() };
        let without = || -> Result<()> {
            let agent = cluster.spawn_agent_as("n2", &setup)?;
            agent.wait_for("failed to open", PATIENCE)?;
            let code = agent.wait()?;
            ensure!(code == Some(2), "ended with {code:?}");
            Ok(())
        };
        without().context("on a fresh node")?;
        ensure!(ours(&cluster, "n2")?.is_empty());
        start(&cluster, "n2")?.terminate()?;
        let before = ours(&cluster, "n2")?;
        without().context("after an earlier one")?;
        ensure!(ours(&cluster, "n2")? == before, "{before}");
        check(&cluster.lab, "after", &[("web", "api", WEB)], &[("stranger", "api", WEB)])?;
    }
    Ok(())
}

#[test]
fn a_directory_that_goes_away_changes_nothing_until_it_is_back() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let parent = tempfile::tempdir()?;
    let (here, away) = (parent.path().join("manifests"), parent.path().join("away"));
    copy(cluster.directory(), &here)?;
    let setup = AgentSetup { directory: Some(here.clone()), ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    fs::rename(&here, &away)?;
    agent.wait_for("the directory was removed", PATIENCE)?;
    check(&cluster.lab, "while away", &[("web", "api", WEB)], &[("stranger", "api", WEB)])?;
    fs::write(away.join("api.yaml"), allow("api", &["stranger"], &[WEB]))?;
    fs::rename(&away, &here)?;
    check(&cluster.lab, "when back", &[("stranger", "api", WEB)], &[("web", "api", WEB)])
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
