//! Upstream's own suites, built from their published sources.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;

/// Both create many pods at once, and give them a limited time to start: one suite at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

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
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let script = format!("{}/../kube/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(&script);
    command.arg(cluster.kubeconfig()).env("PORTCULLIS_KUBERNETES", &cluster.options().kubernetes);
    let status = command.status().with_context(|| format!("failed to run {script}"))?;
    ensure!(status.success(), "{script} failed: {status}; its report is above");
    Ok(())
}
