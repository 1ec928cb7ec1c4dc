//! How far policies are applied: `kind: Status`.

mod text;

use policy_engine::tier::Mode;
use schemars::JsonSchema;
use serde::Serialize;

use super::json::API_VERSION;
use crate::status::{NodeState, PolicyStatus, Stage};
pub use text::text;

/// The answer of `status`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Status`.
    pub kind: &'static str,
    /// The policies, by kind, namespace and name.
    pub policies: Vec<Policy>,
    /// The nodes of the cluster, by name.
    pub nodes: Vec<Node>,
    /// What could not be read.
    pub diagnostics: Vec<String>,
}

/// How far a policy is applied.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// The policy, as `networkpolicy/shop/db`.
    pub policy: String,
    /// Its `metadata.uid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its `metadata.generation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Whether it is in audit: then it denies nothing.
    pub is_audit: bool,
    /// How many nodes have pods that it selects.
    pub nodes_concerned: usize,
    /// How many of them apply this generation.
    pub nodes_applied: usize,
    /// How many pods that it selects have no node yet.
    pub pods_unscheduled: usize,
    /// The nodes with pods that it selects, by name.
    pub nodes: Vec<OnNode>,
}

/// How far a policy is applied on a node.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct OnNode {
    /// The node.
    pub node: String,
    /// How many of its pods the policy selects.
    pub pods: usize,
    /// Whether it applies the policy.
    pub status: Stage,
    /// Why not, or why that is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a node reports about itself.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The node.
    pub node: String,
    /// `Loading`, `Enforcing`, `Degraded`, `Bypassed` or `Failing`; absent when its agent does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The most important reason for the state.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the state means for packets, or why it is not known.
    pub message: String,
}

impl Status {
    /// The answer about these policies and nodes.
    #[must_use]
    pub fn new(policies: &[PolicyStatus], nodes: &[NodeState], diagnostics: &[String]) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Status",
            policies: policies.iter().map(Policy::from).collect(),
            nodes: nodes.iter().map(Node::from).collect(),
            diagnostics: diagnostics.to_vec(),
        }
    }
}

impl From<&PolicyStatus> for Policy {
    fn from(status: &PolicyStatus) -> Self {
        let nodes = status.nodes.iter().map(|node| OnNode {
            node: node.node.to_string(),
            pods: node.pods,
            status: node.stage,
            message: node.why.clone(),
        });
        Self {
            policy: status.policy.to_string(),
            uid: status.revision.uid.as_deref().map(str::to_owned),
            generation: status.revision.generation,
            is_audit: status.mode == Mode::Audit,
            nodes_concerned: status.nodes.len(),
            nodes_applied: status.applied(),
            pods_unscheduled: status.unscheduled,
            nodes: nodes.collect(),
        }
    }
}

impl From<&NodeState> for Node {
    fn from(node: &NodeState) -> Self {
        Self {
            node: node.node.to_string(),
            state: node.state.map(|state| format!("{state:?}")),
            reason: node.reason.clone(),
            message: node.message.clone(),
        }
    }
}
