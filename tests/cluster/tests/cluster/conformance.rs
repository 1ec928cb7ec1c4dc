//! Upstream's own suites, built from their published sources.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;

/// Kubernetes' suite for NetworkPolicy: every spec that needs no SCTP socket.
pub(crate) fn network_policy_e2e(cluster: &Cluster) -> Result<()> {
    run(cluster, "e2e.sh")
}

/// network-policy-api's conformance suite: every test that needs no SCTP socket.
pub(crate) fn cluster_network_policy(cluster: &Cluster) -> Result<()> {
    run(cluster, "conformance.sh")
}

/// Runs one of the scripts below tests/kube, which list each test with its result and fail where
/// one failed or too few ran.
fn run(cluster: &Cluster, script: &str) -> Result<()> {
    let script = format!("{}/../kube/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(&script);
    command.arg(cluster.kubeconfig()).env("PORTCULLIS_KUBERNETES", &cluster.options().kubernetes);
    let status = command.status().with_context(|| format!("failed to run {script}"))?;
    ensure!(status.success(), "{script} failed: {status}; its report is above");
    Ok(())
}
