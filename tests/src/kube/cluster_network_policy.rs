//! The `CustomResourceDefinition` of ClusterNetworkPolicy as the network-policy-api project installs it.

use anyhow::{Context, Result};

use super::ApiServer;

/// The name of the `CustomResourceDefinition`.
pub const CLUSTER_NETWORK_POLICY_CRD: &str = "clusternetworkpolicies.policy.networking.k8s.io";

/// The definition itself: version 0.3.0, experimental channel, with v1beta1 and v1alpha2.
const DEFINITION: &str = include_str!("../../crds/network-policy-api-v0.3.0-experimental.yaml");

impl ApiServer {
    /// Installs the kind ClusterNetworkPolicy, and waits until it is served. To take it away again:
    /// `kubectl delete crd` with [`CLUSTER_NETWORK_POLICY_CRD`].
    ///
    /// # Errors
    /// When the server does not accept it.
    pub fn install_cluster_network_policy(&self) -> Result<()> {
        self.kubectl(&["apply", "--server-side", "-f", "-"], Some(DEFINITION))?;
        let name = format!("crd/{CLUSTER_NETWORK_POLICY_CRD}");
        let established = ["wait", "--for=condition=Established", "--timeout=60s", &name];
        self.kubectl(&established, None).map(drop).context("ClusterNetworkPolicy is not served")
    }
}
