//! `NodePolicyReport`: what one node enforces, written by its agent.
//!
//! Every limit of a list or a text is a constant here, so that a writer can keep to it. Lists are
//! atomic: as maps, a thousand policies would be named once more in `managedFields`.

mod backend;
mod compiled_state;
mod current;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Revision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::backend::{Backend, BackendName, Family};
pub use self::compiled_state::CompiledState;

/// How many policies a report lists.
pub const POLICIES_MAX: usize = 1000;
/// How many diagnostics a report lists.
pub const DIAGNOSTICS_MAX: usize = 50;
/// How long [`Diagnostic::object`] and [`Diagnostic::field`] may be, in characters.
pub const PLACE_LENGTH_MAX: usize = 400;
/// How long [`Diagnostic::message`] may be, in characters.
pub const MESSAGE_LENGTH_MAX: usize = 1000;

/// The condition that the node's agent writes.
pub const ENFORCING: &str = "Enforcing";
/// The condition that the cluster controller writes.
pub const CURRENT: &str = "Current";

/// Which node a report is about.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, PartialEq, Debug)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "NodePolicyReport",
    plural = "nodepolicyreports",
    shortname = "npr",
    category = "portcullis",
    status = "NodePolicyReportStatus",
    derive = "PartialEq",
    doc = "What one node enforces. Its agent writes it; nothing reads it to decide about packets.",
    validation = Rule::new("self.spec.nodeName == self.metadata.name")
        .message("the report of a node has the name of the node"),
    printcolumn(
        name = "State",
        type_ = "string",
        description = "What the node does for packets: Loading, Enforcing, Auditing, Degraded, Bypassed or Failing",
        json_path = ".status.state"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "The most important reason for the state",
        json_path = r#".status.conditions[?(@.type=="Enforcing")].reason"#
    ),
    printcolumn(
        name = "Reporting",
        type_ = "string",
        description = "Whether the agent still writes this report",
        json_path = r#".status.conditions[?(@.type=="Current")].status"#
    ),
    printcolumn(
        name = "Policies",
        type_ = "integer",
        description = "Policies that are enforced for pods of the node",
        json_path = ".status.policiesEnforced"
    ),
    printcolumn(
        name = "Isolated Pods",
        type_ = "integer",
        description = "Pods of the node that a policy isolates",
        json_path = ".status.pods.isolated"
    ),
    printcolumn(
        name = "Diagnostics",
        type_ = "integer",
        description = "Problems with objects that the agent read",
        json_path = ".status.diagnosticsFound"
    ),
    printcolumn(
        name = "Last Sync",
        type_ = "date",
        description = "How long ago the kernel was last known to do what the policies say, as of the last report",
        json_path = ".status.lastSuccessfulSync"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Latency P50",
        type_ = "string",
        description = "Median time from receiving a change until it is enforced",
        json_path = ".status.syncLatency",
        priority = 1
    ),
    printcolumn(
        name = "Repairs",
        type_ = "integer",
        description = "Repairs of what something else had changed in the kernel, since the agent started",
        json_path = ".status.driftRepairs",
        priority = 1
    ),
    printcolumn(
        name = "Backend",
        type_ = "string",
        description = "What holds the rules of the node: iptables-legacy, iptables-nft or nftables",
        json_path = ".status.backend.name",
        priority = 1
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        description = "Version of the agent",
        json_path = ".status.agent.version",
        priority = 1
    ),
    printcolumn(
        name = "Backend Reason",
        type_ = "string",
        description = "Why the agent uses this backend",
        json_path = ".status.backend.reason",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicyReportSpec {
    /// The node. The report has the same name, and belongs to the Node object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a report stays with its node"))]
    pub node_name: String,
}

/// What the node enforces. Fields are absent until the agent has something to say.
#[derive(KubeSchema, Serialize, Deserialize, Clone, PartialEq, Default, Debug)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.policies) ? size(self.policies) : 0) \
         + (has(self.policiesOmitted) ? self.policiesOmitted : 0) \
         == (has(self.policiesEnforced) ? self.policiesEnforced : 0)"
    ).message("policiesEnforced counts the policies listed and the policiesOmitted"),
    validation = Rule::new(
        "(has(self.diagnostics) ? size(self.diagnostics) : 0) \
         + (has(self.diagnosticsOmitted) ? self.diagnosticsOmitted : 0) \
         == (has(self.diagnosticsFound) ? self.diagnosticsFound : 0)"
    ).message("diagnosticsFound counts the diagnostics listed and the diagnosticsOmitted")
)]
pub struct NodePolicyReportStatus {
    /// When the agent wrote this. An agent that is alive writes at least every 6 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// What the node does for packets. The condition `Enforcing` has the reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Who wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// What the node is programmed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The rules that the agent compiled, as hashes. `kubectl whatif verify` compiles the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiled_state: Option<CompiledState>,
    /// Pods of the node that policies can select: those on the host network are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
    /// The enforced policies that select pods of the node, those of the cluster first, then in the
    /// order of namespace and name; at most 1000 of them. Those in mode Audit are among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = POLICIES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub policies: Vec<Policy>,
    /// How many policies are enforced that select pods of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub policies_enforced: Option<i64>,
    /// How many of them are not listed in `policies`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub policies_omitted: Option<i64>,
    /// When the kernel was last brought to, or found at, what the policies say. As of
    /// `observedAt`: a new value alone is no reason to write the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_sync: Option<Time>,
    /// Microseconds from when the agent received the oldest change of a round until it was
    /// enforced in the kernel, over the last 100 rounds that changed the kernel. As of `observedAt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_latency_microseconds: Option<SyncLatency>,
    /// The median of `syncLatencyMicroseconds` with its unit, as `14.2ms`, for people. As of
    /// `observedAt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub sync_latency: Option<String>,
    /// How often something of ours in the kernel had been changed by something else and was
    /// repaired, since the agent started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub drift_repairs: Option<i64>,
    /// How many packets the node denied since the agent started. As of `observedAt`: a new value alone is no
    /// reason to write the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denials: Option<Denials>,
    /// What is wrong with objects that the agent read, errors first; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DIAGNOSTICS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub diagnostics: Vec<Diagnostic>,
    /// How many things are wrong with objects that the agent read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub diagnostics_found: Option<i64>,
    /// How many of them are not listed in `diagnostics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub diagnostics_omitted: Option<i64>,
    /// `Enforcing`, by the node's agent: True in the state Enforcing, Unknown in the state Loading,
    /// else False. Its reason and message say why, and what that means for packets.
    /// `Current`, by the cluster controller: False `AgentSilent` when this is not written any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::conditions")]
    pub conditions: Vec<Condition>,
}

