//! The pod of `helm test`, run by real kubelets beside real agents.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;

use crate::operators::{SYSTEM, until};
use crate::world::{deploy, image};

const POD: &str = "portcullis-test";

/// The test succeeds while all agents run. While one is stopped it fails, and names its node.
pub(crate) fn names_the_node_of_an_agent_that_is_down(cluster: &Cluster) -> Result<()> {
    cluster.wait_for_rollout("daemonset/portcullis-node")?;
    let (phase, log) = run(cluster)?;
    ensure!(phase == "Succeeded", "{phase}: {log}");
    ensure!(log.contains("all 2 nodes enforce or audit policies"), "{log}");

    let node = cluster.node("n2")?;
    node.shell("pkill -STOP -f '[p]ortcullis node'")?;
    until(cluster, "the agent of n2 is not ready", |cluster| Ok(!is_ready(cluster, "n2")?))?;
    let stopped = run(cluster);
    node.shell("pkill -CONT -f '[p]ortcullis node'")?;
    let (phase, log) = stopped?;
    eprintln!("  {log}");
    ensure!(phase == "Failed", "{phase}: {log}");
    ensure!(log.contains("n2: Enforcing: pod portcullis-node-"), "{log}");
    ensure!(!log.contains("n1"), "{log}");

    until(cluster, "the agent of n2 is ready", |cluster| is_ready(cluster, "n2"))?;
    let (phase, log) = run(cluster)?;
    ensure!(phase == "Succeeded", "{phase}: {log}");
    cluster.kubectl(&["delete", "-f", &manifest_file(cluster)?.0]).map(drop)
}

/// Runs the pod; the phase that it ends in, and its log.
fn run(cluster: &Cluster) -> Result<(String, String)> {
    let (path, _directory) = manifest_file(cluster)?;
    cluster.kubectl(&["delete", "-n", SYSTEM, "pod", POD, "--ignore-not-found"])?;
    cluster.kubectl(&["apply", "-f", &path])?;
    let get = ["get", "-n", SYSTEM, "pod", POD, "-o", "jsonpath={.status.phase}"];
    let phase = || anyhow::Ok(cluster.kubectl(&get)?.trim().to_owned());
    until(cluster, "the test ends", |_| {
        let phase = phase()?;
        Ok(["Succeeded", "Failed"].contains(&phase.as_str()))
    })?;
    Ok((phase()?, cluster.kubectl(&["logs", "-n", SYSTEM, POD])?))
}

/// The objects that `helm test` creates, in a file that lives as long as the directory.
fn manifest_file(cluster: &Cluster) -> Result<(String, tempfile::TempDir)> {
    let built = Command::new(deploy().join("../tests/kube/program.sh")).arg("helm").output()?;
    let helm = String::from_utf8(built.stdout)?;
    let helm = helm.lines().last().context("no helm")?;
    let image = image(cluster.options().backend);
    let (name, tag) = image.split_once(':').context("no tag")?;
    let rendered = Command::new(helm)
        .args(["template", "portcullis", "--kube-version=1.36.0", "--namespace", SYSTEM])
        .arg(deploy().join("helm/portcullis"))
        .args(["--show-only=templates/tests/status.yaml"])
        .args([format!("--set=image.repository={name}"), format!("--set=image.tag={tag}")])
        .output()?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    // A test that fails must not take two minutes here.
    let text = String::from_utf8(rendered.stdout)?.replace("--timeout=120", "--timeout=10");
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("test.yaml");
    std::fs::write(&path, text)?;
    Ok((path.display().to_string(), directory))
}

fn is_ready(cluster: &Cluster, node: &str) -> Result<bool> {
    let selector = format!("spec.nodeName={node}");
    let labels = "app.kubernetes.io/component=node";
    let ready = "jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].status}";
    let get = ["get", "pods", "-n", SYSTEM, "-l", labels, "--field-selector", &selector];
    Ok(cluster.kubectl(&[&get[..], &["-o", ready]].concat())?.trim() == "True")
}
