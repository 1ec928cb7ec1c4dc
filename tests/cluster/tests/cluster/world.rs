//! What the tests share: the cluster that was asked for, and short manifests.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use portcullis_cluster::options::Backend;
use portcullis_cluster::{Cluster, Options, binaries};
use portcullis_tests::cluster::portcullis;

/// The tags of the product's images: what `deploy/` names, and one to update to.
const TAG: &str = "0.1.0";
const NEXT_TAG: &str = "next";
/// The end of the tags of the images without iptables and ipset.
const NFTABLES: &str = "-nftables";

/// The image whose first process connects at once: src/bin/first-packets.rs.
pub(crate) const PROBE_IMAGE: &str = "docker.io/library/portcullis:first-packets";

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

/// Whether upstream's suites run as a whole, and pods start in their full number: with `CLUSTER_FULL=1`.
pub(crate) fn is_full() -> bool {
    std::env::var_os("CLUSTER_FULL").is_some_and(|value| value == "1")
}

/// Starts the cluster that `CLUSTER_ARGS` asks for, with the product installed as docs/install.md
/// says.
pub(crate) fn start() -> Result<Cluster> {
    let flags = std::env::var("CLUSTER_ARGS").unwrap_or_default();
    let flags = std::iter::once("cluster").chain(flags.split_whitespace());
    let Flags { options } = Flags::try_parse_from(flags).context("in CLUSTER_ARGS")?;
    let kubernetes = binaries::kubernetes(&options)?;
    let mut images = binaries::test_images(&kubernetes)?;
    let portcullis = portcullis()?;
    for tag in [TAG, NEXT_TAG] {
        images.push(binaries::product_image(&portcullis, tag)?);
        images.push(binaries::nftables_image(&portcullis, &format!("{tag}{NFTABLES}"))?);
    }
    let probe = env!("CARGO_BIN_EXE_first-packets");
    images.push(binaries::product_image(probe.as_ref(), "first-packets")?);
    let cluster = Cluster::start(options, &kubernetes, &images)?;
    // The channel with all features, which the conformance suite tries.
    install_cluster_network_policies(&cluster, "experimental")?;
    cluster.install(cluster.options().manifests())?;
    Ok(cluster)
}

/// The product's image that agents are installed from which enforce with `backend`.
pub(crate) fn image(backend: Backend) -> String {
    tagged(TAG, backend)
}

/// The image that the agents of a cluster are updated to.
pub(crate) fn next_image(cluster: &Cluster) -> String {
    tagged(NEXT_TAG, cluster.options().backend)
}

fn tagged(tag: &str, backend: Backend) -> String {
    let end = if backend == Backend::Nftables { NFTABLES } else { "" };
    format!("portcullis:{tag}{end}")
}

/// Installs network-policy-api's CRD of a channel, `standard` or `experimental`.
pub(crate) fn install_cluster_network_policies(cluster: &Cluster, channel: &str) -> Result<()> {
    let crd = cluster.binaries().join(format!("crds/{channel}.yaml"));
    cluster.kubectl(&["apply", "--server-side", "-f", &crd.display().to_string()]).map(drop)
}

/// The directory with the product's manifests.
pub(crate) fn deploy() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy"))
}

/// Creates a namespace for a test. One that an earlier test deleted ends first.
pub(crate) fn create_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=90s"])?;
    cluster.kubectl(&["create", "namespace", name]).map(drop)
}

/// Deletes a test's namespace; what is in it may end later.
pub(crate) fn delete_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", name, "--wait=false"]).map(drop)
}

/// Applies a manifest in which `IMAGE` stands for the image of upstream's test server.
pub(crate) fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    cluster.apply(&manifest.replace("IMAGE", binaries::AGNHOST))
}

/// A pod that serves HTTP on port 8080, on a node, with one label `app`.
pub(crate) fn server(namespace: &str, name: &str, app: &str, node: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: IMAGE
      args: [netexec, --http-port=8080]
      ports: [{{name: http, containerPort: 8080}}]
"
    )
}

/// A policy without rules for every pod of the namespace, in both directions.
pub(crate) fn default_deny(namespace: &str) -> String {
    format!(
        "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: default-deny, namespace: {namespace}}}
spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}
"
    )
}