/// What a node does for packets.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not all objects are known, or the node was not examined yet. Rules of an earlier run stay.
    Loading,
    /// The kernel does what the policies say.
    Enforcing,
    /// The agent is to deny nothing: what policies would deny is only reported.
    Auditing,
    /// The policies are applied, except for a part that the condition names.
    Degraded,
    /// Packets can get past the rules, or are judged by others.
    Bypassed,
    /// Changes are not applied. What was applied last stays.
    Failing,
}

impl State {
    /// Whether the node does what the policies say, or only audits them, as its flags ask.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Enforcing | Self::Auditing)
    }
}

/// The agent that wrote a report.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its version.
    #[schemars(length(max = 64))]
    pub version: String,
    /// Its pod, when it runs in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod_name: Option<String>,
}

/// How many pods of a node are isolated.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// All pods of the node that a policy can select.
    #[schemars(range(min = 0))]
    pub local: i64,
    /// Those isolated for ingress, egress or both.
    #[schemars(range(min = 0))]
    pub isolated: i64,
    /// Those isolated for ingress.
    #[schemars(range(min = 0))]
    pub isolated_ingress: i64,
    /// Those isolated for egress.
    #[schemars(range(min = 0))]
    pub isolated_egress: i64,
}

/// A policy that is enforced.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Its kind.
    #[serde(default)]
    pub kind: PolicyKind,
    /// Its namespace; absent for a policy of the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Its `metadata.uid`: a policy that was deleted and created again is another object. Absent
    /// for a policy from a file that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub uid: Option<String>,
    /// The `metadata.generation` that is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// `Audit` when it only reports what it would deny; absent when it decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<PolicyMode>,
    /// How many pods of the node it selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pods: Option<i64>,
}

impl Policy {
    /// The name of the policy.
    #[must_use]
    pub fn object(&self) -> ObjectRef {
        ObjectRef::new(self.kind.kind(), self.namespace.as_str(), self.name.as_str())
    }

    /// Which object the node enforces.
    #[must_use]
    pub fn revision(&self) -> Revision {
        let uid = self.uid.as_deref().map(Into::into);
        Revision { uid, generation: self.observed_generation }
    }
}

/// A kind of policy.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug,
)]
pub enum PolicyKind {
    /// Of `networking.k8s.io/v1`.
    #[default]
    NetworkPolicy,
    /// Of `policy.networking.k8s.io`.
    ClusterNetworkPolicy,
    /// Of `portcullis.dev/v1alpha1`.
    ClusterDefaultNetworkPolicy,
}

impl PolicyKind {
    /// The kind of object that this is.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::NetworkPolicy => Kind::NetworkPolicy,
            Self::ClusterNetworkPolicy => Kind::ClusterNetworkPolicy,
            Self::ClusterDefaultNetworkPolicy => Kind::ClusterDefaultNetworkPolicy,
        }
    }

    /// The kind of policy that objects of `kind` are; `None` when they are no policies.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        let all =
            [Self::NetworkPolicy, Self::ClusterNetworkPolicy, Self::ClusterDefaultNetworkPolicy];
        all.into_iter().find(|known| known.kind() == kind)
    }
}

/// What an enforced policy does not do by itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyMode {
    /// It decides nothing; what it would deny is reported.
    Audit,
}

/// Packets that were denied, as the kernel counts them: one that is sent again counts again.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Denials {
    /// Those that were dropped or rejected.
    #[schemars(range(min = 0))]
    pub denied: i64,
    /// Those that passed, and that a policy in mode Audit would deny.
    #[schemars(range(min = 0))]
    pub would_deny: i64,
}

/// How long changes take until they are enforced, in microseconds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct SyncLatency {
    /// Of the last round.
    #[schemars(range(min = 0))]
    pub last: i64,
    /// The median.
    #[schemars(range(min = 0))]
    pub p50: i64,
    /// The longest.
    #[schemars(range(min = 0))]
    pub max: i64,
    /// How many rounds these figures are taken from.
    #[schemars(range(min = 1, max = 100))]
    pub samples: i64,
}

/// One thing that is wrong with one object.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// Kind and name, as `NetworkPolicy shop/db`; empty when even that is not known.
    #[schemars(length(max = PLACE_LENGTH_MAX))]
    pub object: String,
    /// The field, as `spec.ingress[0].ports[1].endPort`; empty for the object as a whole.
    #[schemars(length(max = PLACE_LENGTH_MAX))]
    pub field: String,
    /// What is wrong, and what is enforced instead.
    #[schemars(length(max = MESSAGE_LENGTH_MAX))]
    pub message: String,
}

/// How much a diagnostic matters.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug,
)]
pub enum Severity {
    /// What the author wrote is not what is enforced.
    Error,
    /// It is enforced as written, and still not right.
    Warning,
}
