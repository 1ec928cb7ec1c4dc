//! From a cluster whose policies nobody enforced to one where all are: first audit, then namespace by
//! namespace, as docs/rollout.md says.

use anyhow::{Context, Result, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::Cluster;
use portcullis_tests::shop::{PATIENCE, WEB, allow, check, lab, shop};
use serde_json::{Value, json};

const OPEN: &[(&str, &str, u16)] = &[("web", "api", WEB)];
const CLOSED: &[(&str, &str, u16)] = &[("stranger", "api", WEB)];
const ALL: &[(&str, &str, u16)] = &[("web", "api", WEB), ("stranger", "api", WEB)];

fn cluster(flags: &[&str]) -> Result<Cluster> {
    let mut cluster = shop(lab(IptablesVariant::Nft), flags)?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    write_namespace(&cluster, &json!({}))?;
    cluster.write_cni_results()?;
    cluster.start_agents()?;
    cluster.settle_on(cluster.agents(), PATIENCE)?;
    Ok(cluster)
}

fn write_namespace(cluster: &Cluster, labels: &Value) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": labels}});
    cluster.write("namespace.json", &namespace.to_string())
}

/// What the agent answers of the policy of `api`: whether it is in audit.
fn is_audited(cluster: &Cluster) -> Result<bool> {
    let shown = cluster.ask("n2", &["inspect", "pod", "shop/api", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown.out).with_context(|| shown.said.clone())?;
    shown["policies"][0]["is_audited"].as_bool().context("no policy")
}

#[test]
fn nothing_is_denied_in_audit_and_what_would_be_is_logged() -> Result<()> {
    let cluster = cluster(&["--mode=audit"])?;
    check(&cluster.lab, "in audit", ALL, &[])?;
    let agent = cluster.agent("n2")?;
    let line = agent.wait_for("WouldDeny", PATIENCE)?;
    println!("{line}");
    for word in ["shop/stranger", "shop/api", "would be isolated by shop/api"] {
        ensure!(line.contains(word), "no {word:?}: {line}");
    }
    ensure!(is_audited(&cluster)?, "the policy is shown as enforced");
    // Not by their addresses either, and not by their connections: no pod is isolated.
    let node = cluster.lab.node("n2")?;
    let chains = node.shell("iptables-nft-save -t mangle")?;
    ensure!(chains.contains("PORTCULLIS-AUDIT-IN-POLICY"), "{chains}");
    for direction in ["IN", "OUT"] {
        let others = chains.replace(&format!("PORTCULLIS-DENY-{direction}-TCP"), "");
        ensure!(!others.contains(&format!("PORTCULLIS-DENY-{direction}-")), "{chains}");
    }
    let sets = node.shell("ipset save")?;
    let mut isolated = sets.lines().filter(|line| line.contains("isolated-"));
    ensure!(isolated.all(|line| line.starts_with("create ")), "{sets}");
    Ok(())
}

#[test]
fn a_namespace_is_enforced_from_its_label_on_and_no_longer_without_it() -> Result<()> {
    let cluster = cluster(&["--enforce-namespaces=policies in (enforced)"])?;
    check(&cluster.lab, "without the label", ALL, &[])?;
    ensure!(is_audited(&cluster)?, "the policy is shown as enforced");
    write_namespace(&cluster, &json!({"policies": "enforced"}))?;
    cluster.settle_on(cluster.agents(), PATIENCE)?;
    check(&cluster.lab, "with the label", OPEN, CLOSED)?;
    ensure!(!is_audited(&cluster)?, "the policy is shown as audited");
    write_namespace(&cluster, &json!({"policies": "audited"}))?;
    cluster.settle_on(cluster.agents(), PATIENCE)?;
    check(&cluster.lab, "with another label", ALL, &[])
}
