//! Upstream's own suites, built from their published sources.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;

use crate::world::is_full;

/// Both create many pods at once, and give them a limited time to start: one suite at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Kubernetes' suite for NetworkPolicy: every spec that needs no SCTP socket, or those about what is compiled
/// in ways of its own.
pub(crate) fn network_policy_e2e(cluster: &Cluster) -> Result<()> {
    let some = "--focus=named port|CIDR|updated|stacked|are deleted|deny-all|MatchExpressions|UDP";
    run(cluster, "e2e.sh", some)
}

/// network-policy-api's conformance suite: every test that needs no SCTP socket, or those of which there is no like
/// for another tier, direction or protocol.
pub(crate) fn cluster_network_policy(cluster: &Cluster) -> Result<()> {
    let some = "-test.run=/CNP(AdminTier(EgressUDP|IngressNamedPort|Integration|PriorityField)\
                |BaselineTier(EgressNodePeers|PortRange|SamePriority))$";
    run(cluster, "conformance.sh", some)
}

/// Runs one of the scripts below tests/kube, which list each test with its result and fail where
/// one failed or too few ran. The flag selects the tests that run unless all do.
fn run(cluster: &Cluster, script: &str, some: &str) -> Result<()> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let script = format!("{}/../kube/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(&script);
    command.arg(cluster.kubeconfig()).args((!is_full()).then_some(some));
    command.env("PORTCULLIS_KUBERNETES", &cluster.options().kubernetes);
    let status = command.status().with_context(|| format!("failed to run {script}"))?;
    ensure!(status.success(), "{script} failed: {status}; its report is above");
    Ok(())
}
