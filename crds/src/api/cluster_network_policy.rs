//! `ClusterNetworkPolicy` of the network-policy-api project, as far as a client has to name it.
//!
//! Its `CustomResourceDefinition` is theirs: a cluster may have it or not, and may get it or lose it
//! at any time. What a spec means is decided in `convert`, which reads it as it stands.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

/// A `policy.networking.k8s.io` ClusterNetworkPolicy: v1beta1, or v1alpha2 with the same schema
/// (`policy_engine::object::Kind::versions`).
#[derive(Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetworkPolicy {
    /// Name, generation and the rest that every object has.
    pub metadata: ObjectMeta,
    /// What the policy says, not looked at here.
    pub spec: serde_json::Value,
    /// What implementations say of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ClusterNetworkPolicyStatus>,
}

/// What implementations say of a policy: several may, each by conditions of its own.
#[derive(Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(default)]
pub struct ClusterNetworkPolicyStatus {
    /// One of each type.
    pub conditions: Vec<Condition>,
}

impl k8s_openapi::Resource for ClusterNetworkPolicy {
    const API_VERSION: &'static str = "policy.networking.k8s.io/v1beta1";
    const GROUP: &'static str = "policy.networking.k8s.io";
    const KIND: &'static str = "ClusterNetworkPolicy";
    const VERSION: &'static str = "v1beta1";
    const URL_PATH_SEGMENT: &'static str = "clusternetworkpolicies";
    type Scope = ClusterResourceScope;
}

impl k8s_openapi::Metadata for ClusterNetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
